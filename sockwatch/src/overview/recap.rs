//! What there is already, told as updates: for one who begins to look in the middle of a run.

use crate::{
    sink::{Sight, selected::Selection},
    tcp::{
        connection::Connection,
        state::TcpState,
        tracker::{Kind, Living},
        update::{Happening, Subject, Update},
    },
};

/// Tells of every socket that passes that it is listed, of every listener how its queue is, and of every child in a queue when it
/// entered.
pub(super) fn recap(sight: &Sight<'_>, selection: &mut Selection, take: &mut impl FnMut(&Update)) {
    let is_listener = |living: &Living<'_>| matches!(living.kind, Kind::Listener(_));
    let now_ns = sight.now_ns;
    let mut passes = |living: &Living<'_>| selection.admits(&living.subject, now_ns);
    for living in sight.tracker.living(now_ns).filter(is_listener).filter(&mut passes) {
        let Kind::Listener(figures) = living.kind else { continue };
        let queue = figures.and_then(|figures| Some((figures.depth, figures.totals.limit?)));
        tell(take, now_ns, living.subject, Happening::Listed { state: living.state, queue, expires_ns: None });
        if let Some(figures) = figures {
            tell(take, now_ns, living.subject, Happening::Queue(Box::new(figures)));
        }
    }
    for living in sight.tracker.living(now_ns).filter(|living| !is_listener(living)).filter(&mut passes) {
        match living.kind {
            Kind::Queued(connection) => wait(take, living.subject, connection),
            Kind::Minisock { expires_ns } => {
                let expires_ns = Some(expires_ns);
                tell(take, now_ns, living.subject, Happening::Listed { state: living.state, queue: None, expires_ns });
            }
            _other => {
                let listed = Happening::Listed { state: living.state, queue: None, expires_ns: None };
                tell(take, now_ns, living.subject, listed);
            }
        }
    }
}

/// A child's way into the queue, and its client's out of it.
fn wait(take: &mut impl FnMut(&Update), subject: Subject, connection: &Connection) {
    let Some(queued) = connection.queued else { return };
    let entered_ns = queued.at_ns.unwrap_or(connection.first_seen_ns);
    tell(take, entered_ns, subject, transition(TcpState::Listen, TcpState::SynRecv));
    let (listener, queue) = (connection.ownership.listener, queued.depth.zip(queued.limit));
    let enqueued = Happening::Enqueued { listener, queue, handshake_ns: None, synack_retransmits: 0 };
    tell(take, entered_ns, subject, enqueued);
    if let Some(left_ns) = queued.left_ns {
        tell(take, left_ns, subject, transition(TcpState::Established, connection.state));
    }
}

fn transition(old: TcpState, new: TcpState) -> Happening {
    Happening::Transition { old, new, lasted_ns: None, by: None, sampled_ns: None }
}

fn tell(take: &mut impl FnMut(&Update), at_ns: u64, subject: Subject, happening: Happening) {
    take(&Update { at_ns, subject, happening });
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tcp::{notation, tracker::Tracker};

    /// What is told to one who comes so many milliseconds after a lab's beginning: times in microseconds, by socket.
    #[track_caller]
    fn check(lab: &str, after_ms: u64, expected: &[&str]) {
        let text = fs::read_to_string(format!("{}/tests/labs/{lab}.events", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let (mut tracker, mut updates, now_ns) = (Tracker::default(), Vec::new(), after_ms * 1_000_000);
        for event in text.lines().map(|line| notation::parse(line).unwrap()).filter(|event| event.at_ns <= now_ns) {
            tracker.apply(&event, &mut updates);
        }
        let mut told = Vec::new();
        let sight = Sight { now_ns, tracker: &tracker, is_last: false };
        recap(&sight, &mut Selection::default(), &mut |update| {
            let what = match &update.happening {
                Happening::Listed { state, queue, .. } => format!("is {state} {queue:?}"),
                Happening::Queue(figures) => format!("queue {} since {:?} ns", figures.depth, figures.oldest),
                Happening::Transition { old, new, .. } => format!("{old}>{new}"),
                Happening::Enqueued { listener, queue, .. } => format!("waits at {listener:?} {queue:?}"),
                other => panic!("{other:?}"),
            };
            told.push((update.subject.key.cookie, format!("{} {what}", update.at_ns / 1000)));
        });
        // Sockets come in no order.
        told.sort_by_key(|(cookie, _)| *cookie);
        let told: Vec<_> = told.iter().map(|(cookie, what)| format!("{cookie} at {what}")).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn who_comes_later_is_told_who_waits_and_since_when() {
        let listener = ["1 at 5000 is LISTEN Some((1, 128))", "1 at 5000 queue 1 since Some(Exactly(4711412)) ns"];
        let waits = ["3 at 288 LISTEN>SYN_RECV", "3 at 288 waits at Some(1) Some((0, 128))"];
        check("queue-fin", 5, &[&listener[..], &["2 at 5000 is ESTABLISHED None"], &waits].concat());
    }

    #[test]
    fn a_client_that_has_left_is_told_too() {
        let listener = ["1 at 50000 is LISTEN Some((1, 128))", "1 at 50000 queue 1 since Some(Exactly(49711412)) ns"];
        let left = [
            "2 at 50000 is FIN_WAIT2 None",
            "3 at 288 LISTEN>SYN_RECV",
            "3 at 288 waits at Some(1) Some((0, 128))",
            "3 at 6431 ESTABLISHED>CLOSE_WAIT",
        ];
        check("queue-fin", 50, &[&listener[..], &left].concat());
    }

    #[test]
    fn of_what_has_ended_nothing_is_told() {
        check("queue-fin", 300, &["2 at 300000 is TIME_WAIT None"]);
    }
}
