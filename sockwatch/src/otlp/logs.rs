//! What has ended as log records: one for each connection and each listener, what `trace` shows in its line about it.

use nix::errno::Errno;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::KeyValue,
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
};

use super::{
    Origin,
    attributes::{Attributes, state, string},
};
use crate::{
    metrics::end_word,
    process::{cgroup::Workload, names::Names},
    tcp::{
        close::Ending,
        connection::{Connection, Role},
        endpoint::Endpoint,
        event::{Comm, Task},
        sentence::sentence,
    },
};

/// A connection or a listener that has ended, with what can only be looked up then.
#[derive(Clone, Debug)]
pub struct Ended {
    /// When it was told, in nanoseconds of `CLOCK_MONOTONIC`; the end itself may be a little earlier.
    pub at_ns: u64,
    /// All about it.
    pub connection: Box<Connection>,
    /// What its owner's process is called, where that is another name than its thread's.
    pub owner: Option<Comm>,
    /// The same of who closed it.
    pub closer: Option<Comm>,
    /// Where the owner belongs.
    pub workload: Workload,
}

impl Ended {
    /// Looks up whose it was.
    pub fn of(at_ns: u64, connection: &Connection, names: &mut Names) -> Self {
        let owner = connection.ownership.owner();
        let mut process = |task: Option<Task>| names.of_thread(task?, at_ns);
        let (owner_name, closer) = (process(owner), process(connection.ownership.closer));
        let workload = owner.and_then(|task| names.of(task.pid, at_ns)).map(|process| process.workload.clone());
        let workload = workload.unwrap_or_default();
        Self { at_ns, connection: Box::new(connection.clone()), owner: owner_name, closer, workload }
    }
}

/// Records as one message. `offset_ns` is Unix time minus `CLOCK_MONOTONIC`, `unix_ns` is now, both in nanoseconds.
pub fn request(ended: &[Ended], origin: &Origin, offset_ns: u64, unix_ns: u64) -> ExportLogsServiceRequest {
    let log_records = ended.iter().map(|ended| record(ended, offset_ns, unix_ns)).collect();
    let scope = ScopeLogs { scope: Some(origin.scope()), log_records, ..ScopeLogs::default() };
    let all = ResourceLogs { resource: Some(origin.resource()), scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![all] }
}

fn record(ended: &Ended, offset_ns: u64, unix_ns: u64) -> LogRecord {
    let connection = &*ended.connection;
    let at_ns = connection.ended_ns.unwrap_or(ended.at_ns);
    let (severity, severity_text) = severity(connection);
    let event_name = match connection.role {
        Role::Listener => "sockwatch.listener.end",
        Role::Active | Role::Passive | Role::Unknown => "sockwatch.connection.end",
    };
    let body = sentence(connection, ended.closer).unwrap_or_else(|| end_word(connection).to_owned());
    LogRecord {
        time_unix_nano: at_ns.saturating_add(offset_ns),
        observed_time_unix_nano: unix_ns,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        body: Some(string(body)),
        attributes: attributes(ended),
        event_name: event_name.to_owned(),
        ..LogRecord::default()
    }
}

/// A warning is what somebody did not get: an answer, or what was sent to it.
fn severity(connection: &Connection) -> (SeverityNumber, &'static str) {
    let is_fine = match connection.ending {
        Some(
            Ending::LocalFin
            | Ending::PeerFin
            | Ending::BothFin
            | Ending::Orphaned
            | Ending::Stopped
            | Ending::Vanished
            | Ending::Duplicate,
        )
        | None => !connection.is_queued(),
        Some(
            Ending::ResetByPeer
            | Ending::Aborted
            | Ending::Refused
            | Ending::ConnectAborted
            | Ending::TimedOut(_)
            | Ending::Unreachable
            | Ending::Destroyed
            | Ending::ListenerClosed,
        ) => false,
    };
    if is_fine { (SeverityNumber::Info, "INFO") } else { (SeverityNumber::Warn, "WARN") }
}

