//! Connections whose peer has gone without a word: what was sent is retransmitted in vain, and the process does not know.

use super::{Finding, Name, Scene, is_many};
use crate::{
    diagnosis::{
        look::{Group, Seen, TimerKind},
        words::{Grouped, count, time},
    },
    tcp::state::TcpState,
};

/// So often in vain, and so long without a sign: a moment's loss is shorter.
const ATTEMPTS: u8 = 4;
const SILENT_MS: u32 = 5_000;

/// Idle for so long, a peer that is gone would not be noticed.
const IDLE_MS: u32 = 60_000;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    let groups = scene.looked.by_group(is_silent);
    groups.into_iter().filter_map(|(group, silent)| finding(scene, group, &silent)).collect()
}

fn is_silent(seen: &Seen<'_>) -> bool {
    let (Some(timer), Some(flow)) = (seen.now.timer, seen.now.flow) else { return false };
    let in_vain = matches!(timer.kind, TimerKind::Retransmit | TimerKind::ZeroWindowProbe);
    let is_open = seen.now.state == TcpState::Established && seen.owner().is_some();
    let silent_ms = flow.last_ack_ms.min(flow.last_received_ms);
    is_open && in_vain && timer.attempts >= ATTEMPTS && silent_ms >= SILENT_MS
}

/// Open, idle, and nothing that would notice the peer's end.
fn is_unwatched(seen: &Seen<'_>) -> bool {
    let idle = seen.now.flow.is_some_and(|flow| flow.last_received_ms.min(flow.last_sent_ms) >= IDLE_MS);
    seen.now.state == TcpState::Established && seen.owner().is_some() && seen.now.timer.is_none() && idle
}

fn finding(scene: &Scene<'_>, group: Group, silent: &[Seen<'_>]) -> Option<Finding> {
    let all = silent.len() as u64;
    if !is_many(all, scene.looked.size(group)) {
        return None;
    }
    let flows = || silent.iter().filter_map(|seen| seen.now.flow);
    let ms = |ms: u32| time(u64::from(ms) * 1_000_000);
    let longest = flows().map(|flow| flow.last_ack_ms.min(flow.last_received_ms)).max().unwrap_or(0);
    let unacked: u64 = silent.iter().map(|seen| u64::from(seen.now.unacked_bytes)).sum();
    let attempts = silent.iter().filter_map(|seen| seen.now.timer).map(|timer| u64::from(timer.attempts)).max();
    let who = silent.iter().find_map(Seen::owner)?;
    let sentence = format!(
        "{group}: the peers of {} of {who} give no sign, the longest for {}, while it still waits for them",
        count(all, "open connection"),
        ms(longest)
    );
    let mut evidence = vec![
        format!(
            "{} not acknowledged, up to {} or probes in vain",
            count(unacked, "byte"),
            count(attempts.unwrap_or(0), "retransmission")
        ),
        format!("none has heard anything for {}", ms(flows().map(|it| it.last_ack_ms.min(it.last_received_ms)).min()?)),
    ];
    let unwatched = scene.looked.all.iter().filter(|seen| seen.group == group && is_unwatched(seen)).count() as u64;
    if unwatched > 0 {
        evidence.push(format!(
            "{} more are idle for {} and longer without keepalive: if their peers were gone, nothing would tell",
            Grouped(unwatched),
            ms(IDLE_MS)
        ));
    }
    Some(Finding {
        name: Name::DeadPeer,
        place: group.place(),
        sentence,
        evidence,
        rules_out: vec![
            "a peer that only does not read: its kernel would still acknowledge, or answer probes of its window".into(),
            "keepalive: it rests while something is not acknowledged, so it would not have ended them sooner".into(),
        ],
        fix: vec![
            "set TCP_USER_TIMEOUT (tcp_user_timeout, in ms) on these connections: it bounds how long data may stay without an answer".into(),
            "net.ipv4.tcp_retries2 (15: some 15 minutes) is the bound without it".into(),
            "for idle connections SO_KEEPALIVE with TCP_KEEPIDLE of a minute or so".into(),
        ],
        hurt: all,
    })
}
