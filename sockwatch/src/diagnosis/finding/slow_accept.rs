//! Accepts come, but connections wait long for them.

use super::{
    Finding, Name, Place, Scene, accept_works, acceptor, depth, is_explained, network_is_fine, overflow, rates, waits,
};
use crate::diagnosis::{
    measure::Measured,
    waits::Spread,
    words::{Grouped, acceptors, count, place, time},
};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let slow = scene.listeners.iter().filter(|listener| listener.is_slow() && !is_explained(listener, found));
    slow.map(|listener| finding(scene, listener)).collect()
}

fn finding(scene: &Scene<'_>, listener: &Measured) -> Finding {
    let waits_in_all = listener.waits();
    let longest_ns = listener.wait.map_or(0, |wait| wait.max_ns);
    let sentence = format!(
        "{}: {} of {} waited {} or more for accept(), the longest {}",
        place(listener),
        Grouped(listener.slow),
        count(waits_in_all, "connection"),
        time(scene.slow_ns),
        time(longest_ns)
    );
    let mut evidence: Vec<_> = waits(listener).into_iter().chain([rates(listener)]).collect();
    evidence.extend(listener.blame.as_ref().map(acceptor::shares));
    evidence.extend(listener.blame.iter().flat_map(acceptor::whereabouts));
    let told = |gaps: Spread| {
        let (mean, longest) = (time(gaps.mean_ns), time(gaps.max_ns));
        format!("while somebody waited, an accept came every {mean} (mean), the longest pause was {longest}")
    };
    evidence.extend(listener.gaps.map(told));
    if listener.accepted == 0 {
        evidence.push("no accept during the run yet".into());
    }
    if !listener.acceptors.is_empty() {
        evidence.push(format!("accepted by {}", acceptors(listener)));
    }
    evidence.push(depth(listener));
    evidence.extend(overflow(listener));
    let mut rules_out: Vec<_> = network_is_fine(listener).into_iter().chain(accept_works(listener)).collect();
    // One that was never full has turned nobody away; what the kernel counts may be as old as the last comparison.
    if listener.limit.is_some_and(|limit| listener.greatest <= limit) && listener.turned_away() == 0 {
        rules_out.push("a backlog that is too small: the queue was never full".into());
    }
    let busiest = listener.acceptors.first().map(|acceptor| acceptor.task).or(listener.owner);
    let (who, pid) = busiest.map_or(("it".into(), "PID".into()), |task| (task.to_string(), task.pid.to_string()));
    Finding {
        name: Name::SlowAccept,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out,
        fix: vec![
            "accept in a thread that does nothing else, or in more threads or processes".into(),
            match listener.blame {
                Some(_) => "no single reason has half of the waiting time: the evidence names each one's share".into(),
                None => format!(
                    "what keeps {who} between two accepts (blocked, no CPU, other work) was not looked at: perf trace -p {pid}"
                ),
            },
        ],
        hurt: listener.hurt_by_accept(),
    }
}
