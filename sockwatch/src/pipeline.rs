//! The one loop: source, order, tracker, sink. Only this file owns a [`Tracker`].

use std::{io, time::Duration};

use crate::{
    sink::{Sight, Sink},
    source::{Source, SourceError, TableNews, Tick},
    tcp::{
        connection::Connection,
        event::Event,
        listing::{Agreement, Round},
        loss::Losses,
        order::{Order, WINDOW_NS},
        tracker::{TOLERANCE_NS, Tracker},
        update::{Happening, Update},
    },
};

/// What a source still owes at the end is waited for so long at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// When to stop by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// After so long.
    pub duration: Option<Duration>,
    /// After so many finished connections.
    pub connections: Option<u64>,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source broke.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Events taken in.
    pub events: u64,
    /// Connections finished, listeners not counted.
    pub connections: u64,
    /// All losses.
    pub losses: Losses,
    /// How far what we believe agrees with the kernel's table.
    pub agreement: Agreement,
}

/// The state of a run.
#[derive(Default)]
struct Pipeline {
    order: Order,
    tracker: Tracker,
    events: Vec<Event>,
    updates: Vec<Update>,
    /// To be compared once all events up to its end have been taken in.
    round: Option<Round>,
    totals: Totals,
}

/// Runs until `stop` resolves, a limit is reached or the sink's reader goes away (a broken pipe is a normal end).
///
/// # Errors
/// A [`RunError`] if the source breaks or the output cannot be written.
pub async fn run(
    source: &mut impl Source,
    sink: &mut impl Sink,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> Result<Totals, RunError> {
    let mut pipeline = Pipeline::default();
    let deadline = async {
        match limits.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(stop, deadline);
    let ended = loop {
        // A source that always has more would keep signals and timers from being heard.
        tokio::task::yield_now().await;
        let tick = tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            () = &mut deadline => break Ok(()),
            tick = source.next(&mut pipeline.events) => tick?,
        };
        pipeline.hear(source);
        if let Err(error) = pipeline.advance(tick, sink, limits.connections) {
            break Err(error);
        }
        if pipeline.is_done(limits.connections) {
            // Only for the losses until now: the events behind the limit are nobody's business.
            let tick = source.drain(&mut pipeline.events)?;
            pipeline.totals.losses = pipeline.losses(tick.losses);
            return Ok(pipeline.totals);
        }
    };
    let ended = match ended {
        Ok(()) => pipeline.collect(source, sink).await?,
        Err(error) => Err(error),
    };
    let ended = match ended {
        Ok(()) => {
            let tick = source.drain(&mut pipeline.events)?;
            pipeline.finish(tick, sink, limits.connections)
        }
        Err(error) => Err(error),
    };
    match ended {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            let tick = source.drain(&mut pipeline.events)?;
            pipeline.totals.losses = pipeline.losses(tick.losses);
            Ok(pipeline.totals)
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(pipeline.totals),
    }
}

impl Pipeline {
    /// Takes the new events in and shows what has waited long enough to be in order.
    fn advance(&mut self, tick: Tick, sink: &mut impl Sink, limit: Option<u64>) -> io::Result<()> {
        self.take_in();
        let Self { order, tracker, updates, .. } = self;
        order.release(tick.now_ns, |event| tracker.apply(event, updates));
        self.reconcile(tick.now_ns);
        self.tracker.expire(tick.now_ns, &mut self.updates);
        self.show(tick, sink, limit)?;
        sink.look(&Sight { now_ns: tick.now_ns, tracker: &self.tracker, is_last: false })
    }

    /// Waits for what the source still owes, and takes it in like all before.
    async fn collect(&mut self, source: &mut impl Source, sink: &mut impl Sink) -> Result<io::Result<()>, SourceError> {
        if !source.owes() {
            return Ok(Ok(()));
        }
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        while source.owes() || self.round.is_some() {
            tokio::task::yield_now().await;
            let tick = tokio::select! {
                biased;
                () = &mut patience => break,
                tick = source.next(&mut self.events) => tick?,
            };
            self.hear(source);
            if let Err(error) = self.advance(tick, sink, None) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Hears what the source has to say of the kernel's table; one round after the other.
    fn hear(&mut self, source: &mut impl Source) {
        if self.round.is_some() {
            return;
        }
        match source.table() {
            TableNews::Nothing => {}
            TableNews::Expected => self.tracker.expect_round(),
            TableNews::Listed(round) => self.round = Some(round),
        }
    }

    /// Compares a round of listings that all earlier events have been taken in for.
    fn reconcile(&mut self, now_ns: u64) {
        let settled = |round: &mut Round| round.to_ns.saturating_add(TOLERANCE_NS + WINDOW_NS) <= now_ns;
        if let Some(round) = self.round.take_if(settled) {
            for event in self.tracker.compare(&round) {
                self.tracker.apply(&event, &mut self.updates);
            }
            self.totals.agreement = *self.tracker.agreement();
        }
    }

    /// The same for all that is left.
    fn finish(&mut self, tick: Tick, sink: &mut impl Sink, limit: Option<u64>) -> io::Result<()> {
        self.take_in();
        let Self { order, tracker, updates, .. } = self;
        order.release_all(|event| tracker.apply(event, updates));
        // Nothing more will settle: what has reached CLOSE is told as it is.
        self.tracker.settle_all(tick.now_ns, &mut self.updates);
        self.show(tick, sink, limit)?;
        sink.look(&Sight { now_ns: tick.now_ns, tracker: &self.tracker, is_last: true })
    }

    fn take_in(&mut self) {
        self.totals.events += self.events.len() as u64;
        self.order.append(&mut self.events);
    }

    fn show(&mut self, tick: Tick, sink: &mut impl Sink, limit: Option<u64>) -> io::Result<()> {
        self.totals.losses = self.losses(tick.losses);
        for update in self.updates.drain(..) {
            if limit.is_some_and(|limit| self.totals.connections >= limit) {
                break;
            }
            if !sink.wants(&update) {
                continue;
            }
            if let Happening::Ended(connection) = &update.happening {
                self.totals.connections += counts(connection);
            }
            sink.update(&update)?;
        }
        sink.tick(&self.totals)
    }

    fn losses(&self, source: Losses) -> Losses {
        Losses {
            late: self.order.late(),
            tracker_full: self.tracker.full(),
            repeated: self.tracker.repeated(),
            evicted: self.tracker.evicted(),
            repaired: self.tracker.agreement().repaired(),
            unexpected_transitions: self.tracker.unexpected(),
            ..source
        }
    }

    fn is_done(&self, limit: Option<u64>) -> bool {
        limit.is_some_and(|limit| self.totals.connections >= limit)
    }
}

/// A listener's end is shown, and is not a connection.
fn counts(connection: &Connection) -> u64 {
    u64::from(connection.role != crate::tcp::connection::Role::Listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always has more to say.
    #[derive(Default)]
    struct Endless(u64);

    impl Source for Endless {
        async fn next(&mut self, _events: &mut Vec<Event>) -> Result<Tick, SourceError> {
            self.0 += 1;
            Ok(Tick { now_ns: self.0, losses: Losses::default() })
        }

        fn drain(&mut self, _events: &mut Vec<Event>) -> Result<Tick, SourceError> {
            Ok(Tick { now_ns: self.0, losses: Losses::default() })
        }
    }

    struct Nobody;

    impl Sink for Nobody {
        fn update(&mut self, _update: &Update) -> io::Result<()> {
            Ok(())
        }

        fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
            Ok(())
        }
    }

    /// Signals and timers are heard by the runtime, and others run, if it has its turn.
    #[tokio::test]
    async fn who_always_has_more_to_say_is_stopped() {
        let limits = Limits { duration: Some(Duration::from_millis(5)), connections: None };
        run(&mut Endless::default(), &mut Nobody, limits, std::future::pending()).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        tokio::spawn(async { stop.send(()) });
        let stopped = async { stopped.await.unwrap() };
        run(&mut Endless::default(), &mut Nobody, Limits::default(), stopped).await.unwrap();
    }
}
