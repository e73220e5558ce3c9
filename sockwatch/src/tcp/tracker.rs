//! Keeps every connection's timeline. Events in, updates out; nothing else moves it.
//!
//! Identity is (network namespace, cookie, incarnation). Addresses of `struct sock` are used only until a cookie is
//! known: they are reused within microseconds.

use std::collections::HashMap;

use super::{
    close::{Ending, is_made_by_task, verdict, verdict_without_evidence},
    connection::{Connection, Queued, Role},
    endpoint::Endpoint,
    event::{Certainty, CloseEvidence, Event, EventKind, Incident, SocketKey, Task},
    state::TcpState,
    update::{Happening, Subject, Update},
};

/// Sockets that are tracked at once at most.
pub const MAX_SOCKETS: usize = 1_000_000;

/// A socket that nobody destroys is reported as ended so long after its `CLOSE`: late resets have come by then.
const CLOSE_SETTLES_NS: u64 = 1_000_000_000;

/// A RST that explains an orphan's end follows its destroy within microseconds.
const RESET_FOLLOWS_NS: u64 = 1_000_000;

/// Set in the cookie of a socket that had none when it was first seen: the rest counts them. Cookies count from 1.
pub const NAMELESS: u64 = 1 << 63;

/// The state of all connections.
#[derive(Debug, Default)]
pub struct Tracker {
    sockets: HashMap<SocketKey, Tracked, foldhash::fast::FixedState>,
    /// Sockets whose cookie is not known yet, by address.
    by_address: HashMap<u64, SocketKey, foldhash::fast::FixedState>,
    /// First events that wait for the socket's name, by address.
    unnamed: HashMap<u64, Unnamed, foldhash::fast::FixedState>,
    /// Sockets that reached `CLOSE` and were not destroyed, in the order of their times.
    settling: std::collections::VecDeque<(u64, SocketKey, u32)>,
    /// Sockets that were destroyed and whose ending a RST may yet explain, in the order of their times.
    departing: std::collections::VecDeque<(u64, SocketKey, u32)>,
    /// How many sockets had no cookie.
    nameless: u64,
    unexpected: u64,
    repeated: u64,
    full: u64,
}

/// A child's first events without a cookie. Up to 6.12 at least a child has neither cookie nor remote end at its birth, and
/// a kprobe cannot ask for a cookie that nobody has asked for yet; microseconds later the socket has both.
#[derive(Debug, Default)]
struct Unnamed {
    birth: Option<Event>,
    enqueue: Option<Event>,
}

/// A connection, and whether its end was reported.
#[derive(Debug)]
struct Tracked {
    connection: Connection,
    reported: bool,
}

impl Tracker {
    /// Takes one event in, in the order of times, and appends what it means.
    pub fn apply(&mut self, event: &Event, updates: &mut Vec<Update>) {
        if event.key.cookie == 0 {
            match event.kind {
                EventKind::Birth { .. } => {
                    let forgotten = self.unnamed.insert(event.skaddr, Unnamed { birth: Some(*event), enqueue: None });
                    return self.take_unnamed(forgotten, None, updates);
                }
                EventKind::Enqueue { .. } => {
                    self.unnamed.entry(event.skaddr).or_default().enqueue = Some(*event);
                    return;
                }
                _ => {}
            }
        }
        if !self.unnamed.is_empty() {
            let unnamed = self.unnamed.remove(&event.skaddr);
            self.take_unnamed(unnamed, Some(event), updates);
        }
        self.take(event, updates);
    }

    /// First events, under the name that the socket's next event has.
    fn take_unnamed(&mut self, unnamed: Option<Unnamed>, next: Option<&Event>, updates: &mut Vec<Update>) {
        let Some(Unnamed { birth, enqueue }) = unnamed else { return };
        for event in [birth, enqueue].into_iter().flatten() {
            let key = next.map_or(event.key, |next| next.key);
            let tuple = next.and_then(|next| next.tuple).or(event.tuple);
            self.take(&Event { key, tuple, ..event }, updates);
        }
    }

