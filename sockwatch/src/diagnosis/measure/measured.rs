//! What a listener's measures come to at the end.

use super::{Acceptor, Failure, Measure};
use crate::{
    diagnosis::{blame::Attribution, course::Course, first_reads::Reads, waits::Spread},
    tcp::{
        endpoint::Endpoint,
        event::Task,
        queue::{Age, NamespaceDrops},
    },
};

/// A listener, as it was during the run. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Its network namespace's inode number.
    pub netns: u32,
    /// Its cookie: sockets that share an address (`SO_REUSEPORT`) differ in it.
    pub cookie: u64,
    /// Where it listens.
    pub local: Endpoint,
    /// Its owner, where known.
    pub owner: Option<Task>,
    /// How long it was watched.
    pub watched_ns: u64,
    /// Whether it was closed meanwhile.
    pub is_closed: bool,
    /// Connections that were seen to enter the accept queue.
    pub arrived: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Queue waits: of those that were accepted, and, as far as they go, of those that still wait or that never will be.
    pub wait: Option<Spread>,
    /// Of these waits, so many are "at least": the connection still waits, was there before the run, or was never accepted.
    pub at_least: u64,
    /// Of these waits, so many are slow.
    pub slow: u64,
    /// From this wait on, in nanoseconds.
    pub slow_ns: u64,
    /// Who waits now.
    pub still_waiting: u32,
    /// How long the oldest of them has waited.
    pub oldest: Option<Age>,
    /// How long ago the last accept was; `None`: there was none.
    pub since_accept_ns: Option<u64>,
    /// How long nobody has accepted while somebody waited, until now.
    pub starved_ns: Option<u64>,
    /// Times without an accept while somebody waited, each ended by an accept.
    pub gaps: Option<Spread>,
    /// The longest of them, or, where they are not known, a wait that was as long at least.
    pub longest_pause_ns: Option<u64>,
    /// Whether connections were only counted: then these times are not known.
    pub is_counted: bool,
    /// All of them together: so long the queue was not empty.
    pub busy_ns: u64,
    /// Handshakes, first SYN-ACK to enqueue.
    pub handshake: Option<Spread>,
    /// Handshakes that took a second or more, or needed another SYN-ACK.
    pub slow_handshakes: u64,
    /// Those that needed another SYN-ACK.
    pub retransmitted_handshakes: u64,
    /// The same by how late they were: a second at least (one more SYN-ACK), 3 s (two), 7 s (three or more). Not known while
    /// connections are counted.
    pub late: [u64; 3],
    /// Its `TCP_DEFER_ACCEPT` in seconds; `None`: it has none, or nobody looked.
    pub defers_s: Option<u32>,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u64,
    /// Clients that were sent another SYN-ACK and whose handshake was not seen to be finished.
    pub unanswered: u64,
    /// The greatest depth.
    pub greatest: u32,
    /// The queue's limit: it takes one more.
    pub limit: Option<u32>,
    /// Whether that is the namespace's `net.core.somaxconn`; `None` if the kernel was not asked.
    pub is_somaxconn: Option<bool>,
    /// Who left the queue before accept().
    pub left: Left,
    /// Accepted after the client's RST.
    pub dead_on_arrival: u64,
    /// Accepted after the client's FIN.
    pub half_closed_on_arrival: u64,
    /// Last ACKs that found the queue full.
    pub overflows: u64,
    /// Packets dropped at the listener: SYNs and last ACKs; `None` if the kernel was not asked.
    pub drops: Option<u32>,
    /// The most of them between two looks at the kernel's table.
    pub drops_at_once: u64,
    /// Seconds in which there were some.
    pub dropping_s: u64,
    /// What the whole namespace's counters have grown by.
    pub namespace: NamespaceDrops,
    /// Who accepted, the busiest first.
    pub acceptors: Vec<Acceptor>,
    /// Whose accept() failed, the most frequent first.
    pub failures: Vec<Failure>,
    /// How soon its connections were read from; `None` where nobody looked.
    pub reads: Option<Reads>,
    /// Where the time went that connections waited; `None` where nobody looked.
    pub blame: Option<Attribution>,
    /// Second by second.
    pub course: Course,
}

