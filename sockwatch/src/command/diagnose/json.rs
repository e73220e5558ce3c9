//! The format's own types: what `sockwatch diagnose --format json` prints. docs/diagnose.schema.json is made from them.

mod blame;
mod cost;
mod reads;

use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    diagnosis::{
        self,
        measure::{Acceptor, Failure, Measured},
        ports::{self, PortUse},
        waits,
    },
    tcp::{event, loss, queue::Age},
};

use self::{blame::Blame, cost::Costs, reads::Reads};
use super::{Measuring, not_looked_for, verdict, word};

/// The version of this format. What is not known is absent, never null. A field may be added within a version; one that changes
/// or goes makes a new version.
const VERSION: u32 = 1;

/// Destinations that are told.
const MOST_PORTS: usize = 10;

/// What `sockwatch diagnose --format json` prints: one object.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Report {
    /// The format's version.
    version: u32,
    /// sockwatch's version.
    sockwatch: &'static str,
    /// The kernel's release.
    kernel: String,
    /// The machine that a recording is of; absent if this one was measured. What threads did is in no recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_on: Option<String>,
    /// `findings`; `healthy`: connections came, and nothing was found; `nothing-seen`: nobody connected.
    verdict: &'static str,
    /// The verdict as a sentence: the first line of the text report.
    sentence: String,
    /// How long the run was, in nanoseconds.
    ran_ns: u64,
    /// From which wait in an accept queue on a connection counts as slow, in nanoseconds.
    slow_ns: u64,
    /// What was found, the worst first.
    findings: Vec<Finding>,
    /// Findings that could not be made: connections were only counted, threads were not watched, or it is a recording.
    not_looked_for: Vec<&'static str>,
    /// Every listener that was seen, the one with the most slow connections first.
    listeners: Vec<Listener>,
    /// Destinations of connections that were opened on this host, at most ten, the one with most of its local ports taken first.
    ports: Vec<Ports>,
    /// Accepts of connections whose listener is not known: they are in no measure.
    unattributed: u64,
    /// Connections were counted in the kernel, not told one by one: nothing is known of their states then, nor of local ports.
    aggregated: bool,
    /// What was not seen.
    losses: Losses,
    /// What measuring cost.
    cost: Costs,
}

/// Something that is wrong.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// Its name; `sockwatch explain NAME` tells more.
    name: &'static str,
    /// The network namespace's inode number.
    netns: u32,
    /// The listener's cookie; absent where it is about several, or about connections that were accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
    /// The listener's address, or the local end of the connections; its port is `*` where they have many.
    local: String,
    /// What is wrong.
    sentence: String,
    /// What it stands on.
    evidence: Vec<String>,
    /// What it is not, and why not.
    rules_out: Vec<String>,
    /// What to change, the best first.
    fix: Vec<String>,
    /// Clients that are hurt, as far as they were seen.
    hurt: u64,
}

