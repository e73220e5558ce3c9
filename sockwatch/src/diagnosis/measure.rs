//! What is measured of one listener while updates come in; [`Measured`] is what it comes to.

pub mod counted;
mod measured;

use std::collections::{BTreeMap, HashSet};

pub use self::measured::{Left, Measured};
use super::{blame::Spells, course::Course, waits::Waits};
use crate::tcp::{
    endpoint::Endpoint,
    event::{SocketKey, Task},
    queue::{Leaving, QueueFigures},
    update::Subject,
};

/// Acceptors, and errors of accept(), that are told apart.
const MOST_NAMES: usize = 64;

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
    /// When somebody waited.
    spells: Spells,
    arrived: u64,
    accepted: u64,
    /// Of those that were accepted: nobody saw them enter.
    unmeasured: u64,
    /// Waits that ended without an accept.
    unfinished: u64,
    last_accept_ns: Option<u64>,
    retransmitted_handshakes: u64,
    slow_handshakes: u64,
    synack_retransmits: u64,
    unanswered: HashSet<Endpoint>,
    overflows: u64,
    /// The queue as it was told last, and when.
    figures: Option<(u64, QueueFigures)>,
    greatest: u32,
    /// The most drops between two tellings.
    drops_at_once: u64,
    acceptors: Vec<Acceptor>,
    failures: Vec<Failure>,
    course: Course,
    /// Who waited at the last count, where the kernel side counts.
    counted: Option<u64>,
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
            arrived: 0,
            accepted: 0,
            unmeasured: 0,
            unfinished: 0,
            last_accept_ns: None,
            retransmitted_handshakes: 0,
            slow_handshakes: 0,
            synack_retransmits: 0,
            unanswered: HashSet::new(),
            overflows: 0,
            figures: None,
            greatest: 0,
            drops_at_once: 0,
            acceptors: Vec::new(),
            failures: Vec::new(),
            course: Course::new(began_ns),
            counted: None,
            on_arrival: (0, 0),
            slow_ns,
        }
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
        self.spells.any()
    }

    /// The process that owns it.
    pub(super) fn owner(&self) -> Option<u32> {
        self.owner.map(|owner| owner.pid)
    }

    /// Who accepted.
    pub(super) fn acceptors(&self) -> impl Iterator<Item = Task> {
        self.acceptors.iter().map(|acceptor| acceptor.task)
    }

    /// Somebody waits, or nobody any more, as far as that is known by the connections themselves.
    fn mark(&mut self, at_ns: u64) {
        let head_ns = self.waiting.first_key_value().map(|((entered_ns, _), _)| *entered_ns);
        self.spells.mark(at_ns, head_ns);
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
        self.waiting.insert((at_ns, cookie), Waiter::default());
        self.course.arrive(at_ns, 1);
        let depth = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.greatest = self.greatest.max(depth);
        self.mark(at_ns);
    }

    /// Its handshake is known; `client` is answered.
    pub(super) fn shake(&mut self, handshake_ns: Option<i64>, synack_retransmits: u32, client: &Endpoint) {
        self.unanswered.remove(client);
        if let Some(ns) = handshake_ns {
            self.handshakes.add(ns.max(0).unsigned_abs());
        }
        self.retransmitted_handshakes += u64::from(synack_retransmits > 0);
        let slow = handshake_ns.is_some_and(|ns| ns.max(0).unsigned_abs() >= HANDSHAKE_SLOW_NS);
        self.slow_handshakes += u64::from(slow || synack_retransmits > 0);
    }

    /// A child was accepted; `entered_ns` if it was seen to enter.
    pub(super) fn accept(&mut self, at_ns: u64, entered_ns: Option<u64>, cookie: u64, wait_ns: Option<i64>, by: Task) {
        let head_ns = self.waiting.first_key_value().map(|((entered_ns, _), _)| *entered_ns);
        let known = entered_ns.is_some_and(|entered_ns| self.waiting.remove(&(entered_ns, cookie)).is_some());
        self.accepted += 1;
        self.course.accept(at_ns, 1);
        match wait_ns {
            Some(ns) => self.waits.add(ns.max(0).unsigned_abs()),
            None => {
                // It was there before: so long at least.
                self.unmeasured += 1;
                self.waits.add(at_ns.saturating_sub(self.began_ns));
            }
        }
        // Somebody had waited since the accept before, or since the oldest came.
        let since_ns = if known { head_ns } else { wait_ns.is_none().then_some(self.began_ns) };
        if let Some(since_ns) = since_ns {
            self.gaps.add(at_ns.saturating_sub(since_ns.max(self.last_accept_ns.unwrap_or(0))));
        }
        self.last_accept_ns = self.last_accept_ns.max(Some(at_ns));
        if let Some(acceptor) = self.acceptors.iter_mut().find(|acceptor| acceptor.task.tid == by.tid) {
            acceptor.accepted += 1;
        } else if self.acceptors.len() < MOST_NAMES {
            self.acceptors.push(Acceptor { task: by, accepted: 1 });
        }
        self.mark(at_ns);
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
            self.mark(at_ns);
        }
    }

    pub(super) fn fail(&mut self, by: Task, errno: i32) {
        let same = |failure: &&mut Failure| failure.by.pid == by.pid && failure.errno == errno;
        if let Some(failure) = self.failures.iter_mut().find(same) {
            failure.count += 1;
        } else if self.failures.len() < MOST_NAMES {
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
            match self.waiting.is_empty() && figures.depth > 0 {
                true => self.spells.mark(at_ns, Some(at_ns)),
                false => self.mark(at_ns),
            }
        }
        let before = self.figures.map_or(0, |(_, before)| dropped(&before));
        self.drops_at_once = self.drops_at_once.max(dropped(figures).saturating_sub(before));
        self.greatest = self.greatest.max(figures.peak).max(figures.depth);
        self.course.deepen(at_ns, figures.depth, figures.peak, figures.totals.limit);
        self.figures = Some((at_ns, *figures));
    }

    /// The listener is over.
    pub(super) fn end(&mut self, at_ns: u64) {
        self.ended_ns = self.ended_ns.or(Some(at_ns));
        self.spells.mark(at_ns, None);
    }

    /// It listens again.
    pub(super) fn begin_again(&mut self) {
        self.ended_ns = None;
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended_ns.is_some()
    }
}

/// Packets dropped at a full queue, as far as its kernel tells.
fn dropped(figures: &QueueFigures) -> u64 {
    figures.totals.drops.map_or(figures.totals.overflows, u64::from)
}
