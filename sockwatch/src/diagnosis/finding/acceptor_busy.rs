//! The thread that should accept runs something else, or was woken and handles other events first.

use super::{
    Finding, Name, Scene,
    acceptor::{self, Culprit},
};
use crate::diagnosis::{blame::Kind, words::percent};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let busy = acceptor::because_of(scene, found, &[Kind::Busy, Kind::Draining]);
    busy.map(|(listener, blame, part)| {
        let share = percent(blame.permille(part.ns));
        let is_draining = blame.ns(Kind::Draining) > part.ns / 2;
        let ran = if is_draining { "handled other events first" } else { "ran something else" };
        let (did, first) = match acceptor::culprit(&part) {
            Some(Culprit { thread, place, ns, is_alone }) => (
                if is_alone {
                    format!("{share} of that time {thread} {ran}, mostly {place}")
                } else {
                    let there = percent(blame.permille(ns));
                    format!("{share} of that time its acceptors {ran}, {there} {place}")
                },
                format!("move {place} out of {thread}, or make it quicker"),
            ),
            None => (
                format!("{share} of that time its acceptor {ran}"),
                "see what it runs: perf top -p PID".into(),
            ),
        };
        let accept_first = "accept before the other events of a round are handled: then nobody waits for them".into();
        let more = "or accept in more threads or processes, as long as there are CPUs for them".into();
        let fix = is_draining.then_some(accept_first).into_iter().chain([first, more]).collect();
        let mut finding = acceptor::finding(Name::AcceptorBusy, scene, listener, blame, &did, fix);
        finding.evidence.splice(1..1, acceptor::causes(blame, &part, "ran"));
        finding.evidence.extend(is_draining.then(|| {
            "it asked for events (epoll_wait, poll, ...) while somebody waited, and accepted nobody until it had handled others"
                .into()
        }));
        finding.rules_out.extend(acceptor::not_cpu(blame));
        finding
    })
    .collect()
}
