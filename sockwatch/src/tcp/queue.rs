//! One listener's accept queue over time: who waits in it and since when, and what became of those who did. Pure.
//!
//! A connection leaves the queue by accept(), or with its listener: one whose client has gone keeps its place. So the depth
//! counts the dead, as the kernel's `sk_ack_backlog` does. What the kernel only counts (dropped SYNs) comes with its word on
//! the depth, every now and then.

mod drops;

use std::collections::BTreeSet;

pub use self::drops::{COUNTERS, NamespaceDrops};

/// A queue that is told again though nothing changed: when the oldest has waited twice as long as when it was told.
const PATIENCE: u64 = 2;

/// Between two tellings of a queue at least, in nanoseconds.
pub const TELLING_NS: u64 = 1_000_000_000;

/// So many rounds in a row must find another depth than we believe in before we take the kernel's word.
const PROOF: u8 = 2;

/// Depths that are remembered during a round.
const MOST_DEPTHS: usize = 1 << 16;

/// How a client leaves a connection that nobody has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It sent its FIN: what it sent before can still be read, and it may still wait for an answer.
    Fin,
    /// It sent a RST.
    Rst,
}

/// How an accepted connection was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Open both ways.
    Open,
    /// Its client had closed: `CLOSE_WAIT`.
    HalfClosed,
    /// Its client had reset it: `CLOSE`.
    Dead,
}

/// An accept queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Who waits, by entry and cookie: nearly the order in which the kernel hands them out.
    waiting: BTreeSet<(u64, u64)>,
    /// Those who were taken out because the kernel has fewer: somebody was accepted without our seeing it, perhaps another.
    forgotten: BTreeSet<(u64, u64)>,
    /// Who waits and was not seen to enter, and since when at least. They are ahead of all others. Negative before the first
    /// comparison: so many of them have been accepted.
    unseen: i64,
    unseen_since_ns: u64,
    /// The kernel's word on the depth was taken while it did not change: from then on it is right, unless something is lost.
    certain: bool,
    /// Rounds in a row that found another depth.
    differing: u8,
    /// Rounds of listings that were announced and not compared yet.
    rounds: u32,
    /// Depths since the first of them was announced.
    depths: Option<Vec<(u64, i64)>>,
    /// There were too many of them: nothing can be compared.
    too_many: bool,
    /// The greatest depth since it was told.
    peak: u32,
    /// `sk_drops` when we began to count.
    drops_before: Option<u32>,
    totals: Totals,
    /// When it was told, and how long the oldest had waited then.
    told: Option<(u64, u64)>,
    changed: bool,
}

/// Counts of a queue; each only grows, but for the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Its limit, where the kernel told: the queue takes one more than this.
    pub limit: Option<u32>,
    /// Whether the limit is the namespace's `somaxconn`: a longer one was asked for, or just that. `None` while nobody has looked.
    pub is_somaxconn: Option<bool>,
    /// Connections accepted.
    pub accepted: u64,
    /// Those that nobody had accepted when their client closed.
    pub left_by_fin: u64,
    /// Those that nobody had accepted when their client reset them.
    pub left_by_rst: u64,
    /// The longest that one had waited when its client left, in nanoseconds.
    pub longest_left_ns: u64,
    /// Accepted in `CLOSE_WAIT`.
    pub half_closed_on_arrival: u64,
    /// Accepted in `CLOSE`.
    pub dead_on_arrival: u64,
    /// Reset because their listener was closed.
    pub unqueued: u64,
    /// Last ACKs of handshakes that found it full.
    pub overflows: u64,
    /// Packets dropped at the listener (`sk_drops`), as of the last comparison: SYNs, and the last ACKs.
    pub drops: Option<u32>,
    /// Of the whole network namespace since the trace began.
    pub namespace: NamespaceDrops,
}

/// A queue at an instant, and its counts until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Who waits in it, the dead included.
    pub depth: u32,
    /// The greatest depth since it was told last.
    pub peak: u32,
    /// How long the oldest has waited.
    pub oldest: Option<Age>,
    /// The counts.
    pub totals: Totals,
}

impl QueueFigures {
    /// Whether it takes nobody any more: it is full at one more than its limit (`sk_acceptq_is_full`).
    pub fn is_full(&self) -> bool {
        self.totals.limit.is_some_and(|limit| self.depth > limit)
    }
}

