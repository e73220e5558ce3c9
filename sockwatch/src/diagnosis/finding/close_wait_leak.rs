//! A server's process keeps connections that its clients have closed.

use super::{Finding, Name, Place, Scene};
use crate::diagnosis::{
    close_wait::Leak,
    words::{Grouped, count, time},
};

/// Fewer than this may have their reasons.
const LEAST: usize = 3;

/// A process may be busy for so long before it looks.
const PATIENCE_NS: u64 = 1_000_000_000;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.close_waits.iter().filter_map(|leak| finding(scene, leak)).collect()
}

/// How many came during the run and stayed, and that as a rate: of those that came last nobody knows whether they stay.
fn growth(scene: &Scene<'_>, leak: &Leak, long_ns: u64) -> String {
    let stayed = leak.new_ns.iter().filter(|age_ns| **age_ns >= long_ns).count() as u64;
    let in_ns = scene.ran_ns.saturating_sub(long_ns).max(1);
    let in_a_minute = u128::from(stayed) * 60_000_000_000 / u128::from(in_ns);
    format!(
        "{} of them came during the run: {} more a minute, if it goes on so",
        Grouped(stayed),
        Grouped(u64::try_from(in_a_minute).unwrap_or(u64::MAX))
    )
}

fn finding(scene: &Scene<'_>, leak: &Leak) -> Option<Finding> {
    let long_ns = PATIENCE_NS.max(scene.slow_ns).max(scene.ran_ns / 2);
    let old = leak.ages_ns.iter().take_while(|age_ns| **age_ns >= long_ns).count();
    if old < LEAST {
        return None;
    }
    let oldest_ns = leak.ages_ns.first().copied()?;
    let Leak { owner, local, netns, .. } = *leak;
    // Those that it has opened itself have many ports.
    let (whose, filter) = match local.port {
        0 => ("servers", format!("--pid {}", owner.pid)),
        port => ("clients", format!("--local-port {port}")),
    };
    let sentence = format!(
        "{owner} keeps {} at {local} that their {whose} have closed (CLOSE_WAIT), the oldest for {} at least",
        count(leak.count, "connection"),
        time(oldest_ns)
    );
    Some(Finding {
        name: Name::CloseWaitLeak,
        place: Place { netns, cookie: None, local },
        sentence,
        evidence: vec![
            format!("{old} have been in CLOSE_WAIT for more than {} of a run of {}", time(long_ns), time(scene.ran_ns)),
            format!("half of all for {} or more", time(leak.ages_ns[leak.ages_ns.len() / 2])),
            growth(scene, leak, long_ns),
        ],
        rules_out: vec![
            "connections that nobody has accepted: these have a process".into(),
            "the network and the peers: the FIN has come, only close() is missing".into(),
        ],
        fix: vec![
            format!("close a connection when read() returns 0: sockwatch list {filter} shows each"),
            "a peer that only half-closes and reads on looks the same: then it is no leak".into(),
        ],
        hurt: old as u64,
    })
}
