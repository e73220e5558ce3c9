//! The format's own types: what a line of JSON holds. The JSON Schema is made from them.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    counts::{AgreementCounts, LossCounts},
    queue::Queue,
};
use crate::tcp::{self, update::Subject};

/// The version of this format. What is not known is absent, never null. A field may be added within a version; one that changes or goes makes a new version.
pub const VERSION: u32 = 1;

/// One line of `sockwatch trace --format json`.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line<'a> {
    /// The first line: how to read the others.
    Start(Start<'a>),
    /// A state transition.
    Transition {
        /// When, in nanoseconds of the clock that the first line names.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// State before, as the kernel spells it.
        old: &'static str,
        /// State after.
        new: &'static str,
        /// How long the old state lasted, in nanoseconds; absent if it began before the trace.
        #[serde(skip_serializing_if = "Option::is_none")]
        lasted_ns: Option<u64>,
        /// Who made it, for connect, listen, close and shutdown; absent otherwise.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<Task<'a>>,
        /// Only from polling: the time is right to within this many nanoseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        sampled_ns: Option<u64>,
    },
    /// A socket that was there before the trace, or a listener's new queue depth (polling only).
    Listed {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// Its state.
        state: &'static str,
        /// A listener's accept queue depth.
        #[serde(skip_serializing_if = "Option::is_none")]
        queue_depth: Option<u32>,
        /// A listener's accept queue limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        queue_limit: Option<u32>,
    },
    /// A connection entered its listener's accept queue; its time of entry is its birth (LISTEN to SYN_RECV).
    Enqueue {
        /// When this was told, microseconds after the entry.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The listener's cookie, where it has one.
        #[serde(skip_serializing_if = "Option::is_none")]
        listener: Option<u64>,
        /// The accept queue's depth before it.
        #[serde(skip_serializing_if = "Option::is_none")]
        queue_depth: Option<u32>,
        /// The accept queue's limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        queue_limit: Option<u32>,
        /// First SYN-ACK sent to entry, in nanoseconds; absent with SYN cookies.
        #[serde(skip_serializing_if = "Option::is_none")]
        handshake_ns: Option<i64>,
        /// SYN-ACKs sent again.
        synack_retransmits: u32,
    },
    /// A task accepted a connection.
    Accept {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The acceptor.
        by: Task<'a>,
        /// Its descriptor, where the kernel tells.
        #[serde(skip_serializing_if = "Option::is_none")]
        fd: Option<i32>,
        /// The listener's cookie.
        #[serde(skip_serializing_if = "Option::is_none")]
        listener: Option<u64>,
        /// Queue wait: entry into the accept queue to accept, in nanoseconds. Negative is legal (Fast Open).
        #[serde(skip_serializing_if = "Option::is_none")]
        wait_ns: Option<i64>,
    },
    /// accept() failed; the socket is the listener.
    AcceptFailed {
        /// When.
        at_ns: i64,
        /// Which listener.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The caller.
        by: Task<'a>,
        /// The errno.
        errno: i32,
    },
    /// A RST was sent.
    ResetSent {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The running kernel's `enum sk_rst_reason`; 0 if it has none.
        reason: u32,
        /// Its name in that kernel, without `SK_RST_REASON_`; absent where it gives no reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason_name: Option<&'a str>,
    },
    /// A RST was received.
    ResetReceived {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
    },
    /// A segment was retransmitted.
    Retransmit {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The how manieth of this connection.
        count: u32,
    },
    /// A SYN-ACK was sent again; the socket is the listener.
    SynAckRetransmit {
        /// When.
        at_ns: i64,
        /// Which listener.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The client.
        #[schemars(with = "String")]
        client: Endpoint,
    },
    /// How a listener's accept queue is: when it changed, or its oldest has waited twice as long; once a second at most.
    Queue {
        /// When.
        at_ns: i64,
        /// Which listener.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The queue.
        #[serde(flatten)]
        queue: Queue,
    },
    /// A socket's descriptor has passed to another process, or its process runs another program: `socket.owner` from now on.
    Heir {
        /// When that was found: as it closed the socket, or by a look at who holds what; it happened before.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// The process that holds it now: by its first thread, or by the one that closed the socket.
        by: Task<'a>,
        /// Who owned it before; absent if nobody was known.
        #[serde(skip_serializing_if = "Option::is_none")]
        former: Option<Task<'a>>,
    },
    /// A packet was dropped because the listener's accept queue was full.
    ListenOverflow {
        /// When.
        at_ns: i64,
        /// Which listener.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
    },
    /// A segment came for a socket in TIME_WAIT, or for an orphan in FIN_WAIT2, and was consumed there.
    MinisockSegment {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
    },
    /// What a finished connection left is gone: its socket in TIME_WAIT, or in FIN_WAIT2 without a process.
    MinisockEnd {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// `TIME_WAIT` or `FIN_WAIT2`.
        state: &'static str,
        /// How long it was in that state, in nanoseconds.
        lasted_ns: u64,
        /// Not seen, but computed or found in the kernel's table: right to within this many nanoseconds. An expiry may be later by
        /// this, for the kernel's timers are late.
        #[serde(skip_serializing_if = "Option::is_none")]
        sampled_ns: Option<u64>,
        /// `expired`: its time was over; `reused`: a new connection with the same ends; `reset`: a RST; `gone`: no longer in the
        /// kernel's table.
        end: &'static str,
    },
    /// The kernel's socket table disagreed with what we believed, and we took its word.
    Disagreement {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// What we believed; absent: we did not know the socket.
        #[serde(skip_serializing_if = "Option::is_none")]
        believed: Option<&'static str>,
        /// What the kernel has; absent: nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        found: Option<&'static str>,
    },
    /// The kernel's socket table twice had another depth of a listener's accept queue than we believed, and we took its word.
    QueueDisagreement {
        /// When.
        at_ns: i64,
        /// Which listener.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// What we believed.
        believed_depth: u32,
        /// What the kernel has.
        found_depth: u32,
    },
    /// A transition came from a state that we did not believe the socket to be in.
    Unexpected {
        /// When.
        at_ns: i64,
        /// Which socket.
        #[schemars(with = "Socket")]
        socket: &'a RawValue,
        /// What we believed.
        believed: &'static str,
        /// What the kernel said.
        old: &'static str,
    },
    /// A finished connection, or a closed listener.
    Connection(Box<Finished<'a>>),
    /// Losses have grown.
    Losses(LossCounts),
    /// The kernel's socket table was compared with what we believe; counts since the start.
    Reconciled(AgreementCounts),
    /// What an audit found, before its last line.
    Audit(AgreementCounts),
    /// The last line of a trace that ended by itself, by signal or by limit.
    End {
        /// Events taken in.
        events: u64,
        /// Connections finished.
        connections: u64,
        /// All losses.
        losses: LossCounts,
    },
}

/// How to read the other lines.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Start<'a> {
    /// The format's version.
    pub version: u32,
    /// sockwatch's version.
    pub sockwatch: &'a str,
    /// The kernel's release.
    pub kernel: &'a str,
    /// `ebpf`: every event. `poll`: sampled.
    pub source: &'a str,
    /// What `at_ns` counts from: `relative` (the trace's start), `wall` (Unix time) or `monotonic` (CLOCK_MONOTONIC).
    pub clock: &'a str,
    /// CLOCK_MONOTONIC at the start, in nanoseconds.
    pub start_monotonic_ns: u64,
    /// Unix time minus CLOCK_MONOTONIC at the start, in nanoseconds.
    pub wall_offset_ns: u64,
}

