//! What polling shows: a sample, taken at its word.

use super::Tracker;
use crate::tcp::{
    connection::Queued,
    event::{Event, SocketKey},
    state::TcpState,
    update::{Happening, Subject, Update},
};

impl Tracker {
    /// A listing: what it shows replaces what we believed, within the time since the listing before.
    pub(super) fn listed(
        &mut self,
        key: SocketKey,
        event: &Event,
        state: TcpState,
        queue: Option<(u32, u32)>,
        interval_ns: u64,
        updates: &mut Vec<Update>,
    ) {
        let at_ns = event.at_ns;
        let known = self.sockets.contains_key(&key);
        let Some(connection) = self.moving(key, event, (state, state), updates) else { return };
        let sampled_ns = (interval_ns != u64::MAX).then_some(interval_ns);
        connection.sampled_ns = connection.sampled_ns.max(sampled_ns.or(Some(0)));
        if let Some((depth, limit)) = queue {
            let (depth, limit) = (Some(depth), Some(limit));
            connection.queued = Some(Queued { at_ns: Some(at_ns), depth, limit, ..Queued::default() });
        }
        let happening = if !known || connection.state == state {
            if sampled_ns.is_some() && !known {
                connection.birth_seen = true;
                connection.state_since_ns = Some(at_ns);
            }
            Happening::Listed { state, queue, expires_ns: None }
        } else {
            let old = connection.state;
            let lasted_ns = connection.enter(state, at_ns);
            Happening::Transition { old, new: state, lasted_ns, by: None, sampled_ns }
        };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
    }

    pub(super) fn unlisted(&mut self, key: SocketKey, at_ns: u64, interval_ns: u64, updates: &mut Vec<Update>) {
        let Some(mut tracked) = self.take_out(key) else { return };
        let connection = &mut *tracked.connection;
        connection.sampled_ns = connection.sampled_ns.max(Some(interval_ns));
        let (old, new) = (connection.state, TcpState::Close);
        let lasted_ns = connection.vanish(at_ns);
        let happening = Happening::Transition { old, new, lasted_ns, by: None, sampled_ns: Some(interval_ns) };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        tracked.report_last(at_ns, updates);
    }
}
