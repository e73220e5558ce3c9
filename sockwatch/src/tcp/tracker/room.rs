//! Who is tracked, and who has to go: memory is bounded. What lives stays; what has ended makes room, oldest first.

use super::{Tracked, Tracker};
use crate::tcp::{
    event::{Event, SocketKey},
    minisock::{Minisock, MinisockEnd, Tuple},
    update::Update,
};

/// Sockets and minisocks that are tracked at once at most.
pub const MAX_SOCKETS: usize = 1_000_000;

/// A child's first events without a cookie. Up to 6.12 at least a child has neither cookie nor remote end at its birth, and
/// a kprobe cannot ask for a cookie that nobody has asked for yet; microseconds later the socket has both.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    pub(super) birth: Option<Event>,
    pub(super) enqueue: Option<Event>,
}

impl Tracker {
    /// Whether one more socket fits. Those whose end was told, and whose destroy was perhaps lost, make room first, then the
    /// minisocks that expire next.
    pub(super) fn has_room(&mut self) -> bool {
        while self.len() >= self.limit && self.evict() {
            self.evicted += 1;
        }
        if self.by_address.len() >= self.limit {
            // Of sockets whose destroy was lost; their addresses would be taken again sooner or later.
            self.by_address.clear();
        }
        let fits = self.len() < self.limit;
        self.full += u64::from(!fits);
        fits
    }

    fn evict(&mut self) -> bool {
        while let Some((key, incarnation)) = self.reported.pop_front() {
            let finished = |tracked: &Tracked| tracked.reported && tracked.connection.incarnation == incarnation;
            if self.sockets.get(&key).is_some_and(finished) {
                self.sockets.remove(&key);
                return true;
            }
        }
        self.minisocks.evict()
    }

    /// Whether another child's first events may wait for its name.
    pub(super) fn has_room_unnamed(&mut self) -> bool {
        let fits = self.unnamed.len() < self.limit;
        self.full += u64::from(!fits);
        fits
    }

    /// Takes a socket out; what it was stays known while a round of listings is under way.
    pub(super) fn take_out(&mut self, key: SocketKey) -> Option<Tracked> {
        let tracked = self.sockets.remove(&key)?;
        if tracked.reported {
            self.forget_places();
        }
        if let Some(history) = &mut self.history {
            history.note(&tracked.connection);
        }
        Some(tracked)
    }

    /// Takes a minisock in. Without room it is not followed, and counted.
    pub(super) fn admit_minisock(&mut self, minisock: Minisock) {
        if self.has_room() {
            let former = self.minisocks.insert(minisock);
            if let (Some(history), Some(former)) = (&mut self.history, former) {
                history.note_minisock(&former);
            }
        }
    }

    /// Ends a minisock, if there is one with these ends.
    pub(super) fn end_minisock(&mut self, tuple: &Tuple, at_ns: u64, end: MinisockEnd, updates: &mut Vec<Update>) {
        let ended = self.minisocks.end(tuple, at_ns, end, updates);
        if let (Some(history), Some(minisock)) = (&mut self.history, ended) {
            history.note_minisock(&minisock);
        }
    }

    /// Places of reported sockets that are gone must not pile up.
    fn forget_places(&mut self) {
        if self.reported.len() > 2 * self.sockets.len() + 1024 {
            let sockets = &self.sockets;
            self.reported.retain(|(key, _)| sockets.contains_key(key));
        }
    }
}
