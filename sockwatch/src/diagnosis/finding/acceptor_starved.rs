//! The thread that should accept could run, and gets no CPU.

use super::{Finding, Name, Scene, acceptor};
use crate::diagnosis::{blame::Kind, words::percent};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let starved = acceptor::because_of(scene, found, &[Kind::Starved]);
    starved
        .map(|(listener, blame, part)| {
            let share = percent(blame.permille(part.ns));
            let pid = part.causes.first().map_or("PID".into(), |cause| cause.task.pid.to_string());
            let did = format!("{share} of that time its acceptor could have run and had no CPU");
            let (limited, unlimited): (Vec<_>, Vec<_>) = blame.limits.iter().partition(|limit| limit.throttled > 0);
            let raise = limited.iter().map(|limit| format!("raise the limit: {limit}"));
            let look = if limited.is_empty() { "see who has the CPUs: top" } else { "see who has the CPUs besides: top" };
            let fix = raise.chain([
                look.into(),
                format!("give it more: a higher cpu.weight, other CPUs (taskset -p {pid}), a better nice value (renice), fewer neighbours"),
            ]);
            let mut finding = acceptor::finding(Name::AcceptorStarved, scene, listener, blame, &did, fix.collect());
            finding.evidence.splice(1..1, limited.iter().map(|limit| limit.words()));
            finding.rules_out.extend(unlimited.iter().map(|limit| format!("a limit: {limit}, and it kept nobody from running")));
            finding.rules_out.push(format!(
                "the server's own code: it ran {} of that time, and was blocked {}",
                percent(blame.permille([Kind::Busy, Kind::Draining, Kind::Accepting].map(|kind| blame.ns(kind)).iter().sum())),
                percent(blame.permille(blame.ns(Kind::Blocked)))
            ));
            finding
        })
        .collect()
}
