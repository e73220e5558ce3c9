//! Connections that this end has closed, and whose data or FIN the peer does not take: its window is closed, or it is silent.

use super::{Finding, Name, Scene, is_many};
use crate::{
    diagnosis::{
        look::{Group, Kept, Seen, TimerKind},
        words::{Grouped, count, time},
    },
    tcp::state::TcpState,
};

/// Looks that are closer prove nothing.
const APART_NS: u64 = 1_000_000_000;

/// A retransmission may be lost once.
const RETRANSMITS: u8 = 2;

/// Why it does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    WindowClosed,
    Silent,
}

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    let groups = scene.looked.by_group(|seen| scene.looked.apart_ns >= APART_NS && because(seen).is_some());
    groups.into_iter().filter_map(|(group, stuck)| finding(scene, group, &stuck)).collect()
}

fn because(seen: &Seen<'_>) -> Option<Because> {
    let (now, before) = (seen.now, seen.before?);
    let closing = matches!(now.state, TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck);
    if !closing || !seen.stays() || now.unacked_bytes != before.unacked_bytes {
        return None;
    }
    let timer = now.timer?;
    match timer.kind {
        TimerKind::ZeroWindowProbe => Some(Because::WindowClosed),
        TimerKind::Retransmit => (timer.attempts >= RETRANSMITS).then_some(Because::Silent),
        TimerKind::KeepAlive | TimerKind::Other => None,
    }
}

fn finding(scene: &Scene<'_>, group: Group, stuck: &[Seen<'_>]) -> Option<Finding> {
    let of = |why| stuck.iter().filter(|seen| because(seen) == Some(why)).count() as u64;
    let (closed, silent) = (of(Because::WindowClosed), of(Because::Silent));
    let all = closed + silent;
    let ended = scene.ended(group).map_or(0, |ended| ended.count);
    if !is_many(all, scene.looked.size(group).saturating_add(ended)) {
        return None;
    }
    let unacked: u64 = stuck.iter().map(|seen| u64::from(seen.now.unacked_bytes)).sum();
    let orphans = stuck.iter().filter(|seen| seen.now.kept == Kept::Orphan).count() as u64;
    let why = match (closed, silent) {
        (_, 0) => "their peers' windows are closed: the processes there do not read",
        (0, _) => "their peers do not answer",
        (_, _) => "some peers' windows are closed, others do not answer",
    };
    let sentence = format!(
        "{group}: {} closed here cannot end, with {} not acknowledged: {why}",
        count(all, "connection"),
        count(unacked, "byte")
    );
    let mut evidence = vec![
        format!("as much was not acknowledged {} ago: none of it has moved", time(scene.looked.apart_ns)),
        format!("{} have no process any more: the kernel keeps their data", Grouped(orphans)),
    ];
    let attempts = |why| {
        let timers = stuck.iter().filter(|seen| because(seen) == Some(why)).filter_map(|seen| seen.now.timer);
        timers.map(|timer| u64::from(timer.attempts)).max().unwrap_or(0)
    };
    if closed > 0 {
        evidence.push(format!("{}: the timer that probes a closed window (persist) runs", Grouped(closed)));
        if attempts(Because::WindowClosed) > 0 {
            evidence.push(format!("{} without an answer at most", count(attempts(Because::WindowClosed), "probe")));
        }
    }
    if silent > 0 {
        let most = count(attempts(Because::Silent), "retransmission");
        evidence.push(format!("{}: the retransmission timer runs, {most} without an answer at most", Grouped(silent)));
    }
    let mut rules_out = vec!["a process here that forgets close(): it has closed".to_owned()];
    if silent == 0 {
        rules_out.push("a network that loses packets: then the retransmission timer would run".into());
    }
    if closed == 0 {
        rules_out.push("a peer that does not read: then its window would be closed, and probed".into());
    }
    let mut fix = Vec::new();
    if closed > 0 {
        fix.push("let the peer's process read what it asked for, or close".to_owned());
        fix.push("a client that reads nothing on purpose ties up memory: give connections a TCP_USER_TIMEOUT, it goes on after close()".into());
    }
    if silent > 0 {
        fix.push("see whether the peers are gone, or what on the way drops their packets".into());
    }
    fix.push(
        "net.ipv4.tcp_orphan_retries bounds how long the kernel tries without a process; \
         `ss -K dst ADDRESS dport = PORT` ends one now"
            .into(),
    );
    Some(Finding { name: Name::StuckFinWait1, place: group.place(), sentence, evidence, rules_out, fix, hurt: all })
}