/// How long something has lasted, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Its beginning was seen.
    Exactly(u64),
    /// It was there before.
    AtLeast(u64),
}

impl Age {
    /// The nanoseconds.
    pub const fn ns(self) -> u64 {
        match self {
            Self::Exactly(ns) | Self::AtLeast(ns) => ns,
        }
    }
}

/// The kernel's word on a listener, written within a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRecord {
    /// The window's beginning, in nanoseconds of `CLOCK_MONOTONIC`.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// Recv-Q.
    pub depth: u32,
    /// Send-Q.
    pub limit: u32,
    /// `sk_drops`, where it was asked for.
    pub drops: Option<u32>,
    /// The namespace's `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// The namespace's counters since the trace began.
    pub namespace: NamespaceDrops,
    /// Whether every connection to this listener is followed.
    pub follows: Follows,
}

/// Which connections to a listener are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follows {
    /// All: the depth is what the events say.
    #[default]
    All,
    /// Those of some processes, and they are told when they are accepted.
    Some,
}

/// How far we agree with the kernel on a depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was so at some time within the window, or nothing is known to compare with.
    Agrees,
    /// Not yet certain.
    Doubtful,
    /// Twice in a row it was not.
    Differs,
}

impl AcceptQueue {
    /// The queue of a listener whose listen() was seen: nothing is in it.
    pub fn begun(limit: Option<u32>) -> Self {
        let totals = Totals { limit, ..Totals::default() };
        Self { certain: true, drops_before: Some(0), totals, ..Self::default() }
    }

    /// Who waits in it, the dead included.
    pub fn depth(&self) -> u32 {
        u32::try_from(self.count()).unwrap_or(0)
    }

    /// The same as far as we know: less than none while we do not know who was there before.
    fn count(&self) -> i64 {
        i64::try_from(self.waiting.len()).unwrap_or(i64::MAX).saturating_add(self.unseen)
    }

