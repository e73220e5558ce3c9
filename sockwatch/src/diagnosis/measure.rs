//! What is measured of one listener while updates come in; [`Measured`] is what it comes to.

pub mod counted;
mod measured;

use std::collections::{BTreeMap, HashSet};

pub use self::measured::{Left, Measured};
use super::{
    blame::{Spells, long_ns},
    course::Course,
    waits::Waits,
};
use crate::tcp::{
    endpoint::Endpoint,
    event::{SocketKey, Task},
    queue::{Leaving, QueueFigures},
    update::Subject,
};

/// Threads that accept that are told apart.
const MOST_ACCEPTORS: usize = 4096;

/// Errors of accept() that are told apart.
const MOST_FAILURES: usize = 64;

/// Clients without an answer that are told apart.
const MOST_CLIENTS: usize = 10_000;

/// A SYN-ACK is sent again after this (`TCP_TIMEOUT_INIT`): no handshake takes so long without a loss, or a client that is
/// late on purpose.
const HANDSHAKE_SLOW_NS: u64 = 1_000_000_000;

/// A thread that accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptor {
    /// Who.
    pub task: Task,
    /// How many it accepted.
    pub accepted: u64,
}

/// A process whose accept() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who called.
    pub by: Task,
    /// The errno.
    pub errno: i32,
    /// How often.
    pub count: u64,
}

/// One that waits in the queue.
#[derive(Clone, Copy, Debug, Default)]
struct Waiter {
    /// When its client left.
    left_ns: Option<u64>,
    /// By FIN: it is in `CLOSE_WAIT`.
    half_closed: bool,
}

/// A listener, while it is watched.
#[derive(Debug)]
pub(super) struct Measure {
    key: SocketKey,
    local: Endpoint,
    owner: Option<Task>,
    /// Since when.
    began_ns: u64,
    ended_ns: Option<u64>,
    waits: Waits,
    handshakes: Waits,
    /// How long those had waited whose client left.
    left: Waits,
    /// The same of those that had waited long.
    left_late: Waits,
    by_fin: u64,
    by_rst: u64,
    /// Times without an accept while somebody waited.
    gaps: Waits,
    waiting: BTreeMap<(u64, u64), Waiter>,
    /// When somebody waited for long.
    spells: Spells,
    has_waited: bool,
    /// Since when somebody waits of whom only the kernel's table tells.
    unseen_since_ns: Option<u64>,
    arrived: u64,
    accepted: u64,
    /// Of those that were accepted: nobody saw them enter.
    unmeasured: u64,
    /// Waits that ended without an accept.
    unfinished: u64,
    last_accept_ns: Option<u64>,
    retransmitted_handshakes: u64,
    slow_handshakes: u64,
    /// Handshakes that needed one more SYN-ACK, two, and more.
    late: [u64; 3],
    synack_retransmits: u64,
    unanswered: HashSet<Endpoint>,
    overflows: u64,
    /// The queue as it was told last, and when.
    figures: Option<(u64, QueueFigures)>,
    greatest: u32,
    /// The most drops between two tellings.
    drops_at_once: u64,
    /// Seconds in which there were some, and the last of them.
    dropping: (u64, u64),
    /// By thread.
    acceptors: BTreeMap<u32, Acceptor>,
    failures: Vec<Failure>,
    course: Course,
    /// Who waited at the last count, where the kernel side counts.
    counted: Option<u64>,
    /// The longest wait of one that was accepted, where the kernel side counts.
    longest_accepted_ns: u64,
    /// It is over, and has been counted since.
    is_counted_out: bool,
    /// Accepted after the client's FIN, and after its RST, where the kernel side counts.
    on_arrival: (u64, u64),
    slow_ns: u64,
}

impl Measure {
    pub(super) fn new(key: SocketKey, local: Endpoint, began_ns: u64, slow_ns: u64) -> Self {
        let waits = Waits::new(slow_ns);
        Self {
            key,
            local,
            owner: None,
            began_ns,
            ended_ns: None,
            handshakes: Waits::new(HANDSHAKE_SLOW_NS),
            left: waits.clone(),
            left_late: waits.clone(),
            gaps: waits.clone(),
            waits,
            by_fin: 0,
            by_rst: 0,
            waiting: BTreeMap::new(),
            spells: Spells::default(),
            has_waited: false,
            unseen_since_ns: None,
            arrived: 0,
            accepted: 0,
            unmeasured: 0,
            unfinished: 0,
            last_accept_ns: None,
            retransmitted_handshakes: 0,
            slow_handshakes: 0,
            late: [0; 3],
            synack_retransmits: 0,
            unanswered: HashSet::new(),
            overflows: 0,
            figures: None,
            greatest: 0,
            drops_at_once: 0,
            dropping: (0, 0),
            acceptors: BTreeMap::new(),
            failures: Vec::new(),
            course: Course::new(began_ns),
            counted: None,
            longest_accepted_ns: 0,
            is_counted_out: false,
            on_arrival: (0, 0),
            slow_ns,
        }
    }

