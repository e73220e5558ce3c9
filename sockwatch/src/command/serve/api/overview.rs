//! How everything is now, and was over the last minutes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    diagnosis::{Report, measure::Measured},
    overview::{Model, Second},
    sink::Sight,
    tcp::{event::SocketKey, queue::Age, state},
};

use super::{VERSION, listener_id};
use crate::command::{
    diagnose::{
        json::{Finding, Losses, Ports, Spread},
        verdict, word,
    },
    serve::view::Outlook,
};

/// Listeners that are told, the most hurt first.
const MOST_LISTENERS: usize = 200;

/// Destinations that are told.
const MOST_PORTS: usize = 20;

const MS: u64 = 1_000_000;

/// What does not change.
#[derive(Clone, Debug)]
pub(in super::super) struct Place {
    /// The kernel's release.
    pub(in super::super) kernel: String,
    /// `ebpf` or `poll`.
    pub(in super::super) source: &'static str,
}

/// How everything is now. What is told of listeners, findings and ports is of the time since somebody began to look: sockwatch
/// keeps it while somebody asks at least once a minute.
#[derive(Serialize, JsonSchema)]
pub(in super::super) struct Overview {
    /// The interface's version.
    version: u32,
    /// sockwatch's version.
    sockwatch: &'static str,
    /// The machine's name.
    host: String,
    /// The kernel's release.
    kernel: String,
    /// `ebpf` or `poll`.
    source: &'static str,
    /// This instant, in milliseconds of Unix time.
    at_unix_ms: u64,
    /// When somebody began to look, in milliseconds of Unix time.
    since_unix_ms: u64,
    /// From which wait in an accept queue on a connection counts as slow, in nanoseconds.
    slow_ns: u64,
    /// `findings`; `healthy`: connections came, and nothing was found; `nothing-seen`: nobody connected.
    verdict: &'static str,
    /// The verdict as a sentence.
    sentence: String,
    /// Events taken in during the last second.
    events_per_second: u64,
    /// Connections that ended during the last second.
    ended_per_second: u64,
    /// Sockets by state.
    states: BTreeMap<&'static str, u32>,
    /// What was not seen since sockwatch was started.
    losses: Losses,
    /// What was found, the worst first.
    findings: Vec<Finding>,
    /// Listeners that are open, the most hurt first; at most 200.
    listeners: Vec<Listener>,
    /// How many of them there are.
    listeners_open: usize,
    /// Destinations of connections that were opened on this host, at most twenty, the one with most of its local ports taken first.
    ports: Vec<Ports>,
}

/// A listener.
#[derive(Serialize, JsonSchema)]
struct Listener {
    /// Its name in paths: the network namespace's inode number and its cookie.
    id: String,
    /// Where it listens.
    local: String,
    /// Its owner, the process's name and id.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Who waits in its accept queue.
    depth: u32,
    /// The queue's limit: it takes one more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// How long the oldest of them has waited, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ns: Option<u64>,
    /// Queue waits of those that were accepted in the last 30 to 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<Spread>,
    /// Connections that entered the queue each second, over the last five.
    arrived_per_second: u64,
    /// Connections accepted each second, over the last five.
    accepted_per_second: u64,
    /// Connections accepted.
    accepted: u64,
    /// Packets dropped at the full queue: SYNs and last ACKs.
    turned_away: u64,
    /// Clients that left before accept().
    left: u64,
}

/// Sockets by state over the last minutes, a value for each second.
#[derive(Serialize, JsonSchema)]
pub(in super::super) struct History {
    /// When the last of them was counted, in milliseconds of Unix time.
    until_unix_ms: u64,
    /// Sockets in each state, the oldest value first.
    states: BTreeMap<&'static str, Vec<u32>>,
    /// Events taken in.
    events: Vec<u64>,
    /// Connections that ended.
    ended: Vec<u64>,
}

impl Overview {
    /// `None` before the first second.
    pub(in super::super) fn of(outlook: &Outlook<'_>, place: &Place) -> Option<Self> {
        let Outlook { sight, model, .. } = outlook;
        let report = model.report()?;
        let unix_ms = |ns: u64| model.place().wall.unix_ns(ns) / MS;
        let last = model.last();
        let open = || report.listeners.iter().filter(|listener| !listener.is_closed);
        Some(Self {
            version: VERSION,
            sockwatch: env!("CARGO_PKG_VERSION"),
            host: model.place().host.clone(),
            kernel: place.kernel.clone(),
            source: place.source,
            at_unix_ms: unix_ms(sight.now_ns),
            since_unix_ms: unix_ms(model.began_ns()),
            slow_ns: report.slow_ns,
            verdict: word(report),
            sentence: verdict(report),
            events_per_second: last.events,
            ended_per_second: last.ended,
            states: state::ALL.into_iter().map(|state| (state.name(), last.sockets(state))).collect(),
            losses: Losses::from(&model.totals().losses),
            findings: report.findings.iter().map(Finding::from).collect(),
            listeners: open().take(MOST_LISTENERS).map(|listener| self::listener(sight, model, listener)).collect(),
            listeners_open: open().count(),
            ports: ports(report),
        })
    }
}

fn ports(report: &Report) -> Vec<Ports> {
    report.ports.iter().take(MOST_PORTS).map(Ports::from).collect()
}

fn listener(sight: &Sight<'_>, model: &Model, it: &Measured) -> Listener {
    let key = SocketKey { netns: it.netns, cookie: it.cookie };
    let figures = sight.tracker.queue_of(key, sight.now_ns).unwrap_or_default();
    let (arrived_per_second, accepted_per_second) = it.course.rates();
    Listener {
        id: listener_id(key),
        local: it.local.to_string(),
        owner: it.owner.map(|owner| owner.to_string()),
        depth: figures.depth,
        limit: figures.totals.limit.or(it.limit),
        oldest_ns: figures.oldest.map(Age::ns),
        wait: model.spread(key).map(Spread::from),
        arrived_per_second,
        accepted_per_second,
        accepted: it.accepted,
        turned_away: it.turned_away(),
        left: it.left.by_fin + it.left.by_rst,
    }
}

impl History {
    pub(in super::super) fn of(outlook: &Outlook<'_>) -> Self {
        let Outlook { sight, model, .. } = outlook;
        let all = |of: fn(&Second) -> u64| model.seconds().map(of).collect();
        let course = |state| model.seconds().map(|second| second.sockets(state)).collect();
        Self {
            until_unix_ms: model.place().wall.unix_ns(sight.now_ns) / MS,
            states: state::ALL.into_iter().map(|state| (state.name(), course(state))).collect(),
            events: all(|second| second.events),
            ended: all(|second| second.ended),
        }
    }
}
