//! The queue overflowed although accepts come quickly: a burst was larger than the backlog, or all come faster than they are
//! accepted, and the backlog is so short that nobody waits for long.

use super::{Finding, Name, Place, Scene, depth, dropped, is_explained, overflow, rates, waits};
use crate::diagnosis::{
    measure::Measured,
    words::{count, place, time},
};

pub(super) fn check(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let is_its_own = |listener: &&Measured| listener.is_somaxconn != Some(true) && !is_explained(listener, found);
    scene.listeners.iter().filter(is_its_own).filter_map(finding).collect()
}

/// The same for a limit that is `somaxconn`.
pub(super) fn finding(listener: &Measured) -> Option<Finding> {
    let away = listener.turned_away();
    if away == 0 || listener.accepted == 0 {
        return None;
    }
    let limit = listener.limit?;
    let sentence =
        format!("{}: the accept queue overflowed at {limit}, and {} dropped", place(listener), dropped(away));
    let mut evidence = vec![depth(listener)];
    evidence.extend(overflow(listener));
    evidence.push(format!(
        "the whole network namespace: {} at full accept queues",
        count(listener.namespace.overflows, "drop")
    ));
    evidence.push(rates(listener));
    evidence.extend(waits(listener));
    let enough = would_have_held(listener)?;
    let longer = [
        format!("listen() with {enough} or more, net.core.somaxconn no lower, and restart"),
        "nginx: listen ... backlog=; others call it backlog, too".into(),
    ];
    let (sentence, rules_out, fix) = if listener.is_overloaded() {
        let kept = match listener.is_counted {
            true => "the queue was half full at least".to_owned(),
            false => format!("somebody waited for {} of the run", time(listener.busy_ns)),
        };
        evidence.push(format!(
            "clients were turned away in {}, and {kept}: no burst, accept() does not keep up",
            count(listener.dropping_s, "second")
        ));
        let more = "accept in more threads or processes, or do less before the next accept(): a longer queue alone fills, too, and \
                    lets those in it wait"
            .to_owned();
        let [longer, nginx] = longer;
        (
            format!("{sentence}: clients come faster than they are accepted"),
            Vec::new(),
            vec![more, format!("for bursts besides: {longer}"), nginx],
        )
    } else {
        evidence.push(format!("a backlog of {enough} would have held the largest burst, tries again included"));
        (sentence, vec!["accept() that is too slow: those who were let in did not wait long".into()], longer.to_vec())
    };
    Some(Finding {
        name: Name::QueueTooSmall,
        place: Place::from(listener),
        sentence,
        evidence,
        rules_out,
        fix,
        hurt: away,
    })
}

/// The backlog that would have held what was dropped at once. Tries again within a look at the counters count twice, so it is
/// rather too long than too short.
pub(super) fn would_have_held(listener: &Measured) -> Option<u64> {
    let limit = u64::from(listener.limit?);
    let burst = listener.drops_at_once.max(listener.overflows.min(listener.turned_away()));
    Some((limit + 1 + burst).next_power_of_two())
}
