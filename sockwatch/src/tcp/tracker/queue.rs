//! A child's way through its listener's accept queue.

use super::{Tracker, learn_tuple};
use crate::tcp::{
    connection::{Queued, Role},
    event::{Event, SocketKey, Task},
    state::TcpState,
    update::{Happening, Subject, Update},
};

impl Tracker {
    pub(super) fn enqueue(
        &mut self,
        key: SocketKey,
        event: &Event,
        listener: Option<u64>,
        synack_at_ns: Option<u64>,
        synack_retransmits: u32,
        updates: &mut Vec<Update>,
    ) {
        let listener = listener.map(|listener| self.our_name_of(listener, key, event));
        let listener_owner = listener.and_then(|listener| self.listener_owner(key, listener));
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let connection = &mut *tracked.connection;
        // A birth up to 6.12 at least tells neither the remote end nor, below a wildcard listener, the local address.
        if let Some(tuple) = event.tuple {
            learn_tuple(connection, tuple);
        }
        let known_before = connection.ownership.listener.is_some();
        connection.ownership.listener = listener.or(connection.ownership.listener);
        connection.ownership.listener_owner = listener_owner;
        let mut handshake_ns = None;
        if let Some(queued) = &mut connection.queued {
            // With Fast Open the child is born at the SYN, before its SYN-ACK: there is no handshake to wait for.
            handshake_ns = synack_at_ns.and_then(|synack| Some(queued.at_ns?.checked_sub(synack)?.cast_signed()));
            queued.handshake_ns = handshake_ns;
            queued.synack_retransmits = synack_retransmits;
        }
        let queue = connection.queued.and_then(|queued| queued.depth.zip(queued.limit));
        let happening = Happening::Enqueued { listener, queue, handshake_ns, synack_retransmits };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&*connection), happening });
        if !known_before {
            self.admit_to_queue(key);
        }
    }

    pub(super) fn accept(
        &mut self,
        key: SocketKey,
        event: &Event,
        by: Task,
        fd: Option<i32>,
        listener: Option<u64>,
        updates: &mut Vec<Update>,
    ) {
        // A child from before we looked: its state is in no event, and the accept is all that we know of it.
        let known = self.sockets.contains_key(&key);
        let Some(connection) = self.existing(key, event, TcpState::Established, updates) else { return };
        if connection.role == Role::Unknown {
            connection.role = Role::Passive;
        }
        if !known {
            connection.queued = Some(Queued::default());
        }
        let listener = match (connection.ownership.listener.or(listener), connection.birth_seen, connection.local) {
            (None, false, local) => self.listener_at(key.netns, local),
            (listener, _, _) => listener.map(|listener| self.our_name_of(listener, key, event)),
        };
        let Some(connection) = self.sockets.get_mut(&key).map(|tracked| &mut *tracked.connection) else { return };
        connection.ownership.acceptor = Some(by);
        connection.ownership.fd = fd;
        connection.ownership.listener = connection.ownership.listener.or(listener);
        let listener = connection.ownership.listener;
        let (mut wait_ns, mut known_before) = (None, false);
        if let Some(queued) = &mut connection.queued {
            known_before = std::mem::take(&mut queued.accepted_unseen);
            queued.accepted_ns = Some(event.at_ns);
            wait_ns = queued.wait_ns();
        }
        let dead_on_arrival = connection.state == TcpState::Close;
        let happening = Happening::Accepted { by, fd, listener, wait_ns };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&*connection), happening });
        if !known_before {
            self.accept_from_queue(key, event.at_ns);
        }
        if dead_on_arrival {
            self.settle(key, event.at_ns);
        }
    }

    /// The descriptor of an accept; the accept itself may have been lost.
    pub(super) fn accept_return(&mut self, key: SocketKey, at_ns: u64, fd: i32) {
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let was_queued = tracked.connection.is_queued();
        tracked.connection.ownership.fd = Some(fd);
        if was_queued {
            self.accept_from_queue(key, at_ns);
        }
    }
}
