//! Sockets share an address (`SO_REUSEPORT`), the kernel spreads connections over them, and one of them is not emptied while
//! others are.

use super::{Finding, Name, Place, Scene, is_explained};
use crate::diagnosis::{
    measure::Measured,
    words::{count, time},
};

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
    Some(Finding {
        name: Name::WorkerSkew,
        place: Place { cookie: None, ..Place::from(first) },
        sentence,
        evidence: slow.iter().chain(&quick).take(6).map(line).collect(),
        rules_out: vec![
            "a server that is too slow as a whole: its other sockets are emptied".into(),
            "the network: it does not choose the socket, a hash of the client's address does".into(),
        ],
        fix: vec![
            "look at the worker of the slow socket: what it does between two accepts keeps its share of the clients"
                .into(),
            "close the sockets of workers that are gone or busy, or accept from one shared socket".into(),
        ],
        hurt: slow.iter().map(|listener| listener.hurt_by_accept()).sum(),
    })
}
