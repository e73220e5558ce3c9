//! What has ended lately: a listing that was under way may show it all the same.

use std::collections::HashMap;

use super::LATE_NS;
use crate::tcp::{
    connection::Connection, endpoint::Endpoint, event::SocketKey, listing::Record, minisock::Minisock, state::TcpState,
    tracker::NAMELESS,
};

/// A state that something had, from and to.
#[derive(Clone, Debug)]
struct Stay {
    state: TcpState,
    from_ns: u64,
    to_ns: u64,
    minisock: bool,
}

/// Sockets that we had to name ourselves, by network namespace and ends.
pub(super) type Nameless = HashMap<(u32, (Endpoint, Endpoint)), SocketKey>;

/// What has ended since a round of listings began: it may be in the listing all the same.
#[derive(Clone, Debug, Default)]
pub(in crate::tcp::tracker) struct History {
    stays: HashMap<SocketKey, Vec<Stay>, foldhash::fast::FixedState>,
    /// Those among them that we had to name ourselves.
    pub(super) nameless: Nameless,
    len: usize,
    /// Announced and not compared yet: the next may be announced before the last is compared.
    pub(super) rounds: u32,
    /// There was more than it can hold: it proves nothing.
    pub(super) full: bool,
}

/// How many stays of a socket the history has room for, on average.
pub(in crate::tcp::tracker) const STAYS_PER_SOCKET: usize = 8;

impl History {
    pub(in crate::tcp::tracker) fn note(&mut self, connection: &Connection, limit: usize) {
        let stays = connection.stored_stays(LATE_NS);
        let stays = stays.map(|(state, from_ns, to_ns)| Stay { state, from_ns, to_ns, minisock: false });
        self.name(connection.key, (connection.local, connection.remote));
        self.extend(connection.key, stays, limit);
    }

    pub(in crate::tcp::tracker) fn note_minisock(&mut self, minisock: &Minisock, limit: usize) {
        let (from_ns, orphan_until_ns) = (minisock.since_ns, minisock.orphan_until_ns);
        let stay = Stay { state: minisock.state, from_ns, to_ns: u64::MAX, minisock: true };
        let orphan = |to_ns| Stay { state: TcpState::FinWait2, from_ns: 0, to_ns, minisock: true };
        self.name(minisock.subject.key, (minisock.subject.local, minisock.subject.remote));
        self.extend(minisock.subject.key, std::iter::once(stay).chain(orphan_until_ns.map(orphan)), limit);
    }

    fn name(&mut self, key: SocketKey, ends: (Endpoint, Endpoint)) {
        if key.cookie & NAMELESS != 0 {
            self.nameless.insert((key.netns, ends), key);
        }
    }

    /// Adds stays; `limit` is how many sockets there is room for.
    fn extend(&mut self, key: SocketKey, stays: impl Iterator<Item = Stay>, limit: usize) {
        let its = self.stays.entry(key).or_default();
        let before = its.len();
        its.extend(stays);
        self.len += its.len() - before;
        if self.len > limit.saturating_mul(STAYS_PER_SOCKET) {
            *self = Self { full: true, rounds: self.rounds, ..Self::default() };
        }
    }

    #[cfg(test)]
    pub(in crate::tcp::tracker) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn agrees(&self, record: &Record, (from_ns, to_ns): (u64, u64)) -> bool {
        let Some(stays) = self.stays.get(&record.key) else { return false };
        stays.iter().any(|stay| {
            let same = stay.state == record.state && stay.minisock == record.expires_in_ns.is_some();
            same && stay.from_ns <= to_ns && stay.to_ns >= from_ns
        })
    }
}
