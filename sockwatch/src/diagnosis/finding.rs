//! Findings: what is wrong, proven by numbers. Each is a file and a row of [`CHECKS`]; none may be found on a healthy server, and
//! none says more than its evidence carries.

mod acceptor;
mod acceptor_blocked;
mod acceptor_busy;
mod acceptor_starved;
mod clients_leave;
mod close_wait_leak;
mod close_wait_unaccepted;
mod dead_peer;
mod defer_accept;
mod descriptor_limit;
mod nobody_accepts;
mod orphan_fin_wait2;
mod port_exhaustion;
mod queue_too_small;
mod resets;
mod slow_accept;
mod slow_handshake;
mod slow_reader;
mod somaxconn;
mod stuck_fin_wait1;
mod syn_flood;
mod worker_skew;

use super::{
    close_wait::Leak,
    endings::{Ended, Endings},
    look::{Group, Looked},
    measure::Measured,
    ports::PortUse,
    words::{Grouped, Rate, count, time},
};
use crate::tcp::endpoint::Endpoint;

/// What a finding is called; `sockwatch explain` knows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// accept() fails: no descriptor is left.
    DescriptorLimit,
    /// Some of the sockets that share an address are slow, others are not.
    WorkerSkew,
    /// Who should accept is blocked in something else.
    AcceptorBlocked,
    /// Who should accept gets no CPU.
    AcceptorStarved,
    /// Who should accept runs something else.
    AcceptorBusy,
    /// Connections wait, and no accept comes.
    NobodyAccepts,
    /// Accepts come too slowly.
    SlowAccept,
    /// The queue overflowed, and its limit is `somaxconn`.
    Somaxconn,
    /// The queue overflowed in a burst.
    QueueTooSmall,
    /// More SYNs than the listener may keep.
    SynFlood,
    /// Handshakes last until clients send: the listener asked for it.
    DeferAccept,
    /// The handshake is slow, not accept().
    SlowHandshake,
    /// Clients leave the queue.
    ClientsLeave,
    /// A process keeps connections in `CLOSE_WAIT`.
    CloseWaitLeak,
    /// Connections in `CLOSE_WAIT` that no process has.
    CloseWaitUnaccepted,
    /// Connections to a destination take all local ports.
    PortExhaustion,
    /// A process does not read what has come.
    SlowReader,
    /// Connections end by RST.
    Resets,
    /// What this end has closed cannot end: the peer does not take its data.
    StuckFinWait1,
    /// The peers do not close after this end has.
    OrphanFinWait2,
    /// Peers are gone, and nobody has noticed.
    DeadPeer,
}

impl Name {
    /// The word that is printed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::DescriptorLimit => "descriptor-limit",
            Self::WorkerSkew => "worker-skew",
            Self::AcceptorBlocked => "acceptor-blocked",
            Self::AcceptorStarved => "acceptor-starved",
            Self::AcceptorBusy => "acceptor-busy",
            Self::NobodyAccepts => "nobody-accepts",
            Self::SlowAccept => "slow-accept",
            Self::Somaxconn => "somaxconn",
            Self::QueueTooSmall => "queue-too-small",
            Self::SynFlood => "syn-flood",
            Self::DeferAccept => "defer-accept",
            Self::SlowHandshake => "slow-handshake",
            Self::ClientsLeave => "clients-leave",
            Self::CloseWaitLeak => "close-wait-leak",
            Self::CloseWaitUnaccepted => "close-wait-unaccepted",
            Self::PortExhaustion => "port-exhaustion",
            Self::SlowReader => "slow-reader",
            Self::Resets => "resets",
            Self::StuckFinWait1 => "stuck-fin-wait1",
            Self::OrphanFinWait2 => "orphan-fin-wait2",
            Self::DeadPeer => "dead-peer",
        }
    }

    /// Whether it is a reason for which connections wait in the queue: then it stands for what follows from it.
    const fn is_about_accepting(self) -> bool {
        match self {
            Self::DescriptorLimit
            | Self::WorkerSkew
            | Self::AcceptorBlocked
            | Self::AcceptorStarved
            | Self::AcceptorBusy
            | Self::NobodyAccepts
            | Self::SlowAccept => true,
            Self::Somaxconn
            | Self::QueueTooSmall
            | Self::SynFlood
            | Self::DeferAccept
            | Self::SlowHandshake
            | Self::ClientsLeave
            | Self::CloseWaitLeak
            | Self::CloseWaitUnaccepted
            | Self::PortExhaustion
            | Self::SlowReader
            | Self::Resets
            | Self::StuckFinWait1
            | Self::OrphanFinWait2
            | Self::DeadPeer => false,
        }
    }

    /// Whether clients, or who connects here, feel it: the rest are sockets that are kept for nothing, of which something may run
    /// out one day.
    const fn is_felt(self) -> bool {
        match self {
            Self::DescriptorLimit
            | Self::WorkerSkew
            | Self::AcceptorBlocked
            | Self::AcceptorStarved
            | Self::AcceptorBusy
            | Self::NobodyAccepts
            | Self::SlowAccept
            | Self::Somaxconn
            | Self::QueueTooSmall
            | Self::SynFlood
            | Self::DeferAccept
            | Self::SlowHandshake
            | Self::ClientsLeave
            | Self::CloseWaitUnaccepted
            | Self::PortExhaustion
            | Self::SlowReader
            | Self::Resets => true,
            Self::CloseWaitLeak | Self::StuckFinWait1 | Self::OrphanFinWait2 | Self::DeadPeer => false,
        }
    }
}

