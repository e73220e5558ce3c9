//! Sockets share an address (`SO_REUSEPORT`), the kernel spreads connections over them, and one of them is not emptied while
//! others are; or processes share one socket (prefork), and few of them accept while connections wait.

use std::collections::BTreeMap;

use super::{Finding, Name, Place, Scene, acceptor, is_explained, waits};
use crate::{
    diagnosis::{
        measure::Measured,
        words::{Grouped, count, place, time},
    },
    tcp::event::Task,
};

/// Who accepts less than one in so many of its share accepts next to nothing.
const NOTHING: u64 = 10;

/// Connections that must have been accepted before shares mean anything, for each process.
const LEAST: u64 = 10;

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let open: Vec<_> = scene.listeners.iter().filter(|listener| !listener.is_closed).collect();
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for listener in &open {
        let address = (listener.netns, listener.local);
        if seen.contains(&address) {
            continue;
        }
        seen.push(address);
        let group: Vec<_> = open.iter().copied().filter(|it| (it.netns, it.local) == address).collect();
        let explained = group.iter().any(|it| is_explained(it, found));
        findings.extend((!explained).then(|| finding(&group)).flatten());
    }
    findings
}

fn finding(group: &[&Measured]) -> Option<Finding> {
    let (slow, quick): (Vec<_>, Vec<_>) = group.iter().copied().partition(|listener| listener.is_slow());
    let quick: Vec<_> = quick.into_iter().filter(|listener| listener.accepted > 0 && listener.slow == 0).collect();
    let (first, _) = (*slow.first()?, quick.first()?);
    let total = |listeners: &[&Measured], of: fn(&Measured) -> u64| listeners.iter().map(|it| of(it)).sum::<u64>();
    let sentence = format!(
        "{}: {} of {} sockets that share this address (SO_REUSEPORT) leave connections waiting, while {} waited nowhere else",
        first.local,
        slow.len(),
        group.len(),
        count(total(&quick, |it| it.accepted), "connection")
    );
    let line = |listener: &&Measured| {
        let owner = listener.owner.map_or("nobody known".into(), |owner| owner.to_string());
        let longest = listener.wait.map_or(0, |wait| wait.max_ns);
        format!(
            "socket {} ({owner}): {} arrived, {} accepted, {} wait, the longest {}",
            listener.cookie,
            listener.arrived,
            listener.accepted,
            listener.still_waiting,
            time(longest)
        )
    };
    let mut evidence: Vec<_> = slow.iter().chain(&quick).take(6).map(line).collect();
    evidence.extend(doings(first).map(|line| format!("socket {}: {line}", first.cookie)));
    Some(Finding {
        name: Name::WorkerSkew,
        place: Place { cookie: None, ..Place::from(first) },
        sentence,
        evidence,
        rules_out: vec![
            "a server that is too slow as a whole: its other sockets are emptied".into(),
            "the network: it does not choose the socket, a hash of the client's address does".into(),
        ],
        fix: vec![
            "look at the worker of the slow socket: what it does between two accepts keeps its share of the clients"
                .into(),
            "accept from one shared socket; before a worker's own is closed, net.ipv4.tcp_migrate_req=1 (Linux 5.14) lets others take \
             over the clients in its queue, which are reset otherwise"
                .into(),
        ],
        hurt: slow.iter().map(|listener| listener.hurt_by_accept()).sum(),
    })
}

/// What its threads did while somebody waited.
fn doings(listener: &Measured) -> impl Iterator<Item = String> {
    listener.blame.iter().flat_map(|blame| [acceptor::shares(blame)].into_iter().chain(acceptor::whereabouts(blame)))
}

/// The same for processes that accept from one socket: the kernel wakes one of those that wait, and who is busy or never waits
/// gets none.
pub(super) fn check_shared(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let slow = scene.listeners.iter().filter(|listener| listener.is_slow() && !is_explained(listener, found));
    slow.filter_map(shared).collect()
}

fn shared(listener: &Measured) -> Option<Finding> {
    let mut processes: BTreeMap<u32, (Task, u64)> = BTreeMap::new();
    for acceptor in &listener.acceptors {
        processes.entry(acceptor.task.pid).or_insert((acceptor.task, 0)).1 += acceptor.accepted;
    }
    let of = processes.len() as u64;
    let all: u64 = processes.values().map(|(_, accepted)| accepted).sum();
    let nothing = |accepted: u64| accepted.saturating_mul(of).saturating_mul(NOTHING) < all;
    let (idle, mut busy): (Vec<_>, Vec<_>) = processes.into_values().partition(|(_, accepted)| nothing(*accepted));
    if idle.is_empty() || all < of.saturating_mul(LEAST) {
        return None;
    }
    busy.sort_by_key(|(_, accepted)| std::cmp::Reverse(*accepted));
    let line = |(task, accepted): &(Task, u64)| format!("{task}: {} accepted", Grouped(*accepted));
    let mut evidence: Vec<_> = busy.iter().take(3).chain(idle.iter().take(3)).map(line).collect();
    evidence.extend(waits(listener));
    evidence.extend(doings(listener));
    Some(Finding {
        name: Name::WorkerSkew,
        place: Place::from(listener),
        sentence: format!(
            "{}: {} of {} processes that accept from this socket took next to nothing, while {} of {} waited long",
            place(listener),
            Grouped(idle.len() as u64),
            Grouped(of),
            Grouped(listener.slow),
            count(listener.waits(), "connection")
        ),
        evidence,
        rules_out: vec!["a worker that was never there: each of these has accepted".into()],
        fix: vec![
            "see what the idle workers do, and whether they wait for this socket at all: perf trace -p PID".into(),
            "with epoll the kernel wakes who waited last: EPOLLEXCLUSIVE, or a socket for each worker (SO_REUSEPORT), spreads connections".into(),
        ],
        hurt: listener.hurt_by_accept(),
    })
}
