//! Handshakes last until the clients send: the listener asked for that.

use super::{Finding, Name, Place, Scene, slow_handshake};
use crate::diagnosis::{
    measure::Measured,
    words::{Grouped, count, place, time},
};

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    scene.listeners.iter().filter_map(finding).collect()
}

fn finding(listener: &Measured) -> Option<Finding> {
    let limit = listener.defers_s.filter(|_| slow_handshake::is_slow(listener))?;
    let sentence = format!(
        "{}: {} of {} took a second or more, or needed another SYN-ACK: with TCP_DEFER_ACCEPT they last until the client sends",
        place(listener),
        Grouped(listener.slow_handshakes),
        count(listener.arrived, "handshake")
    );
    let rules_out = listener.wait.map(|wait| {
        format!("accept(): connections waited {} (p50), {} (max) for it", time(wait.p50_ns), time(wait.max_ns))
    });
    Some(Finding {
        name: Name::DeferAccept,
        place: Place::from(listener),
        sentence,
        evidence: [
            Some(format!(
                "TCP_DEFER_ACCEPT of this listener is {limit} s: it ignores the ACK of a client that has sent nothing"
            )),
            slow_handshake::handshakes(listener),
            Some("how much of that is the client's silence, and how much the network, is not told apart".into()),
        ]
        .into_iter()
        .flatten()
        .collect(),
        rules_out: rules_out.into_iter().collect(),
        fix: vec![
            "nothing, if clients may be silent: no worker waits for them".into(),
            "take the option away (nginx: `deferred`) where the server is to speak first, or clients connect ahead of need".into(),
        ],
        hurt: listener.slow_handshakes,
    })
}
