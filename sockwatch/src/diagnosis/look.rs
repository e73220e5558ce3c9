//! What the kernel's own table says when a run begins and when it ends: what lies in queues, which timers run. Two looks
//! prove what one cannot: it was so then, and still is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use super::finding::Place;
use crate::tcp::{
    endpoint::Endpoint,
    event::{SocketKey, Task},
    state::TcpState,
    update::Subject,
};

/// One socket, as the kernel's table had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which socket.
    pub key: SocketKey,
    /// The number by which processes hold it; 0 if none does.
    pub inode: u32,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// Its state; a minisock's own, so `FIN_WAIT2` for an orphan's.
    pub state: TcpState,
    /// What keeps it.
    pub kept: Kept,
    /// Payload that arrived and that nobody has read, in bytes.
    pub unread_bytes: u32,
    /// Payload that was written and that the peer has not acknowledged, sent or not, in bytes.
    pub unacked_bytes: u32,
    /// Its timer, if one runs.
    pub timer: Option<Timer>,
    /// What `tcp_info` says; `None` for a listener, a request and a minisock.
    pub flow: Option<Flow>,
}

/// What keeps a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A process; its first thread.
    By(Task),
    /// Its listener's accept queue.
    Queued,
    /// Its listener: a handshake that is not finished.
    Request,
    /// Only the kernel: its process has closed it.
    Orphan,
    /// The same, and only a minisock is left.
    Minisock,
    /// Somebody who was not seen.
    Unseen,
}

/// The timer that runs; the kernel shows one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// What for.
    pub kind: TimerKind,
    /// In how many milliseconds it expires.
    pub expires_ms: u32,
    /// How often it was in vain: retransmissions, or probes without an answer.
    pub attempts: u8,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// What was sent is not acknowledged.
    Retransmit,
    /// The peer's window is closed.
    ZeroWindowProbe,
    /// A silent peer is asked.
    KeepAlive,
    /// A minisock's time, or one that is not known.
    Other,
}

/// Of `tcp_info`. Times are in milliseconds before the look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Payload received in its life, in bytes.
    pub received_bytes: u64,
    /// Since the last payload was received, or it was established.
    pub last_received_ms: u32,
    /// Since the peer last acknowledged anything, answers to probes included.
    pub last_ack_ms: u32,
    /// Since payload was last sent, or it was established.
    pub last_sent_ms: u32,
}

/// One look: all sockets that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When it was over, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Its rows, in no order.
    pub rows: Vec<Row>,
}

/// Connections that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Those to a server here.
    Served {
        /// The network namespace.
        netns: u32,
        /// The server's end.
        local: Endpoint,
    },
    /// Those that were opened here.
    Opened {
        /// The network namespace.
        netns: u32,
        /// This end's address.
        source: IpAddr,
        /// The other end.
        remote: Endpoint,
    },
}

impl Group {
    /// A listener's child's.
    pub(super) fn served(subject: &Subject) -> Self {
        Self::Served { netns: subject.key.netns, local: subject.local }
    }

    /// One's that was opened here.
    pub(super) fn opened(subject: &Subject) -> Self {
        Self::Opened { netns: subject.key.netns, source: subject.local.address, remote: subject.remote }
    }

    /// Where a finding about them is.
    pub fn place(self) -> Place {
        match self {
            Self::Served { netns, local } => Place { netns, cookie: None, local },
            Self::Opened { netns, source, .. } => {
                Place { netns, cookie: None, local: Endpoint { address: source, port: 0 } }
            }
        }
    }

    /// What `sockwatch list` is to be asked for.
    pub fn filter(self) -> String {
        match self {
            Self::Served { local, .. } => format!("--local-port {}", local.port),
            Self::Opened { remote, .. } => format!("--remote-port {}", remote.port),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served { local, .. } => write!(f, "{local}"),
            Self::Opened { source, remote, .. } => write!(f, "{source} to {remote}"),
        }
    }
}

