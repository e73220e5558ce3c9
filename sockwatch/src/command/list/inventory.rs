//! Sockets of listings, each with those who are responsible for it. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use sockwatch::{
    process::holders::{Holder, Holders},
    source::table::{Details, Listed, Listing, TimerKind},
    tcp::{endpoint::Endpoint, event::SocketKey, state::TcpState},
};

/// How long `TIME_WAIT` lasts, or begins anew when the peer's FIN comes again (`TCP_TIMEWAIT_LEN`, all kernels).
const TIME_WAIT_MS: u64 = 60_000;

/// A socket and whose it is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) listed: Listed,
    pub(super) details: Details,
    pub(super) standing: Standing,
    /// The processes that hold it; of a queued child or a request those that hold its listener. Ordered.
    pub(super) holders: Vec<Holder>,
    /// The cookies of the listeners that a queued child or a request may belong to: more than one share its address by
    /// `SO_REUSEPORT`, and the table does not say which has it.
    pub(super) listeners: Vec<u64>,
    /// Of a listener.
    pub(super) queue: Option<Queue>,
}

/// What keeps a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// A process holds it.
    Held,
    /// It is in its listener's accept queue: no process has it, the listener's will get it.
    Queued,
    /// A handshake that is not finished: the kernel answered for the listener.
    Request,
    /// Closed by its process; the kernel finishes the connection.
    Orphan,
    /// The remains of a socket: `TIME_WAIT`, or an orphan's `FIN_WAIT2`.
    Minisock,
    /// Not in the descriptors of any process: the kernel's own, held by io_uring alone, or in a message between
    /// processes.
    Unseen,
    /// The same, and there are processes that may not be looked at.
    Hidden,
}

impl Standing {
    /// In a word.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Queued => "queued",
            Self::Request => "request",
            Self::Orphan => "orphan",
            Self::Minisock => "minisock",
            Self::Unseen => "unseen",
            Self::Hidden => "hidden",
        }
    }

    /// Whether the socket is its listener's affair.
    const fn is_listeners(self) -> bool {
        match self {
            Self::Queued | Self::Request => true,
            Self::Held | Self::Orphan | Self::Minisock | Self::Unseen | Self::Hidden => false,
        }
    }
}

/// What waits at a listener.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// Listeners of the same address, this one among them: the numbers below are theirs together.
    pub(super) sharing: usize,
    /// Children in their accept queues, by state.
    pub(super) children: BTreeMap<&'static str, usize>,
    /// Handshakes that are not finished.
    pub(super) requests: usize,
    /// How many more are in the queue than were listed: reset by their clients, and still to be accepted. Only
    /// what the two numbers say: the kernel does not stop its table while it lists it.
    pub(super) dead: u32,
}

/// Where a listener listens.
type Address = (u32, Endpoint);

/// Joins listings with holders, in a stable order: by namespace and local port, listeners first.
pub(super) fn join(listings: Vec<Listing>, holders: &Holders) -> Vec<Entry> {
    let each = |listing: Listing| listing.sockets.into_iter().zip(listing.details);
    let entry = |(listed, details): (Listed, Details)| Entry {
        standing: standing(&listed, &details, holders),
        holders: holders.of(listed.inode).to_vec(),
        listed,
        details,
        listeners: Vec::new(),
        queue: None,
    };
    let mut entries: Vec<_> = listings.into_iter().flat_map(each).map(entry).collect();
    entries.sort_by_key(|Entry { listed, .. }| order(listed.key, listed.local, listed.remote, listed.state));
    add_listeners(&mut entries);
    entries
}

/// The order in which sockets are listed.
pub(super) fn order(
    key: SocketKey,
    local: Endpoint,
    remote: Endpoint,
    state: TcpState,
) -> (u32, u16, bool, IpAddr, IpAddr, u16, u64) {
    (key.netns, local.port, state != TcpState::Listen, local.address, remote.address, remote.port, key.cookie)
}

