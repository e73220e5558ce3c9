//! Ends: each is told once, when nothing more can change it.

use std::collections::VecDeque;

use super::{Sockets, Tracked, Tracker, listeners::close_queue};
use crate::tcp::{
    connection::{Connection, RESET_BELONGS_NS, Role},
    event::{Event, SocketKey},
    minisock::SLACK,
    state::TcpState,
    update::{Happening, Subject, Update},
};

/// A socket that nobody destroys is reported as ended so long after its `CLOSE`: late resets have come by then.
const CLOSE_SETTLES_NS: u64 = 1_000_000_000;

/// How far a socket is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It lives.
    Living,
    /// It reached `CLOSE`, or was accepted in it, at this time, and was not destroyed.
    Settling(u64),
    /// It was destroyed at this time, and a RST may yet explain its ending.
    Departing(u64),
    /// Its end was told at this time; its destroy is to come, or was lost.
    Told(u64),
}

/// Sockets in the order in which they came to a stage. A place is void once its socket is in another stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(VecDeque<(Stage, SocketKey)>);

impl Places {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a place; void ones must not pile up.
    fn push(&mut self, stage: Stage, key: SocketKey, sockets: &Sockets) {
        self.0.push_back((stage, key));
        if self.0.len() > 2 * sockets.len() + SLACK {
            self.0.retain(|(stage, key)| sockets.get(key).is_some_and(|tracked| tracked.stage == *stage));
        }
    }

    /// The first place, if it is valid; void ones before it are dropped.
    fn first(&mut self, sockets: &Sockets) -> Option<(Stage, SocketKey)> {
        while let Some((stage, key)) = self.0.front() {
            if sockets.get(key).is_some_and(|tracked| tracked.stage == *stage) {
                return Some((*stage, *key));
            }
            self.0.pop_front();
        }
        None
    }

    /// Takes out the first socket whose stage began so long before `now_ns`.
    fn pop_due(&mut self, now_ns: u64, after_ns: u64, sockets: &Sockets) -> Option<(u64, SocketKey)> {
        let (Stage::Settling(at_ns) | Stage::Departing(at_ns) | Stage::Told(at_ns), key) = self.first(sockets)? else {
            return None;
        };
        let due = at_ns.saturating_add(after_ns) <= now_ns;
        due.then(|| self.0.pop_front())?;
        Some((at_ns, key))
    }

    /// Takes out the first socket.
    pub(super) fn pop(&mut self, sockets: &Sockets) -> Option<SocketKey> {
        let (_, key) = self.first(sockets)?;
        self.0.pop_front();
        Some(key)
    }
}

impl Tracker {
    /// Nothing more will come: tells queues that have changed since they were told, and what has reached `CLOSE` as it is.
    pub fn settle_all(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        self.tell_changed_queues(now_ns, updates);
        self.settle_until(u64::MAX, updates);
    }

    pub(super) fn settle_until(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        while let Some((at_ns, key)) = self.departing.pop_due(now_ns, RESET_BELONGS_NS, &self.sockets) {
            if let Some(tracked) = self.take_out(key) {
                tracked.report_last(at_ns, updates);
            }
        }
        while let Some((at_ns, key)) = self.settling.pop_due(now_ns, CLOSE_SETTLES_NS, &self.sockets) {
            let Some(tracked) = self.sockets.get_mut(&key) else { continue };
            // What died in an accept queue is told when it leaves it, or when it has to make room.
            if !tracked.connection.is_queued() {
                if tracked.connection.role == Role::Listener {
                    close_queue(&mut self.queues, &mut tracked.connection);
                }
                tracked.report(now_ns.min(at_ns.saturating_add(CLOSE_SETTLES_NS)), updates);
            }
            let stage = tracked.stage;
            self.finished.push(stage, key, &self.sockets);
        }
    }

    /// Its end is told a while from now, unless it was told.
    pub(super) fn settle(&mut self, key: SocketKey, at_ns: u64) {
        let stage = Stage::Settling(at_ns);
        if let Some(tracked) = self.sockets.get_mut(&key)
            && !matches!(tracked.stage, Stage::Told(_))
            && tracked.stage != stage
        {
            tracked.stage = stage;
            self.settling.push(stage, key, &self.sockets);
        }
    }

    pub(super) fn destroy(&mut self, key: SocketKey, event: &Event, updates: &mut Vec<Update>) {
        self.find_dead_on_arrival(key);
        if let Some(tracked) = self.sockets.get_mut(&key)
            && !matches!(tracked.stage, Stage::Told(_) | Stage::Departing(_))
            && tracked.connection.ending_after_reset() != tracked.connection.ending
        {
            let stage = Stage::Departing(event.at_ns);
            tracked.stage = stage;
            return self.departing.push(stage, key, &self.sockets);
        }
        self.by_address.remove(&event.skaddr);
        if let Some(tracked) = self.take_out(key) {
            tracked.report_last(event.at_ns, updates);
        }
    }

    /// Its minisock lives, so that no RST ended it: tells the end that waited for one.
    pub(super) fn depart(&mut self, key: SocketKey, updates: &mut Vec<Update>) {
        if let Some(Stage::Departing(at_ns)) = self.sockets.get(&key).map(|tracked| tracked.stage)
            && let Some(tracked) = self.take_out(key)
        {
            tracked.report_last(at_ns, updates);
        }
    }
}

impl Tracked {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection: Box::new(connection), stage: Stage::Living, round: 0, absences: 0 }
    }

    /// Whether all that was seen of it is that somebody accepted it. No listing showed it, either.
    pub(super) fn is_known_by_accept(&self) -> bool {
        self.round == 0 && self.connection.is_known_by_accept() && self.connection.state != TcpState::Close
    }

    /// Tells the end, unless it was told, of a socket that is gone: without a copy, it happens for every connection.
    pub(super) fn report_last(self, at_ns: u64, updates: &mut Vec<Update>) {
        if let Stage::Told(_) = self.stage {
            return;
        }
        let subject = Subject::from(&*self.connection);
        updates.push(Update { at_ns, subject, happening: Happening::Ended(self.connection) });
    }

    /// Tells the end, once.
    fn report(&mut self, at_ns: u64, updates: &mut Vec<Update>) {
        if let Stage::Told(_) = self.stage {
            return;
        }
        self.stage = Stage::Told(at_ns);
        let subject = Subject::from(&*self.connection);
        let connection = self.connection.clone();
        updates.push(Update { at_ns, subject, happening: Happening::Ended(connection) });
    }
}