    /// Cookies of those that were seen to enter and wait.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|(_, cookie)| *cookie)
    }

    /// A child enters. The limit is its listener's at that instant, where the kernel told.
    pub fn enter(&mut self, entered_ns: u64, cookie: u64, limit: Option<u32>) {
        if self.waiting.insert((entered_ns, cookie)) {
            self.note(entered_ns);
        }
        self.learn_limit(limit);
    }

    /// A child was accepted; `entered_ns` if it was seen to enter.
    pub fn accept(&mut self, at_ns: u64, entered_ns: Option<u64>, cookie: u64, arrival: Arrival) {
        let child = (entered_ns.unwrap_or(0), cookie);
        if self.forgotten.remove(&child) {
            // It was another who had been accepted.
            self.forget(1);
        } else if !self.waiting.remove(&child) {
            // It entered without our seeing it. Whoever was there before the first comparison is still to be counted.
            if self.certain { self.forget(1) } else { self.unseen -= 1 }
        }
        self.totals.accepted += 1;
        match arrival {
            Arrival::Open => {}
            Arrival::HalfClosed => self.totals.half_closed_on_arrival += 1,
            Arrival::Dead => self.totals.dead_on_arrival += 1,
        }
        self.note(at_ns);
    }

    /// A child was accepted without our seeing it. How its client has left, if it has, was counted; now nobody knows whether
    /// that was before.
    pub fn accept_unseen(&mut self, at_ns: u64, entered_ns: Option<u64>, cookie: u64, left: Option<Leaving>) {
        match left {
            Some(Leaving::Fin) => self.totals.left_by_fin = self.totals.left_by_fin.saturating_sub(1),
            Some(Leaving::Rst) => self.totals.left_by_rst = self.totals.left_by_rst.saturating_sub(1),
            None => {}
        }
        self.totals.accepted += 1;
        self.changed = true;
        self.remove(at_ns, entered_ns, cookie);
    }

    /// One that was accepted turns out to have been in `CLOSE`.
    pub fn learn_dead(&mut self) {
        self.totals.dead_on_arrival += 1;
        self.changed = true;
    }

    /// A child's client left before anybody accepted it; it keeps its place.
    pub fn leave(&mut self, leaving: Leaving, waited_ns: u64) {
        match leaving {
            Leaving::Fin => self.totals.left_by_fin += 1,
            Leaving::Rst => self.totals.left_by_rst += 1,
        }
        self.totals.longest_left_ns = self.totals.longest_left_ns.max(waited_ns);
        self.changed = true;
    }

    /// A child was reset because the listener is closed.
    pub fn unqueue(&mut self, at_ns: u64, entered_ns: Option<u64>, cookie: u64) {
        self.totals.unqueued += 1;
        self.remove(at_ns, entered_ns, cookie);
    }

    /// A child is gone without having been accepted; `entered_ns` if it was seen to enter.
    pub fn remove(&mut self, at_ns: u64, entered_ns: Option<u64>, cookie: u64) {
        let Some(entered_ns) = entered_ns else {
            if self.unseen > 0 || !self.certain {
                self.unseen -= 1;
                self.note(at_ns);
            }
            return;
        };
        let child = (entered_ns, cookie);
        if self.forgotten.remove(&child) || !self.waiting.remove(&child) {
            return;
        }
        // It was accepted without our seeing it; if another was taken out for that, that one still waits.
        self.waiting.extend(self.forgotten.pop_last());
        self.note(at_ns);
    }

    /// The last ACK of a handshake found it full.
    pub fn overflow(&mut self) {
        self.totals.overflows += 1;
        self.changed = true;
    }

    /// A round of listings begins: depths are remembered until it is compared.
    pub fn expect_round(&mut self) {
        if self.rounds == 0 {
            self.depths = Some(vec![(0, self.count())]);
            self.too_many = false;
        }
        self.rounds += 1;
    }

    /// It begins while so many rounds are announced: it was empty, as far as we know.
    #[must_use]
    pub fn within(self, rounds: u32) -> Self {
        Self { rounds, depths: Some(vec![(0, self.count())]), ..self }
    }

    /// A round is over; so many are still announced.
    pub fn end_round(&mut self, still: u32) {
        self.rounds = still;
    }

    /// Compares a record with the depths of its window; [`Self::found`] then takes its word. `tolerance_ns` widens it. `taken` is
    /// how many the same listing shows to have been accepted, of those that we believe to wait.
    pub fn compare(&mut self, record: &QueueRecord, tolerance_ns: u64, taken: u32) -> Verdict {
        let (least, most) = self.depths_within(record, tolerance_ns);
        let least = least - i64::from(taken);
        let depth = i64::from(record.depth);
        if self.too_many {
            return Verdict::Doubtful;
        }
        if !self.certain || record.follows == Follows::Some || (least..=most).contains(&depth) {
            self.differing = 0;
            return Verdict::Agrees;
        }
        // Of those that were there before nobody knows who was accepted just when we began to look.
        if depth < least && least - depth <= self.unseen {
            self.differing = 0;
            return Verdict::Agrees;
        }
        self.differing += 1;
        if self.differing < PROOF { Verdict::Doubtful } else { Verdict::Differs }
    }

    /// Takes the kernel's word: the depth only where it is certain.
    pub fn found(&mut self, record: &QueueRecord, verdict: Verdict, tolerance_ns: u64) {
        let (least, most) = self.depths_within(record, tolerance_ns);
        let (count, before) = (self.count(), (self.depth(), self.totals));
        match verdict {
            Verdict::Doubtful => {}
            Verdict::Agrees | Verdict::Differs => {
                self.differing = 0;
                let depth = i64::from(record.depth);
                if depth > most {
                    self.unseen_since_ns = if self.unseen <= 0 { record.from_ns } else { self.unseen_since_ns };
                    self.unseen += depth - most;
                } else {
                    self.forget(least - depth);
                }
                let changed = depth > most || depth < least;
                self.certain = least == most || self.certain && !changed;
                if self.certain {
                    self.unseen = self.unseen.max(0);
                }
            }
        }
        let corrected = self.count() - count;
        self.depths = self.depths.take().filter(|_| self.rounds > 0);
        self.depths.iter_mut().flatten().for_each(|(_, depth)| *depth += corrected);
        self.learn_limit(Some(record.limit));
        self.peak = self.peak.max(self.depth());
        let totals = &mut self.totals;
        totals.is_somaxconn = record.somaxconn.map(|somaxconn| somaxconn == record.limit);
        if let Some(drops) = record.drops {
            let before = *self.drops_before.get_or_insert(drops);
            totals.drops = Some(drops.wrapping_sub(before));
        }
        totals.namespace = record.namespace;
        // The first word that nothing was dropped is no news, nor that the limit is the listener's own.
        let (depth, Totals { drops, is_somaxconn, .. }) = before;
        let drops = drops.or(totals.drops.filter(|drops| *drops == 0));
        let is_somaxconn = is_somaxconn.or(totals.is_somaxconn.filter(|is_somaxconn| !is_somaxconn));
        let before = Totals { drops, is_somaxconn, ..before.1 };
        self.changed |= depth != self.depth() || before != self.totals;
    }

    /// So many are not in it after all: the oldest, for those are taken first.
    fn forget(&mut self, count: i64) {
        let unseen = count.clamp(0, self.unseen.max(0));
        self.unseen -= unseen;
        for _ in unseen..count {
            self.forgotten.extend(self.waiting.pop_first());
        }
    }

    /// The least and the greatest depth that we believed in within a record's window.
    fn depths_within(&self, record: &QueueRecord, tolerance_ns: u64) -> (i64, i64) {
        let (from_ns, to_ns) = (record.from_ns.saturating_sub(tolerance_ns), record.to_ns.saturating_add(tolerance_ns));
        let Some(depths) = &self.depths else { return (self.count(), self.count()) };
        // What held when the window began, and all that followed in it. Entries are told a little late, so out of order.
        let begun = depths.iter().rev().find(|(at_ns, _)| *at_ns <= from_ns).or(depths.first());
        let within = depths.iter().filter(|(at_ns, _)| (from_ns..=to_ns).contains(at_ns));
        let depths = begun.into_iter().chain(within).map(|(_, depth)| *depth);
        depths.fold((i64::MAX, i64::MIN), |(least, most), depth| (least.min(depth), most.max(depth)))
    }

    fn learn_limit(&mut self, limit: Option<u32>) {
        if limit.is_some() && limit != self.totals.limit {
            self.totals.limit = limit;
            self.changed = true;
        }
    }

    fn note(&mut self, at_ns: u64) {
        let depth = self.count();
        self.peak = self.peak.max(self.depth());
        self.changed = true;
        if let Some(depths) = self.depths.as_mut().filter(|depths| depths.len() < MOST_DEPTHS) {
            depths.push((at_ns, depth));
        } else {
            self.too_many = self.depths.is_some();
        }
    }

    /// What it is now.
    pub fn figures(&self, now_ns: u64) -> QueueFigures {
        let oldest = match (self.unseen, self.waiting.first()) {
            (..=0, None) => None,
            (..=0, Some((entered_ns, _))) => Some(Age::Exactly(now_ns.saturating_sub(*entered_ns))),
            (_, first) => {
                let seen_ns = first.map_or(u64::MAX, |(entered_ns, _)| *entered_ns);
                Some(Age::AtLeast(now_ns.saturating_sub(self.unseen_since_ns.min(seen_ns))))
            }
        };
        QueueFigures { depth: self.depth(), peak: self.peak, oldest, totals: self.totals }
    }

    /// What it is now, if that is worth telling: it changed, or its oldest has waited twice as long; once a second.
    pub fn news(&mut self, now_ns: u64) -> Option<QueueFigures> {
        if let Some((told_ns, oldest_ns)) = self.told {
            let due = now_ns.saturating_sub(told_ns) >= TELLING_NS;
            let oldest = || self.figures(now_ns).oldest.map_or(0, Age::ns);
            if !due || !self.changed && oldest() < oldest_ns.saturating_mul(PATIENCE).max(TELLING_NS) {
                return None;
            }
        } else if !self.changed {
            return None;
        }
        Some(self.tell(now_ns))
    }

    /// What it is now, if it changed since it was told: before the end.
    pub fn last_news(&mut self, now_ns: u64) -> Option<QueueFigures> {
        self.changed.then(|| self.tell(now_ns))
    }

    fn tell(&mut self, now_ns: u64) -> QueueFigures {
        let figures = self.figures(now_ns);
        self.told = Some((now_ns, figures.oldest.map_or(0, Age::ns)));
        self.changed = false;
        self.peak = figures.depth;
        figures
    }

    /// Whether there will be something to tell though nothing happens.
    pub fn is_restless(&self) -> bool {
        self.changed || self.depth() > 0
    }
}

#[cfg(test)]
mod tests;
