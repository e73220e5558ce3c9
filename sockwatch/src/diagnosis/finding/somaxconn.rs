//! The queue overflowed, and it is not longer because `net.core.somaxconn` does not allow it.

use super::{Finding, Name, Scene, is_explained, queue_too_small};
use crate::diagnosis::{measure::Measured, words::place};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let is_cut = |listener: &&Measured| listener.is_somaxconn == Some(true) && !is_explained(listener, found);
    let overflowed = scene.listeners.iter().filter(is_cut);
    let finding = |listener| {
        let small = queue_too_small::finding(listener)?;
        let limit = listener.limit?;
        let wanted = queue_too_small::would_have_held(listener)?;
        let more = small.fix.first().filter(|_| listener.is_overloaded()).cloned();
        Some(Finding {
            name: Name::Somaxconn,
            sentence: format!(
                "{}: the accept queue overflowed at {limit}, which is all that net.core.somaxconn allows: listen() asked for \
                 that or more",
                place(listener)
            ),
            fix: more
                .into_iter()
                .chain([
                    format!(
                        "sysctl net.core.somaxconn={wanted} in its network namespace, listen() with as much, and restart"
                    ),
                    "the limit is cut at listen(): a running server keeps the old one".into(),
                ])
                .collect(),
            ..small
        })
    };
    overflowed.filter_map(finding).collect()
}