/// A listener; each socket of those that share an address (SO_REUSEPORT) is one. Times are in nanoseconds.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listener {
    /// The network namespace's inode number.
    netns: u32,
    /// Its cookie.
    cookie: u64,
    /// Where it listens.
    local: String,
    /// Its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Task>,
    /// How long it was watched.
    watched_ns: u64,
    /// Whether it was closed during the run.
    closed: bool,
    /// Connections that were seen to enter its accept queue.
    arrived: u64,
    /// Connections accepted.
    accepted: u64,
    /// Queue waits, accept queue to accept(): of the accepted, and of those that still wait, or were never accepted, the time so
    /// far. Percentiles are right to within 1 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<Spread>,
    /// So many of these waits are lower bounds.
    at_least: u64,
    /// So many of these waits are slow.
    slow: u64,
    /// Who waits now.
    still_waiting: u32,
    /// How long the oldest of them has waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ns: Option<u64>,
    /// Whether the oldest was there before the run: `oldest_ns` is a lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at_least: Option<bool>,
    /// How long ago the last accept was; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_accept_ns: Option<u64>,
    /// How long nobody has accepted while somebody waited, until the end of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    starved_ns: Option<u64>,
    /// Times without an accept while somebody waited, each ended by an accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<Spread>,
    /// Handshakes: first SYN-ACK to accept queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake: Option<Spread>,
    /// Handshakes that took a second or more, or needed another SYN-ACK.
    slow_handshakes: u64,
    /// Handshakes that needed one more SYN-ACK, two, three or more: their clients were connected 1 s, 3 s, 7 s late, or later, be it
    /// that the accept queue was full or that the network lost a packet. Zeros while connections are counted.
    late_handshakes: [u64; 3],
    /// Its TCP_DEFER_ACCEPT in seconds; absent without one, and where handshakes are quick, so that nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    defer_accept_s: Option<u32>,
    /// SYN-ACKs sent again.
    synack_retransmits: u64,
    /// Clients that were sent another SYN-ACK and did not answer.
    unanswered: u64,
    /// The accept queue's greatest depth.
    greatest_depth: u32,
    /// Its limit: it takes one more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// Whether the limit is the namespace's net.core.somaxconn: listen() asked for that or more; absent until the kernel was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_is_somaxconn: Option<bool>,
    /// Clients that left before accept(), by FIN: they may still wait for an answer.
    left_by_fin: u64,
    /// Clients that left before accept(), by RST.
    left_by_rst: u64,
    /// How long they had waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_after: Option<Spread>,
    /// Accepted after the client's RST.
    dead_on_arrival: u64,
    /// Accepted after the client's FIN.
    half_closed_on_arrival: u64,
    /// Last ACKs of handshakes that found the queue full.
    overflows: u64,
    /// Packets dropped at the listener: SYNs and last ACKs; absent until the kernel was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    drops: Option<u32>,
    /// What the counters of the whole network namespace have grown by.
    namespace: Namespace,
    /// Threads that accepted, the busiest first.
    acceptors: Vec<AcceptorCount>,
    /// accept() that failed, the most frequent first; EAGAIN is no failure.
    failures: Vec<FailureCount>,
    /// How soon its connections were read from; absent with --no-blame, while connections are counted, where the kernel refuses what
    /// watches threads or reads (before 5.12), and of a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<Reads>,
    /// Where the time went that connections waited; absent where nobody waited, with --no-blame, or where the kernel refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    blame: Option<Blame>,
    /// Over time.
    course: Course,
}

/// Local ports that connections to one destination take.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ports {
    /// The network namespace's inode number.
    netns: u32,
    /// This end's address.
    source: String,
    /// The other end.
    remote: String,
    /// Ports that there are for it: of net.ipv4.ip_local_port_range, without reserved ones.
    capacity: u64,
    /// Ports of connections that are open.
    open: u64,
    /// Ports that TIME_WAIT keeps from new connections.
    time_wait: u64,
    /// Ports taken each second, and not given back, over the last ten seconds of the run; 0 if it does not go on.
    per_second: f64,
    /// When no port is left if it goes on so, counted from the end of the run; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    exhausted_in_ns: Option<u64>,
    /// connect() that failed before a SYN was sent.
    failed: u64,
}

/// Durations, in nanoseconds.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Spread {
    /// How many.
    count: u64,
    /// The mean.
    mean_ns: u64,
    /// The least.
    min_ns: u64,
    /// The median.
    p50_ns: u64,
    /// Nine of ten were no longer.
    p90_ns: u64,
    /// 99 of 100 were no longer.
    p99_ns: u64,
    /// 999 of 1000 were no longer.
    p999_ns: u64,
    /// The greatest.
    max_ns: u64,
}

/// A thread.
#[derive(Serialize, JsonSchema)]
struct Task {
    /// Process id.
    pid: u32,
    /// Thread id.
    tid: u32,
    /// The thread's name.
    comm: String,
}