    fn take(&mut self, event: &Event, updates: &mut Vec<Update>) {
        let key = self.identify(event);
        if event.certainty == Certainty::PerhapsRepeated && self.has_seen(key, event.kind) {
            self.repeated += 1;
            return;
        }
        match event.kind {
            EventKind::Opening { new, by, limit } => self.open(key, event, new, by, limit, updates),
            EventKind::Birth { queue } => self.birth(key, event, queue, updates),
            EventKind::Transition { old, new, by } => self.transition(key, event, (old, new), by, updates),
            EventKind::Closing { old, current, evidence } => {
                self.closing(key, event, old, current, evidence.as_ref(), updates);
            }
            EventKind::Enqueue { listener, synack_at_ns, synack_retransmits } => {
                self.enqueue(key, event, listener, synack_at_ns, synack_retransmits, updates);
            }
            EventKind::Accept { by, fd, listener } => self.accept(key, event, by, fd, listener, updates),
            EventKind::AcceptReturn { fd } => {
                if let Some(tracked) = self.sockets.get_mut(&key) {
                    tracked.connection.ownership.fd = Some(fd);
                }
            }
            EventKind::Destroy => self.destroy(key, event, updates),
            EventKind::Listed { state, queue, interval_ns } => {
                self.listed(key, event, state, queue, interval_ns, updates);
            }
            EventKind::Unlisted { interval_ns } => self.unlisted(key, event.at_ns, interval_ns, updates),
            EventKind::Incident(incident) => self.incident(key, event, incident, updates),
        }
    }

    /// Reports connections that reached `CLOSE` a while ago and that nobody destroyed: their descriptor is still open.
    /// `now_ns` comes from the event stream, never from the clock.
    pub fn expire(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        while let Some((at_ns, key, incarnation)) = self.departing.front().copied() {
            if at_ns.saturating_add(RESET_FOLLOWS_NS) > now_ns {
                break;
            }
            self.departing.pop_front();
            if self.sockets.get(&key).is_some_and(|tracked| tracked.connection.incarnation == incarnation)
                && let Some(tracked) = self.sockets.remove(&key)
            {
                tracked.report_last(at_ns, updates);
            }
        }
        while let Some((at_ns, key, incarnation)) = self.settling.front().copied() {
            if at_ns.saturating_add(CLOSE_SETTLES_NS) > now_ns {
                return;
            }
            self.settling.pop_front();
            if let Some(tracked) = self.sockets.get_mut(&key)
                && tracked.connection.incarnation == incarnation
                && !tracked.connection.is_queued()
            {
                tracked.report(now_ns.min(at_ns.saturating_add(CLOSE_SETTLES_NS)), updates);
            }
        }
    }

    /// How many sockets are tracked now.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether no socket is tracked.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Transitions that did not fit what we believed.
    pub fn unexpected(&self) -> u64 {
        self.unexpected
    }

    /// Events of relief programs that were repetitions.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Sockets that there was no room for.
    pub fn full(&self) -> u64 {
        self.full
    }

    /// The event's socket. One that had no cookie when it was first seen keeps an identity of our own until its destroy,
    /// by its address: one name in all of its updates.
    fn identify(&mut self, event: &Event) -> SocketKey {
        if event.key.cookie != 0 && self.by_address.is_empty() || event.skaddr == 0 {
            return event.key;
        }
        // A birth is another socket at this address, even if no destroy was seen of the one before.
        if !matches!(event.kind, EventKind::Birth { .. })
            && let Some(key) = self.by_address.get(&event.skaddr)
        {
            return *key;
        }
        if event.key.cookie != 0 {
            return event.key;
        }
        self.nameless += 1;
        let key = SocketKey { netns: event.key.netns, cookie: NAMELESS | self.nameless };
        self.by_address.insert(event.skaddr, key);
        key
    }

    /// Whether this event, which may be a repetition, is one: its step is in the timeline already.
    fn has_seen(&self, key: SocketKey, kind: EventKind) -> bool {
        let Some(tracked) = self.sockets.get(&key) else {
            // A destroy of a socket that is gone, or the first that we see of this one.
            return kind == EventKind::Destroy;
        };
        match kind {
            EventKind::Transition { old, new, .. } => tracked.connection.has_stepped(old, new),
            EventKind::Closing { old, .. } => tracked.connection.has_stepped(old, TcpState::Close),
            EventKind::Opening { new, .. } => tracked.connection.has_been(new),
            EventKind::Birth { .. } => tracked.connection.has_been(TcpState::SynRecv),
            EventKind::Enqueue { .. }
            | EventKind::Accept { .. }
            | EventKind::AcceptReturn { .. }
            | EventKind::Destroy
            | EventKind::Incident(_)
            | EventKind::Listed { .. }
            | EventKind::Unlisted { .. } => false,
        }
    }