/// What needs the story of each connection: not found where they are only counted.
pub const OF_EACH: [Name; 3] = [Name::CloseWaitLeak, Name::PortExhaustion, Name::Resets];

/// What needs to know what threads did: it is `slow-accept` or `nobody-accepts` otherwise.
pub const OF_THREADS: [Name; 3] = [Name::AcceptorBlocked, Name::AcceptorStarved, Name::AcceptorBusy];

/// What needs the kernel's own table and settings: not found in a recording.
pub const OF_TABLE: [Name; 6] = [
    Name::DeferAccept,
    Name::PortExhaustion,
    Name::SlowReader,
    Name::StuckFinWait1,
    Name::OrphanFinWait2,
    Name::DeadPeer,
];

/// Which listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its network namespace's inode number.
    pub netns: u32,
    /// Its cookie; `None`: all at this address, or whatever was accepted there.
    pub cookie: Option<u64>,
    /// Where it listens, or, without a port, from where connections are opened.
    pub local: Endpoint,
}

impl From<&Measured> for Place {
    fn from(listener: &Measured) -> Self {
        Self { netns: listener.netns, cookie: Some(listener.cookie), local: listener.local }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is called.
    pub name: Name,
    /// Where.
    pub place: Place,
    /// What is wrong, in a sentence without its end.
    pub sentence: String,
    /// What it stands on: a line for each number, with its unit.
    pub evidence: Vec<String>,
    /// What it is not, and why not.
    pub rules_out: Vec<String>,
    /// What to change, the best first.
    pub fix: Vec<String>,
    /// Clients that are hurt, as far as they were seen: its rank.
    pub hurt: u64,
}

/// All that there is to judge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) listeners: &'a [Measured],
    pub(super) close_waits: &'a [Leak],
    pub(super) ports: &'a [PortUse],
    pub(super) looked: &'a Looked<'a>,
    pub(super) ended: &'a [Ended],
    pub(super) endings: &'a Endings,
    pub(super) now_ns: u64,
    pub(super) slow_ns: u64,
    pub(super) ran_ns: u64,
}

impl Scene<'_> {
    /// Whoever has waited so long without any accept is not only slow.
    fn stuck_ns(&self) -> u64 {
        self.slow_ns.saturating_mul(10).max(1_000_000_000)
    }

    /// How a group's connections ended.
    fn ended(&self, group: Group) -> Option<&Ended> {
        self.ended.iter().find(|ended| ended.group == group)
    }

    /// The listener of a group, if there is just one.
    fn listener_of(&self, group: Group) -> Option<&Measured> {
        let Group::Served { netns, local } = group else { return None };
        let at = |address: Endpoint| {
            let mut found = self.listeners.iter().filter(move |it| it.netns == netns && it.local == address);
            let only = found.next();
            only.filter(|_| found.next().is_none())
        };
        at(local).or_else(|| at(local.at_any_address()))
    }
}

/// Whether connections that do not end by themselves are a pattern: some peers always go without a word.
const fn is_many(count: u64, of: u64) -> bool {
    count >= 3 && count.saturating_mul(100) >= of
}

