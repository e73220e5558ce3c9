//! How soon accepted connections are read from, and how many never are though data has come. Of a client that keeps silent nothing
//! can be read.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use sockwatch_common::MAX_UNREAD;

use super::{
    MOST_LISTENERS,
    waits::{Spread, Waits},
};
use crate::tcp::{connection::Payload, event::SocketKey};

/// What is known of a listener's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// From accept() to the first read.
    pub first: Option<Spread>,
    /// Accepted, and gone with data of which nothing was read.
    pub never: u64,
    /// Accepted, open, and no read of them was told: silent clients are among them.
    pub not_yet: u64,
}

/// First reads since the run began.
#[derive(Debug, Default)]
pub(super) struct FirstReads {
    is_on: bool,
    listeners: HashMap<SocketKey, Told, FixedState>,
    /// Those that were accepted: so many that the kernel side remembers, too.
    unread: HashMap<SocketKey, Unread, FixedState>,
    /// Those of them that are gone.
    gone: usize,
    /// Reads of connections whose accept was not told yet.
    early: HashMap<SocketKey, u64, FixedState>,
}

#[derive(Debug)]
struct Told {
    waits: Waits,
    never: u64,
}

/// An accepted connection.
#[derive(Clone, Copy, Debug)]
struct Unread {
    listener: SocketKey,
    accepted_ns: u64,
    /// It has ended, and was read from. News of that may still be on its way.
    is_gone: bool,
}

impl FirstReads {
    /// They are told from now on.
    pub(super) fn begin(&mut self) {
        self.is_on = true;
    }

    /// Somebody was accepted from this listener's queue.
    pub(super) fn accept(&mut self, at_ns: u64, connection: SocketKey, listener: SocketKey) {
        if !self.is_on {
            return;
        }
        let unread = Unread { listener, accepted_ns: at_ns, is_gone: false };
        if let Some(read_ns) = self.early.remove(&connection) {
            return self.put(unread, read_ns);
        }
        // News comes within a second; to look for those of whom none came each time would take too long.
        if self.gone >= MAX_UNREAD as usize / 2 {
            self.unread.retain(|_, unread| !unread.is_gone);
            self.gone = 0;
        }
        if self.unread.len() < MAX_UNREAD as usize {
            self.unread.insert(connection, unread);
        }
    }

    /// Somebody was read from.
    pub(super) fn read(&mut self, at_ns: u64, connection: SocketKey) {
        if let Some(unread) = self.unread.remove(&connection) {
            self.gone -= usize::from(unread.is_gone);
            return self.put(unread, at_ns);
        }
        if self.early.len() >= MAX_UNREAD as usize {
            // Their accepts were lost.
            self.early.clear();
        }
        self.early.insert(connection, at_ns);
    }

    /// Somebody is gone, and has moved so much payload, as far as known. Whether it was read from is the kernel's word: news of a
    /// read may be lost, or late.
    pub(super) fn end(&mut self, connection: SocketKey, payload: Option<Payload>) {
        let Some(unread) = self.unread.get_mut(&connection).filter(|unread| !unread.is_gone) else { return };
        let was_read = payload.is_some_and(|it| it.received_bytes > u64::from(it.unread_bytes));
        if was_read {
            unread.is_gone = true;
            self.gone += 1;
            return;
        }
        let listener = unread.listener;
        self.unread.remove(&connection);
        if payload.is_some_and(|it| it.unread_bytes > 0)
            && let Some(told) = self.told(listener)
        {
            told.never += 1;
        }
    }

    /// What is known, by listener; `None` if nobody told.
    pub(super) fn by_listener(&self) -> Option<HashMap<SocketKey, Reads, FixedState>> {
        if !self.is_on {
            return None;
        }
        let mut reads: HashMap<_, Reads, _> = HashMap::default();
        for (listener, told) in &self.listeners {
            reads.insert(*listener, Reads { first: told.waits.spread(), never: told.never, not_yet: 0 });
        }
        for unread in self.unread.values().filter(|unread| !unread.is_gone) {
            reads.entry(unread.listener).or_default().not_yet += 1;
        }
        Some(reads)
    }

    fn put(&mut self, unread: Unread, read_ns: u64) {
        if let Some(told) = self.told(unread.listener) {
            // The two clocks may be two CPUs'.
            told.waits.add(read_ns.saturating_sub(unread.accepted_ns));
        }
    }

    fn told(&mut self, listener: SocketKey) -> Option<&mut Told> {
        if self.listeners.len() >= MOST_LISTENERS && !self.listeners.contains_key(&listener) {
            return None;
        }
        Some(self.listeners.entry(listener).or_insert_with(|| Told { waits: Waits::new(u64::MAX), never: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: SocketKey = SocketKey { netns: 1, cookie: 1 };

    fn key(cookie: u64) -> SocketKey {
        SocketKey { netns: 1, cookie }
    }

    fn on() -> FirstReads {
        let mut reads = FirstReads::default();
        reads.begin();
        reads
    }

    fn of(reads: &FirstReads) -> Reads {
        reads.by_listener().unwrap().remove(&LISTENER).unwrap_or_default()
    }

    fn payload(received_bytes: u64, unread_bytes: u32) -> Option<Payload> {
        Some(Payload { acked_bytes: None, received_bytes, unread_bytes })
    }

    #[test]
    fn nothing_is_said_where_nobody_tells() {
        let mut reads = FirstReads::default();
        reads.accept(5, key(2), LISTENER);
        assert!(reads.by_listener().is_none());
    }

    #[test]
    fn a_read_may_be_told_before_its_accept() {
        let mut reads = on();
        reads.read(30, key(2));
        reads.accept(10, key(2), LISTENER);
        reads.accept(10, key(3), LISTENER);
        reads.read(50, key(3));
        let told = of(&reads);
        let first = told.first.unwrap();
        assert_eq!((first.count, first.min_ns, first.max_ns, told.never, told.not_yet), (2, 20, 40, 0, 0));
    }

    #[test]
    fn a_read_may_be_told_after_the_end() {
        let mut reads = on();
        [2, 3].into_iter().for_each(|cookie| reads.accept(10, key(cookie), LISTENER));
        reads.end(key(2), payload(5, 0));
        reads.read(20, key(2));
        let told = of(&reads);
        assert_eq!((told.first.map(|first| first.count), told.never, told.not_yet), (Some(1), 0, 1));
    }

    /// Of three that no read was told of, one was read from, one had nothing to read, and one had.
    #[test]
    fn never_is_what_the_kernel_says() {
        let mut reads = on();
        [2, 3, 4, 5].into_iter().for_each(|cookie| reads.accept(10, key(cookie), LISTENER));
        reads.end(key(2), payload(5, 3));
        reads.end(key(3), payload(0, 0));
        reads.end(key(4), payload(5, 5));
        reads.end(key(5), None);
        assert_eq!(of(&reads), Reads { first: None, never: 1, not_yet: 0 });
    }

    #[test]
    fn who_is_gone_makes_room() {
        let mut reads = on();
        let all = u64::from(MAX_UNREAD);
        (0..all).for_each(|cookie| reads.accept(10, key(cookie), LISTENER));
        (0..all - 1).for_each(|cookie| reads.end(key(cookie), payload(1, 0)));
        reads.accept(10, key(all), LISTENER);
        assert_eq!(of(&reads).not_yet, 2);
    }
}
