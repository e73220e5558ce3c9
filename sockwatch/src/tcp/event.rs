//! What happened to a socket, once, as a source reports it. Times are nanoseconds of `CLOCK_MONOTONIC`.

use std::fmt;

use super::{endpoint::Endpoint, queue, state::TcpState};

/// What tells sockets apart: cookies are unique within a network namespace (within the machine from 5.12 on).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey {
    /// The network namespace's inode number.
    pub netns: u32,
    /// The socket's cookie; 0 when the kernel had generated none yet.
    pub cookie: u64,
}

/// A thread's name, `task->comm`: up to 15 bytes, foreign to us, so never printed as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// The bytes before the terminating zero.
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

impl From<&str> for Comm {
    /// Takes the first 15 bytes, as the kernel does, up to a character's end.
    fn from(name: &str) -> Self {
        let mut comm = [0; 16];
        let taken = name.floor_char_boundary(15);
        comm[..taken].copy_from_slice(&name.as_bytes()[..taken]);
        Self(comm)
    }
}

/// Whether a character of a foreign name must not reach a terminal: it controls it, turns the direction of what follows, or
/// hides in it. Unicode's categories Cc and Cf, but for the visible ones, and the line and paragraph separators.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Comm {
    /// Characters that do not print and bytes that are not UTF-8 become `?` and U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(name) = str::from_utf8(self.bytes())
            && !name.chars().any(is_unprintable)
        {
            return f.pad(name);
        }
        let name = String::from_utf8_lossy(self.bytes());
        f.pad(&name.replace(is_unprintable, "?"))
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// A thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Process id (the kernel's tgid).
    pub pid: u32,
    /// Thread id (the kernel's pid).
    pub tid: u32,
    /// The thread's name.
    pub comm: Comm,
}

impl Task {
    /// A thread of the kernel that does what others left to it: what it closes was not its own.
    pub fn is_kernel_worker(&self) -> bool {
        self.comm.bytes().starts_with(b"kworker/")
    }
}

impl fmt::Display for Task {
    /// `nginx/1234`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.comm, self.pid)
    }
}

/// What a transition to `CLOSE` leaves to judge it by: fields of the socket at that instant (KERNEL names).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseEvidence {
    /// `tp->bytes_acked`: payload bytes that the peer acknowledged.
    pub acked_bytes: u64,
    /// `tp->bytes_received`: payload bytes that arrived in order.
    pub received_bytes: u64,
    /// `snd_una == write_seq`: nothing that was written is still unacknowledged.
    pub all_acked: bool,
    /// Bytes that nobody read.
    pub unread_bytes: u32,
    /// `tp->linger2`, negative for an immediate abort in `FIN_WAIT2`.
    pub linger2: i32,
    /// `TCP_USER_TIMEOUT`, in milliseconds; 0 if unset.
    pub user_timeout_ms: u32,
    /// Segments sent; 0 for a connect that never reached the wire.
    pub segments_out: u32,
    /// `sk_err`, an errno; 0 if none.
    pub error: u16,
    /// `sk_err_soft`.
    pub soft_error: u16,
    /// `SOCK_DEAD`: no process holds the socket.
    pub dead: bool,
    /// `SOCK_DONE`: a FIN was received.
    pub done: bool,
    /// `SOCK_LINGER`.
    pub linger: bool,
    /// Unacknowledged retransmissions in a row.
    pub retransmits: u8,
    /// Unanswered probes (keepalive or zero window).
    pub probes: u8,
    /// `sk_shutdown`: bit 0 receive, bit 1 send.
    pub shutdown: u8,
    /// How long an orphan stays in `FIN_WAIT2` (`tcp_fin_time`), in milliseconds; 0 when unknown.
    pub fin_timeout_ms: u32,
    /// `sk_socket` is set: a descriptor refers to it.
    pub has_socket: bool,
}

impl CloseEvidence {
    /// Whether a process held it once: what waits in an accept queue has neither a socket's file nor lost one.
    pub fn was_held(&self) -> bool {
        self.has_socket || self.dead
    }
}

/// What happens to a socket without changing its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// accept() failed; the socket is the listener.
    AcceptFailed {
        /// The caller.
        by: Task,
        /// The errno: EMFILE, ENFILE, ECONNABORTED and the like, never EAGAIN.
        errno: i32,
    },
    /// A RST was sent, for a `enum sk_rst_reason` where the kernel tells it.
    ResetSent {
        /// The kernel's number; 0 where it has none.
        reason: u32,
        /// Whether a minisock sent it.
        minisock: bool,
    },
    /// A RST was received.
    ResetReceived,
    /// A segment was retransmitted.
    Retransmit,
    /// A SYN-ACK was retransmitted; the socket is the listener, the remote end the client.
    SynAckRetransmit,
    /// A packet for the listener was dropped because its accept queue was full.
    ListenOverflow,
    /// A segment came for a minisock and was consumed.
    MinisockSegment {
        /// The state that the minisock is in now: `TIME_WAIT`, `FIN_WAIT2`, or `CLOSE` if the segment ended it.
        state: TcpState,
    },
}

