//! What is left of a connection after its `CLOSE`: the kernel replaces the socket of the end that closed first by a minisock, and
//! tells nobody. In `TIME_WAIT` it waits for 60 s, a constant; an orphan's in `FIN_WAIT2` for `tcp_fin_timeout`.
//!
//! Every segment that comes in `TIME_WAIT` starts the 60 s again (`inet_twsk_reschedule` in `tcp_timewait_state_process`).
//! A RST ends a minisock, a new connection with the same ends takes its place, a namespace's end purges it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

use super::{
    endpoint::Endpoint,
    event::SocketKey,
    state::TcpState,
    update::{Happening, Subject, Update},
};

/// `TCP_TIMEWAIT_LEN`: a constant of the kernel.
pub const TIME_WAIT_NS: u64 = 60_000_000_000;

/// A minisock's timer fires late: a timer of 60 s is exact to 512 jiffies (`LVL_GRAN`), 2 s at 250 Hz and 5.1 s at 100 Hz. Until
/// then it may still be there.
pub const GRACE_NS: u64 = 5_500_000_000;

/// A segment that a minisock answers with a RST is told after the RST, by microseconds. A minisock that has sent one is gone, so
/// that nothing else can be meant for long.
const SEGMENT_FOLLOWS_NS: u64 = 1_000_000_000;

/// The kernel puts a minisock into its table, or moves it to `TIME_WAIT`, and only then comes to the tracepoint: microseconds
/// later, unless the CPU, a virtual one, is taken away in between.
const SHOWN_EARLY_NS: u64 = 1_000_000_000;

/// So many of those that sent a RST are remembered for it.
const MOST_RESET: usize = 1024;

/// Queues with void places are swept when they are longer than twice what they are about, and this.
pub(super) const SLACK: usize = 16;

/// What ended a minisock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinisockEnd {
    /// Its time was over.
    Expired,
    /// A new connection with the same ends took its place.
    Reused,
    /// A RST came in, or was sent in answer to new data.
    Reset,
    /// It was no longer in the kernel's table.
    Gone,
}

impl MinisockEnd {
    /// The word in text and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Reused => "reused",
            Self::Reset => "reset",
            Self::Gone => "gone",
        }
    }
}

/// Both ends in their network namespace: at most one minisock has them.
pub(super) type Tuple = (u32, Endpoint, Endpoint);

/// A connection's rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Minisock {
    pub(super) subject: Subject,
    /// `TIME_WAIT` or `FIN_WAIT2`.
    pub(super) state: TcpState,
    pub(super) since_ns: u64,
    /// When it is over, as far as we know.
    pub(super) expires_ns: u64,
    /// Until then it must be there, unless something ends it that we are told of.
    pub(super) surely_until_ns: u64,
    /// `FIN_WAIT2` until then, before it came to `TIME_WAIT`.
    pub(super) orphan_until_ns: Option<u64>,
    /// A segment told of it first: in which state it was before is not known.
    pub(super) adopted: bool,
    /// The kernel may have made none: no listing has shown it yet.
    pub(super) doubtful: bool,
    /// The time of its place in the queue of those that are due.
    place_ns: u64,
    /// The last round of listings that showed it.
    pub(super) round: u32,
    /// Listings in a row that did not.
    pub(super) absences: u8,
}

impl Minisock {
    /// What `subject` leaves, in `state` since `since_ns`. `lasts_ns` is how long it will stay; `None` if not known.
    pub(super) fn new(subject: Subject, state: TcpState, since_ns: u64, lasts_ns: Option<u64>) -> Self {
        Self {
            subject,
            state,
            since_ns,
            expires_ns: since_ns.saturating_add(lasts_ns.unwrap_or(TIME_WAIT_NS)),
            surely_until_ns: since_ns.saturating_add(lasts_ns.unwrap_or(0)),
            orphan_until_ns: None,
            adopted: false,
            doubtful: false,
            place_ns: 0,
            round: 0,
            absences: 0,
        }
    }

    pub(super) fn tuple(&self) -> Tuple {
        (self.subject.key.netns, self.subject.local, self.subject.remote)
    }

    /// Whether it was in `state` at some instant from `from_ns` to `to_ns`.
    pub(super) fn was_in(&self, state: TcpState, from_ns: u64, to_ns: u64) -> bool {
        let now = self.state == state && self.since_ns <= to_ns.saturating_add(SHOWN_EARLY_NS);
        let before = state == TcpState::FinWait2 && self.orphan_until_ns.is_some_and(|until_ns| until_ns >= from_ns);
        now || before || self.adopted && from_ns < self.since_ns
    }

    /// A listing showed it in `state` with so much time left. That was before any segment that has come since: one begins the
    /// 60 s again.
    pub(super) fn learn_time(&mut self, state: TcpState, expires_ns: u64) {
        if state == self.state {
            self.expires_ns = if state == TcpState::TimeWait { self.expires_ns.max(expires_ns) } else { expires_ns };
        }
    }

    /// Comes to `TIME_WAIT`, or begins it again.
    pub(super) fn wait(&mut self, at_ns: u64) -> Option<Update> {
        let happening = (self.state != TcpState::TimeWait).then(|| {
            let lasted_ns = Some(at_ns.saturating_sub(self.since_ns));
            let (old, new) = (self.state, TcpState::TimeWait);
            Happening::Transition { old, new, lasted_ns, by: None, sampled_ns: None }
        });
        if happening.is_some() {
            self.orphan_until_ns = Some(at_ns);
            self.state = TcpState::TimeWait;
            self.since_ns = at_ns;
        }
        self.expires_ns = at_ns.saturating_add(TIME_WAIT_NS);
        self.surely_until_ns = self.expires_ns;
        happening.map(|happening| Update { at_ns, subject: self.subject, happening })
    }

