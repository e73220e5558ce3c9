//! Records: what a probe writes into the ring buffer, one per event.
//!
//! A record is a [`Stub`] (destroy only) or a [`Head`], then what its [`Kind`] adds. Small events are fast
//! events: a field travels only where somebody reads it.

use crate::Plain;

/// Which record follows; the byte at offset 28 of every record.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Head`] alone: a state transition whose current task says nothing.
    Transition = 1,
    /// [`Task`]: a transition made by the current task (connect, listen, close, shutdown).
    TaskTransition = 2,
    /// [`Birth`]: a child socket's `LISTEN` to `SYN_RECV`.
    Birth = 3,
    /// [`Close`]: any transition to `CLOSE`, with what tells the kinds of close apart.
    Close = 4,
    /// [`Enqueue`]: a child entered its listener's accept queue.
    Enqueue = 5,
    /// [`Accept`]: a task took a child out of the accept queue.
    Accept = 6,
    /// [`Accept`]: what the accept system call returned; `value` is the descriptor or a negated errno.
    AcceptReturn = 7,
    /// [`Stub`]: the socket's TCP state was torn down.
    Destroy = 8,
    /// [`Head`]: a RST was sent; `value` is `enum sk_rst_reason`, or 0 where the kernel has none.
    ResetSent = 9,
    /// [`Head`]: a RST was received.
    ResetReceived = 10,
    /// [`Head`]: a segment was retransmitted.
    Retransmit = 11,
    /// [`Head`]: a SYN-ACK was retransmitted; the socket is the listener, the remote end is the client's.
    SynAckRetransmit = 12,
    /// [`Head`]: a packet for a listener with a full accept queue was dropped.
    ListenOverflow = 13,
    /// [`Head`]: a segment came for a minisock and was consumed; the new state is the one that the minisock is in now, `CLOSE`
    /// if the segment ended it.
    MinisockSegment = 14,
    /// [`Waited`]: everything that a filter held back of a socket that it now lets in.
    Waited = 15,
    /// [`Task`]: a transition to `CLOSE` where nothing tells the kinds of close apart.
    BareClose = 16,
}

/// Set in the kind byte by a relief program: the event may have been reported before, microseconds earlier.
pub const RELIEF: u8 = 0x80;

/// The part that all records share.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stub {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
    /// `sk->sk_cookie`; 0 when nothing has generated one yet.
    pub cookie: u64,
    /// The address of the `struct sock`: an identity only between birth and destroy.
    pub skaddr: u64,
    /// The network namespace's inode number.
    pub netns: u32,
    /// A [`Kind`], perhaps with [`RELIEF`].
    pub kind: u8,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// The state before, as `sk_state` numbers it.
    pub old_state: u8,
    /// The state after.
    pub new_state: u8,
}

/// A [`Stub`], the current task and the tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// What all records share.
    pub stub: Stub,
    /// Process id (`tgid`) of the current task; not the socket's owner unless the kind says so.
    pub pid: u32,
    /// Thread id of the current task.
    pub tid: u32,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Depends on the kind.
    pub value: u32,
    /// Local address; IPv4 in the first 4 bytes.
    pub local: [u8; 16],
    /// Remote address; IPv4 in the first 4 bytes.
    pub remote: [u8; 16],
}

/// A transition made by the current task.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// `value` is the backlog for `CLOSE` to `LISTEN`, or [`crate::UNKNOWN`].
    pub head: Head,
    /// The current thread's name.
    pub comm: [u8; 16],
}

/// A child's first event. The child's backlog fields are copies of its listener's at that instant.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// `value` is the listener's `sk_ack_backlog`: the accept queue's depth before this child, or [`crate::UNKNOWN`].
    pub head: Head,
    /// The listener's `sk_max_ack_backlog`, or [`crate::UNKNOWN`].
    pub limit: u32,
    /// Padding.
    pub reserved: u32,
}

/// A transition to `CLOSE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Close {
    /// `value` is unused.
    pub head: Head,
    /// The current thread's name.
    pub comm: [u8; 16],
    /// What tells the kinds of close apart.
    pub evidence: Evidence,
}

/// A socket at its transition to `CLOSE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// `tp->bytes_acked`: payload bytes sent and acknowledged (counts the SYN as one).
    pub acked_bytes: u64,
    /// `tp->bytes_received`: payload bytes received.
    pub received_bytes: u64,
    /// `tp->snd_una`.
    pub snd_una: u32,
    /// `tp->write_seq`.
    pub write_seq: u32,
    /// `tp->rcv_nxt - tp->copied_seq`: bytes (a FIN counts as one) that nobody read.
    pub unread_bytes: u32,
    /// `tp->linger2`.
    pub linger2: i32,
    /// `icsk->icsk_user_timeout`, in milliseconds.
    pub user_timeout_ms: u32,
    /// `tp->segs_out`.
    pub segments_out: u32,
    /// `sk->sk_err`.
    pub error: u16,
    /// `sk->sk_err_soft`.
    pub soft_error: u16,
    /// The low 16 bits of `sk->sk_flags`: `SOCK_DEAD` is bit 0, `SOCK_DONE` bit 1, `SOCK_LINGER` bit 4.
    pub flags: u16,
    /// `icsk->icsk_retransmits`.
    pub retransmits: u8,
    /// `icsk->icsk_probes_out`.
    pub probes: u8,
    /// `sk->sk_shutdown`.
    pub shutdown: u8,
    /// 1 if `sk->sk_socket` is set: a process holds the socket.
    pub has_socket: u8,
    /// Padding.
    pub reserved: [u8; 2],
    /// How long an orphan in `FIN_WAIT2` stays (`tcp_fin_time`), in milliseconds; 0 when unknown.
    pub fin_timeout_ms: u32,
}

