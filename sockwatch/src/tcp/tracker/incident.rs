//! What happens to a socket, or to the minisock that it left, without being a transition.

use super::Tracker;
use crate::tcp::{
    connection::{Connection, RESET_BELONGS_NS, Role},
    event::{Event, Incident, SocketKey},
    minisock::{Minisock, MinisockEnd, TIME_WAIT_NS},
    state::TcpState,
    update::{Happening, Subject, Update},
};

impl Tracker {
    /// Resets, retransmissions and drops: noted with their connection, and told even where there is none.
    pub(super) fn incident(&mut self, key: SocketKey, event: &Event, incident: Incident, updates: &mut Vec<Update>) {
        if self.minisock_incident(key, event, incident, updates) {
            return;
        }
        let connection = self.sockets.get_mut(&key).map(|tracked| &mut *tracked.connection);
        let mut stranger = None;
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let Some(tuple) = event.tuple else { return };
                stranger.insert(Connection::new(key, Role::Unknown, tuple, TcpState::Close, event.at_ns))
            }
        };
        let mut overflows = false;
        let happening = match incident {
            Incident::AcceptFailed { by, errno } => Happening::AcceptFailed { by, errno },
            Incident::ResetSent { reason, .. } => {
                connection.note_reset_sent(event.at_ns);
                Happening::ResetSent { reason }
            }
            Incident::ResetReceived => {
                connection.resets.received += 1;
                Happening::ResetReceived
            }
            Incident::Retransmit => {
                connection.retransmits += 1;
                Happening::Retransmitted { count: connection.retransmits }
            }
            Incident::SynAckRetransmit => {
                let Some((_, client)) = event.tuple else { return };
                Happening::SynAckRetransmitted { client }
            }
            Incident::ListenOverflow => {
                overflows = connection.role == Role::Listener;
                Happening::ListenOverflow
            }
            Incident::MinisockSegment { state } => {
                let subject = Subject::from(&*connection);
                return self.adopt_minisock(subject, event.at_ns, state, updates);
            }
        };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&*connection), happening });
        if overflows && let Some(queue) = self.queue(key) {
            queue.overflow();
        }
    }

    /// A minisock that was there before we looked.
    fn adopt_minisock(&mut self, subject: Subject, at_ns: u64, state: TcpState, updates: &mut Vec<Update>) {
        updates.push(Update { at_ns, subject, happening: Happening::MinisockSegment });
        let lasts_ns = match state {
            TcpState::TimeWait => Some(TIME_WAIT_NS),
            TcpState::FinWait2 => None,
            // The segment has ended it.
            _ => return,
        };
        let mut minisock = Minisock::new(subject, state, at_ns, lasts_ns);
        minisock.adopted = true;
        self.admit_minisock(minisock, updates);
    }

    /// What happens to a minisock: a segment may end it, prolong it, or be the FIN that an orphan was waiting for. Returns
    /// whether that is all that is to be said.
    fn minisock_incident(
        &mut self,
        key: SocketKey,
        event: &Event,
        incident: Incident,
        updates: &mut Vec<Update>,
    ) -> bool {
        let Some(minisock) = self.minisocks.of(key, event.tuple) else {
            // The segment that a minisock's RST has answered: it ended with that.
            let segment = matches!(incident, Incident::MinisockSegment { .. });
            return segment && self.minisocks.takes_answered(event.at_ns, key, event.tuple);
        };
        let at_ns = event.at_ns;
        let (tuple, subject) = (minisock.tuple(), minisock.subject);
        match incident {
            // The full socket's: it was aborted, and left no minisock after all.
            Incident::ResetSent { minisock: false, .. } => {
                if minisock.state == TcpState::FinWait2 && at_ns.saturating_sub(minisock.since_ns) < RESET_BELONGS_NS {
                    self.minisocks.remove(&tuple);
                }
                false
            }
            Incident::ResetSent { reason, minisock: true } => {
                self.depart(subject.key, updates);
                updates.push(Update { at_ns, subject, happening: Happening::ResetSent { reason } });
                self.end_minisock(&tuple, at_ns, MinisockEnd::Reset, updates);
                self.minisocks.note_reset(at_ns, subject.key, (subject.local, subject.remote));
                true
            }
            Incident::MinisockSegment { state } => {
                self.depart(subject.key, updates);
                updates.push(Update { at_ns, subject, happening: Happening::MinisockSegment });
                let Some(minisock) = self.minisocks.of(key, event.tuple) else { return true };
                match state {
                    TcpState::Close => self.end_minisock(&tuple, at_ns, MinisockEnd::Reset, updates),
                    TcpState::TimeWait => updates.extend(minisock.wait(at_ns)),
                    _ => {}
                }
                true
            }
            Incident::AcceptFailed { .. }
            | Incident::ResetReceived
            | Incident::Retransmit
            | Incident::SynAckRetransmit
            | Incident::ListenOverflow => false,
        }
    }
}
