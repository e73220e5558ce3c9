//! What has ended and waits for the receiver: so much at most, and the count of all that became of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sockwatch::{
    metrics::Pushed,
    otlp::{Signal, logs::Ended},
    process::names::Names,
    tcp::update::{Happening, Update},
};
use tokio::sync::Notify;

/// Records in one request, as many as OpenTelemetry's own exporters send.
pub(super) const BATCH: usize = 512;

/// What becomes of a log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    QueueFull,
    Rejected,
    Refused,
}

/// All of them, with the words of the metric's label.
const FATES: [(Fate, &str); 4] = [
    (Fate::Delivered, "delivered"),
    (Fate::QueueFull, "queue_full"),
    (Fate::Rejected, "rejected"),
    (Fate::Refused, "refused"),
];

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    Later,
    Refused,
    Failed,
}

/// All of them, with the words of the metric's label.
const OUTCOMES: [(Outcome, &str); 4] =
    [(Outcome::Taken, "taken"), (Outcome::Later, "later"), (Outcome::Refused, "refused"), (Outcome::Failed, "failed")];

/// The queue, and the counts.
#[derive(Debug)]
pub(in crate::command::serve) struct Queue {
    most: usize,
    /// As many as wait or are on their way: read without the lock.
    waiting: AtomicUsize,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Ended>,
    /// Taken, and not settled yet.
    on_the_way: u64,
    fates: [u64; FATES.len()],
    requests: [[u64; OUTCOMES.len()]; Signal::ALL.len()],
    points_rejected: u64,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: AtomicUsize::new(0), state: Mutex::default(), filled: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a whole batch waits.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Adds a batch's records, and counts those for which there was no room.
    fn add(&self, records: &mut Vec<Ended>, full: u64) {
        let mut state = self.state();
        state.queue.extend(records.drain(..));
        state.count(Fate::QueueFull, full);
        self.waiting.store(state.waiting(), Ordering::Relaxed);
        if state.queue.len() >= BATCH {
            self.filled.notify_one();
        }
    }

    /// The oldest records, as many as fit into a request. They wait until they are settled.
    pub(super) fn take(&self) -> Vec<Ended> {
        let mut state = self.state();
        let most = state.queue.len().min(BATCH);
        let taken: Vec<_> = state.queue.drain(..most).collect();
        state.on_the_way = taken.len() as u64;
        taken
    }

    /// What was taken last has met its fate, but for so many that were rejected.
    pub(super) fn settle(&self, fate: Fate, rejected: u64) {
        let mut state = self.state();
        let rejected = rejected.min(state.on_the_way);
        let others = state.on_the_way - rejected;
        state.count(fate, others);
        state.count(Fate::Rejected, rejected);
        state.on_the_way = 0;
        self.waiting.store(state.waiting(), Ordering::Relaxed);
    }

    /// Counts data points that were rejected.
    pub(super) fn reject_points(&self, count: u64) {
        self.state().points_rejected += count;
    }

    /// Counts a request.
    pub(super) fn count(&self, signal: Signal, outcome: Outcome) {
        let mut state = self.state();
        for (counts, its) in state.requests.iter_mut().zip(Signal::ALL) {
            for (count, (of, _)) in counts.iter_mut().zip(OUTCOMES) {
                *count += u64::from(its == signal && of == outcome);
            }
        }
    }

