//! Who is tracked, and who has to go: memory is bounded. What lives stays; what has ended makes room, oldest first.

use std::collections::{HashMap, VecDeque};

use super::{Tracked, Tracker, listeners::close_queue};
use crate::tcp::{
    connection::Role,
    event::{Certainty, Event, EventKind, SocketKey},
    minisock::{Minisock, MinisockEnd, SLACK, Tuple},
    update::Update,
};

/// Sockets and minisocks that are tracked at once at most.
pub const MAX_SOCKETS: usize = 1_000_000;

/// A child's first events without a cookie. Up to 6.12 at least a child has neither cookie nor remote end at its birth, and
/// a kprobe cannot ask for a cookie that nobody has asked for yet; microseconds later the socket has both.
#[derive(Clone, Debug)]
pub(super) struct Unnamed {
    birth: Option<Event>,
    enqueue: Option<Event>,
    since_ns: u64,
}

/// Those that wait for a name, by address, and the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_address: HashMap<u64, Unnamed, foldhash::fast::FixedState>,
    places: VecDeque<(u64, u64)>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    pub(super) fn remove(&mut self, skaddr: u64) -> Option<Unnamed> {
        if self.by_address.is_empty() {
            return None;
        }
        self.by_address.remove(&skaddr)
    }

    /// The events of this address, empty if there are none.
    fn entry(&mut self, event: &Event) -> &mut Unnamed {
        let Self { by_address, places } = self;
        if places.len() > 2 * by_address.len() + SLACK {
            places.retain(|(since_ns, skaddr)| by_address.get(skaddr).is_some_and(|it| it.since_ns == *since_ns));
        }
        by_address.entry(event.skaddr).or_insert_with(|| {
            places.push_back((event.at_ns, event.skaddr));
            Unnamed { birth: None, enqueue: None, since_ns: event.at_ns }
        })
    }

    /// Forgets the one that has waited longest. Returns whether there was one.
    fn forget_oldest(&mut self) -> bool {
        while let Some((since_ns, skaddr)) = self.places.pop_front() {
            if self.by_address.get(&skaddr).is_some_and(|it| it.since_ns == since_ns) {
                self.by_address.remove(&skaddr);
                return true;
            }
        }
        false
    }
}

impl Tracker {
    /// Lets a child's first events wait for its name. Returns whether that is all that is to be done now.
    pub(super) fn waits_for_name(&mut self, event: &Event, updates: &mut Vec<Update>) -> bool {
        if !matches!(event.kind, EventKind::Birth { .. } | EventKind::Enqueue { .. }) {
            return false;
        }
        // Their sockets' next events were lost, and will not come any more.
        while self.unnamed.len() >= self.limit && self.unnamed.forget_oldest() {
            self.full += 1;
        }
        if let EventKind::Enqueue { .. } = event.kind {
            self.unnamed.entry(event).enqueue = Some(*event);
            return true;
        }
        if let Some(former) = self.unnamed.remove(event.skaddr) {
            if former.birth.is_some() && event.certainty == Certainty::PerhapsRepeated {
                self.repeated += 1;
                *self.unnamed.entry(event) = former;
                return true;
            }
            self.take_unnamed(former, None, updates);
        }
        self.unnamed.entry(event).birth = Some(*event);
        true
    }

    /// First events, under the name that the socket's next event has.
    pub(super) fn take_unnamed(&mut self, unnamed: Unnamed, next: Option<&Event>, updates: &mut Vec<Update>) {
        let Unnamed { birth, enqueue, .. } = unnamed;
        for event in [birth, enqueue].into_iter().flatten() {
            let key = next.map_or(event.key, |next| next.key);
            let tuple = next.and_then(|next| next.tuple).or(event.tuple);
            self.take(&Event { key, tuple, ..event }, updates);
        }
    }

    /// Notes a name that we gave, by the socket's address.
    pub(super) fn note_address(&mut self, skaddr: u64, key: SocketKey) {
        let Self { by_address, sockets, .. } = self;
        if by_address.len() > 2 * sockets.len() + SLACK {
            // Of sockets whose destroy was lost.
            by_address.retain(|_, key| sockets.contains_key(key));
        }
        by_address.insert(skaddr, key);
    }

    /// Whether one more socket fits. What has ended makes room first, then the minisocks that expire next.
    pub(super) fn has_room(&mut self, updates: &mut Vec<Update>) -> bool {
        while self.len() >= self.limit && self.evict(updates) {
            self.evicted += 1;
        }
        let fits = self.len() < self.limit;
        self.full += u64::from(!fits);
        fits
    }

    fn evict(&mut self, updates: &mut Vec<Update>) -> bool {
        let Some(key) = self.finished.pop(&self.sockets) else { return self.minisocks.evict() };
        if let Some(tracked) = self.take_out(key) {
            // Of what died in an accept queue the end was not told.
            let at_ns = tracked.connection.ended_ns.unwrap_or(tracked.connection.first_seen_ns);
            tracked.report_last(at_ns, updates);
        }
        true
    }

    /// Takes a socket out; what it was stays known while a round of listings is under way.
    pub(super) fn take_out(&mut self, key: SocketKey) -> Option<Tracked> {
        let mut tracked = self.sockets.remove(&key)?;
        match tracked.connection.role {
            Role::Listener => close_queue(&mut self.queues, &mut tracked.connection),
            Role::Passive => self.forget_queued(&tracked.connection),
            Role::Active | Role::Unknown => {}
        }
        if let Some(history) = &mut self.history {
            history.note(&tracked.connection, self.limit);
        }
        Some(tracked)
    }

    /// Takes a minisock in. Without room it is not followed, and counted.
    pub(super) fn admit_minisock(&mut self, minisock: Minisock, updates: &mut Vec<Update>) {
        if self.has_room(updates) {
            let former = self.minisocks.insert(minisock);
            if let (Some(history), Some(former)) = (&mut self.history, former) {
                history.note_minisock(&former, self.limit);
            }
        }
    }

    /// Ends a minisock, if there is one with these ends.
    pub(super) fn end_minisock(&mut self, tuple: &Tuple, at_ns: u64, end: MinisockEnd, updates: &mut Vec<Update>) {
        self.end_sampled(tuple, at_ns, end, None, updates);
    }

    /// The same of one whose end nobody saw: right to within so many nanoseconds.
    pub(super) fn end_sampled(
        &mut self,
        tuple: &Tuple,
        at_ns: u64,
        end: MinisockEnd,
        sampled_ns: Option<u64>,
        updates: &mut Vec<Update>,
    ) {
        if let Some(minisock) = self.minisocks.get_mut(tuple) {
            let left_by = minisock.subject.key;
            self.depart(left_by, updates);
        }
        let ended = self.minisocks.end(tuple, at_ns, end, sampled_ns, updates);
        if let (Some(history), Some(minisock)) = (&mut self.history, ended) {
            history.note_minisock(&minisock, self.limit);
        }
    }
}