    fn ended(&self, at_ns: u64, end: MinisockEnd, sampled_ns: Option<u64>) -> Update {
        let lasted_ns = at_ns.saturating_sub(self.since_ns);
        Update {
            at_ns,
            subject: self.subject,
            happening: Happening::MinisockEnded { state: self.state, lasted_ns, sampled_ns, end },
        }
    }
}

/// All minisocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Minisocks {
    by_tuple: HashMap<Tuple, Minisock, foldhash::fast::FixedState>,
    /// When to look whether one has expired, with a place for each.
    due: BinaryHeap<Reverse<(u64, Tuple)>>,
    /// Those that have sent a RST, and when: the segments that they answered are still to be told.
    reset: VecDeque<(u64, SocketKey, (Endpoint, Endpoint))>,
}

impl Minisocks {
    pub(super) fn len(&self) -> usize {
        self.by_tuple.len()
    }

    /// How many places the queue has.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.due.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_tuple.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Minisock> {
        self.by_tuple.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Minisock> {
        self.by_tuple.values_mut()
    }

    /// The minisock with these ends.
    pub(super) fn get_mut(&mut self, tuple: &Tuple) -> Option<&mut Minisock> {
        self.by_tuple.get_mut(tuple)
    }

    /// This socket's. A record without a cookie is told by its ends alone.
    pub(super) fn of(&mut self, key: SocketKey, ends: Option<(Endpoint, Endpoint)>) -> Option<&mut Minisock> {
        if self.by_tuple.is_empty() {
            return None;
        }
        let (local, remote) = ends?;
        let minisock = self.by_tuple.get_mut(&(key.netns, local, remote))?;
        (key.cookie == 0 || minisock.subject.key == key).then_some(minisock)
    }

    /// One has ended with a RST, in answer to a segment.
    pub(super) fn note_reset(&mut self, at_ns: u64, key: SocketKey, ends: (Endpoint, Endpoint)) {
        let old = |at: u64| at_ns.saturating_sub(at) >= SEGMENT_FOLLOWS_NS;
        while self.reset.len() >= MOST_RESET || self.reset.front().is_some_and(|(at, ..)| old(*at)) {
            self.reset.pop_front();
        }
        self.reset.push_back((at_ns, key, ends));
    }

    /// Whether a segment that comes now is one that such a RST has answered. Each has one.
    pub(super) fn takes_answered(&mut self, at_ns: u64, key: SocketKey, ends: Option<(Endpoint, Endpoint)>) -> bool {
        let its = |(at, whose, pair): &(u64, SocketKey, (Endpoint, Endpoint))| {
            let same = key.cookie == 0 && key.netns == whose.netns || key == *whose;
            same && Some(*pair) == ends && at_ns.saturating_sub(*at) < SEGMENT_FOLLOWS_NS
        };
        let place = self.reset.iter().position(its);
        place.is_some_and(|place| self.reset.remove(place).is_some())
    }

    /// Takes one in. Another with its ends, whose end was not seen, is gone.
    pub(super) fn insert(&mut self, mut minisock: Minisock) -> Option<Minisock> {
        let tuple = minisock.tuple();
        minisock.place_ns = minisock.expires_ns;
        self.due.push(Reverse((minisock.place_ns, tuple)));
        let former = self.by_tuple.insert(tuple, minisock);
        // Those that ended early leave their places behind.
        if self.due.len() > 2 * self.by_tuple.len() + SLACK {
            self.due = self.by_tuple.values().map(|it| Reverse((it.place_ns, it.tuple()))).collect();
        }
        former
    }

    /// Ends the one with these ends; `sampled_ns` if nobody saw it.
    pub(super) fn end(
        &mut self,
        tuple: &Tuple,
        at_ns: u64,
        end: MinisockEnd,
        sampled_ns: Option<u64>,
        updates: &mut Vec<Update>,
    ) -> Option<Minisock> {
        let minisock = self.by_tuple.remove(tuple)?;
        updates.push(minisock.ended(at_ns, end, sampled_ns));
        Some(minisock)
    }

    /// Takes the one with these ends out, without a word.
    pub(super) fn remove(&mut self, tuple: &Tuple) -> Option<Minisock> {
        self.by_tuple.remove(tuple)
    }

    /// Ends those whose time is over. The kernel's own timer fires some time after that.
    pub(super) fn expire(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        while let Some(Reverse((due_ns, tuple))) = self.due.peek().copied() {
            if due_ns.saturating_add(GRACE_NS) > now_ns {
                return;
            }
            self.due.pop();
            let Some(minisock) = self.by_tuple.get_mut(&tuple).filter(|it| it.place_ns == due_ns) else { continue };
            if minisock.expires_ns > due_ns {
                // A segment has prolonged it.
                minisock.place_ns = minisock.expires_ns;
                self.due.push(Reverse((minisock.place_ns, tuple)));
            } else {
                self.end(&tuple, due_ns, MinisockEnd::Expired, Some(GRACE_NS), updates);
            }
        }
    }

    /// Makes room: forgets the one that expires next. Returns whether there was one.
    pub(super) fn evict(&mut self) -> bool {
        while let Some(Reverse((due_ns, tuple))) = self.due.pop() {
            if self.by_tuple.get(&tuple).is_some_and(|it| it.place_ns == due_ns) {
                self.by_tuple.remove(&tuple);
                return true;
            }
        }
        false
    }
}