    /// connect() or listen(): a new life, even where the socket had one before.
    fn open(
        &mut self,
        key: SocketKey,
        event: &Event,
        new: TcpState,
        by: Task,
        limit: Option<u32>,
        updates: &mut Vec<Update>,
    ) {
        let role = if new == TcpState::Listen { Role::Listener } else { Role::Active };
        let Some(mut connection) = self.born(key, event, role, new, updates) else { return };
        connection.ownership.opener = Some(by);
        connection.queued = limit.map(|_| Queued { at_ns: event.at_ns, limit, ..Queued::default() });
        self.admit(connection, event.at_ns, (TcpState::Close, new), Some(by), updates);
    }

    /// A child's first event.
    fn birth(&mut self, key: SocketKey, event: &Event, queue: Option<(u32, u32)>, updates: &mut Vec<Update>) {
        let Some(mut connection) = self.born(key, event, Role::Passive, TcpState::SynRecv, updates) else { return };
        let (depth, limit) = queue.unzip();
        connection.queued = Some(Queued { at_ns: event.at_ns, depth, limit, ..Queued::default() });
        self.admit(connection, event.at_ns, (TcpState::Listen, TcpState::SynRecv), None, updates);
    }

    /// A connection whose birth this event is. A former life of the same socket ends here.
    fn born(
        &mut self,
        key: SocketKey,
        event: &Event,
        role: Role,
        state: TcpState,
        updates: &mut Vec<Update>,
    ) -> Option<Connection> {
        let former = self.sockets.remove(&key);
        let incarnation = former.as_ref().map_or(0, |former| former.connection.incarnation + 1);
        if let Some(former) = former {
            former.report_last(event.at_ns, updates);
        } else if !self.has_room() {
            return None;
        }
        let mut connection = Connection::new(key, role, event.tuple?, state, event.at_ns);
        connection.incarnation = incarnation;
        connection.birth_seen = true;
        connection.state_since_ns = Some(event.at_ns);
        Some(connection)
    }

    /// Whether one more fits. Sockets whose end was told, and whose destroy was perhaps lost, make room first.
    fn has_room(&mut self) -> bool {
        if self.sockets.len() >= MAX_SOCKETS {
            self.sockets.retain(|_, tracked| !tracked.reported);
        }
        let fits = self.sockets.len() < MAX_SOCKETS;
        self.full += u64::from(!fits);
        fits
    }

    fn admit(
        &mut self,
        connection: Connection,
        at_ns: u64,
        (old, new): (TcpState, TcpState),
        by: Option<Task>,
        updates: &mut Vec<Update>,
    ) {
        let happening = Happening::Transition { old, new, lasted_ns: None, by, sampled_ns: None };
        updates.push(Update { at_ns, subject: Subject::from(&connection), happening });
        self.sockets.insert(connection.key, Tracked { connection, reported: false });
    }

    /// A transition of a socket that lives on.
    fn transition(
        &mut self,
        key: SocketKey,
        event: &Event,
        (old, new): (TcpState, TcpState),
        by: Option<Task>,
        updates: &mut Vec<Update>,
    ) {
        let Some(connection) = self.existing(key, event, old) else { return };
        if matches!(new, TcpState::FinWait1 | TcpState::LastAck) {
            connection.ownership.closer = connection.ownership.closer.or(by);
        }
        self.step(key, event, (old, new), by, updates);
    }

    fn closing(
        &mut self,
        key: SocketKey,
        event: &Event,
        old: TcpState,
        current: Task,
        evidence: Option<&CloseEvidence>,
        updates: &mut Vec<Update>,
    ) {
        let Some(connection) = self.existing(key, event, old) else { return };
        let ending = match evidence {
            Some(evidence) => Some(verdict(old, evidence, connection.is_queued())),
            None => verdict_without_evidence(old, connection.resets.received != 0),
        };
        let by = ending.is_some_and(|ending| is_made_by_task(ending, evidence)).then_some(current);
        connection.ownership.closer = connection.ownership.closer.or(by);
        // A close() of a socket that is closed already says nothing new.
        if connection.ended_ns.is_none() || old != TcpState::Close {
            connection.ending = ending;
            connection.evidence = evidence.copied();
            connection.ended_ns = Some(event.at_ns);
            self.settle(key, event.at_ns);
        }
        self.step(key, event, (old, TcpState::Close), by, updates);
    }

