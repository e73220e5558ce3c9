//! A listener whose connections the kernel side counts instead of telling them one by one.

use super::{HANDSHAKE_SLOW_NS, Measure, Waiter};
use crate::tcp::event::Task;

/// What was counted since the last time; durations are in nanoseconds, and each stands for a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections accepted.
    pub accepted: u64,
    /// Those of them whose wait is not known: they were there before.
    pub unmeasured: u64,
    /// Those of them whose client had closed.
    pub half_closed: u64,
    /// Those of them whose client had reset them.
    pub dead: u64,
    /// Left by FIN before accept().
    pub by_fin: u64,
    /// Left by RST before accept().
    pub by_rst: u64,
    /// Gone with the listener.
    pub removed: u64,
    /// Handshakes that needed another SYN-ACK.
    pub retransmitted: u64,
    /// How many waited around so long.
    pub waits: Vec<(u64, u32)>,
    /// All of them together.
    pub sum_ns: u64,
    /// The longest since the beginning.
    pub longest_ns: u64,
    /// The greatest depth that one of them found since the beginning, itself included.
    pub deepest: u32,
    /// How many handshakes took around so long.
    pub handshakes: Vec<(u64, u32)>,
    /// After around how long clients left.
    pub left: Vec<(u64, u32)>,
    /// When the last was accepted.
    pub last_accept_ns: Option<u64>,
    /// When somebody waited for long, from and to.
    pub spells: Vec<(u64, u64)>,
    /// Who waits now.
    pub waiting: Vec<Waiting>,
    /// Who accepted how many.
    pub acceptors: Vec<(Task, u64)>,
}

/// One that is in the accept queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since when.
    pub since_ns: u64,
    /// What tells it from others.
    pub id: u64,
    /// When its client left.
    pub left_ns: Option<u64>,
    /// By FIN.
    pub by_fin: bool,
    /// Its place in the queue when it came.
    pub depth: u32,
}

/// Who has waited for so long, waits: everybody is in the queue for an instant.
const WAITS_NS: u64 = 1_000_000;

impl Measure {
    /// Takes in what was counted until now.
    pub(in crate::diagnosis) fn count(&mut self, at_ns: u64, counted: &Counted) {
        if self.is_counted_out {
            return;
        }
        let Counted { accepted, unmeasured, removed, .. } = *counted;
        let waiting = counted.waiting.len() as u64;
        // Who had arrived before the last count is among those who are gone since.
        let gone = accepted.saturating_sub(unmeasured) + removed;
        let arrived = (gone + waiting).saturating_sub(self.counted.unwrap_or(0));
        self.counted = Some(waiting);
        let deepest = counted.waiting.iter().map(|it| it.depth).fold(counted.deepest, u32::max);
        self.greatest = self.greatest.max(deepest).max(u32::try_from(waiting).unwrap_or(u32::MAX));
        self.longest_accepted_ns = counted.longest_ns;
        self.arrived += arrived;
        self.course.arrive(at_ns, arrived);
        self.accepted += accepted;
        self.course.accept(at_ns, accepted);
        self.waits.add_counted(&counted.waits, counted.sum_ns, counted.longest_ns);
        self.unmeasured += unmeasured;
        self.waits.add_many(at_ns.saturating_sub(self.began_ns), u32::try_from(unmeasured).unwrap_or(u32::MAX));
        self.last_accept_ns = self.last_accept_ns.max(counted.last_accept_ns);
        self.on_arrival.0 += counted.half_closed;
        self.on_arrival.1 += counted.dead;
        (self.by_fin, self.by_rst) = (self.by_fin + counted.by_fin, self.by_rst + counted.by_rst);
        for (ns, count) in &counted.left {
            self.left.add_many(*ns, *count);
            if *ns >= self.slow_ns {
                self.left_late.add_many(*ns, *count);
            }
        }
        self.retransmitted_handshakes += counted.retransmitted;
        self.slow_handshakes += counted.retransmitted;
        for (ns, count) in &counted.handshakes {
            self.handshakes.add_many(*ns, *count);
            self.slow_handshakes += if *ns >= HANDSHAKE_SLOW_NS { u64::from(*count) } else { 0 };
        }
        counted.spells.iter().for_each(|(from_ns, to_ns)| self.waited(*from_ns, *to_ns));
        let waiter = |it: &Waiting| ((it.since_ns, it.id), Waiter { left_ns: it.left_ns, half_closed: it.by_fin });
        self.waiting = counted.waiting.iter().map(waiter).collect();
        if let Some(ended_ns) = self.ended_ns {
            // Whoever had been reset before goes with the listener without another word.
            self.is_counted_out = true;
            for (since_ns, id) in self.waiting.keys().copied().collect::<Vec<_>>() {
                self.remove(ended_ns, since_ns, id);
            }
        }
        let waits = self.head_ns().is_some_and(|since_ns| at_ns.saturating_sub(since_ns) >= WAITS_NS);
        self.has_waited |= waits || !counted.spells.is_empty();
        counted.acceptors.iter().for_each(|(task, accepted)| self.accept_by(*task, *accepted));
    }
}
