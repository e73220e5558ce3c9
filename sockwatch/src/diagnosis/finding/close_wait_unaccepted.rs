//! Connections in `CLOSE_WAIT` that no process has: their clients gave up in the accept queue.

use super::{Finding, Name, Place, Scene};
use crate::diagnosis::{
    measure::Measured,
    words::{count, place, time},
};

pub(super) fn check(scene: &Scene<'_>, _found: &[Finding]) -> Vec<Finding> {
    let open = scene.listeners.iter().filter(|listener| !listener.is_closed);
    open.filter_map(|listener| finding(scene, listener)).collect()
}

fn finding(scene: &Scene<'_>, listener: &Measured) -> Option<Finding> {
    let left = listener.left;
    if left.half_closed_now == 0 || left.longest_half_closed_ns < scene.stuck_ns() {
        return None;
    }
    let sentence = format!(
        "{}: {} in CLOSE_WAIT without a process: closed by the client, and still in the accept queue",
        place(listener),
        count(left.half_closed_now, "connection")
    );
    Some(Finding {
        name: Name::CloseWaitUnaccepted,
        place: Place::from(listener),
        sentence,
        evidence: vec![
            format!("the oldest of these FINs came {} ago", time(left.longest_half_closed_ns)),
            format!("they take {} of {} places in the queue", left.half_closed_now, listener.still_waiting),
        ],
        rules_out: vec!["a process that forgets close(): none has a descriptor of them yet".into()],
        fix: vec!["accept them: nothing else takes them out of the queue, but the end of the listener".into()],
        hurt: left.half_closed_now,
    })
}
