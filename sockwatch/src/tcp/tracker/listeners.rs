//! Accept queues: which child is in whose, and when they are told.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{NAMELESS, TOLERANCE_NS, Tracker};
use crate::tcp::{
    close::Ending,
    connection::{Connection, Role},
    endpoint::Endpoint,
    event::{Event, SocketKey, Task},
    queue::{AcceptQueue, Arrival, Leaving, QueueRecord, Verdict},
    state::TcpState,
    update::{Happening, Subject, Update},
};

/// Accept queues, by listener.
pub(super) type Queues = HashMap<SocketKey, AcceptQueue, FixedState>;

impl Tracker {
    /// A listener's queue. Without room there is none: then neither is there for its connections.
    pub(super) fn queue(&mut self, listener: SocketKey) -> Option<&mut AcceptQueue> {
        if !self.queues.contains_key(&listener) && self.queues.len() >= self.limit {
            return None;
        }
        self.stirred = true;
        let rounds = self.rounds_expected();
        Some(self.queues.entry(listener).or_insert_with(|| AcceptQueue::default().within(rounds)))
    }

    /// The queue of a listener whose listen() was seen.
    pub(super) fn begin_queue(&mut self, listener: SocketKey, limit: Option<u32>) {
        let rounds = self.rounds_expected();
        self.queues.insert(listener, AcceptQueue::begun(limit).within(rounds));
    }

    /// Who owns a child's listener.
    pub(super) fn listener_owner(&self, child: SocketKey, listener: u64) -> Option<Task> {
        let key = SocketKey { netns: child.netns, cookie: listener };
        self.sockets.get(&key)?.connection.ownership.owner()
    }

    /// The only listener whose child this local address can have: one at that address, else at all of its family.
    pub(super) fn listener_at(&self, netns: u32, local: Endpoint) -> Option<u64> {
        let at = |address: Endpoint| {
            let its = |key: &&SocketKey| {
                let listener = self.sockets.get(*key).map(|tracked| tracked.connection.local);
                key.netns == netns && listener == Some(address)
            };
            let mut sharing = self.queues.keys().filter(its);
            Some((sharing.next()?.cookie, sharing.next()))
        };
        let (listener, another) = at(local).or_else(|| at(local.at_any_address()))?;
        another.is_none().then_some(listener)
    }

    /// What this listener of a child is called here: where the state probe gives no cookies, others may still do.
    pub(super) fn our_name_of(&self, listener: u64, child: SocketKey, event: &Event) -> u64 {
        let is_tracked = |cookie| self.sockets.contains_key(&SocketKey { netns: child.netns, cookie });
        if self.by_address.is_empty() || is_tracked(listener) {
            return listener;
        }
        let known = self.sockets.get(&child).map(|tracked| tracked.connection.local);
        let local = event.tuple.map(|(local, _)| local).or(known);
        let named = local.and_then(|local| self.listener_at(child.netns, local));
        named.filter(|cookie| *cookie >= NAMELESS).unwrap_or(listener)
    }

    /// A child whose listener became known waits in its queue, or has been taken out of it already.
    pub(super) fn admit_to_queue(&mut self, key: SocketKey) {
        let Some((connection, listener)) = self.child(key) else { return };
        let Some(queued) = connection.queued else { return };
        let (waits, arrival) = (connection.is_queued(), arrival(connection.state));
        let (Some(entered_ns), Some(queue)) = (queued.at_ns, self.queue(listener)) else { return };
        queue.enter(entered_ns, key.cookie, queued.limit);
        if !waits {
            queue.accept(queued.accepted_ns.unwrap_or(entered_ns), Some(entered_ns), key.cookie, arrival);
        }
    }

    /// A child was accepted whose listener is known.
    pub(super) fn accept_from_queue(&mut self, key: SocketKey, at_ns: u64) {
        let Some((connection, listener)) = self.child(key) else { return };
        let (entered_ns, arrival) = (connection.queued.and_then(|queued| queued.at_ns), arrival(connection.state));
        if let Some(queue) = self.queue(listener) {
            queue.accept(at_ns, entered_ns, key.cookie, arrival);
        }
    }

    /// A child's client has left; that concerns the queue as long as nobody has accepted it.
    pub(super) fn client_left(&mut self, key: SocketKey, at_ns: u64, leaving: Leaving) {
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let connection = &mut tracked.connection;
        if !connection.is_queued() {
            return;
        }
        let Some(queued) = connection.queued.as_mut().filter(|queued| queued.left_ns.is_none()) else { return };
        queued.left_ns = Some(at_ns);
        let waited_ns = queued.waited_until_left_ns().unwrap_or(0);
        if let Some((_, listener)) = self.child(key)
            && let Some(queue) = self.queue(listener)
        {
            queue.leave(leaving, waited_ns);
        }
    }

    /// A child of which only its accept was seen turns out to have been in `CLOSE` then: it goes without a step to it, or no
    /// listing shows it. Returns whether it is one.
    pub(super) fn find_dead_on_arrival(&mut self, key: SocketKey) -> bool {
        let Some(tracked) = self.sockets.get_mut(&key).filter(|tracked| tracked.is_known_by_accept()) else {
            return false;
        };
        tracked.connection.state = TcpState::Close;
        if let Some((_, listener)) = self.child(key)
            && let Some(queue) = self.queues.get_mut(&listener)
        {
            queue.learn_dead();
            self.stirred = true;
        }
        true
    }