impl Evidence {
    /// Nothing is known.
    pub const NONE: Self = Self {
        acked_bytes: 0,
        received_bytes: 0,
        snd_una: 0,
        write_seq: 0,
        unread_bytes: 0,
        linger2: 0,
        user_timeout_ms: 0,
        segments_out: 0,
        error: 0,
        soft_error: 0,
        flags: 0,
        retransmits: 0,
        probes: 0,
        shutdown: 0,
        has_socket: 0,
        reserved: [0; 2],
        fin_timeout_ms: 0,
    };
}

/// A child entered an accept queue.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Enqueue {
    /// The child; `value` is the queue's depth before this child.
    pub head: Head,
    /// The listener's cookie.
    pub listener: u64,
    /// `tcp_rsk(req)->snt_synack`: when the first SYN-ACK was sent, microseconds of `CLOCK_MONOTONIC`; 0 with SYN cookies or when unknown.
    pub synack_us: u64,
    /// The queue's limit.
    pub limit: u32,
    /// How often the SYN-ACK was retransmitted.
    pub synack_retransmits: u32,
}

/// A task accepted a child, or failed to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// The child (the listener for a failure); `value` is the descriptor, a negated errno, or [`NO_FD`].
    pub head: Head,
    /// The accepting thread's name.
    pub comm: [u8; 16],
    /// The listener's cookie; 0 when unknown.
    pub listener: u64,
}

/// Transitions that a socket can have before it is decided on: birth, established, the client's FIN or RST, close.
pub const STEPS: usize = 6;

/// A transition with its own time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
    /// The state before.
    pub old_state: u8,
    /// The state after.
    pub new_state: u8,
    /// Padding.
    pub reserved: [u8; 6],
}

/// What happened to a socket while a filter could not decide on it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// The first `count` are there.
    pub steps: [Step; STEPS],
    /// How many transitions.
    pub count: u32,
    /// A child's birth: the listener's `sk_ack_backlog`, or [`crate::UNKNOWN`].
    pub depth: u32,
    /// A child's birth: the listener's `sk_max_ack_backlog`, or [`crate::UNKNOWN`].
    pub limit: u32,
    /// How often the SYN-ACK was retransmitted.
    pub synack_retransmits: u32,
    /// The process that connects.
    pub pid: u32,
    /// The thread that connects.
    pub tid: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// When the child entered the accept queue; 0 if it has not, or nothing told.
    pub enqueued_ns: u64,
    /// As in [`Enqueue`].
    pub listener: u64,
    /// As in [`Enqueue`].
    pub synack_us: u64,
}

impl Wait {
    /// Nothing has happened.
    pub const NOTHING: Self = Self {
        steps: [Step { at_ns: 0, old_state: 0, new_state: 0, reserved: [0; 6] }; STEPS],
        count: 0,
        depth: 0,
        limit: 0,
        synack_retransmits: 0,
        pid: 0,
        tid: 0,
        comm: [0; 16],
        enqueued_ns: 0,
        listener: 0,
        synack_us: 0,
    };
}

/// A socket that a filter lets in late, with all that happened before.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// The socket as it is now; `value` is 1 if `evidence` holds something, else 0.
    pub head: Head,
    /// What happened to it.
    pub wait: Wait,
    /// As it is now, for a transition to `CLOSE` among those.
    pub evidence: Evidence,
}

/// [`Accept`]'s `value` when the hook does not know the descriptor.
pub const NO_FD: u32 = i32::MIN as u32;

macro_rules! plain {
    ($($record:ident: $size:literal),+ $(,)?) => {$(
        // SAFETY: integers and byte arrays, and the size asserted below is the sum of the fields' sizes.
        unsafe impl Plain for $record {}
        const _: () = assert!(size_of::<$record>() == $size && align_of::<$record>() == 8);
    )+};
}

plain!(Stub: 32, Head: 80, Task: 96, Birth: 88, Close: 152, Enqueue: 104, Accept: 104, Waited: 296);

const _: () = {
    assert!(core::mem::offset_of!(Stub, kind) == 28);
    assert!(core::mem::offset_of!(Head, pid) == 32);
    assert!(core::mem::offset_of!(Head, local) == 48);
    assert!(core::mem::offset_of!(Close, evidence) == 96);
    assert!(core::mem::offset_of!(Evidence, error) == 40);
    assert!(core::mem::offset_of!(Evidence, fin_timeout_ms) == 52);
    assert!(core::mem::offset_of!(Waited, wait) == 80);
    assert!(core::mem::offset_of!(Wait, count) == 96);
    assert!(core::mem::offset_of!(Wait, enqueued_ns) == 136);
    assert!(core::mem::offset_of!(Waited, evidence) == 240);
    assert!(core::mem::offset_of!(Enqueue, limit) == 96);
    assert!(core::mem::offset_of!(Accept, listener) == 96);
};
