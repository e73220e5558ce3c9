//! A process that has accepted connections, and does not read what has come: slow at recv(), not at accept().

use std::collections::BTreeMap;

use super::{Finding, Name, Scene};
use crate::{
    diagnosis::{
        look::{Group, Seen},
        words::{Grouped, count, time},
    },
    tcp::state::TcpState,
};

/// Fewer than this may have their reasons.
const LEAST: usize = 3;

/// One in so many of a group's connections.
const SHARE: u64 = 20;

/// What a client leaves unread on purpose is less: a TLS session ticket, a peer's last words.
const LITTLE_BYTES: u32 = 16 << 10;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    let unread = |seen: &Seen<'_>| {
        let least = match seen.group {
            Group::Served { .. } => 1,
            Group::Opened { .. } => LITTLE_BYTES,
        };
        let is_open = seen.now.state == TcpState::Established && seen.owner().is_some();
        is_open && seen.now.unread_bytes >= least && lain_ns(scene, seen) >= scene.stuck_ns()
    };
    let groups = scene.looked.by_group(unread);
    groups.into_iter().filter_map(|(group, unread)| finding(scene, group, &unread)).collect()
}

/// How long something has lain unread, at least: since the last of it came, or, if nothing was read between the looks, since the
/// first.
fn lain_ns(scene: &Scene<'_>, seen: &Seen<'_>) -> u64 {
    let since_last_ns = seen.now.flow.map_or(0, |flow| u64::from(flow.last_received_ms) * 1_000_000);
    let stood_still = seen.before.is_some_and(|before| {
        before.unread_bytes > 0 && before.flow.is_some() && before.consumed_bytes() == seen.now.consumed_bytes()
    });
    since_last_ns.max(if stood_still { scene.looked.apart_ns } else { 0 })
}

fn finding(scene: &Scene<'_>, group: Group, unread: &[Seen<'_>]) -> Option<Finding> {
    let of = scene.looked.size(group);
    if unread.len() < LEAST || (unread.len() as u64).saturating_mul(SHARE) < of {
        return None;
    }
    let bytes: u64 = unread.iter().map(|seen| u64::from(seen.now.unread_bytes)).sum();
    let longest_ns = unread.iter().map(|seen| lain_ns(scene, seen)).max().unwrap_or(0);
    let mut processes = BTreeMap::new();
    for owner in unread.iter().filter_map(Seen::owner) {
        processes.entry(owner.pid).or_insert((owner, 0_u64)).1 += 1;
    }
    let mut processes: Vec<_> = processes.into_values().collect();
    processes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let (who, _) = *processes.first()?;
    let others = match processes.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let sentence = format!(
        "{group}: {} are not read by {who}{others}: {} lie in their receive queues, the longest for {} at least",
        count(unread.len() as u64, "connection"),
        count(bytes, "byte"),
        time(longest_ns)
    );
    let never = unread.iter().filter(|seen| seen.now.consumed_bytes() == Some(0)).count() as u64;
    let growing = unread.iter().filter(|seen| seen.before.is_some_and(|it| it.unread_bytes < seen.now.unread_bytes));
    let (both, grew) = (unread.iter().filter(|seen| seen.before.is_some()).count() as u64, growing.count() as u64);
    let mut evidence = vec![
        format!(
            "{} of {} there have unread data, all of it for {} or more",
            unread.len(),
            count(of, "connection"),
            time(scene.stuck_ns())
        ),
        format!("{} were accepted and never read from", Grouped(never)),
    ];
    if both > 0 {
        evidence.push(format!(
            "{} were there {} before: {} of these have more unread now",
            Grouped(both),
            time(scene.looked.apart_ns),
            Grouped(grew)
        ));
    }
    let each = processes.iter().take(4).map(|(task, count)| format!("{task} {}", Grouped(*count)));
    evidence.push(format!("by process: {}", each.collect::<Vec<_>>().join(", ")));
    let mut rules_out = vec!["the network and the peers: the data is here, only recv() is missing".to_owned()];
    let listener = scene.listener_of(group);
    if let Some(first) = listener.and_then(|listener| listener.reads?.first) {
        evidence.push(format!(
            "{} were read from, {} after accept() (p50), {} (max)",
            Grouped(first.count),
            time(first.p50_ns),
            time(first.max_ns)
        ));
    }
    let listener = listener.and_then(|listener| Some((listener, listener.wait?)));
    if let Some((_, wait)) = listener.filter(|(listener, _)| !listener.is_slow()) {
        rules_out.push(format!(
            "accept(): connections waited {} (p50), {} (max) for it",
            time(wait.p50_ns),
            time(wait.max_ns)
        ));
    }
    Some(Finding {
        name: Name::SlowReader,
        place: group.place(),
        sentence,
        evidence,
        rules_out,
        fix: vec![
            format!("see what {who} does instead of recv(): perf trace -p {}, /proc/{}/stack", who.pid, who.pid),
            "more workers, or fewer connections accepted at once: what is accepted should be served".into(),
            "a proxy that waits for its own upstream looks the same: then that is the one to look at".into(),
        ],
        hurt: unread.len() as u64,
    })
}