    fn settle(&mut self, key: SocketKey, at_ns: u64) {
        if let Some(tracked) = self.sockets.get(&key) {
            self.settling.push_back((at_ns, key, tracked.connection.incarnation));
        }
    }

    /// The socket's connection; adopted now, in the event's old state, if it was there before we looked.
    fn existing(&mut self, key: SocketKey, event: &Event, old: TcpState) -> Option<&mut Connection> {
        if !self.sockets.contains_key(&key) {
            if !self.has_room() {
                return None;
            }
            let role = if old == TcpState::Listen { Role::Listener } else { Role::Unknown };
            let connection = Connection::new(key, role, event.tuple?, old, event.at_ns);
            self.sockets.insert(key, Tracked { connection, reported: false });
        }
        let connection = &mut self.sockets.get_mut(&key)?.connection;
        if let Some(tuple) = event.tuple {
            learn_tuple(connection, tuple);
        }
        Some(connection)
    }

    fn step(
        &mut self,
        key: SocketKey,
        event: &Event,
        (old, new): (TcpState, TcpState),
        by: Option<Task>,
        updates: &mut Vec<Update>,
    ) {
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let connection = &mut tracked.connection;
        let at_ns = event.at_ns;
        if connection.state != old || !old.can_become(new) {
            self.unexpected += 1;
            let happening = Happening::Unexpected { believed: connection.state, old };
            updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        }
        let lasted_ns = connection.enter(new, at_ns);
        let happening = Happening::Transition { old, new, lasted_ns, by, sampled_ns: None };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
    }

