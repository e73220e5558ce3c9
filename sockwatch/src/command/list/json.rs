//! The format's own types: what a line of `sockwatch list --format json` holds. docs/list.schema.json is made from
//! them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    process::{Process, cgroup::Workload},
    source::table::{self, TimerKind},
    tcp::state::TcpState,
};

use super::{
    Names,
    inventory::{Entry, Standing},
    recorded::RecordedSocket,
};

/// The version of this format. What is not known is absent, never null. A field may be added within a version; one that
/// changes or goes makes a new version.
const VERSION: u32 = 1;

/// One line of `sockwatch list --format json`.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line {
    /// The first line: how to read the others.
    List(List),
    /// A socket.
    Socket(Box<Socket>),
    /// A socket of a recording.
    RecordedSocket(Box<RecordedSocket>),
    /// The last line: how many there were.
    Summary(Summary),
}

/// How to read the other lines.
#[derive(Serialize, JsonSchema)]
pub(crate) struct List {
    /// The format's version.
    version: u32,
    /// sockwatch's version.
    sockwatch: &'static str,
    /// The kernel's release.
    kernel: String,
    /// The network namespaces that were listed, by inode number.
    netns: Vec<u32>,
    /// Unix time minus CLOCK_MONOTONIC, in nanoseconds.
    wall_offset_ns: u64,
    /// Where a recording is listed instead of this machine: which, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<RecordingOf>,
}

/// A recording at an instant.
#[derive(Serialize, JsonSchema)]
pub(super) struct RecordingOf {
    /// The machine's name.
    pub(super) host: String,
    /// The instant, in nanoseconds of its CLOCK_MONOTONIC.
    pub(super) at_monotonic_ns: u64,
    /// How long after the beginning that is, in nanoseconds.
    pub(super) after_ns: u64,
    /// Events that were lost, missed or dropped until then: if not 0, the list may be wrong.
    pub(super) lost: u64,
}

/// A socket.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Socket {
    /// The network namespace's inode number.
    netns: u32,
    /// The kernel's socket cookie.
    cookie: u64,
    /// Its state, as the kernel spells it. Requests are `SYN_RECV`.
    state: &'static str,
    /// This end, address and port as `ss` prints them: `127.0.0.1:8080`, `[2001:db8::1]:443`, `*` for no port.
    local: String,
    /// The other end.
    remote: String,
    /// What keeps it: `held` by a process; `queued` in its listener's accept queue; `request`, an unfinished handshake;
    /// `orphan`, closed by its process; `minisock`, the remains of one; `unseen`, not in any process's descriptors;
    /// `hidden`, the same while there are processes that may not be looked at.
    standing: &'static str,
    /// The descriptors that hold it; of a queued child or a request those that hold its listener.
    holders: Vec<Holder>,
    /// Of a queued child or a request: its listener's cookie, or those of all that share its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<Vec<u64>>,
    /// The number in `socket:[N]` of `/proc/PID/fd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u32>,
    /// The user who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// The path of the cgroup v2 that it was made in; a child has its listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    /// The systemd unit of that cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// The container of that cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container>,
    /// The uid of the Kubernetes pod of that cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    /// Of a listener: its accept queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Queue>,
    /// Payload bytes that arrived and that nobody has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_bytes: Option<u32>,
    /// The peer's FIN has come and nobody has read up to it: the process does not know yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_fin: Option<bool>,
    /// Payload bytes that were written and that the peer has not acknowledged, sent or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    unacked_bytes: Option<u32>,
    /// Those of them that were not sent yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsent_bytes: Option<u32>,
    /// What it waits for by time.
    #[serde(skip_serializing_if = "Option::is_none")]
    timer: Option<Timer>,
    /// For how long it has been in this state, at least, in milliseconds, give or take a tick of the kernel's clock (1
    /// to 10); absent where nothing says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_at_least_ms: Option<u64>,
    /// Of a connection: what TCP measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<Tcp>,
    /// Packets dropped at this socket; a listener's are mostly SYNs that found its accept queue full.
    #[serde(skip_serializing_if = "Option::is_none")]
    drops: Option<u32>,
    /// Segments that wait for the process to release the socket, in bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog_bytes: Option<u32>,
    /// Which directions were shut down: bit 0 for receiving, bit 1 for sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown: Option<u8>,
    /// `SO_MARK`; only told to `CAP_NET_ADMIN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<u32>,
    /// Between which times the kernel wrote this, in nanoseconds of CLOCK_MONOTONIC: not before.
    listed_from_ns: u64,
    /// Not after.
    listed_to_ns: u64,
}