/// An event's own part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A state transition. `by` is the task that made it, where one did: connect, listen, close, shutdown.
    Transition {
        /// State before.
        old: TcpState,
        /// State after.
        new: TcpState,
        /// Who made it.
        by: Option<Task>,
    },
    /// connect() or listen(): a transition whose task is the owner. `limit` is the backlog of listen().
    Opening {
        /// `SYN_SENT` or `LISTEN`.
        new: TcpState,
        /// The owner.
        by: Task,
        /// `sk_max_ack_backlog` of a listener, where the kernel tells.
        limit: Option<u32>,
    },
    /// A child's `LISTEN` to `SYN_RECV`: it enters the accept queue within microseconds.
    Birth {
        /// The accept queue's depth before it and its limit, where the kernel tells.
        queue: Option<(u32, u32)>,
    },
    /// A transition to `CLOSE`.
    Closing {
        /// State before.
        old: TcpState,
        /// The current task; it is the closer only when the evidence says that a local call closed it.
        current: Task,
        /// What the verdict stands on; `None` where the kernel shows nothing of the socket.
        evidence: Option<CloseEvidence>,
    },
    /// The child is in the queue: who its listener is and when its SYN-ACK was first sent.
    Enqueue {
        /// The listener's cookie; `None` when the kernel had generated none.
        listener: Option<u64>,
        /// When the first SYN-ACK was sent; `None` with SYN cookies.
        synack_at_ns: Option<u64>,
        /// SYN-ACKs sent again.
        synack_retransmits: u32,
    },
    /// A task took the child out of the queue.
    Accept {
        /// The acceptor.
        by: Task,
        /// Its descriptor, where the hook knows it.
        fd: Option<i32>,
        /// The listener's cookie, where the hook knows it.
        listener: Option<u64>,
    },
    /// The accept call of an accept that was reported before returned this descriptor.
    AcceptReturn {
        /// The descriptor.
        fd: i32,
    },
    /// The TCP socket is gone.
    Destroy,
    /// Something that is no transition: noted with its connection, and told even where there is none.
    Incident(Incident),
    /// Seen in a listing of the kernel's table, in this state. `queue` is a listener's depth and limit.
    Listed {
        /// The state at the time of the listing.
        state: TcpState,
        /// Accept queue depth and limit, for a listener.
        queue: Option<(u32, u32)>,
        /// How old the previous listing was, in nanoseconds: the state was entered within this time. `u64::MAX`: unknown
        /// age (the first listing, or a socket that only now passes the owner filter).
        interval_ns: u64,
    },
    /// The kernel's table has it in this state, and we did not, or believed otherwise: what a reconciliation found.
    Found {
        /// The state.
        state: TcpState,
        /// A minisock's remaining time in nanoseconds; `None` for a socket.
        expires_in_ns: Option<u64>,
        /// Accept queue depth and limit, for a listener.
        queue: Option<(u32, u32)>,
        /// A process that holds it, where one was looked for.
        holder: Option<Task>,
        /// The listener that a child without a descriptor waits for, where it is certain.
        listener: Option<u64>,
        /// Whether it was to be expected.
        occasion: Occasion,
    },
    /// A process holds it, and its owner does not, or none was known.
    Held {
        /// The process; its first thread.
        by: Task,
    },
    /// A child that nobody was seen to accept has a holder in the kernel's table; which one is not known.
    Taken,
    /// The kernel's word on a listener's accept queue, which tells us something new.
    QueueFound {
        /// The word.
        record: queue::QueueRecord,
        /// How far we agree on the depth.
        verdict: queue::Verdict,
    },
    /// The kernel's table has it no longer, and no event told its end.
    Lost {
        /// Whether it is a minisock, and whether another socket has its ends.
        minisock: Option<Place>,
        /// Whether it was to be expected.
        occasion: Occasion,
    },
    /// In the previous listing, not in this one.
    Unlisted {
        /// How old the previous listing was, in nanoseconds.
        interval_ns: u64,
    },
}

/// Who has a minisock's ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody.
    Free,
    /// A new connection.
    Taken,
}

/// Why the kernel's table tells us something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It happened before we looked, or the kernel tells nobody: no disagreement.
    Expected,
    /// An event should have told us, within this many nanoseconds.
    Disagreement {
        /// Since the table was last compared.
        interval_ns: u64,
    },
}

impl Occasion {
    /// How long ago at most it happened, in nanoseconds, where an event should have told.
    pub fn interval_ns(self) -> Option<u64> {
        match self {
            Self::Expected => None,
            Self::Disagreement { interval_ns } => Some(interval_ns),
        }
    }
}

/// What happened, to which socket, when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Which socket.
    pub key: SocketKey,
    /// The `struct sock`'s address, an identity between birth and destroy only; 0 from a listing.
    pub skaddr: u64,
    /// Local and remote end; `None` where the record carries none (destroy).
    pub tuple: Option<(Endpoint, Endpoint)>,
    /// What happened.
    pub kind: EventKind,
    /// Whether it may be a repetition of an event just before.
    pub certainty: Certainty,
}

/// Whether an event may have been reported before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Reported once.
    Once,
    /// From a relief program, which takes over what the kernel would skip, and rarely repeats what it did not.
    PerhapsRepeated,
}
