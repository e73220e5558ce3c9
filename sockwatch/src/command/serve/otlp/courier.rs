//! When to push, and what to do when it fails.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use sockwatch::{
    metrics::Snapshot,
    monotonic::{now_ns, wall_offset_ns},
    otlp::{
        Origin, Signal,
        answer::Verdict,
        logs,
        metrics::{self, Start},
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    client::Client,
    queue::{BATCH, Fate, Outcome, Queue},
};
use crate::command::{serve::answer::Answers, tell};

/// Another reason for what goes wrong is told after so long.
const TOLD_AGAIN: Duration = Duration::from_secs(300);

/// How far the service is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Running,
    /// It ends: what is left goes now, and these are the last figures.
    Last(Option<Arc<Snapshot>>),
}

/// What became of a request.
enum Sent {
    Taken {
        rejected: u64,
    },
    /// To be tried again after this time.
    Later(Duration),
    Refused,
}

/// How the receiver was last time, as it was told: a change is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Fine,
    Failing,
    Rejecting,
    Refusing,
}

/// Brings one signal to the receiver.
pub(super) struct Courier {
    signal: Signal,
    client: Client,
    queue: Arc<Queue>,
    origin: Arc<Origin>,
    interval: Duration,
    backoff: Backoff,
    standing: Standing,
    /// The reason that was told last, and when.
    why: String,
    told: Instant,
}

impl Courier {
    pub(super) fn new(
        signal: Signal,
        client: Client,
        queue: Arc<Queue>,
        origin: Arc<Origin>,
        interval: Duration,
    ) -> Self {
        let backoff = Backoff::new(interval);
        Self {
            signal,
            client,
            queue,
            origin,
            interval,
            backoff,
            standing: Standing::Fine,
            why: String::new(),
            told: Instant::now(),
        }
    }

    /// Pushes all metrics every interval. What failed is not sent again: the next figures have all that it had.
    pub(super) async fn metrics(mut self, answers: Arc<Answers>, start: Start, mut stage: watch::Receiver<Stage>) {
        let mut next = Instant::now() + self.interval;
        loop {
            let last = tokio::select! {
                last = ending(&mut stage) => Some(last),
                () = sleep_until(next) => None,
            };
            let scrape = match &last {
                Some(snapshot) => snapshot.clone().map(|snapshot| answers.with_cost(snapshot)),
                // A loop that is stuck has no figures; /healthz says so.
                None => answers.scrape().await,
            };
            next = (next + self.interval).max(Instant::now());
            if let Some(scrape) = scrape {
                let unix_ns = now_ns().saturating_add(wall_offset_ns());
                let message = metrics::request(&scrape, &self.origin, start, unix_ns).encode_to_vec();
                match self.send(message.into()).await {
                    Sent::Taken { rejected } => self.queue.reject_points(rejected),
                    Sent::Later(pause) => next = Instant::now() + pause,
                    Sent::Refused => {}
                }
            }
            if last.is_some() {
                return;
            }
        }
    }