/// A descriptor of a process.
#[derive(Serialize, JsonSchema)]
struct Holder {
    /// Process id.
    pid: u32,
    /// The descriptor.
    fd: u32,
    /// The process's name; control characters and bytes that are not UTF-8 are replaced. Absent if it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<String>,
    /// The first word of its command line, without directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// Its cgroup's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    /// Its systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// Its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container>,
    /// The uid of its Kubernetes pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
}

/// A container.
#[derive(Serialize, JsonSchema)]
struct Container {
    /// `docker`, `podman`, `containerd`, `cri-o`, `lxc`, `machine`, or `container` where the path does not say whose.
    runtime: &'static str,
    /// Its id or name.
    id: String,
}

/// A listener's accept queue.
#[derive(Serialize, JsonSchema)]
struct Queue {
    /// How many wait for accept().
    depth: u32,
    /// The limit; it takes one more.
    limit: u32,
    /// Listeners of the same address (`SO_REUSEPORT`), if there are others: the numbers below are theirs together.
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: Option<usize>,
    /// Children that wait, by state. `CLOSE_WAIT`: their clients have closed.
    children: BTreeMap<&'static str, usize>,
    /// In the queue and not listed: reset by their clients, and still to be accepted.
    dead: u32,
    /// Handshakes that are not finished.
    requests: usize,
}

/// A timer.
#[derive(Serialize, JsonSchema)]
struct Timer {
    /// `retransmit`, `zero_window_probe`, `keepalive`, `time_wait` (a minisock's end) or `unknown`.
    kind: &'static str,
    /// When it expires, in milliseconds from now.
    expires_ms: u32,
    /// Retransmits or probes before it that were in vain.
    attempts: u8,
}

/// What TCP measured of a connection.
#[derive(Serialize, JsonSchema)]
struct Tcp {
    /// Smoothed round-trip time, in microseconds; absent if none was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u32>,
    /// Its variation.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_variation_us: Option<u32>,
    /// Segments sent and not acknowledged.
    unacked_segments: u32,
    /// Segments retransmitted in its life.
    retransmits: u32,
    /// Payload bytes sent in its life, each counted once; absent before Linux 4.19.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    /// Payload bytes received in its life.
    received_bytes: u64,
    /// Milliseconds since it sent payload, or was established. The three are absent before it is established.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sent_ms: Option<u32>,
    /// Milliseconds since it received payload, or was established.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_received_ms: Option<u32>,
    /// Milliseconds since the peer last acknowledged anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_ack_ms: Option<u32>,
}

/// How many sockets were listed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// All that the filters left.
    pub(super) sockets: usize,
    /// By state.
    pub(super) states: BTreeMap<&'static str, usize>,
    /// By what keeps them.
    pub(super) standings: BTreeMap<&'static str, usize>,
    /// Processes that may not be looked at: `hidden` sockets may be theirs.
    pub(super) processes_hidden: usize,
    /// Network namespaces that could not be listed, where all were asked for.
    pub(super) netns_refused: usize,
    /// Sockets without a cookie or with an unknown state: left out.
    pub(super) nameless: u64,
}

impl List {
    pub(super) fn new(netns: Vec<u32>, kernel: String, wall_offset_ns: u64) -> Self {
        Self { version: VERSION, sockwatch: env!("CARGO_PKG_VERSION"), kernel, netns, wall_offset_ns, recording: None }
    }

    /// Of a recording.
    pub(super) fn of(self, recording: RecordingOf) -> Self {
        Self { recording: Some(recording), ..self }
    }
}

impl Line {
    pub(super) fn first(netns: Vec<u32>, kernel: String, wall_offset_ns: u64) -> Self {
        Self::List(List::new(netns, kernel, wall_offset_ns))
    }

    pub(super) fn recorded(socket: RecordedSocket) -> Self {
        Self::RecordedSocket(Box::new(socket))
    }

    pub(super) fn socket(entry: &Entry, names: &Names) -> Self {
        Self::Socket(Box::new(socket(entry, names)))
    }

