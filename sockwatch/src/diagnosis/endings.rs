//! How connections ended during the run, by whom they were with: which were reset and why, and which wait for their peer's FIN
//! without a process.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::look::Group;
use crate::tcp::{
    close::Ending,
    connection::{Connection, Role},
    event::{SocketKey, Task},
    sentence::sentence,
    state::TcpState,
};

/// Groups, and orphans, that are followed at once.
const MOST_GROUPS: usize = 1 << 14;
const MOST_ORPHANS: usize = 1 << 20;

/// `sk_shutdown` after close().
const BOTH_WAYS: u8 = 3;

/// Why a connection was reset, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// This end closed with data that nobody had read.
    Unread,
    /// This end closed with `SO_LINGER` 0.
    LingerZero,
    /// This end disconnected.
    Disconnected,
    /// The peer sent more after this end had closed.
    DataAfterClose,
    /// This end closed its listener while the connection waited in its queue.
    Unqueued,
    /// This end, for another reason.
    ThisEnd,
    /// The peer sent a RST.
    Peer,
    /// The peer sent a RST after this end had closed.
    PeerAfterClose,
    /// The peer answered connect() with a RST.
    Refused,
}

impl Why {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unread => "this end closed with unread data",
            Self::LingerZero => "this end closed with SO_LINGER 0",
            Self::Disconnected => "this end disconnected",
            Self::DataAfterClose => "the peer sent more after this end had closed",
            Self::Unqueued => "this end closed its listener while they waited for accept()",
            Self::ThisEnd => "this end reset them",
            Self::Peer => "the peer sent a RST",
            Self::PeerAfterClose => "the peer sent a RST after this end had closed",
            Self::Refused => "connect() was refused",
        }
    }

    /// Whether this end sent the RST.
    pub const fn is_ours(self) -> bool {
        match self {
            Self::Unread
            | Self::LingerZero
            | Self::Disconnected
            | Self::DataAfterClose
            | Self::Unqueued
            | Self::ThisEnd => true,
            Self::Peer | Self::PeerAfterClose | Self::Refused => false,
        }
    }

    fn of(connection: &Connection) -> Option<Self> {
        let evidence = connection.evidence.unwrap_or_default();
        let last = connection.spans.last().map_or(connection.state, |span| span.state);
        let unread = connection.payload().map_or(0, |payload| payload.unread_bytes);
        let has_closed = matches!(last, TcpState::FinWait1 | TcpState::FinWait2);
        match connection.ending? {
            Ending::ResetByPeer if has_closed => Some(Self::PeerAfterClose),
            Ending::ResetByPeer => Some(Self::Peer),
            Ending::Refused => Some(Self::Refused),
            Ending::ListenerClosed => Some(Self::Unqueued),
            // In the order in which the sentence about it looks.
            Ending::Aborted if !evidence.has_socket => {
                Some(if has_closed && evidence.linger2 >= 0 { Self::DataAfterClose } else { Self::ThisEnd })
            }
            Ending::Aborted if has_closed && evidence.error != 0 => Some(Self::DataAfterClose),
            Ending::Aborted if evidence.shutdown != BOTH_WAYS => Some(Self::Disconnected),
            Ending::Aborted if unread > 0 => Some(Self::Unread),
            Ending::Aborted if evidence.linger => Some(Self::LingerZero),
            Ending::Aborted => Some(Self::ThisEnd),
            Ending::LocalFin
            | Ending::PeerFin
            | Ending::BothFin
            | Ending::Orphaned
            | Ending::ConnectAborted
            | Ending::TimedOut(_)
            | Ending::Unreachable
            | Ending::Destroyed
            | Ending::Duplicate
            | Ending::Stopped
            | Ending::Vanished => None,
        }
    }
}

/// Connections of a group that were reset for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The reason.
    pub why: Why,
    /// How many.
    pub count: u64,
    /// The first of them, in a sentence.
    pub example: String,
    /// Who closed it, where a task was seen to.
    pub closer: Option<Task>,
}

/// How a group's connections ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub group: Group,
    /// How many.
    pub count: u64,
    /// Those that were reset, by reason, the most frequent first.
    pub resets: Vec<Reset>,
    /// Reset by a client that never sent or got a byte, or that was not accepted: a check of the port, or a client that left.
    pub checks: u64,
}

/// All that ended.
#[derive(Debug, Default)]
pub(super) struct Endings {
    groups: HashMap<Group, Ended, FixedState>,
    /// Orphans whose FIN was acknowledged, and since when.
    orphans: HashMap<SocketKey, u64, FixedState>,
}

impl Endings {
    pub(super) fn end(&mut self, group: Group, connection: &Connection, at_ns: u64) {
        if connection.ending == Some(Ending::Orphaned) && self.orphans.len() < MOST_ORPHANS {
            self.orphans.insert(connection.key, connection.ended_ns.unwrap_or(at_ns));
        }
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&group) {
            return;
        }
        let none = Ended { group, count: 0, resets: Vec::new(), checks: 0 };
        let ended = self.groups.entry(group).or_insert(none);
        ended.count += 1;
        let Some(why) = Why::of(connection) else { return };
        if is_check(why, connection) {
            ended.checks += 1;
        } else if let Some(reset) = ended.resets.iter_mut().find(|reset| reset.why == why) {
            reset.count += 1;
        } else {
            let example = sentence(connection, None).unwrap_or_default();
            ended.resets.push(Reset { why, count: 1, example, closer: connection.ownership.closer });
        }
    }

    /// Its minisock is gone.
    pub(super) fn forget(&mut self, key: SocketKey) {
        self.orphans.remove(&key);
    }

    /// Since when an orphan waits for its peer's FIN, if that began during the run.
    pub(super) fn orphaned_ns(&self, key: SocketKey) -> Option<u64> {
        self.orphans.get(&key).copied()
    }

    pub(super) fn by_group(&self) -> Vec<Ended> {
        let mut all: Vec<_> = self.groups.values().cloned().collect();
        all.iter_mut().for_each(|ended| ended.resets.sort_by_key(|reset| (std::cmp::Reverse(reset.count), reset.why)));
        all.sort_by_key(|ended| ended.group);
        all
    }
}

/// A client that connects and resets at once, without a word: load balancers look so whether a port is open. Its own end, where
/// it is on this host, is no worse.
fn is_check(why: Why, connection: &Connection) -> bool {
    let moved = connection.payload().map_or(0, |it| it.received_bytes.saturating_add(it.acked_bytes.unwrap_or(0)));
    match connection.role {
        Role::Passive => why == Why::Peer && (moved == 0 || connection.is_queued()),
        Role::Active => why == Why::LingerZero && moved == 0,
        Role::Listener | Role::Unknown => false,
    }
}