fn attributes(ended: &Ended) -> Vec<KeyValue> {
    let connection = &*ended.connection;
    let mut told = Attributes::default();
    ends(&mut told, connection);
    told.number("sockwatch.netns", connection.key.netns);
    told.number("sockwatch.cookie", connection.key.cookie);
    told.number("sockwatch.incarnation", connection.incarnation);
    told.text("sockwatch.role", connection.role.word());
    told.text("sockwatch.end", end_word(connection));
    if let Some(error) = connection.evidence.map(|evidence| evidence.error).filter(|error| *error != 0) {
        told.text("error.type", &errno(error));
    }
    if let Some(owner) = connection.ownership.owner() {
        told.number("process.pid", owner.pid);
        told.text("process.executable.name", &ended.owner.unwrap_or(owner.comm).to_string());
    }
    let Workload { unit, container, pod, cgroup: _ } = &ended.workload;
    told.text("sockwatch.unit", unit.as_deref().unwrap_or_default());
    told.text("k8s.pod.uid", pod.as_deref().unwrap_or_default());
    if let Some(container) = container {
        told.text("container.id", &container.id);
        told.text("container.runtime.name", container.runtime.word());
    }
    if let Some(closer) = connection.ownership.closer {
        told.number("sockwatch.closer.pid", closer.pid);
        told.text("sockwatch.closer.name", &ended.closer.unwrap_or(closer.comm).to_string());
    }
    figures(&mut told, connection);
    told.all()
}

/// Both ends, and who called whom.
fn ends(told: &mut Attributes, connection: &Connection) {
    let Connection { local, remote, .. } = *connection;
    // A mapped address goes over IPv4.
    let family = if local.address.to_canonical().is_ipv4() { "ipv4" } else { "ipv6" };
    told.text("network.transport", "tcp");
    told.text("network.type", family);
    told.end("network.local", local);
    let mut called = |from: Endpoint, to: Endpoint| {
        told.end("source", from);
        told.end("destination", to);
    };
    match connection.role {
        Role::Active => called(local, remote),
        Role::Passive => called(remote, local),
        Role::Listener => told.end("server", local),
        // It was there before: who called is not known.
        Role::Unknown => {}
    }
    if !remote.is_unspecified() {
        told.end("network.peer", remote);
    }
}

fn figures(told: &mut Attributes, connection: &Connection) {
    let queued = connection.queued.filter(|_| connection.role == Role::Passive);
    let payload = connection.payload();
    told.number_if("sockwatch.lifetime_ns", connection.lifetime_ns());
    told.number_if("sockwatch.handshake_ns", queued.and_then(|queued| queued.handshake_ns));
    told.number_if("sockwatch.queue_wait_ns", queued.and_then(|queued| queued.wait_ns()));
    told.number_if("sockwatch.left_after_ns", queued.and_then(|queued| queued.waited_until_left_ns()));
    told.number_if("sockwatch.queue_depth", queued.and_then(|queued| queued.depth));
    told.number_if("sockwatch.queue_limit", queued.and_then(|queued| queued.limit));
    told.number("sockwatch.retransmits", connection.retransmits);
    told.number("sockwatch.resets_sent", connection.resets.sent);
    told.number("sockwatch.resets_received", connection.resets.received);
    told.number_if("sockwatch.acked_bytes", payload.and_then(|payload| payload.acked_bytes));
    told.number_if("sockwatch.received_bytes", payload.map(|payload| payload.received_bytes));
    told.number_if("sockwatch.unread_bytes", payload.map(|payload| payload.unread_bytes));
    told.number_if("sockwatch.sampled_ns", connection.sampled_ns);
    told.list(
        "sockwatch.states",
        connection.spans.iter().map(|span| {
            let mut stay = Attributes::default();
            stay.text("state", &state(span.state.name()));
            stay.number_if("lasted_ns", span.lasted_ns);
            stay
        }),
    );
}

fn errno(error: u16) -> String {
    match Errno::from_raw(error.into()) {
        Errno::UnknownErrno => error.to_string(),
        known => format!("{known:?}"),
    }
}