/// Clients that left the accept queue before anybody accepted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// By FIN: they may still wait for an answer.
    pub by_fin: u64,
    /// By RST.
    pub by_rst: u64,
    /// How long they had waited.
    pub waited: Option<Spread>,
    /// The same of those that had waited long.
    pub late: Option<Spread>,
    /// Who is in the queue now, in `CLOSE_WAIT`: closed by its client, and with no process that could know.
    pub half_closed_now: u64,
    /// How long ago the first of these left.
    pub longest_half_closed_ns: u64,
}

impl Measured {
    /// Waits in all.
    pub fn waits(&self) -> u64 {
        self.wait.map_or(0, |wait| wait.count)
    }

    /// Whether waits are slow: one of a hundred at least; of few one of ten, unless one was very long. Everything stumbles once.
    pub fn is_slow(&self) -> bool {
        let is_pattern = self.slow >= 3 || self.slow.saturating_mul(10) >= self.waits();
        let is_very_long = self.wait.is_some_and(|wait| wait.max_ns / 10 >= self.slow_ns);
        self.slow > 0 && self.slow.saturating_mul(100) >= self.waits() && (is_pattern || is_very_long)
    }

    /// Whether more came than were accepted, for long: the queue was hardly ever empty in the seconds in which clients were turned
    /// away. Then it is no burst.
    pub fn is_overloaded(&self) -> bool {
        let is_busy = if self.is_counted {
            // All waits together are the mean depth times the run (Little): half of the limit at least.
            let waited_ns = self.wait.map_or(0, |wait| u128::from(wait.mean_ns) * u128::from(wait.count));
            let room = u128::from(self.limit.unwrap_or(u32::MAX)) + 1;
            waited_ns * 2 >= room * u128::from(self.dropping_s) * 1_000_000_000
        } else {
            self.busy_ns >= self.dropping_s.saturating_mul(800_000_000)
        };
        self.dropping_s >= 3 && is_busy
    }

    /// Clients whose SYN or last ACK was dropped because the accept queue was full; 0 where that is not proven. A client that
    /// tried again counts again.
    pub fn turned_away(&self) -> u64 {
        let dropped = self.drops.map_or(0, u64::from);
        let was_full = self.limit.is_some_and(|limit| self.greatest > limit);
        // Each that was dropped for this reason counts as one of the namespace's overflows, too; others are dropped for others.
        let overflowed = if was_full || self.overflows > 0 { dropped.min(self.namespace.overflows) } else { 0 };
        overflowed.max(self.overflows)
    }

    /// How many are hurt if accept() is the reason: they wait long or were turned away.
    pub fn hurt_by_accept(&self) -> u64 {
        self.slow.saturating_add(self.turned_away()).max(u64::from(self.still_waiting)).max(1)
    }

    /// So many per second of the run, in tenths. A run of less than a second says nothing of what a second brings.
    pub fn tenths_per_second(&self, count: u64) -> u64 {
        let tenths = u128::from(count) * 10_000_000_000 / u128::from(self.watched_ns.max(1_000_000_000));
        u64::try_from(tenths).unwrap_or(u64::MAX)
    }
}

