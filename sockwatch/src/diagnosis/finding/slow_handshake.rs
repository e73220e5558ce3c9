//! Handshakes are slow, and accept() is not: SYN-ACKs or the ACKs to them get lost, or the clients are late on purpose.

use super::{Finding, Name, Place, Scene};
use crate::diagnosis::{
    measure::Measured,
    words::{Grouped, count, place, time},
};

/// One in so many.
const SHARE: u64 = 20;

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.listeners.iter().filter_map(finding).collect()
}

/// Whether handshakes are slow, and the queue has no part in it.
pub(super) fn is_slow(listener: &Measured) -> bool {
    let slow = listener.slow_handshakes;
    // A last ACK that a full queue drops has its SYN-ACK sent again, too.
    let by_queue = listener.turned_away() > 0 || listener.is_slow();
    !by_queue && slow >= 2 && slow.saturating_mul(SHARE) >= listener.arrived
}

/// How long they took, where one was measured: one that needs another SYN-ACK is not while connections are counted.
pub(super) fn handshakes(listener: &Measured) -> Option<String> {
    let handshake = listener.handshake?;
    let (p50, p99, max) = (time(handshake.p50_ns), time(handshake.p99_ns), time(handshake.max_ns));
    Some(format!("handshakes: p50 {p50}, p99 {p99}, max {max}"))
}

fn finding(listener: &Measured) -> Option<Finding> {
    let slow = listener.slow_handshakes;
    if !is_slow(listener) || listener.defers_s.is_some() {
        return None;
    }
    let sentence = format!(
        "{}: {} of {} took a second or more, or needed another SYN-ACK: that is the way to the clients, not accept()",
        place(listener),
        Grouped(slow),
        count(listener.arrived, "handshake")
    );
    let mut evidence: Vec<_> = handshakes(listener).into_iter().collect();
    evidence.push(format!("{} needed another SYN-ACK", count(listener.retransmitted_handshakes, "handshake")));
    if listener.unanswered > 0 {
        evidence.push(format!("{} had not answered by the end", count(listener.unanswered, "client")));
    }
    let rules_out = listener.wait.map(|wait| {
        format!("accept(): connections waited {} (p50), {} (max) for it", time(wait.p50_ns), time(wait.max_ns))
    });
    Some(Finding {
        name: Name::SlowHandshake,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out: rules_out.into_iter().collect(),
        fix: vec![
            "look for loss between here and the clients: nstat -az TcpRetransSegs, ethtool -S, firewalls on the way back".into(),
            "with TCP_DEFER_ACCEPT a handshake lasts until the client's first data, by design".into(),
        ],
        hurt: slow,
    })
}