    /// All counts, of one instant.
    pub(in crate::command::serve) fn pushed(&self) -> Pushed {
        let state = self.state();
        let requests = state.requests.iter().zip(Signal::ALL).flat_map(|(counts, signal)| {
            counts.iter().zip(OUTCOMES).map(move |(count, (_, outcome))| (signal.word(), outcome, *count))
        });
        Pushed {
            records: FATES.iter().zip(state.fates).map(|((_, word), count)| (*word, count)).collect(),
            waiting: state.waiting() as u64,
            requests: requests.collect(),
            points_rejected: state.points_rejected,
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.queue.len() + self.on_the_way as usize
    }

    fn count(&mut self, fate: Fate, more: u64) {
        for (count, (its, _)) in self.fates.iter_mut().zip(FATES) {
            *count += if its == fate { more } else { 0 };
        }
    }
}

/// Where the loop puts what has ended. The queue is locked once for each batch of updates, and a record for which it
/// has no room is not even made.
pub(in crate::command::serve) struct Outbox {
    queue: Arc<Queue>,
    names: Names,
    records: Vec<Ended>,
    full: u64,
}

impl Outbox {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, names: Names::default(), records: Vec::new(), full: 0 }
    }

    /// Takes in what has ended.
    pub(in crate::command::serve) fn update(&mut self, update: &Update) {
        // Its process may be gone when its connection ends.
        if let Happening::Accepted { by, .. } = &update.happening {
            self.names.of_thread(*by, update.at_ns);
        }
        let Happening::Ended(connection) = &update.happening else { return };
        if self.queue.waiting.load(Ordering::Relaxed) + self.records.len() < self.queue.most {
            self.records.push(Ended::of(update.at_ns, connection, &mut self.names));
        } else {
            self.full += 1;
        }
    }

    /// The batch is over.
    pub(in crate::command::serve) fn hand_over(&mut self) {
        if !self.records.is_empty() || self.full > 0 {
            self.queue.add(&mut self.records, std::mem::take(&mut self.full));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockwatch::tcp::{
        connection::{Connection, Role},
        endpoint::Endpoint,
        event::SocketKey,
        state::TcpState,
        update::Subject,
    };

    fn ended(number: u64) -> Update {
        let ends = (Endpoint::v4([127, 0, 0, 1], 80), Endpoint::v4([127, 0, 0, 1], 4000));
        let key = SocketKey { netns: 1, cookie: number };
        let connection = Connection::new(key, Role::Passive, ends, TcpState::Close, number);
        let (subject, happening) = (Subject::from(&connection), Happening::Ended(Box::new(connection)));
        Update { at_ns: number, subject, happening }
    }

    /// Delivered, queue_full, rejected, refused, waiting.
    #[track_caller]
    fn check(queue: &Queue, expected: [u64; 5]) {
        let pushed = queue.pushed();
        let found: Vec<_> = pushed.records.iter().map(|(_, count)| *count).chain([pushed.waiting]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_all_adds_up() {
        let queue = Arc::new(Queue::new(700));
        let mut outbox = Outbox::new(Arc::clone(&queue));
        for number in 0..1000 {
            outbox.update(&ended(number));
            if number % 100 == 99 {
                outbox.hand_over();
            }
        }
        check(&queue, [0, 300, 0, 0, 700]);
        // What is on its way keeps its room until it is settled.
        let first = queue.take();
        assert_eq!((first.len(), first[0].at_ns), (BATCH, 0));
        outbox.update(&ended(1000));
        outbox.hand_over();
        check(&queue, [0, 301, 0, 0, 700]);
        queue.settle(Fate::Delivered, 12);
        check(&queue, [500, 301, 12, 0, 188]);
        outbox.update(&ended(1001));
        outbox.hand_over();
        assert_eq!(queue.take().len(), 189);
        queue.settle(Fate::Refused, 0);
        check(&queue, [500, 301, 12, 189, 0]);
        assert!(queue.take().is_empty());
    }

    #[test]
    fn a_receiver_that_rejects_more_than_it_got_changes_no_sum() {
        let queue = Arc::new(Queue::new(10));
        let mut outbox = Outbox::new(Arc::clone(&queue));
        outbox.update(&ended(1));
        outbox.hand_over();
        assert_eq!(queue.take().len(), 1);
        queue.settle(Fate::Delivered, 99);
        check(&queue, [0, 0, 1, 0, 0]);
    }

    #[test]
    fn requests_are_counted_by_signal_and_outcome() {
        let queue = Queue::new(1);
        queue.count(Signal::Logs, Outcome::Failed);
        let pushed = queue.pushed();
        let counted: Vec<_> = pushed.requests.iter().filter(|(.., count)| *count > 0).collect();
        assert_eq!(counted, [&("logs", "failed", 1)]);
    }
}
