//! Connections wait, and no accept comes.

use super::{Finding, Name, Place, Scene, accept_works, acceptor, depth, is_explained, network_is_fine, overflow};
use crate::diagnosis::{
    blame::Kind,
    measure::Measured,
    waits::Spread,
    words::{age, count, place, thread, time},
};

/// Without an accept for so many times the longest pause before, it has stopped.
const PAUSES: u64 = 10;

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let open = scene.listeners.iter().filter(|listener| !listener.is_closed && !is_explained(listener, found));
    open.filter_map(|listener| finding(scene, listener)).collect()
}

fn finding(scene: &Scene<'_>, listener: &Measured) -> Option<Finding> {
    let starved_ns = listener.starved_ns.filter(|ns| *ns >= scene.stuck_ns())?;
    let is_long = |pause_ns: u64| starved_ns / PAUSES >= pause_ns;
    let stopped = listener.since_accept_ns.is_none()
        || starved_ns >= scene.ran_ns / 2
        || listener.longest_pause_ns.is_some_and(is_long);
    if !stopped {
        return None;
    }
    let waiting = u64::from(listener.still_waiting);
    let verb = if waiting == 1 { "waits" } else { "wait" };
    let since = match listener.since_accept_ns {
        None => format!("nobody has called accept() with success in {}", time(listener.watched_ns)),
        Some(ns) => format!("the last accept was {} ago", time(ns)),
    };
    let sentence = format!(
        "{}: {} {verb} in the accept queue, the oldest for {}, and {since}",
        place(listener),
        count(waiting, "connection"),
        age(listener.oldest?)
    );
    let accepted = match listener.since_accept_ns {
        None => "no accept during the run".to_owned(),
        Some(_) => format!("{} accepted before", count(listener.accepted, "connection")),
    };
    let pause = |gaps: Spread| format!("the longest pause before, while somebody waited: {}", time(gaps.max_ns));
    let mut evidence = vec![accepted];
    evidence.extend(listener.gaps.map(pause));
    evidence.push(depth(listener));
    evidence.extend(listener.blame.as_ref().map(acceptor::shares));
    evidence.extend(listener.blame.iter().flat_map(acceptor::whereabouts));
    let stopped = listener.blame.as_ref().and_then(|blame| acceptor::stopped(blame.part(Kind::Blocked)?));
    evidence.extend(stopped.map(|task| format!("{} is stopped: it can do nothing", thread(task))));
    evidence.extend(overflow(listener));
    let continues = stopped.map(|task| {
        format!(
            "let it go on: kill -CONT {}, or end the debugger, or thaw its cgroup; and see who stopped it",
            task.pid
        )
    });
    let pid = listener.owner.map_or("PID".into(), |owner| owner.pid.to_string());
    Some(Finding {
        name: Name::NobodyAccepts,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out: [
            accept_works(listener),
            network_is_fine(listener),
            Some("a backlog that is too small: a longer one would only be filled later".into()),
        ]
        .into_iter()
        .flatten()
        .collect(),
        fix: continues
            .into_iter()
            .chain([
                format!(
                    "see what the process does instead: is it stopped (ps -o stat,wchan -p {pid}), in a deadlock, in a long call?"
                ),
                "or it never accepts: it listens for another process, or its event loop does not watch this socket".into(),
            ])
            .collect(),
        hurt: listener.hurt_by_accept(),
    })
}