/// A socket.
#[derive(Serialize, JsonSchema)]
pub(super) struct Socket<'a> {
    /// The network namespace's inode number; absent where the kernel does not tell it (no BTF).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) netns: Option<u32>,
    /// The kernel's socket cookie; from 2^63 on a number of sockwatch's own, for sockets whose cookie was not to be had.
    pub(super) cookie: u64,
    /// How often this socket was opened before.
    pub(super) incarnation: u32,
    /// `active` (connect), `passive` (accepted), `listener` or `unknown` (was there before the trace).
    pub(super) role: &'static str,
    /// This end, address and port as `ss` prints them: `127.0.0.1:8080`, `[2001:db8::1]:443`, `*` for no port. The ends of
    /// IPv6 sockets stay IPv6, v4-mapped ones too: `[::ffff:10.0.0.7]:80`.
    #[schemars(with = "String")]
    pub(super) local: Endpoint,
    /// The other end.
    #[schemars(with = "String")]
    pub(super) remote: Endpoint,
    /// Its owner: heir, acceptor, opener, or its listener's owner; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<Task<'a>>,
}

/// An address and a port, as a string.
#[derive(Clone, Copy)]
pub struct Endpoint(pub(super) tcp::endpoint::Endpoint);

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A thread of a process.
#[derive(Serialize, JsonSchema)]
pub struct Task<'a> {
    /// Process id.
    pub(super) pid: u32,
    /// Thread id.
    pub(super) tid: u32,
    /// The thread's name; control characters and bytes that are not UTF-8 are replaced.
    pub(super) comm: Cow<'a, str>,
    /// The process's name, that of its first thread, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<String>,
}

