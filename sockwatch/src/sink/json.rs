//! JSON lines: one object per line, described by `docs/trace.schema.json`. These types are the format; the tracker's own
//! types are not, so they may change without it.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    io::{self, Write},
};

use foldhash::fast::FixedState;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::{Clock, Show, Sink};
use crate::{
    pipeline::Totals,
    tcp::{
        self,
        connection::{Connection, Role},
        event::SocketKey,
        loss::Losses,
        state::TcpState,
        update::{Happening, Subject, Update},
    },
};

/// The version of this format. What is not known is absent, never null. A field may be added within a version; one that changes or goes makes a new version.
pub const VERSION: u32 = 1;

/// Flush when so much is buffered.
const BUFFER_BYTES: usize = 64 * 1024;

/// How many sockets' JSON is kept.
const CACHED_SOCKETS: usize = 100_000;

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
        /// The listener's cookie.
        listener: u64,
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
pub struct Socket<'a> {
    /// The network namespace's inode number.
    netns: u32,
    /// The kernel's socket cookie.
    cookie: u64,
    /// How often this socket was opened before.
    incarnation: u32,
    /// `active` (connect), `passive` (accepted), `listener` or `unknown` (was there before the trace).
    role: &'static str,
    /// This end, address and port as `ss` prints them: `127.0.0.1:8080`, `[2001:db8::1]:443`, `*` for no port. The ends of
    /// IPv6 sockets stay IPv6, v4-mapped ones too: `[::ffff:10.0.0.7]:80`.
    #[schemars(with = "String")]
    local: Endpoint,
    /// The other end.
    #[schemars(with = "String")]
    remote: Endpoint,
    /// Its owner: acceptor, opener, or its listener's opener; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Task<'a>>,
}

/// An address and a port, as a string.
#[derive(Clone, Copy)]
pub struct Endpoint(tcp::endpoint::Endpoint);

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A thread of a process.
#[derive(Serialize, JsonSchema)]
pub struct Task<'a> {
    /// Process id.
    pid: u32,
    /// Thread id.
    tid: u32,
    /// The thread's name; control characters and bytes that are not UTF-8 are replaced.
    comm: Cow<'a, str>,
}

/// A finished connection.
#[derive(Serialize, JsonSchema)]
pub struct Finished<'a> {
    /// When it reached CLOSE, or was gone.
    at_ns: i64,
    /// Which socket.
    #[schemars(with = "Socket")]
    socket: &'a RawValue,
    /// When it was first seen.
    first_seen_ns: i64,
    /// Birth to end, in nanoseconds; absent if its birth was not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetime_ns: Option<u64>,
    /// How it ended, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    /// How it ended, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    /// It left the accept queue before anybody accepted it.
    abandoned: bool,
    /// Who called connect() or listen().
    #[serde(skip_serializing_if = "Option::is_none")]
    opener: Option<Task<'a>>,
    /// Who accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    acceptor: Option<Task<'a>>,
    /// The descriptor that accept returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    fd: Option<i32>,
    /// The listener's cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<u64>,
    /// Who closed this end, where a task did.
    #[serde(skip_serializing_if = "Option::is_none")]
    closer: Option<Task<'a>>,
    /// First SYN-ACK to accept queue, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_ns: Option<i64>,
    /// Accept queue to accept, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_ns: Option<i64>,
    /// The accept queue's depth before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_depth: Option<u32>,
    /// The accept queue's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_limit: Option<u32>,
    /// Segments sent again.
    retransmits: u32,
    /// RSTs sent.
    resets_sent: u32,
    /// RSTs received.
    resets_received: u32,
    /// Payload bytes sent and acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    acked_bytes: Option<u64>,
    /// Payload bytes received.
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    /// Bytes that nobody had read at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_bytes: Option<u32>,
    /// `sk_err` at the end, an errno; 0 if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<u16>,
    /// The states that it went through.
    states: Vec<Span>,
    /// Only from polling: times are right to within this many nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled_ns: Option<u64>,
}

/// A state and how long it lasted.
#[derive(Serialize, JsonSchema)]
pub struct Span {
    /// The state.
    state: &'static str,
    /// How long, in nanoseconds; absent if it began before the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    lasted_ns: Option<u64>,
}

