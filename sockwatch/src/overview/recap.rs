//! What there is already, told as updates: for one who begins to look in the middle of a run.

use crate::{
    sink::Sight,
    tcp::{
        connection::Connection,
        state::TcpState,
        tracker::{Kind, Living},
        update::{Happening, Subject, Update},
    },
};

/// Tells of every socket that it is listed, of every listener how its queue is, and of every child in a queue when it entered.
pub(super) fn recap(sight: &Sight<'_>, take: &mut impl FnMut(&Update)) {
    let is_listener = |living: &Living<'_>| matches!(living.kind, Kind::Listener(_));
    let now_ns = sight.now_ns;
    for living in sight.tracker.living(now_ns).filter(is_listener) {
        let Kind::Listener(figures) = living.kind else { continue };
        let queue = figures.and_then(|figures| Some((figures.depth, figures.totals.limit?)));
        tell(take, now_ns, living.subject, Happening::Listed { state: living.state, queue });
        if let Some(figures) = figures {
            tell(take, now_ns, living.subject, Happening::Queue(Box::new(figures)));
        }
    }
    for living in sight.tracker.living(now_ns).filter(|living| !is_listener(living)) {
        match living.kind {
            Kind::Queued(connection) => wait(take, living.subject, connection),
            _other => tell(take, now_ns, living.subject, Happening::Listed { state: living.state, queue: None }),
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
