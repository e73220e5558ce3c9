//! The step to `CLOSE`: how a connection ended, and what the kernel leaves of it.

use super::{Tracked, Tracker};
use crate::tcp::{
    close::{Before, Ending, is_made_by_task, verdict, verdict_without_evidence},
    connection::Role,
    event::{CloseEvidence, Event, SocketKey, Task},
    minisock::{Minisock, TIME_WAIT_NS},
    state::TcpState,
    update::{Subject, Update},
};

impl Tracker {
    pub(super) fn closing(
        &mut self,
        key: SocketKey,
        event: &Event,
        old: TcpState,
        current: Task,
        evidence: Option<&CloseEvidence>,
        updates: &mut Vec<Update>,
    ) {
        let Some(connection) = self.moving(key, event, (old, TcpState::Close), updates) else { return };
        let was_held = old.has_sent_fin() || evidence.is_some_and(CloseEvidence::was_held);
        if was_held && connection.is_queued() {
            self.accepted_unseen(key, event.at_ns);
        }
        let Some(Tracked { connection, .. }) = self.sockets.get_mut(&key) else { return };
        // Of one that was there before, whose listener may be one of several, its file tells.
        let unheld = connection.role == Role::Unknown && connection.ownership.held_by().is_none();
        let queued = unheld || connection.is_queued();
        let newborn = connection.is_newborn(event.at_ns);
        let before = Before { queued, newborn, reset_sent: connection.has_reset_in_state() };
        let ending = match evidence {
            Some(evidence) => Some(verdict(old, evidence, before)),
            None => verdict_without_evidence(old, connection.resets.received != 0),
        };
        if ending == Some(Ending::ListenerClosed) {
            connection.role = Role::Passive;
        }
        let by = ending.is_some_and(|ending| is_made_by_task(ending, evidence)).then_some(current);
        let by = by.filter(|task| !task.is_kernel_worker());
        connection.ownership.closer = connection.ownership.closer.or(by);
        // A close() of a socket that is closed already says nothing new.
        if connection.ended_ns.is_none() || old != TcpState::Close {
            connection.ending = ending;
            connection.evidence = evidence.copied();
            connection.ended_ns = Some(event.at_ns);
            self.settle(key, event.at_ns);
        }
        self.leave_queue(key, event.at_ns, ending);
        self.step(key, event, (old, TcpState::Close), by, updates);
        self.leave_minisock(key, event.at_ns, updates);
    }

    /// The kernel replaces a socket that closed first by a minisock. Where it may be out of them, the next listing tells.
    fn leave_minisock(&mut self, key: SocketKey, at_ns: u64, updates: &mut Vec<Update>) {
        let Some(tracked) = self.sockets.get(&key) else { return };
        let connection = &*tracked.connection;
        let orphans_ns = connection.evidence.map_or(0, |evidence| u64::from(evidence.fin_timeout_ms) * 1_000_000);
        let (state, lasts_ns) = match connection.ending {
            _ if connection.ended_ns != Some(at_ns) => return,
            Some(Ending::LocalFin | Ending::BothFin) => (TcpState::TimeWait, Some(TIME_WAIT_NS)),
            // Longer ones stay sockets until the last 60 s (`tcp_close`).
            Some(Ending::Orphaned) => {
                (TcpState::FinWait2, (orphans_ns != 0 && orphans_ns <= TIME_WAIT_NS).then_some(orphans_ns))
            }
            _ => return,
        };
        let mut minisock = Minisock::new(Subject::from(connection), state, at_ns, lasts_ns);
        minisock.doubtful = self.crowds.is_full(key.netns);
        self.admit_minisock(minisock, updates);
    }
}