/// Losses since the start. `lost`: the kernel could not reserve; `missed`: a program was skipped; `dropped`: discarded
/// by sockwatch.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LossCounts {
    /// The sum of `ring_full`, `members_full` and `waiting_room_full`.
    lost: u64,
    /// Runs of a program that the kernel skipped and that its relief did not take over.
    missed: u64,
    /// The sum of `decode_failed` and `tracker_full`.
    dropped: u64,
    /// Runs of a program that the kernel skipped (`recursion_misses`).
    skipped: u64,
    /// Events that a relief program took over.
    relieved: u64,
    /// Those of them that were discarded as repetitions.
    repeated: u64,
    /// Events that found the ring buffer full.
    ring_full: u64,
    /// Sockets that a process filter could not remember.
    members_full: u64,
    /// Transitions of undecided sockets that could not be kept.
    waiting_room_full: u64,
    /// Records that could not be decoded.
    decode_failed: u64,
    /// Sockets that could not be tracked.
    tracker_full: u64,
    /// Events out of order.
    late: u64,
    /// Transitions that did not fit.
    unexpected_transitions: u64,
}

impl From<&Losses> for LossCounts {
    fn from(losses: &Losses) -> Self {
        Self {
            lost: losses.lost(),
            missed: losses.missed(),
            skipped: losses.skipped,
            relieved: losses.relieved,
            repeated: losses.repeated,
            dropped: losses.dropped(),
            ring_full: losses.ring_full,
            members_full: losses.members_full,
            waiting_room_full: losses.waiting_room_full,
            decode_failed: losses.decode_failed,
            tracker_full: losses.tracker_full,
            late: losses.late,
            unexpected_transitions: losses.unexpected_transitions,
        }
    }
}

impl<'a> From<&'a tcp::event::Task> for Task<'a> {
    fn from(task: &'a tcp::event::Task) -> Self {
        let comm = match str::from_utf8(task.comm.bytes()) {
            Ok(name) if !name.contains(char::is_control) => Cow::Borrowed(name),
            _ => Cow::Owned(task.comm.to_string()),
        };
        Self { pid: task.pid, tid: task.tid, comm }
    }
}

impl<'a> From<&'a Subject> for Socket<'a> {
    fn from(subject: &'a Subject) -> Self {
        Self {
            netns: subject.key.netns,
            cookie: subject.key.cookie,
            incarnation: subject.incarnation,
            role: subject.role.word(),
            local: Endpoint(subject.local),
            remote: Endpoint(subject.remote),
            owner: subject.owner.as_ref().map(Task::from),
        }
    }
}

/// The JSON sink.
pub struct Json<W> {
    out: W,
    buffer: Vec<u8>,
    show: Show,
    clock: Clock,
    losses_told: LossCounts,
    /// Each living socket's JSON: it stands in all of its lines, and seldom changes between them.
    sockets: HashMap<(SocketKey, u32), (Subject, Box<RawValue>), FixedState>,
}

impl<W: Write> Json<W> {
    /// Writes to `out`, in batches.
    ///
    /// # Errors
    /// If the first line cannot be written.
    pub fn new(out: W, show: Show, clock: Clock, start: Start<'_>) -> io::Result<Self> {
        let losses_told = LossCounts::from(&Losses::default());
        let mut json = Self {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
            show,
            clock,
            losses_told,
            sockets: HashMap::default(),
        };
        json.line(&Line::Start(start))?;
        json.flush()?;
        Ok(json)
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(&mut self, totals: &Totals) -> io::Result<()> {
        let losses = LossCounts::from(&totals.losses);
        self.line(&Line::End { events: totals.events, connections: totals.connections, losses })?;
        self.flush()
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
}

impl<W: Write> Sink for Json<W> {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        let wanted = match update.happening {
            Happening::Ended(_) => self.show.connections,
            _ => self.show.transitions,
        };
        if !wanted {
            return Ok(());
        }
        let socket = socket(&mut self.sockets, &update.subject)?;
        serde_json::to_writer(&mut self.buffer, &line(update, socket, self.clock))?;
        self.buffer.push(b'\n');
        if let Happening::Ended(_) = update.happening {
            self.sockets.remove(&(update.subject.key, update.subject.incarnation));
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        let losses = LossCounts::from(&totals.losses);
        if losses != self.losses_told {
            self.losses_told = losses;
            self.line(&Line::Losses(losses))?;
        }
        if self.buffer.is_empty() { Ok(()) } else { self.flush() }
    }
}

/// The socket's JSON, made anew only when something in it has changed.
fn socket<'a>(
    sockets: &'a mut HashMap<(SocketKey, u32), (Subject, Box<RawValue>), FixedState>,
    subject: &Subject,
) -> io::Result<&'a RawValue> {
    // A late word about a socket that has ended puts it back: a cache may forget.
    if sockets.len() >= CACHED_SOCKETS {
        sockets.clear();
    }
    let fresh = || Ok::<_, io::Error>((*subject, to_raw_value(&Socket::from(subject))?));
    match sockets.entry((subject.key, subject.incarnation)) {
        Entry::Occupied(known) => {
            let known = known.into_mut();
            if known.0 != *subject {
                *known = fresh()?;
            }
            Ok(&known.1)
        }
        Entry::Vacant(new) => Ok(&new.insert(fresh()?).1),
    }
}