impl Measure {
    /// What it comes to.
    pub(in crate::diagnosis) fn measured(&self, now_ns: u64) -> Measured {
        let now_ns = self.ended_ns.unwrap_or(now_ns);
        let age = |at_ns: u64| now_ns.saturating_sub(at_ns);
        let (told_ns, figures) = self.figures.unzip();
        let figures = figures.unwrap_or_default();
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        // Of these only the kernel's table tells: they were there before, or are not told to us until they are accepted.
        // Counts are newer than the table; and once one that was counted is accepted, those that were there before have been.
        let are_counted = self.counted.is_some() && self.accepted > self.unmeasured;
        let is_seen = self.ended_ns.is_some() || are_counted;
        let unseen = if is_seen { 0 } else { figures.depth.saturating_sub(waiting) };
        let unseen_age_ns = figures.oldest.map_or(0, Age::ns).saturating_add(age(told_ns.unwrap_or(now_ns)));
        let mut waits = self.waits.clone();
        self.waiting.keys().for_each(|(entered_ns, _)| waits.add(age(*entered_ns)));
        waits.add_many(unseen_age_ns, unseen);
        let head = self.waiting.first_key_value().map(|((entered_ns, _), _)| age(*entered_ns));
        let oldest =
            if unseen > 0 { Some(Age::AtLeast(unseen_age_ns.max(head.unwrap_or(0)))) } else { head.map(Age::Exactly) };
        let half_closed: Vec<_> = self.waiting.values().filter(|waiter| waiter.half_closed).collect();
        let mut course = self.course.clone();
        course.until(now_ns);
        let mut acceptors: Vec<_> = self.acceptors.values().copied().collect();
        let mut failures = self.failures.clone();
        acceptors.sort_by_key(|acceptor| std::cmp::Reverse(acceptor.accepted));
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
        Measured {
            netns: self.key.netns,
            cookie: self.key.cookie,
            local: self.local,
            owner: self.owner,
            watched_ns: age(self.began_ns),
            is_closed: self.ended_ns.is_some(),
            arrived: self.arrived,
            accepted: self.accepted,
            wait: waits.spread(),
            at_least: self.unmeasured + self.unfinished + u64::from(waiting) + u64::from(unseen),
            slow: waits.slow(),
            slow_ns: self.slow_ns,
            still_waiting: waiting.saturating_add(unseen),
            oldest,
            since_accept_ns: self.last_accept_ns.map(age),
            starved_ns: oldest.map(|oldest| oldest.ns().min(self.last_accept_ns.map_or(u64::MAX, age))),
            longest_pause_ns: match self.counted {
                None => self.gaps.spread().map(|gaps| gaps.max_ns),
                Some(_) => (self.accepted > 0).then_some(self.longest_accepted_ns),
            },
            is_counted: self.counted.is_some(),
            gaps: self.gaps.spread(),
            busy_ns: self.gaps.sum_ns(),
            handshake: self.handshakes.spread(),
            slow_handshakes: self.slow_handshakes,
            retransmitted_handshakes: self.retransmitted_handshakes,
            late: self.late,
            synack_retransmits: self.synack_retransmits,
            // While connections are counted nobody tells who has answered.
            unanswered: if self.counted.is_some() { 0 } else { self.unanswered.len() as u64 },
            greatest: self.greatest,
            limit: figures.totals.limit,
            is_somaxconn: figures.totals.is_somaxconn,
            left: Left {
                by_fin: self.by_fin,
                by_rst: self.by_rst,
                waited: self.left.spread(),
                late: self.left_late.spread(),
                half_closed_now: half_closed.len() as u64,
                longest_half_closed_ns: half_closed
                    .iter()
                    .filter_map(|waiter| waiter.left_ns)
                    .map(age)
                    .max()
                    .unwrap_or(0),
            },
            dead_on_arrival: figures.totals.dead_on_arrival + self.on_arrival.1,
            half_closed_on_arrival: figures.totals.half_closed_on_arrival + self.on_arrival.0,
            overflows: self.overflows,
            drops: figures.totals.drops,
            drops_at_once: self.drops_at_once,
            dropping_s: self.dropping.0,
            namespace: figures.totals.namespace,
            acceptors,
            failures,
            reads: None,
            blame: None,
            defers_s: None,
            course,
        }
    }
}
