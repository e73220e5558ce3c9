//! The thread that should accept is blocked in something else.

use super::{
    Finding, Name, Scene,
    acceptor::{self, Culprit},
};
use crate::diagnosis::{
    blame::{Attribution, Kind, Part},
    measure::Measured,
    words::percent,
};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let blocked = acceptor::because_of(scene, found, &[Kind::Blocked]);
    let blocked = blocked.filter(|(_, _, part)| acceptor::stopped(part).is_none());
    let finding = |(listener, blame, part): (&Measured, &Attribution, Part)| {
        let share = percent(blame.permille(part.ns));
        let (did, fix) = match acceptor::culprit(&part) {
            Some(Culprit { thread, place, ns, is_alone }) => (
                if is_alone {
                    format!("{share} of that time {thread} was blocked in {place}")
                } else {
                    let there = percent(blame.permille(ns));
                    format!("{share} of that time its acceptors were blocked, {there} in {place}")
                },
                format!("let {thread} accept and nothing else: what {place} waits for belongs into another thread"),
            ),
            None => (
                format!("{share} of that time its acceptor was blocked, never for a millisecond at once"),
                "let it accept in a thread that does nothing else".into(),
            ),
        };
        let waits_for_events =
            part.causes.first().and_then(|cause| cause.stack.as_ref()).is_some_and(|it| it.waits_for_events());
        let mut fixes =
            vec![fix, "or accept in more threads or processes: then one that is blocked keeps nobody".into()];
        if waits_for_events {
            fixes.insert(
                0,
                "it waits for other events while a connection waits: let its event loop watch this listener".into(),
            );
        }
        let mut finding = acceptor::finding(Name::AcceptorBlocked, scene, listener, blame, &did, fixes);
        finding.evidence.splice(1..1, acceptor::causes(blame, &part, "blocked in"));
        finding.rules_out.extend(acceptor::not_cpu(blame));
        finding
    };
    blocked.map(finding).collect()
}