    /// A child goes to `CLOSE`.
    pub(super) fn leave_queue(&mut self, key: SocketKey, at_ns: u64, ending: Option<Ending>) {
        match ending {
            Some(Ending::ResetByPeer) => self.client_left(key, at_ns, Leaving::Rst),
            Some(Ending::ListenerClosed) => {
                if let Some((connection, listener)) = self.child(key)
                    && let Some(queued) = connection.queued
                    && let Some(queue) = self.queue(listener)
                {
                    queue.unqueue(at_ns, queued.at_ns, key.cookie);
                }
            }
            _not_by_others => {}
        }
    }

    /// A child is gone. If its accept was not seen, it leaves its queue now.
    pub(super) fn forget_queued(&mut self, child: &Connection) {
        let queued = child.queued.filter(|_| child.is_queued());
        if let (Some(listener), Some(queued)) = (child.ownership.listener, queued) {
            let listener = SocketKey { netns: child.key.netns, cookie: listener };
            if let Some(queue) = self.queues.get_mut(&listener) {
                let gone_ns = child.ended_ns.unwrap_or(child.first_seen_ns);
                queue.remove(gone_ns, queued.at_ns, child.key.cookie);
                self.stirred = true;
            }
        }
    }

    /// A child and its listener, where that is known.
    pub(super) fn child(&self, key: SocketKey) -> Option<(&Connection, SocketKey)> {
        let connection = &self.sockets.get(&key)?.connection;
        let cookie = connection.ownership.listener?;
        Some((connection, SocketKey { netns: key.netns, cookie }))
    }

    /// The kernel's word on a queue.
    pub(super) fn queue_found(
        &mut self,
        listener: SocketKey,
        record: &QueueRecord,
        verdict: Verdict,
        updates: &mut Vec<Update>,
    ) {
        let Some(queue) = self.queue(listener) else { return };
        let believed = queue.depth();
        queue.found(record, verdict, TOLERANCE_NS);
        if let (Verdict::Differs, Some(tracked)) = (verdict, self.sockets.get(&listener)) {
            let happening = Happening::QueueDisagreed { believed, found: record.depth };
            updates.push(Update { at_ns: record.to_ns, subject: Subject::from(&*tracked.connection), happening });
        }
    }

    /// A listener's owner is known only now: those who wait in its queue learn it.
    pub(super) fn name_waiting(&mut self, listener: SocketKey) {
        let owner = self.sockets.get(&listener).and_then(|tracked| tracked.connection.ownership.owner());
        let Some(queue) = self.queues.get(&listener) else { return };
        for cookie in queue.waiting() {
            if let Some(tracked) = self.sockets.get_mut(&SocketKey { netns: listener.netns, cookie }) {
                tracked.connection.ownership.listener_owner = owner;
            }
        }
    }

    /// Its holder is not who we believe: it was passed on, or its process runs another program; or nobody was known.
    pub(super) fn held(&mut self, key: SocketKey, at_ns: u64, by: Task, updates: &mut Vec<Update>) {
        self.accepted_unseen(key, at_ns);
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let connection = &mut *tracked.connection;
        let former = connection.ownership.held_by();
        match former {
            Some(_) => connection.ownership.heir = Some(by),
            None => connection.ownership.holder = Some(by),
        }
        let happening = Happening::Inherited { by, former };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        if connection.role == Role::Listener {
            self.name_waiting(key);
        }
    }

    /// A child was accepted, and the accept itself was not seen: by io_uring into a table of its own, over MPTCP, or an event
    /// was lost.
    pub(super) fn accepted_unseen(&mut self, key: SocketKey, at_ns: u64) {
        let Some(connection) = self.sockets.get_mut(&key).map(|tracked| &mut tracked.connection) else { return };
        let waits = connection.is_queued();
        let Some(queued) = connection.queued.as_mut().filter(|_| waits) else { return };
        queued.accepted_unseen = true;
        let (entered_ns, left) = (queued.at_ns, queued.left_ns.take());
        if let Some((_, listener)) = self.child(key)
            && let Some(queue) = self.queue(listener)
        {
            queue.accept_unseen(at_ns, entered_ns, key.cookie, left.map(|_| Leaving::Fin));
        }
    }

    /// Tells the queues that have news, each once a second at most.
    pub(super) fn tell_queues(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        if !self.stirred {
            return;
        }
        self.stirred = false;
        for (key, queue) in &mut self.queues {
            // Of a listener that is not followed only the connections are told.
            let Some(tracked) = self.sockets.get(key) else { continue };
            if let Some(figures) = queue.news(now_ns) {
                let subject = Subject::from(&*tracked.connection);
                updates.push(Update { at_ns: now_ns, subject, happening: Happening::Queue(Box::new(figures)) });
            }
            self.stirred |= queue.is_restless();
        }
    }

    /// Tells the queues that have changed, at the end.
    pub(super) fn tell_changed_queues(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        for (key, queue) in &mut self.queues {
            if let Some(tracked) = self.sockets.get(key)
                && let Some(figures) = queue.last_news(now_ns)
            {
                let subject = Subject::from(&*tracked.connection);
                updates.push(Update { at_ns: now_ns, subject, happening: Happening::Queue(Box::new(figures)) });
            }
        }
    }
}

/// A listener is over: what went through its queue goes with it.
pub(super) fn close_queue(queues: &mut Queues, listener: &mut Connection) {
    let queue = queues.remove(&listener.key);
    listener.accept_queue = queue.map(|queue| Box::new(queue.figures(listener.ended_ns.unwrap_or_default())));
}

fn arrival(state: TcpState) -> Arrival {
    match state {
        TcpState::Close => Arrival::Dead,
        TcpState::CloseWait => Arrival::HalfClosed,
        _still_open => Arrival::Open,
    }
}