    /// What is slow is something else.
    pub(super) fn set_slow(&mut self, slow_ns: u64) {
        self.slow_ns = slow_ns;
        self.waits.set_slow(slow_ns);
        self.left_late = self.left.from(slow_ns);
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn local(&self) -> Endpoint {
        self.local
    }

    pub(super) fn spells(&self) -> &Spells {
        &self.spells
    }

    pub(super) fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// The process that owns it.
    pub(super) fn owner(&self) -> Option<u32> {
        self.owner.map(|owner| owner.pid)
    }

    /// Who accepted.
    pub(super) fn acceptors(&self) -> impl Iterator<Item = Task> {
        self.acceptors.values().map(|acceptor| acceptor.task)
    }

    /// Somebody waited from then to then.
    fn waited(&mut self, from_ns: u64, to_ns: u64) {
        if to_ns.saturating_sub(from_ns) >= long_ns(self.slow_ns) {
            self.spells.put(from_ns, to_ns);
        }
    }

    /// The oldest that waits has done so since then.
    fn head_ns(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|((entered_ns, _), _)| *entered_ns)
    }

    /// Who waits since then or before, has waited for long by now.
    pub(super) fn leave_open(&mut self, since_ns: u64) {
        let oldest_ns = match self.ended_ns {
            None => self.head_ns().into_iter().chain(self.unseen_since_ns).min(),
            Some(_) => None,
        };
        self.spells.leave_open(oldest_ns.filter(|oldest_ns| *oldest_ns <= since_ns));
    }

    /// Whether a handshake was slow.
    pub(super) fn has_slow_handshakes(&self) -> bool {
        self.slow_handshakes > 0
    }

    /// The listener itself is told.
    pub(super) fn introduce(&mut self, subject: &Subject) {
        if subject.local.port != 0 {
            self.local = subject.local;
        }
        self.owner = subject.owner.or(self.owner);
    }

    /// A child entered.
    pub(super) fn enter(&mut self, at_ns: u64, cookie: u64) {
        self.arrived += 1;
        self.has_waited = true;
        self.waiting.insert((at_ns, cookie), Waiter::default());
        self.course.arrive(at_ns, 1);
        let depth = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.greatest = self.greatest.max(depth);
    }

    /// Its handshake is known; `client` is answered.
    pub(super) fn shake(&mut self, handshake_ns: Option<i64>, synack_retransmits: u32, client: &Endpoint) {
        self.unanswered.remove(client);
        if let Some(ns) = handshake_ns {
            self.handshakes.add(ns.max(0).unsigned_abs());
        }
        self.retransmitted_handshakes += u64::from(synack_retransmits > 0);
        if let Some(more) = synack_retransmits.checked_sub(1) {
            self.late[(more as usize).min(2)] += 1;
        }
        let slow = handshake_ns.is_some_and(|ns| ns.max(0).unsigned_abs() >= HANDSHAKE_SLOW_NS);
        self.slow_handshakes += u64::from(slow || synack_retransmits > 0);
    }

    /// A child was accepted; `entered_ns` if it was seen to enter.
    pub(super) fn accept(&mut self, at_ns: u64, entered_ns: Option<u64>, cookie: u64, wait_ns: Option<i64>, by: Task) {
        let head_ns = self.head_ns();
        let known = entered_ns.is_some_and(|entered_ns| self.waiting.remove(&(entered_ns, cookie)).is_some());
        self.accepted += 1;
        self.course.accept(at_ns, 1);
        match wait_ns {
            Some(ns) => {
                let ns = ns.max(0).unsigned_abs();
                self.waits.add(ns);
                self.waited(at_ns.saturating_sub(ns), at_ns);
            }
            None => {
                // It was there before: so long at least.
                self.unmeasured += 1;
                self.waits.add(at_ns.saturating_sub(self.began_ns));
                self.waited(self.began_ns, at_ns);
            }
        }
        // Somebody had waited since the accept before, or since the oldest came.
        let since_ns = if known { head_ns } else { wait_ns.is_none().then_some(self.began_ns) };
        if let Some(since_ns) = since_ns {
            self.gaps.add(at_ns.saturating_sub(since_ns.max(self.last_accept_ns.unwrap_or(0))));
        }
        self.last_accept_ns = self.last_accept_ns.max(Some(at_ns));
        self.accept_by(by, 1);
    }