    fn enqueue(
        &mut self,
        key: SocketKey,
        event: &Event,
        listener: Option<u64>,
        synack_at_ns: Option<u64>,
        synack_retransmits: u32,
        updates: &mut Vec<Update>,
    ) {
        let listener_owner = listener.and_then(|listener| self.listener_owner(key, listener));
        let Some(tracked) = self.sockets.get_mut(&key) else { return };
        let connection = &mut tracked.connection;
        // A birth up to 6.12 at least tells neither the remote end nor, below a wildcard listener, the local address.
        if let Some(tuple) = event.tuple {
            learn_tuple(connection, tuple);
        }
        connection.ownership.listener = listener;
        connection.ownership.listener_owner = listener_owner;
        let mut handshake_ns = None;
        if let Some(queued) = &mut connection.queued {
            // With Fast Open the child is born at the SYN, before its SYN-ACK: there is no handshake to wait for.
            handshake_ns = synack_at_ns.and_then(|synack| Some(queued.at_ns.checked_sub(synack)?.cast_signed()));
            queued.handshake_ns = handshake_ns;
            queued.synack_retransmits = synack_retransmits;
        }
        let queue = connection.queued.and_then(|queued| queued.depth.zip(queued.limit));
        let happening = Happening::Enqueued { listener, queue, handshake_ns, synack_retransmits };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&*connection), happening });
    }

    fn listener_owner(&self, child: SocketKey, listener: u64) -> Option<Task> {
        let key = SocketKey { netns: child.netns, cookie: listener };
        self.sockets.get(&key)?.connection.ownership.opener
    }

    fn accept(
        &mut self,
        key: SocketKey,
        event: &Event,
        by: Task,
        fd: Option<i32>,
        listener: Option<u64>,
        updates: &mut Vec<Update>,
    ) {
        // A child from before we looked: its state is in no event, and the accept is all that we know of it.
        let Some(connection) = self.existing(key, event, TcpState::Established) else { return };
        if connection.role == Role::Unknown {
            connection.role = Role::Passive;
        }
        connection.ownership.acceptor = Some(by);
        connection.ownership.fd = fd;
        connection.ownership.listener = connection.ownership.listener.or(listener);
        let listener = connection.ownership.listener;
        let mut wait_ns = None;
        if let Some(queued) = &mut connection.queued {
            queued.accepted_ns = Some(event.at_ns);
            wait_ns = queued.wait_ns();
        }
        let dead_on_arrival = connection.state == TcpState::Close;
        let happening = Happening::Accepted { by, fd, listener, wait_ns };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&*connection), happening });
        if dead_on_arrival {
            self.settle(key, event.at_ns);
        }
    }

    /// Resets, retransmissions and drops: noted with their connection, and told even where there is none.
    fn incident(&mut self, key: SocketKey, event: &Event, incident: Incident, updates: &mut Vec<Update>) {
        let connection = self.sockets.get_mut(&key).map(|tracked| &mut tracked.connection);
        let mut stranger = None;
        let connection = match connection {
            Some(connection) => connection,
            None => {
                let Some(tuple) = event.tuple else { return };
                stranger.insert(Connection::new(key, Role::Unknown, tuple, TcpState::Close, event.at_ns))
            }
        };
        let happening = match incident {
            Incident::AcceptFailed { by, errno } => Happening::AcceptFailed { by, errno },
            Incident::ResetSent { reason } => {
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
            Incident::ListenOverflow => Happening::ListenOverflow,
            Incident::TimeWaitDrop => Happening::TimeWaitDrop,
        };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&*connection), happening });
    }

    fn destroy(&mut self, key: SocketKey, event: &Event, updates: &mut Vec<Update>) {
        self.by_address.remove(&event.skaddr);
        if let Some(Tracked { connection, .. }) = self.sockets.get(&key)
            && connection.ending_after_reset() != connection.ending
        {
            self.departing.push_back((event.at_ns, key, connection.incarnation));
            return;
        }
        if let Some(tracked) = self.sockets.remove(&key) {
            tracked.report_last(event.at_ns, updates);
        }
    }

    /// A listing: what it shows replaces what we believed, within the time since the listing before.
    fn listed(
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
        let Some(connection) = self.existing(key, event, state) else { return };
        let sampled_ns = (interval_ns != u64::MAX).then_some(interval_ns);
        connection.sampled_ns = connection.sampled_ns.max(sampled_ns.or(Some(0)));
        if let Some((depth, limit)) = queue {
            let (depth, limit) = (Some(depth), Some(limit));
            connection.queued = Some(Queued { at_ns, depth, limit, ..Queued::default() });
        }
        let happening = if !known || connection.state == state {
            if sampled_ns.is_some() && !known {
                connection.birth_seen = true;
                connection.state_since_ns = Some(at_ns);
            }
            Happening::Listed { state, queue }
        } else {
            let old = connection.state;
            let lasted_ns = connection.enter(state, at_ns);
            Happening::Transition { old, new: state, lasted_ns, by: None, sampled_ns }
        };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
    }

    fn unlisted(&mut self, key: SocketKey, at_ns: u64, interval_ns: u64, updates: &mut Vec<Update>) {
        let Some(mut tracked) = self.sockets.remove(&key) else { return };
        let connection = &mut tracked.connection;
        connection.sampled_ns = connection.sampled_ns.max(Some(interval_ns));
        connection.ending = Some(Ending::Vanished);
        connection.ended_ns = Some(at_ns);
        let (old, new) = (connection.state, TcpState::Close);
        let lasted_ns = connection.enter(new, at_ns);
        let happening = Happening::Transition { old, new, lasted_ns, by: None, sampled_ns: Some(interval_ns) };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        tracked.report_last(at_ns, updates);
    }
}

impl Tracked {
    /// Tells the end, unless it was told, of a socket that is gone: without a copy, it happens for every connection.
    fn report_last(self, at_ns: u64, updates: &mut Vec<Update>) {
        if self.reported {
            return;
        }
        let subject = Subject::from(&self.connection);
        updates.push(Update { at_ns, subject, happening: Happening::Ended(Box::new(self.connection)) });
    }

    /// Tells the end, once.
    fn report(&mut self, at_ns: u64, updates: &mut Vec<Update>) {
        if self.reported {
            return;
        }
        self.reported = true;
        let subject = Subject::from(&self.connection);
        let connection = Box::new(self.connection.clone());
        updates.push(Update { at_ns, subject, happening: Happening::Ended(connection) });
    }
}

/// A tuple may be incomplete early (no local port yet) and wiped late: what is known stays.
fn learn_tuple(connection: &mut Connection, (local, remote): (Endpoint, Endpoint)) {
    if local.port != 0 && !local.address.is_unspecified() || connection.local.port == 0 {
        connection.local = local;
    }
    if !remote.is_unspecified() {
        connection.remote = remote;
    }
}

#[cfg(test)]
mod tests;
