//! What the tracker says: an event, told as part of its connection's timeline.

use super::{
    connection::{Connection, Role},
    endpoint::Endpoint,
    event::{SocketKey, Task},
    minisock::MinisockEnd,
    queue::QueueFigures,
    state::TcpState,
};

/// Which connection an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The socket.
    pub key: SocketKey,
    /// Which of its lives.
    pub incarnation: u32,
    /// Its part.
    pub role: Role,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// Its owner, as far as known.
    pub owner: Option<Task>,
}

impl From<&Connection> for Subject {
    fn from(connection: &Connection) -> Self {
        Self {
            key: connection.key,
            incarnation: connection.incarnation,
            role: connection.role,
            local: connection.local,
            remote: connection.remote,
            owner: connection.ownership.owner(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A state transition; `lasted_ns` is how long the old state lasted, where known.
    Transition {
        /// State before.
        old: TcpState,
        /// State after.
        new: TcpState,
        /// How long `old` lasted, in nanoseconds.
        lasted_ns: Option<u64>,
        /// Who made it, where a task did.
        by: Option<Task>,
        /// A listing told it: right to within this many nanoseconds.
        sampled_ns: Option<u64>,
    },
    /// Seen in a listing for the first time: `queue` is a listener's depth and limit.
    Listed {
        /// The state it is in.
        state: TcpState,
        /// A listener's accept queue: depth and limit.
        queue: Option<(u32, u32)>,
        /// When a minisock's time is over.
        expires_ns: Option<u64>,
    },
    /// The child's listener and handshake became known.
    Enqueued {
        /// The listener's cookie.
        listener: Option<u64>,
        /// The queue's depth before it and its limit.
        queue: Option<(u32, u32)>,
        /// First SYN-ACK to enqueue, in nanoseconds.
        handshake_ns: Option<i64>,
        /// SYN-ACKs sent again.
        synack_retransmits: u32,
    },
    /// A task took it out of the accept queue.
    Accepted {
        /// The acceptor.
        by: Task,
        /// Its descriptor.
        fd: Option<i32>,
        /// The listener's cookie.
        listener: Option<u64>,
        /// Enqueue to accept, in nanoseconds.
        wait_ns: Option<i64>,
    },
    /// accept() failed on this listener.
    AcceptFailed {
        /// The caller.
        by: Task,
        /// The errno.
        errno: i32,
    },
    /// A RST was sent; the kernel's reason number, 0 if none.
    ResetSent {
        /// `enum sk_rst_reason`.
        reason: u32,
    },
    /// A RST was received.
    ResetReceived,
    /// A segment was retransmitted: the how manieth of this connection.
    Retransmitted {
        /// Counted from 1.
        count: u32,
    },
    /// A SYN-ACK was sent again to `client`.
    SynAckRetransmitted {
        /// The client.
        client: Endpoint,
    },
    /// How this listener's accept queue is, once a second at most.
    Queue(Box<QueueFigures>),
    /// Its descriptor has passed to another process, or its process goes by another name.
    Inherited {
        /// The process that holds it now.
        by: Task,
        /// Who owned it before, where known.
        former: Option<Task>,
    },
    /// A packet was dropped at this listener's full accept queue.
    ListenOverflow,
    /// A segment came for this minisock and was consumed.
    MinisockSegment,
    /// The minisock that a connection left is gone.
    MinisockEnded {
        /// `TIME_WAIT` or, of an orphan, `FIN_WAIT2`.
        state: TcpState,
        /// How long it was in that state, in nanoseconds.
        lasted_ns: u64,
        /// Nobody saw it: the time is computed, or a listing's, and right to within this many nanoseconds.
        sampled_ns: Option<u64>,
        /// What ended it.
        end: MinisockEnd,
    },
    /// The kernel's table disagreed with what we believed, and we took its word.
    Disagreed {
        /// What we believed; `None`: we did not know the socket.
        believed: Option<TcpState>,
        /// What the kernel has; `None`: nothing.
        found: Option<TcpState>,
    },
    /// The kernel's table twice had another depth of this listener's accept queue than we believed, and we took its word.
    QueueDisagreed {
        /// What we believed.
        believed: u32,
        /// What the kernel has.
        found: u32,
    },
    /// A transition that the state machine does not allow from the state that we believed.
    Unexpected {
        /// What we believed.
        believed: TcpState,
        /// What the event says it was.
        old: TcpState,
    },
    /// The connection is over; the whole timeline.
    Ended(Box<Connection>),
}

/// A happening, with when and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Whom.
    pub subject: Subject,
    /// What.
    pub happening: Happening,
}