/// A connection of the last look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) group: Group,
    pub(super) now: &'a Row,
    /// The same in the first look, if it was there.
    pub(super) before: Option<&'a Row>,
}

/// Both looks, side by side.
#[derive(Debug, Default)]
pub(super) struct Looked<'a> {
    /// All connections of the last look.
    pub(super) all: Vec<Seen<'a>>,
    /// How far the looks are apart; 0 if there was only one.
    pub(super) apart_ns: u64,
    groups: HashMap<Group, u64>,
}

impl<'a> Looked<'a> {
    /// Compares them; one look alone has no `before`.
    pub(super) fn compare(looks: &'a [Look]) -> Self {
        let Some(last) = looks.last() else { return Self::default() };
        let first = looks.first().filter(|first| first.at_ns < last.at_ns);
        let listening: HashSet<_> = looks.iter().flat_map(|look| &look.rows).filter_map(Row::listens_at).collect();
        let before: HashMap<_, _> =
            first.iter().flat_map(|look| &look.rows).map(|row| ((row.key, row.remote), row)).collect();
        let connections = last.rows.iter().filter(|row| row.is_connection());
        let seen = |now: &'a Row| {
            let before = before.get(&(now.key, now.remote)).copied();
            Seen { group: now.group(&listening), now, before }
        };
        let all: Vec<_> = connections.map(seen).collect();
        let mut groups = HashMap::new();
        let whole = |seen: &&Seen<'_>| !matches!(seen.now.kept, Kept::Minisock | Kept::Request);
        all.iter().filter(whole).for_each(|seen| *groups.entry(seen.group).or_default() += 1);
        Self { all, apart_ns: first.map_or(0, |first| last.at_ns - first.at_ns), groups }
    }

    /// How many connections of a group there are, those left out that are only remains or not finished.
    pub(super) fn size(&self, group: Group) -> u64 {
        self.groups.get(&group).copied().unwrap_or(0)
    }

    /// Those that fit, by group, in a stable order.
    pub(super) fn by_group(&self, fits: impl Fn(&Seen<'a>) -> bool) -> Vec<(Group, Vec<Seen<'a>>)> {
        let mut found: BTreeMap<Group, Vec<Seen<'a>>> = BTreeMap::new();
        for seen in self.all.iter().filter(|seen| fits(seen)) {
            found.entry(seen.group).or_default().push(*seen);
        }
        found.into_iter().collect()
    }
}

impl Seen<'_> {
    /// In the same state at both looks.
    pub(super) fn stays(&self) -> bool {
        self.before.is_some_and(|before| before.state == self.now.state)
    }

    /// The process.
    pub(super) fn owner(&self) -> Option<Task> {
        match self.now.kept {
            Kept::By(task) => Some(task),
            Kept::Queued | Kept::Request | Kept::Orphan | Kept::Minisock | Kept::Unseen => None,
        }
    }
}

impl Row {
    fn listens_at(&self) -> Option<(u32, Endpoint)> {
        (self.state == TcpState::Listen).then_some((self.key.netns, self.local))
    }

    fn is_connection(&self) -> bool {
        !matches!(self.state, TcpState::Listen | TcpState::Close | TcpState::BoundInactive)
    }

    fn group(&self, listening: &HashSet<(u32, Endpoint)>) -> Group {
        let (netns, local, remote) = (self.key.netns, self.local, self.remote);
        let is_served =
            [local, local.at_any_address()].into_iter().any(|address| listening.contains(&(netns, address)));
        if is_served { Group::Served { netns, local } } else { Group::Opened { netns, source: local.address, remote } }
    }

    /// Payload that was read in its life, in bytes.
    pub(super) fn consumed_bytes(&self) -> Option<u64> {
        Some(self.flow?.received_bytes.saturating_sub(self.unread_bytes.into()))
    }
}