fn standing(listed: &Listed, details: &Details, holders: &Holders) -> Standing {
    use TcpState::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, SynRecv};
    if listed.minisock {
        return Standing::Minisock;
    }
    if !holders.of(listed.inode).is_empty() {
        return Standing::Held;
    }
    match listed.state {
        // A request is no whole socket (`inet_req_diag_fill`). A child in SYN_RECV is one: Fast Open queues it at the
        // SYN.
        SynRecv if listed.inode == 0 && details.shutdown.is_none() => Standing::Request,
        SynRecv | Established | CloseWait if listed.inode == 0 => Standing::Queued,
        FinWait1 | FinWait2 | Closing | LastAck if listed.inode == 0 => Standing::Orphan,
        _held_otherwise if !holders.hidden.is_empty() => Standing::Hidden,
        _held_otherwise => Standing::Unseen,
    }
}

/// Finds the listeners of what belongs to one, and tells both.
fn add_listeners(entries: &mut [Entry]) {
    let mut listeners: HashMap<Address, Vec<usize>> = HashMap::new();
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.listed.state == TcpState::Listen) {
        listeners.entry((entry.listed.key.netns, entry.listed.local)).or_default().push(index);
    }
    let mut queues: HashMap<Address, Queue> = HashMap::new();
    for index in 0..entries.len() {
        let entry = &entries[index];
        if !entry.standing.is_listeners() {
            continue;
        }
        let Some(address) = addresses(&entry.listed).find(|address| listeners.contains_key(address)) else { continue };
        let queue = queues.entry(address).or_default();
        if entry.standing == Standing::Request {
            queue.requests += 1;
        } else {
            *queue.children.entry(entry.listed.state.name()).or_default() += 1;
        }
        let sharing = &listeners[&address];
        let mut holders: Vec<_> = sharing.iter().flat_map(|at| entries[*at].holders.iter().copied()).collect();
        holders.sort_unstable();
        holders.dedup();
        let cookies = sharing.iter().map(|at| entries[*at].listed.key.cookie).collect();
        (entries[index].holders, entries[index].listeners) = (holders, cookies);
    }
    for (address, sharing) in listeners {
        let found = queues.remove(&address).unwrap_or_default();
        let depth: u32 = sharing.iter().filter_map(|at| entries[*at].listed.queue).map(|(depth, _)| depth).sum();
        let alive = found.children.values().sum::<usize>() as u32;
        for at in &sharing {
            let Queue { children, requests, .. } = &found;
            entries[*at].queue = Some(Queue {
                sharing: sharing.len(),
                children: children.clone(),
                requests: *requests,
                dead: depth.saturating_sub(alive),
            });
        }
    }
}

/// Where a child's listener may listen, in the kernel's order of preference: at its own address, or at all of its
/// family. The v4 children of a `::` listener are of its family: `::ffff:a.b.c.d`.
fn addresses(child: &Listed) -> impl Iterator<Item = Address> {
    let any = match child.local.address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let netns = child.key.netns;
    [child.local.address, any].into_iter().map(move |address| (netns, Endpoint { address, port: child.local.port }))
}

impl Entry {
    /// How long it has been in its state for certain, in milliseconds, give or take a tick of the kernel's clock (1 to
    /// 10). The table tells no such time, but each of these times was noted in this state, or when it began: the peer's
    /// FIN and the ACK of ours are ACKs that came, and being established counts as sending and receiving
    /// (`tcp_finish_connect`, `tcp_rcv_state_process`).
    pub(super) fn age_at_least_ms(&self) -> Option<u64> {
        use TcpState::{CloseWait, Closing, Established, FinWait2, TimeWait};
        let info = self.details.info;
        match (self.listed.state, self.listed.timer) {
            (TimeWait, Some(timer)) if timer.kind == TimerKind::TimeWait => {
                Some(TIME_WAIT_MS.saturating_sub(timer.expires_ms.into()))
            }
            (Established, _) => {
                info.map(|info| info.last_sent_ms.max(info.last_received_ms).max(info.last_ack_ms).into())
            }
            (CloseWait | FinWait2 | Closing, _) => info.map(|info| info.last_ack_ms.into()),
            (_other_state, _) => None,
        }
    }

    /// Since when no payload went either way, in milliseconds.
    pub(super) fn idle_ms(&self) -> Option<u32> {
        let has_begun = !matches!(self.listed.state, TcpState::SynSent | TcpState::SynRecv);
        self.details.info.filter(|_| has_begun).map(|info| info.last_sent_ms.min(info.last_received_ms))
    }
}

#[cfg(test)]
pub(super) mod tests;