fn line<'a>(update: &'a Update, socket: &'a RawValue, clock: Clock) -> Line<'a> {
    let at_ns = clock.at(update.at_ns);
    match &update.happening {
        Happening::Transition { old, new, lasted_ns, by, sampled_ns } => Line::Transition {
            at_ns,
            socket,
            old: old.name(),
            new: new.name(),
            lasted_ns: *lasted_ns,
            by: by.as_ref().map(Task::from),
            sampled_ns: *sampled_ns,
        },
        Happening::Listed { state, queue } => Line::Listed {
            at_ns,
            socket,
            state: state.name(),
            queue_depth: queue.map(|(depth, _)| depth),
            queue_limit: queue.map(|(_, limit)| limit),
        },
        Happening::Enqueued { listener, queue, handshake_ns, synack_retransmits } => Line::Enqueue {
            at_ns,
            socket,
            listener: *listener,
            queue_depth: queue.map(|(depth, _)| depth),
            queue_limit: queue.map(|(_, limit)| limit),
            handshake_ns: *handshake_ns,
            synack_retransmits: *synack_retransmits,
        },
        Happening::Accepted { by, fd, listener, wait_ns } => {
            Line::Accept { at_ns, socket, by: by.into(), fd: *fd, listener: *listener, wait_ns: *wait_ns }
        }
        Happening::AcceptFailed { by, errno } => Line::AcceptFailed { at_ns, socket, by: by.into(), errno: *errno },
        Happening::ResetSent { reason } => Line::ResetSent { at_ns, socket, reason: *reason },
        Happening::ResetReceived => Line::ResetReceived { at_ns, socket },
        Happening::Retransmitted { count } => Line::Retransmit { at_ns, socket, count: *count },
        Happening::SynAckRetransmitted { client } => {
            Line::SynAckRetransmit { at_ns, socket, client: Endpoint(*client) }
        }
        Happening::ListenOverflow => Line::ListenOverflow { at_ns, socket },
        Happening::TimeWaitDrop => Line::MinisockSegment { at_ns, socket },
        Happening::Unexpected { believed, old } => {
            Line::Unexpected { at_ns, socket, believed: believed.name(), old: old.name() }
        }
        Happening::Ended(connection) => {
            let at_ns = clock.at(connection.ended_ns.unwrap_or(update.at_ns));
            Line::Connection(Box::new(finished(connection, socket, at_ns, clock)))
        }
    }
}

fn finished<'a>(connection: &'a Connection, socket: &'a RawValue, at_ns: i64, clock: Clock) -> Finished<'a> {
    let queued = connection.queued.filter(|_| connection.role == Role::Passive);
    let (evidence, payload) = (connection.evidence, connection.payload());
    let last =
        (connection.state != TcpState::Close).then_some(Span { state: connection.state.name(), lasted_ns: None });
    let spans = connection.spans.iter().map(|span| Span { state: span.state.name(), lasted_ns: span.lasted_ns });
    Finished {
        at_ns,
        socket,
        first_seen_ns: clock.at(connection.first_seen_ns),
        lifetime_ns: connection.lifetime_ns(),
        end: connection.ending.map(tcp::close::Ending::word),
        why: connection.ending.map(tcp::close::Ending::sentence),
        abandoned: connection.is_queued(),
        opener: connection.ownership.opener.as_ref().map(Task::from),
        acceptor: connection.ownership.acceptor.as_ref().map(Task::from),
        fd: connection.ownership.fd,
        listener: connection.ownership.listener,
        closer: connection.ownership.closer.as_ref().map(Task::from),
        handshake_ns: queued.and_then(|queued| queued.handshake_ns),
        wait_ns: queued.and_then(|queued| queued.wait_ns()),
        queue_depth: queued.map(|queued| queued.depth),
        queue_limit: connection.queued.map(|queued| queued.limit),
        retransmits: connection.retransmits,
        resets_sent: connection.resets.sent,
        resets_received: connection.resets.received,
        acked_bytes: payload.and_then(|payload| payload.acked_bytes),
        received_bytes: payload.map(|payload| payload.received_bytes),
        unread_bytes: payload.map(|payload| payload.unread_bytes),
        error: evidence.map(|evidence| evidence.error),
        states: spans.chain(last).collect(),
        sampled_ns: connection.sampled_ns,
    }
}
