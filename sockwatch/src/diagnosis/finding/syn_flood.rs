//! More SYNs came than a listener may keep requests: a flood, or a burst of honest clients and a backlog that is too small.

use super::{Finding, Name, Place, Scene};
use crate::diagnosis::{
    look::{Kept, Seen},
    measure::Measured,
    words::{Grouped, count, place, time},
};

/// Fewer SYNs are no pattern.
const LEAST: u64 = 5;

/// Who answers SYN-ACKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Hardly anybody.
    Nobody,
    /// Most.
    Most,
    /// It does not show.
    Unknown,
}

/// Requests of a listener that are not finished.
#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    all: u64,
    /// Those whose SYN-ACK was sent again.
    again: u64,
}

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    // Where the last ACKs of honest clients find the accept queue full, their requests pile up: that is found already.
    let is_full = |listener: &Measured| {
        let is_about_it = |it: &&Finding| matches!(it.name, Name::QueueTooSmall | Name::Somaxconn);
        found.iter().filter(is_about_it).any(|it| it.place == Place::from(listener))
    };
    let mut seen = Vec::new();
    let mut findings = Vec::new();
    for listener in scene.listeners.iter().filter(|listener| !listener.is_closed && pressed(listener) >= LEAST) {
        // The counters are the namespace's: one finding, about the listener that most wait at.
        if seen.contains(&listener.netns) {
            continue;
        }
        seen.push(listener.netns);
        let here = scene.listeners.iter().filter(|it| it.netns == listener.netns && !it.is_closed);
        let most = here.max_by_key(|it| (requests(scene, it).all, it.unanswered, it.arrived, it.cookie));
        let is_burst = |most: &&Measured| is_full(most) && answer(most, requests(scene, most)) == Answer::Most;
        let most = most.filter(|most| !is_burst(most) && is_its(most, requests(scene, most)));
        findings.extend(most.map(|most| finding(scene, most)));
    }
    findings
}

/// SYNs that found too many requests waiting.
fn pressed(listener: &Measured) -> u64 {
    listener.namespace.cookies.saturating_add(listener.namespace.requests_full)
}

fn requests(scene: &Scene<'_>, listener: &Measured) -> Requests {
    let here = |seen: &&Seen<'_>| {
        let local = seen.now.local;
        let at = local == listener.local || local.at_any_address() == listener.local;
        seen.now.kept == Kept::Request && seen.now.key.netns == listener.netns && at
    };
    let mut requests = Requests::default();
    for seen in scene.looked.all.iter().filter(here) {
        requests.all += 1;
        requests.again += u64::from(seen.now.timer.is_some_and(|timer| timer.attempts > 0));
    }
    requests
}

/// Whether it is this listener at all: another of the namespace may be the one, which nobody looks at.
fn is_its(listener: &Measured, requests: Requests) -> bool {
    match answer(listener, requests) {
        Answer::Most => listener.arrived.saturating_mul(2) >= pressed(listener),
        Answer::Nobody | Answer::Unknown => requests.all > 0 || listener.unanswered > 0 || listener.is_counted,
    }
}

fn answer(listener: &Measured, requests: Requests) -> Answer {
    let (sent, received) = (listener.namespace.cookies_sent, listener.namespace.cookies_received);
    let Requests { all, again } = requests;
    match (sent, all) {
        (1.., _) if received.saturating_mul(2) >= sent => Answer::Most,
        (1.., _) if received.saturating_mul(10) < sent => Answer::Nobody,
        (1.., _) => Answer::Unknown,
        (0, 1..) if again.saturating_mul(2) >= all => Answer::Nobody,
        (0, 0) if listener.arrived >= pressed(listener) => Answer::Most,
        (0, _) => Answer::Unknown,
    }
}

fn finding(scene: &Scene<'_>, listener: &Measured) -> Finding {
    let (requests, namespace) = (requests(scene, listener), listener.namespace);
    let answer = answer(listener, requests);
    let said = match answer {
        Answer::Nobody => "and hardly anybody answers SYN-ACKs: a flood, or clients that these do not reach",
        Answer::Most => "and most clients answer: an honest burst, and a backlog that is too small",
        Answer::Unknown => "and whether it is a flood or honest clients does not show",
    };
    let sentence =
        format!("{}: {} found too many requests waiting, {said}", place(listener), count(pressed(listener), "SYN"));
    let limit =
        listener.limit.map_or(String::new(), |limit| format!(", and {} may (the backlog)", Grouped(limit.into())));
    let evidence = vec![
        format!(
            "the whole network namespace in {}: {} were answered with a cookie for that reason, {} were dropped",
            time(scene.ran_ns),
            count(namespace.cookies, "SYN"),
            Grouped(namespace.requests_full)
        ),
        format!(
            "{} sent in all, {} came back with an ACK",
            count(namespace.cookies_sent, "cookie"),
            Grouped(namespace.cookies_received)
        ),
        format!(
            "{} wait now in SYN_RECV{limit}; of these {} were sent another SYN-ACK in vain",
            count(requests.all, "request"),
            Grouped(requests.again)
        ),
        format!("{} finished their handshake", count(listener.arrived, "client")),
    ];
    let mut rules_out = Vec::new();
    if listener.turned_away() == 0 {
        rules_out.push("a full accept queue: who finishes the handshake finds a place".to_owned());
    }
    let backlog = "listen() with a longer backlog, and net.core.somaxconn no lower: it bounds requests, too".to_owned();
    let flood = "see whether the addresses in SYN_RECV are real, and filter a flood in front of this host".to_owned();
    let mut fix = match answer {
        Answer::Nobody => vec![flood, "if they are clients: see what drops SYN-ACKs or the ACKs to them".into()],
        Answer::Most => vec![backlog],
        Answer::Unknown => vec![flood, backlog],
    };
    if namespace.requests_full > 0 {
        fix.push("net.ipv4.tcp_syncookies=1: then SYNs are answered with a cookie instead of dropped".into());
    } else {
        fix.push("leave net.ipv4.tcp_syncookies on: honest clients get through by it".into());
    }
    Finding {
        name: Name::SynFlood,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out,
        fix,
        hurt: pressed(listener),
    }
}