    pub(super) fn last(summary: &super::Summary) -> Self {
        Self::Summary(Summary {
            sockets: summary.sockets,
            states: summary.states.clone(),
            standings: summary.standings.clone(),
            processes_hidden: summary.hidden.len(),
            netns_refused: summary.refused.len(),
            nameless: summary.nameless,
        })
    }
}

fn socket(entry: &Entry, names: &Names) -> Socket {
    let (listed, details) = (&entry.listed, &entry.details);
    // A listener's queue is counted in connections, and remains hold nothing.
    let has_bytes = listed.queue.is_none() && !listed.minisock && entry.standing != Standing::Request;
    let workload = details.cgroup.and_then(|id| names.cgroups.get(&id)).cloned().unwrap_or_default();
    Socket {
        netns: listed.key.netns,
        cookie: listed.key.cookie,
        state: listed.state.name(),
        local: listed.local.to_string(),
        remote: listed.remote.to_string(),
        standing: entry.standing.word(),
        holders: entry.holders.iter().map(|it| holder(*it, names.processes.get(&it.pid))).collect(),
        listeners: (!entry.listeners.is_empty()).then(|| entry.listeners.clone()),
        inode: (listed.inode != 0).then_some(listed.inode),
        // The kernel tells 0 where it does not know.
        uid: (listed.inode != 0).then_some(listed.uid),
        container: container(&workload),
        cgroup: workload.cgroup,
        unit: workload.unit,
        pod: workload.pod,
        queue: queue(entry),
        unread_bytes: has_bytes.then(|| listed.unread_bytes()),
        unread_fin: listed.has_unread_fin().then_some(true),
        unacked_bytes: has_bytes.then(|| listed.unacked_bytes()),
        unsent_bytes: details.info.map(|info| info.unsent_bytes),
        timer: listed.timer.map(timer),
        age_at_least_ms: entry.age_at_least_ms(),
        tcp: details.info.map(|info| tcp(listed, &info)),
        drops: details.drops,
        backlog_bytes: details.backlog_bytes,
        shutdown: details.shutdown.filter(|directions| *directions != 0),
        mark: details.mark.filter(|mark| *mark != 0),
        listed_from_ns: listed.filled.from_ns,
        listed_to_ns: listed.filled.to_ns,
    }
}

fn holder(holder: sockwatch::process::holders::Holder, process: Option<&Process>) -> Holder {
    let workload = process.map(|process| process.workload.clone()).unwrap_or_default();
    Holder {
        pid: holder.pid,
        fd: holder.fd,
        comm: process.map(|process| process.comm.to_string()),
        command: process.and_then(|process| process.command.clone()),
        container: container(&workload),
        cgroup: workload.cgroup,
        unit: workload.unit,
        pod: workload.pod,
    }
}

fn container(workload: &Workload) -> Option<Container> {
    let container = workload.container.as_ref()?;
    Some(Container { runtime: container.runtime.word(), id: container.id.clone() })
}

fn queue(entry: &Entry) -> Option<Queue> {
    let ((depth, limit), queue) = (entry.listed.queue?, entry.queue.as_ref()?);
    Some(Queue {
        depth,
        limit,
        sharing: (queue.sharing > 1).then_some(queue.sharing),
        children: queue.children.clone(),
        dead: queue.dead,
        requests: queue.requests,
    })
}

fn timer(timer: table::Timer) -> Timer {
    let kind = match timer.kind {
        TimerKind::Retransmit => "retransmit",
        TimerKind::ZeroWindowProbe => "zero_window_probe",
        TimerKind::KeepAlive => "keepalive",
        TimerKind::TimeWait => "time_wait",
        TimerKind::Unknown(_) => "unknown",
    };
    Timer { kind, expires_ms: timer.expires_ms, attempts: timer.attempts }
}

fn tcp(listed: &table::Listed, info: &table::Info) -> Tcp {
    let since = |ms| (!matches!(listed.state, TcpState::SynSent | TcpState::SynRecv)).then_some(ms);
    let measured = |us| (info.rtt_us != 0).then_some(us);
    Tcp {
        rtt_us: measured(info.rtt_us),
        rtt_variation_us: measured(info.rtt_variation_us),
        unacked_segments: info.unacked_segments,
        retransmits: info.retransmits,
        sent_bytes: info.sent_bytes,
        received_bytes: listed.received_bytes(info),
        last_sent_ms: since(info.last_sent_ms),
        last_received_ms: since(info.last_received_ms),
        last_ack_ms: since(info.last_ack_ms),
    }
}