/// What `/proc/net/netstat` has grown by since the run began.
#[derive(Serialize, JsonSchema)]
struct Namespace {
    /// ListenOverflows: SYNs and last ACKs that found an accept queue full.
    listen_overflows: u64,
    /// ListenDrops: SYNs and last ACKs dropped for any reason.
    listen_drops: u64,
    /// TCPReqQFullDrop: SYNs that found too many requests waiting.
    requests_full: u64,
    /// TCPReqQFullDoCookies: SYNs that were answered with a cookie for that reason.
    cookies: u64,
    /// SyncookiesSent: SYN-ACKs with a cookie.
    cookies_sent: u64,
    /// SyncookiesRecv: ACKs that brought a valid one back.
    cookies_received: u64,
}

/// Who accepted.
#[derive(Serialize, JsonSchema)]
struct AcceptorCount {
    /// The thread.
    by: Task,
    /// How many.
    accepted: u64,
}

/// Whose accept() failed.
#[derive(Serialize, JsonSchema)]
struct FailureCount {
    /// A thread of the process.
    by: Task,
    /// The errno: 24 is EMFILE, 23 ENFILE.
    errno: i32,
    /// How often.
    count: u64,
}

/// A listener over time.
#[derive(Serialize, JsonSchema)]
struct Course {
    /// How long each step is, in nanoseconds: a second, or more in a long run.
    step_ns: u64,
    /// The steps since the listener was watched.
    steps: Vec<Step>,
}

/// A second, or so.
#[derive(Serialize, JsonSchema)]
struct Step {
    /// Connections that entered the queue.
    arrived: u64,
    /// Connections accepted.
    accepted: u64,
    /// The greatest depth.
    depth: u32,
    /// The limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

/// What was not seen, as in the last line of a trace.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Losses {
    /// The kernel side could not deliver it.
    lost: u64,
    /// Runs of a program that the kernel skipped.
    missed: u64,
    /// Discarded by sockwatch.
    dropped: u64,
    /// Events out of order.
    late: u64,
    /// What had to be corrected after the kernel's socket table.
    repaired: u64,
}

pub(super) fn print(report: &diagnosis::Report, measuring: &Measuring) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &Report::of(report, measuring))?;
    Ok(writeln!(out)?)
}

pub(super) fn value(report: &diagnosis::Report, measuring: &Measuring) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(Report::of(report, measuring))?)
}

impl Report {
    fn of(report: &diagnosis::Report, measuring: &Measuring) -> Self {
        Self {
            version: VERSION,
            sockwatch: env!("CARGO_PKG_VERSION"),
            kernel: measuring.kernel.clone(),
            recorded_on: measuring.recorded_on.clone(),
            verdict: word(report),
            sentence: verdict(report),
            ran_ns: report.ran_ns,
            slow_ns: report.slow_ns,
            findings: report.findings.iter().map(Finding::from).collect(),
            not_looked_for: not_looked_for(report, measuring),
            listeners: report.listeners.iter().map(Listener::from).collect(),
            ports: report.ports.iter().take(MOST_PORTS).map(Ports::from).collect(),
            unattributed: report.unattributed,
            aggregated: report.is_counted,
            losses: Losses::from(&report.losses),
            cost: Costs::new(report.events, measuring),
        }
    }
}

impl From<&loss::Losses> for Losses {
    fn from(losses: &loss::Losses) -> Self {
        Self {
            lost: losses.lost(),
            missed: losses.missed(),
            dropped: losses.dropped(),
            late: losses.late,
            repaired: losses.repaired,
        }
    }
}

impl From<&diagnosis::finding::Finding> for Finding {
    fn from(finding: &diagnosis::finding::Finding) -> Self {
        let diagnosis::finding::Finding { name, place, sentence, evidence, rules_out, fix, hurt } = finding.clone();
        Self {
            name: name.word(),
            netns: place.netns,
            cookie: place.cookie,
            local: place.local.to_string(),
            sentence,
            evidence,
            rules_out,
            fix,
            hurt,
        }
    }
}

