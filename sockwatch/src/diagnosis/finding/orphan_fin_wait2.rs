//! Peers that do not close: this end's process has closed, the peer has acknowledged the FIN, and sends none.

use std::collections::BTreeMap;

use super::{Finding, Name, Scene};
use crate::{
    diagnosis::{
        look::{Group, Kept, Seen},
        words::{Grouped, count, percent, time},
    },
    tcp::state::TcpState,
};

/// A few are normal: a peer needs some time to see that it should close.
const LEAST: usize = 10;

/// As many as these of those that ended, in percent.
const SHARE: u64 = 10;

/// A peer may be busy for so long before it looks.
const PATIENCE_NS: u64 = 1_000_000_000;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    let orphans = |seen: &Seen<'_>| {
        let is_orphan = matches!(seen.now.kept, Kept::Minisock | Kept::Orphan);
        is_orphan && seen.now.state == TcpState::FinWait2 && age_ns(scene, seen) >= PATIENCE_NS
    };
    let groups = scene.looked.by_group(orphans);
    groups.into_iter().filter_map(|(group, orphans)| finding(scene, group, &orphans)).collect()
}

/// How long it waits, at least.
fn age_ns(scene: &Scene<'_>, seen: &Seen<'_>) -> u64 {
    let told = scene.endings.orphaned_ns(seen.now.key).map(|since_ns| scene.now_ns.saturating_sub(since_ns));
    let listed = if seen.stays() { scene.looked.apart_ns } else { 0 };
    told.unwrap_or(0).max(listed)
}

fn finding(scene: &Scene<'_>, group: Group, orphans: &[Seen<'_>]) -> Option<Finding> {
    // What was there before the run may be the last of something that is over. The first look may come after the first events.
    let is_new = |seen: &&Seen<'_>| seen.before.is_none() || scene.endings.orphaned_ns(seen.now.key).is_some();
    let new = orphans.iter().filter(is_new).count();
    let ended = scene.ended(group).map_or(0, |ended| ended.count);
    if new < LEAST || (new as u64).saturating_mul(100) < ended.saturating_mul(SHARE) {
        return None;
    }
    let oldest_ns = orphans.iter().map(|seen| age_ns(scene, seen)).max().unwrap_or(0);
    let sentence = format!(
        "{group}: {} closed here wait for a FIN that their peers do not send (FIN_WAIT2 without a process), the oldest for {} at least",
        count(orphans.len() as u64, "connection"),
        time(oldest_ns)
    );
    let share = (new as u64).saturating_mul(1000) / ended.max(1);
    let mut evidence = vec![
        format!("{} of them came during the run of {}", Grouped(new as u64), time(scene.ran_ns)),
        format!("{} ended during the run: these are {} of them", count(ended, "connection"), percent(share.min(1000))),
        format!(
            "each has waited {} or more: the peer's kernel has acknowledged our FIN, its process has not closed",
            time(PATIENCE_NS)
        ),
    ];
    evidence.push(format!("their peers: {}", peers(orphans)));
    Some(Finding {
        name: Name::OrphanFinWait2,
        place: group.place(),
        sentence,
        evidence,
        rules_out: vec![
            "a process here that forgets close(): none has them any more".into(),
            "TIME_WAIT: the peer's FIN has not come, so that has not begun".into(),
            "the network: the peer's kernel has acknowledged the FIN".into(),
        ],
        fix: vec![
            "let the peer close when its read() returns 0: there these connections are in CLOSE_WAIT".into(),
            "pools of clients keep idle connections that the server has closed: let them give up idle ones sooner than the server does".into(),
            "until then net.ipv4.tcp_fin_timeout (60 s), or TCP_LINGER2 for one socket, is how long each stays".into(),
        ],
        hurt: orphans.len() as u64,
    })
}

/// The addresses with most of them.
fn peers(orphans: &[Seen<'_>]) -> String {
    const TOLD: usize = 3;
    let mut by_address = BTreeMap::new();
    orphans.iter().for_each(|seen| *by_address.entry(seen.now.remote.address).or_insert(0_u64) += 1);
    let mut peers: Vec<_> = by_address.into_iter().collect();
    peers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut words: Vec<_> =
        peers.iter().take(TOLD).map(|(peer, count)| format!("{peer} {}", Grouped(*count))).collect();
    if let more @ 1.. = peers.len().saturating_sub(TOLD) {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}