    /// Pushes what has ended: every interval, or when a whole batch waits.
    pub(super) async fn records(mut self, mut stage: watch::Receiver<Stage>) {
        loop {
            let is_last = tokio::select! {
                _last = ending(&mut stage) => true,
                () = sleep(self.interval) => false,
                () = self.queue.filled() => false,
            };
            loop {
                let batch = self.queue.take();
                if batch.is_empty() {
                    break;
                }
                let is_whole = batch.len() == BATCH;
                let offset_ns = wall_offset_ns();
                let unix_ns = now_ns().saturating_add(offset_ns);
                let message = logs::request(&batch, &self.origin, offset_ns, unix_ns).encode_to_vec();
                drop(batch);
                if !self.deliver(message.into(), &mut stage).await {
                    return;
                }
                // Some more have come since; they wait for others.
                if !is_whole && !is_last {
                    break;
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// Sends a batch until it is settled; `false` if the service ended before that.
    async fn deliver(&mut self, message: Bytes, stage: &mut watch::Receiver<Stage>) -> bool {
        loop {
            let is_ending = matches!(*stage.borrow(), Stage::Last(_));
            match self.send(message.clone()).await {
                Sent::Taken { rejected } => {
                    self.queue.settle(Fate::Delivered, rejected);
                    return true;
                }
                Sent::Refused => {
                    self.queue.settle(Fate::Refused, 0);
                    return true;
                }
                Sent::Later(_) if is_ending => return false,
                // Who ends it makes it try once more.
                Sent::Later(pause) => tokio::select! {
                    _last = ending(stage) => {}
                    () = sleep(pause) => {}
                },
            }
        }
    }

    async fn send(&mut self, message: Bytes) -> Sent {
        let answer = self.client.push(self.signal, message).await;
        let (outcome, standing, why, sent) = match answer {
            Ok(Verdict::Taken { rejected: 0, why }) => {
                (Outcome::Taken, Standing::Fine, why, Sent::Taken { rejected: 0 })
            }
            Ok(Verdict::Taken { rejected, why }) => {
                (Outcome::Taken, Standing::Rejecting, why, Sent::Taken { rejected })
            }
            Ok(Verdict::Later { after, why }) => {
                (Outcome::Later, Standing::Failing, why, Sent::Later(self.backoff.fail(after)))
            }
            Ok(Verdict::Refused { why }) => (Outcome::Refused, Standing::Refusing, why, Sent::Refused),
            Err(failure) => {
                let pause = self.backoff.fail(None);
                (Outcome::Failed, Standing::Failing, failure.to_string(), Sent::Later(pause))
            }
        };
        if !matches!(sent, Sent::Later(_)) {
            self.backoff.succeed();
        }
        self.queue.count(self.signal, outcome);
        self.tell(standing, &why);
        sent
    }

    /// Says a change on stderr; another reason, too, if not too often.
    fn tell(&mut self, standing: Standing, why: &str) {
        let is_other = standing != Standing::Fine && why != self.why && self.told.elapsed() >= TOLD_AGAIN;
        if standing == self.standing && !is_other {
            return;
        }
        (self.standing, self.why, self.told) = (standing, why.to_owned(), Instant::now());
        let (signal, receiver) = (self.signal.word(), self.client.receiver());
        match standing {
            Standing::Fine => tell(format_args!("sockwatch: {receiver} takes {signal} again")),
            Standing::Failing => tell(format_args!(
                "sockwatch: warning: {receiver} does not take {signal}: {why}; it is tried again, ever less often"
            )),
            Standing::Rejecting => {
                tell(format_args!("sockwatch: warning: {receiver} rejects some {signal}, which are dropped: {why}"));
            }
            Standing::Refusing => {
                tell(format_args!("sockwatch: warning: {receiver} refuses {signal}, which are dropped: {why}"));
            }
        }
    }
}

/// Resolves when the service ends, with its last figures.
async fn ending(stage: &mut watch::Receiver<Stage>) -> Option<Arc<Snapshot>> {
    match stage.wait_for(|stage| matches!(stage, Stage::Last(_))).await.as_deref() {
        Ok(Stage::Last(snapshot)) => snapshot.clone(),
        // Whoever would tell the end has gone.
        Ok(Stage::Running) | Err(_) => None,
    }
}

/// Ever longer pauses between tries, up to a limit.
#[derive(Debug)]
struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    fn new(interval: Duration) -> Self {
        let first = interval / 10;
        Self { first, longest: interval * 6, next: first }
    }

    /// The pause after a failure: what the receiver asked for, but never less than the first one, else half of what it may be and a random part of the
    /// other half, so that many who lost the same receiver do not all come back at once.
    fn fail(&mut self, asked: Option<Duration>) -> Duration {
        let most = self.next;
        self.next = (most * 2).min(self.longest);
        asked.map_or_else(|| most / 2 + (most / 2).mul_f64(random()), |asked| asked.max(self.first))
    }

    fn succeed(&mut self) {
        self.next = self.first;
    }
}

/// From 0 to 1. The standard library's keys for hash maps are random.
fn random() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        for most_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            let (pause, most) = (backoff.fail(None), Duration::from_secs(most_s));
            assert!(pause >= most / 2 && pause <= most, "{pause:?} {most:?}");
        }
        assert_eq!(backoff.fail(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.fail(Some(Duration::ZERO)), Duration::from_secs(1), "not a request after the other");
        backoff.succeed();
        assert!(backoff.fail(None) <= Duration::from_secs(1));
    }
}
