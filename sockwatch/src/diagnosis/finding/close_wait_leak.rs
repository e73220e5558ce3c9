//! A server's process keeps connections that its clients have closed.

use super::{Finding, Name, Place, Scene};
use crate::diagnosis::{
    close_wait::Leak,
    words::{count, time},
};

/// Fewer than this may have their reasons.
const LEAST: usize = 3;

/// A process may be busy for so long before it looks.
const PATIENCE_NS: u64 = 1_000_000_000;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.close_waits.iter().filter_map(|leak| finding(scene, leak)).collect()
}

fn finding(scene: &Scene<'_>, leak: &Leak) -> Option<Finding> {
    let long_ns = PATIENCE_NS.max(scene.slow_ns).max(scene.ran_ns / 2);
    let old = leak.ages_ns.iter().take_while(|age_ns| **age_ns >= long_ns).count();
    if old < LEAST {
        return None;
    }
    let oldest_ns = leak.ages_ns.first().copied()?;
    let Leak { owner, local, netns, .. } = *leak;
    let sentence = format!(
        "{owner} keeps {} at {local} that their clients have closed (CLOSE_WAIT), the oldest for {} at least",
        count(leak.count, "connection"),
        time(oldest_ns)
    );
    Some(Finding {
        name: Name::CloseWaitLeak,
        place: Place { netns, cookie: None, local },
        sentence,
        evidence: vec![
            format!("{old} have been in CLOSE_WAIT for more than {} of a run of {}", time(long_ns), time(scene.ran_ns)),
            format!("{} of {} came during the run", leak.new, leak.count),
        ],
        rules_out: vec![
            "connections that nobody has accepted: these have a process".into(),
            "the network and the clients: the FIN has come, only close() is missing".into(),
        ],
        fix: vec![
            format!("close a connection when read() returns 0: sockwatch list --local-port {} shows each", local.port),
            "a client that only half-closes and reads on looks the same: then it is no leak".into(),
        ],
        hurt: old as u64,
    })
}