impl From<&Measured> for Listener {
    fn from(it: &Measured) -> Self {
        Self {
            netns: it.netns,
            cookie: it.cookie,
            local: it.local.to_string(),
            owner: it.owner.map(Task::from),
            watched_ns: it.watched_ns,
            closed: it.is_closed,
            arrived: it.arrived,
            accepted: it.accepted,
            wait: it.wait.map(Spread::from),
            at_least: it.at_least,
            slow: it.slow,
            still_waiting: it.still_waiting,
            oldest_ns: it.oldest.map(Age::ns),
            oldest_at_least: it.oldest.map(|oldest| matches!(oldest, Age::AtLeast(_))),
            since_accept_ns: it.since_accept_ns,
            starved_ns: it.starved_ns,
            gaps: it.gaps.map(Spread::from),
            handshake: it.handshake.map(Spread::from),
            slow_handshakes: it.slow_handshakes,
            late_handshakes: it.late,
            defer_accept_s: it.defers_s,
            synack_retransmits: it.synack_retransmits,
            unanswered: it.unanswered,
            greatest_depth: it.greatest,
            limit: it.limit,
            limit_is_somaxconn: it.is_somaxconn,
            left_by_fin: it.left.by_fin,
            left_by_rst: it.left.by_rst,
            left_after: it.left.waited.map(Spread::from),
            dead_on_arrival: it.dead_on_arrival,
            half_closed_on_arrival: it.half_closed_on_arrival,
            overflows: it.overflows,
            drops: it.drops,
            namespace: Namespace {
                listen_overflows: it.namespace.overflows,
                listen_drops: it.namespace.drops,
                requests_full: it.namespace.requests_full,
                cookies: it.namespace.cookies,
                cookies_sent: it.namespace.cookies_sent,
                cookies_received: it.namespace.cookies_received,
            },
            acceptors: it.acceptors.iter().map(AcceptorCount::from).collect(),
            failures: it.failures.iter().map(FailureCount::from).collect(),
            reads: it.reads.map(Reads::from),
            blame: it.blame.as_ref().map(Blame::from),
            course: Course::from(&it.course),
        }
    }
}

impl From<&PortUse> for Ports {
    fn from(it: &PortUse) -> Self {
        let ports::Route { netns, source, remote } = it.route;
        Self {
            netns,
            source: source.to_string(),
            remote: remote.to_string(),
            capacity: it.settings.capacity(),
            open: it.open,
            time_wait: it.time_wait,
            per_second: it.tenths_per_second as f64 / 10.0,
            exhausted_in_ns: it.exhausted_in_ns,
            failed: it.failed,
        }
    }
}

impl From<waits::Spread> for Spread {
    fn from(spread: waits::Spread) -> Self {
        let waits::Spread { count, mean_ns, min_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns } = spread;
        Self { count, mean_ns, min_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns }
    }
}

impl From<event::Task> for Task {
    fn from(task: event::Task) -> Self {
        Self { pid: task.pid, tid: task.tid, comm: task.comm.to_string() }
    }
}

impl From<&Acceptor> for AcceptorCount {
    fn from(acceptor: &Acceptor) -> Self {
        Self { by: acceptor.task.into(), accepted: acceptor.accepted }
    }
}

impl From<&Failure> for FailureCount {
    fn from(failure: &Failure) -> Self {
        Self { by: failure.by.into(), errno: failure.errno, count: failure.count }
    }
}

impl From<&diagnosis::course::Course> for Course {
    fn from(course: &diagnosis::course::Course) -> Self {
        let step = |step: &diagnosis::course::Step| {
            let diagnosis::course::Step { arrived, accepted, depth, limit } = *step;
            Step { arrived, accepted, depth, limit }
        };
        Self { step_ns: course.width_ns, steps: course.steps.iter().map(step).collect() }
    }
}
