//! Connections that end by RST, by whom and why.

use super::{Finding, Name, Scene};
use crate::diagnosis::{
    endings::{Ended, Why},
    look::Group,
    words::{Grouped, count, percent},
};

/// Fewer are no pattern.
const LEAST: u64 = 5;

/// One in so many of those that ended.
const SHARE: u64 = 20;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    let served = |group| matches!(group, Group::Served { .. });
    let (ours, theirs): (Vec<_>, Vec<_>) = scene.ended.iter().partition(|ended| served(ended.group));
    let mut findings: Vec<_> = ours.into_iter().filter_map(finding).collect();
    // Of a connection between two ends of this host the server's tells it.
    let told: Vec<_> = findings.iter().map(|finding| (finding.place.netns, finding.place.local)).collect();
    let is_told = |group: Group| match group {
        Group::Opened { netns, remote, .. } => told.contains(&(netns, remote)),
        Group::Served { .. } => false,
    };
    findings.extend(theirs.into_iter().filter(|ended| !is_told(ended.group)).filter_map(finding));
    findings
}

fn finding(ended: &Ended) -> Option<Finding> {
    let Ended { group, count: of, resets, checks } = ended;
    let all: u64 = resets.iter().map(|reset| reset.count).sum();
    if all < LEAST || all.saturating_mul(SHARE) < *of {
        return None;
    }
    let first = resets.first()?;
    let share = percent(all.saturating_mul(1000) / (*of).max(1));
    let mostly = if resets.len() > 1 { "mostly " } else { "" };
    let sentence = format!(
        "{group}: {} of {} ({share}) ended by RST, {mostly}because {}",
        Grouped(all),
        count(*of, "connection"),
        first.why.words()
    );
    let mut evidence: Vec<_> = resets
        .iter()
        .map(|reset| format!("{}: {}, as in: {}", Grouped(reset.count), reset.why.words(), reset.example))
        .collect();
    if *checks > 0 {
        evidence.push(format!(
            "{} by clients that never sent or got a byte, or left before accept(): not counted",
            Grouped(*checks)
        ));
    }
    let ours: u64 = resets.iter().filter(|reset| reset.why.is_ours()).map(|reset| reset.count).sum();
    let rules_out = match ours {
        0 => Some("a program here that resets: every RST came from the peer"),
        ours if ours == all => Some("the peers and the network: every RST was sent from here"),
        _ => None,
    };
    let mut fix: Vec<String> = resets.iter().take(2).map(|reset| cure(reset.why).to_owned()).collect();
    fix.push(format!("sockwatch trace {} --why tells each one", group.filter()));
    Some(Finding {
        name: Name::Resets,
        place: group.place(),
        sentence,
        evidence,
        rules_out: rules_out.into_iter().map(str::to_owned).collect(),
        fix,
        hurt: all,
    })
}

/// What to change.
const fn cure(why: Why) -> &'static str {
    match why {
        Why::Unread => {
            "read to the end of what the peer sends before close(): what is left unread makes the kernel send a RST, and the peer may lose the answer"
        }
        Why::LingerZero => {
            "do not close with SO_LINGER 0: what is on its way is thrown away; TIME_WAIT is no reason for it"
        }
        Why::Disconnected => "connect() to AF_UNSPEC resets an open connection: shut it down and close it first",
        Why::DataAfterClose => "close only when the peer has finished: shutdown(SHUT_WR), read until 0, then close()",
        Why::Unqueued => "empty the accept queue before the listener is closed, or pass it on to the next process",
        Why::ThisEnd => "see why this end resets: the sentence above, and `sockwatch explain aborted`",
        Why::Peer => {
            "see the peer's side: a client that gives up, a proxy's timeout, or a firewall that answers in its place"
        }
        Why::PeerAfterClose => "the peer closed with unread data, or its process was gone: see its side",
        Why::Refused => "nobody listens there: start the server, or correct the address",
    }
}