/// A finished connection.
#[derive(Serialize, JsonSchema)]
pub struct Finished<'a> {
    /// When it reached CLOSE, or was gone.
    pub(super) at_ns: i64,
    /// Which socket.
    #[schemars(with = "Socket")]
    pub(super) socket: &'a RawValue,
    /// When it was first seen.
    pub(super) first_seen_ns: i64,
    /// Birth to end, in nanoseconds; absent if its birth was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lifetime_ns: Option<u64>,
    /// How it ended, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<&'static str>,
    /// Who ended it and why, in a sentence for people: its words may change within a version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// It left the accept queue before anybody accepted it.
    pub(super) abandoned: bool,
    /// Who called connect() or listen().
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) opener: Option<Task<'a>>,
    /// Who accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acceptor: Option<Task<'a>>,
    /// The descriptor that accept returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fd: Option<i32>,
    /// Who was found holding it when its owner did not any more, or closed it in its owner's stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heir: Option<Task<'a>>,
    /// The systemd unit of its owner, by its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<String>,
    /// The container of its owner, by its cgroup: `docker:0123456789ab`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<String>,
    /// The listener's cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listener: Option<u64>,
    /// Who closed this end, where a task did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) closer: Option<Task<'a>>,
    /// First SYN-ACK to accept queue, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) handshake_ns: Option<i64>,
    /// Accept queue to accept, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wait_ns: Option<i64>,
    /// How long it had waited when its client left, by FIN or RST, in nanoseconds; absent if somebody had accepted it by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) left_after_ns: Option<u64>,
    /// The accept queue's depth before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue_depth: Option<u32>,
    /// The accept queue's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue_limit: Option<u32>,
    /// A listener's accept queue until its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<Queue>,
    /// Segments sent again.
    pub(super) retransmits: u32,
    /// RSTs sent.
    pub(super) resets_sent: u32,
    /// RSTs received.
    pub(super) resets_received: u32,
    /// Payload bytes sent and acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acked_bytes: Option<u64>,
    /// Payload bytes received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received_bytes: Option<u64>,
    /// Bytes that nobody had read when it ended; after a FIN or a RST they may still be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unread_bytes: Option<u32>,
    /// `sk_err` at the end, an errno; 0 if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<u16>,
    /// The states that it went through.
    pub(super) states: Vec<Span>,
    /// Only from polling: times are right to within this many nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sampled_ns: Option<u64>,
}

/// A state and how long it lasted.
#[derive(Serialize, JsonSchema)]
pub(super) struct Span {
    /// The state.
    pub(super) state: &'static str,
    /// How long, in nanoseconds; absent if it began before the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lasted_ns: Option<u64>,
}

impl<'a> From<&'a tcp::event::Task> for Task<'a> {
    fn from(task: &'a tcp::event::Task) -> Self {
        let comm = match str::from_utf8(task.comm.bytes()) {
            Ok(name) if !name.contains(tcp::event::is_unprintable) => Cow::Borrowed(name),
            _ => Cow::Owned(task.comm.to_string()),
        };
        Self { pid: task.pid, tid: task.tid, comm, process: None }
    }
}

impl<'a> From<&'a Subject> for Socket<'a> {
    fn from(subject: &'a Subject) -> Self {
        Self {
            netns: (subject.key.netns != 0).then_some(subject.key.netns),
            cookie: subject.key.cookie,
            incarnation: subject.incarnation,
            role: subject.role.word(),
            local: Endpoint(subject.local),
            remote: Endpoint(subject.remote),
            owner: subject.owner.as_ref().map(Task::from),
        }
    }
}