/// Looks for one thing; `found` is what the checks before it found.
type Check = fn(&Scene<'_>, found: &[Finding]) -> Vec<Finding>;

/// Every check; a reason before what follows from it.
const CHECKS: &[Check] = &[
    descriptor_limit::check,
    worker_skew::check,
    acceptor_blocked::check,
    acceptor_starved::check,
    acceptor_busy::check,
    worker_skew::check_shared,
    nobody_accepts::check,
    slow_accept::check,
    somaxconn::check,
    queue_too_small::check,
    syn_flood::check,
    defer_accept::check,
    slow_handshake::check,
    clients_leave::check,
    close_wait_leak::check,
    close_wait_unaccepted::check,
    port_exhaustion::check,
    slow_reader::check,
    resets::check,
    stuck_fin_wait1::check,
    orphan_fin_wait2::check,
    dead_peer::check,
];

/// What is wrong, the worst first: what is felt before what is only kept; of two that hurt as many, the reason first.
pub(super) fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for check in CHECKS {
        let new = check(scene, &found);
        found.extend(new);
    }
    found.sort_by_key(|finding| std::cmp::Reverse((finding.name.is_felt(), finding.hurt)));
    found
}

/// Whether a reason was found why this listener's connections wait.
fn is_explained(listener: &Measured, found: &[Finding]) -> bool {
    let here = |place: &Place| {
        let same = place.netns == listener.netns && place.local == listener.local;
        same && place.cookie.is_none_or(|cookie| cookie == listener.cookie)
    };
    found.iter().any(|finding| finding.name.is_about_accepting() && here(&finding.place))
}

/// How long connections waited, as evidence.
fn waits(listener: &Measured) -> Option<String> {
    let wait = listener.wait?;
    let mut line = format!(
        "queue wait of {}: p50 {}, p99 {}, max {}",
        count(wait.count, "connection"),
        time(wait.p50_ns),
        time(wait.p99_ns),
        time(wait.max_ns)
    );
    if listener.at_least > 0 {
        line += &format!(" ({} of them so far, or at least)", listener.at_least);
    }
    Some(line)
}

/// How many came and were accepted, as evidence.
fn rates(listener: &Measured) -> String {
    let rate = |number| Rate(listener.tenths_per_second(number));
    format!("{} arrived, {} were accepted", rate(listener.arrived), rate(listener.accepted))
}

/// How deep the queue was, as evidence.
fn depth(listener: &Measured) -> String {
    let limit = listener.limit.map_or(String::new(), |limit| format!(", its limit {limit}"));
    format!("accept queue: {} now, {} at most{limit}", listener.still_waiting, listener.greatest)
}

/// What became of clients that found the queue full, as evidence.
fn overflow(listener: &Measured) -> Vec<String> {
    let away = listener.turned_away();
    if away == 0 {
        return Vec::new();
    }
    let mut told =
        vec![format!("{} dropped because the queue was full: clients try again after 1 s, 3 s, 7 s", dropped(away))];
    let late = listener.late.into_iter().zip(["1 s", "3 s", "7 s or more"]).filter(|(clients, _)| *clients > 0);
    let late: Vec<_> = late.map(|(clients, by)| format!("{} by {by}", Grouped(clients))).collect();
    if !late.is_empty() {
        told.push(format!("clients that were connected late, after another SYN-ACK: {}", late.join(", ")));
    }
    if listener.overflows > 0 && listener.unanswered > 0 {
        let clients = count(listener.unanswered, "client");
        let verb = if listener.unanswered == 1 { "believes it is" } else { "believe they are" };
        told.push(format!(
            "{clients}, as far as is known, {verb} connected, and nobody here is told: the last ACK of the handshake was dropped"
        ));
    }
    told
}

/// Packets that a full queue dropped: `1 SYN or ACK was`, `14 SYNs or ACKs were`.
fn dropped(away: u64) -> String {
    if away == 1 { "1 SYN or ACK was".into() } else { format!("{} SYNs or ACKs were", Grouped(away)) }
}

/// That the network has no part in it, where that is so.
fn network_is_fine(listener: &Measured) -> Option<String> {
    let handshake = listener.handshake?;
    let few = listener.slow_handshakes.saturating_mul(100) <= handshake.count;
    few.then(|| {
        format!("the network: handshakes took {} (p50), {} (p99)", time(handshake.p50_ns), time(handshake.p99_ns))
    })
}

/// That no accept failed, where that is so.
fn accept_works(listener: &Measured) -> Option<String> {
    listener.failures.is_empty().then(|| "errors of accept(): none failed".to_owned())
}