    /// A thread accepted so many.
    fn accept_by(&mut self, by: Task, accepted: u64) {
        if let Some(acceptor) = self.acceptors.get_mut(&by.tid) {
            acceptor.accepted += accepted;
        } else if self.acceptors.len() < MOST_ACCEPTORS {
            self.acceptors.insert(by.tid, Acceptor { task: by, accepted });
        }
    }

    /// A child's client left.
    pub(super) fn leave(&mut self, at_ns: u64, entered_ns: u64, cookie: u64, leaving: Leaving) {
        let Some(waiter) = self.waiting.get_mut(&(entered_ns, cookie)) else { return };
        waiter.half_closed = leaving == Leaving::Fin;
        if waiter.left_ns.is_some() {
            return;
        }
        waiter.left_ns = Some(at_ns);
        match leaving {
            Leaving::Fin => self.by_fin += 1,
            Leaving::Rst => self.by_rst += 1,
        }
        let waited_ns = at_ns.saturating_sub(entered_ns);
        self.left.add(waited_ns);
        if waited_ns >= self.slow_ns {
            self.left_late.add(waited_ns);
        }
    }

    /// A child is gone, and nobody accepted it.
    pub(super) fn remove(&mut self, at_ns: u64, entered_ns: u64, cookie: u64) {
        if self.waiting.remove(&(entered_ns, cookie)).is_some() {
            self.unfinished += 1;
            self.waits.add(at_ns.saturating_sub(entered_ns));
            self.waited(entered_ns, at_ns);
        }
    }

    pub(super) fn fail(&mut self, by: Task, errno: i32) {
        let same = |failure: &&mut Failure| failure.by.pid == by.pid && failure.errno == errno;
        if let Some(failure) = self.failures.iter_mut().find(same) {
            failure.count += 1;
        } else if self.failures.len() < MOST_FAILURES {
            self.failures.push(Failure { by, errno, count: 1 });
        }
    }

    pub(super) fn overflow(&mut self) {
        self.overflows += 1;
    }

    pub(super) fn shake_again(&mut self, client: Endpoint) {
        self.synack_retransmits += 1;
        if self.unanswered.len() < MOST_CLIENTS {
            self.unanswered.insert(client);
        }
    }

    /// The queue, as the tracker believes and the kernel says. Whoever we still wait for and it does not, was accepted without
    /// our seeing it: the oldest.
    pub(super) fn tell(&mut self, at_ns: u64, figures: &QueueFigures) {
        if self.counted.is_none() {
            while self.waiting.len() > figures.depth as usize {
                self.waiting.pop_first();
            }
            // Who was there before is only known by number.
            let is_unseen = self.waiting.is_empty() && figures.depth > 0;
            self.has_waited |= is_unseen;
            self.unseen(at_ns, is_unseen);
        }
        let before = self.figures.map_or(0, |(_, before)| dropped(&before));
        let drops = dropped(figures).saturating_sub(before);
        self.drops_at_once = self.drops_at_once.max(drops);
        let second = at_ns / 1_000_000_000;
        if drops > 0 && self.dropping.1 != second {
            self.dropping = (self.dropping.0 + 1, second);
        }
        self.greatest = self.greatest.max(figures.peak).max(figures.depth);
        self.course.deepen(at_ns, figures.depth, figures.peak, figures.totals.limit);
        self.figures = Some((at_ns, *figures));
    }

    /// Somebody waits of whom only the kernel's table tells, or nobody does any more.
    fn unseen(&mut self, at_ns: u64, is_there: bool) {
        match self.unseen_since_ns {
            None if is_there => self.unseen_since_ns = Some(at_ns),
            Some(since_ns) if !is_there => {
                self.unseen_since_ns = None;
                self.waited(since_ns, at_ns);
            }
            None | Some(_) => {}
        }
    }

    /// The listener is over.
    pub(super) fn end(&mut self, at_ns: u64) {
        self.ended_ns = self.ended_ns.or(Some(at_ns));
        self.unseen(at_ns, false);
        if let Some(head_ns) = self.head_ns() {
            self.waited(head_ns, at_ns);
        }
    }

    /// It listens again.
    pub(super) fn begin_again(&mut self) {
        (self.ended_ns, self.is_counted_out) = (None, false);
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended_ns.is_some()
    }
}

/// Packets dropped at a full queue, as far as its kernel tells.
fn dropped(figures: &QueueFigures) -> u64 {
    figures.totals.drops.map_or(figures.totals.overflows, u64::from)
}
