//! The thread that should accept runs something else.

use super::{Finding, Name, Scene, acceptor};
use crate::diagnosis::{blame::Kind, words::percent};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let busy = acceptor::because_of(scene, found, Kind::Busy);
    busy.map(|(listener, blame, part)| {
        let share = percent(blame.permille(part.ns));
        let (did, first) = match acceptor::culprit(part) {
            Some((thread, place)) => (
                format!("{share} of that time {thread} ran something else, mostly {place}"),
                format!("move {place} out of {thread}, or make it quicker"),
            ),
            None => (
                format!("{share} of that time its acceptor ran something else"),
                "see what it runs: perf top -p PID".into(),
            ),
        };
        let fix = vec![first, "or accept in more threads or processes, as long as there are CPUs for them".into()];
        let mut finding = acceptor::finding(Name::AcceptorBusy, scene, listener, blame, &did, fix);
        finding.evidence.splice(1..1, acceptor::causes(blame, part, "ran"));
        finding.rules_out.push(format!(
            "too little CPU: it waited for one {} of that time",
            percent(blame.permille(blame.ns(Kind::Starved)))
        ));
        finding
    })
    .collect()
}
