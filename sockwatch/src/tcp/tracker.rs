//! Keeps every connection's timeline. Events in, updates out; nothing else moves it.
//!
//! Identity is (network namespace, cookie, incarnation). Addresses of `struct sock` are used only until a cookie is
//! known: they are reused within microseconds.

mod closing;
mod end;
mod incident;
mod listeners;
mod living;
mod polled;
mod queue;
mod reconcile;
mod room;

use std::collections::HashMap;

use self::{
    end::{Places, Stage},
    listeners::Queues,
    reconcile::{Crowds, History},
    room::Waiting,
};
use super::{
    connection::{Connection, Queued, Role},
    endpoint::Endpoint,
    event::{Certainty, Event, EventKind, SocketKey, Task},
    listing::Agreement,
    minisock::{Minisock, MinisockEnd, Minisocks},
    queue::Leaving,
    state::TcpState,
    update::{Happening, Subject, Update},
};

pub use self::{
    living::{Kind, Living},
    reconcile::TOLERANCE_NS,
    room::MAX_SOCKETS,
};

/// Set in the cookie of a socket that had none when it was first seen: the rest counts them. Cookies count from 1.
pub const NAMELESS: u64 = 1 << 63;

type Sockets = HashMap<SocketKey, Tracked, foldhash::fast::FixedState>;

/// The state of all connections.
#[derive(Clone, Debug)]
pub struct Tracker {
    sockets: Sockets,
    /// Accept queues, by listener.
    queues: Queues,
    /// Whether one of them may have to be told.
    stirred: bool,
    /// What connections left that closed first.
    minisocks: Minisocks,
    /// Sockets whose cookie is not known yet, by address.
    by_address: HashMap<u64, SocketKey, foldhash::fast::FixedState>,
    /// First events that wait for the socket's name, by address.
    unnamed: Waiting,
    /// Sockets that reached `CLOSE` and were not destroyed.
    settling: Places,
    /// Sockets that were destroyed and whose ending a RST may yet explain.
    departing: Places,
    /// Sockets that are at their end, told or dead in an accept queue: they make room.
    finished: Places,
    /// Sockets and minisocks at once at most.
    limit: usize,
    /// Where the kernel is out of minisocks.
    crowds: Crowds,
    /// What has ended since a round of listings began.
    history: Option<History>,
    /// The round of listings that was compared last.
    round: u32,
    /// When it ended, and how long after the one before.
    compared_ns: u64,
    interval_ns: u64,
    agreement: Agreement,
    /// How many sockets had no cookie.
    nameless: u64,
    unexpected: u64,
    repeated: u64,
    full: u64,
    evicted: u64,
}

/// A connection, and how far it is from its end.
#[derive(Clone, Debug)]
struct Tracked {
    /// As its end tells it: it is not copied, and the table stays small.
    connection: Box<Connection>,
    stage: Stage,
    /// The last round of listings that showed it.
    round: u32,
    /// Listings in a row that did not.
    absences: u8,
}

impl Default for Tracker {
    fn default() -> Self {
        Self::with_limit(MAX_SOCKETS)
    }
}

impl Tracker {
    /// Tracks at most so many sockets and minisocks at once.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            sockets: HashMap::default(),
            queues: HashMap::default(),
            stirred: false,
            minisocks: Minisocks::default(),
            by_address: HashMap::default(),
            unnamed: Waiting::default(),
            settling: Places::default(),
            departing: Places::default(),
            finished: Places::default(),
            limit,
            crowds: Crowds::default(),
            history: None,
            round: 0,
            compared_ns: 0,
            interval_ns: 0,
            agreement: Agreement::default(),
            nameless: 0,
            unexpected: 0,
            repeated: 0,
            full: 0,
            evicted: 0,
        }
    }

    /// Takes one event in, in the order of times, and appends what it means.
    pub fn apply(&mut self, event: &Event, updates: &mut Vec<Update>) {
        if event.key.cookie == 0 && self.waits_for_name(event, updates) {
            return;
        }
        if let Some(unnamed) = self.unnamed.remove(event.skaddr) {
            self.take_unnamed(unnamed, Some(event), updates);
        }
        self.take(event, updates);
    }

    fn take(&mut self, event: &Event, updates: &mut Vec<Update>) {
        let key = self.identify(event, updates);
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
            EventKind::AcceptReturn { fd } => self.accept_return(key, event.at_ns, fd),
            EventKind::Destroy => self.destroy(key, event, updates),
            EventKind::Listed { state, queue, interval_ns } => {
                self.listed(key, event, state, queue, interval_ns, updates);
            }
            EventKind::Unlisted { interval_ns } => self.unlisted(key, event.at_ns, interval_ns, updates),
            EventKind::Found { .. } => self.found(key, event, updates),
            EventKind::Held { by } => self.held(key, event.at_ns, by, updates),
            EventKind::Taken => self.accepted_unseen(key, event.at_ns),
            EventKind::QueueFound { record, verdict } => self.queue_found(key, &record, verdict, updates),
            EventKind::Lost { minisock, occasion } => self.lost(key, event, minisock, occasion, updates),
            EventKind::Incident(incident) => self.incident(key, event, incident, updates),
        }
    }

    /// Reports connections that reached `CLOSE` a while ago and that nobody destroyed: their descriptor is still open; and
    /// minisocks whose time is over. `now_ns` comes from the event stream, never from the clock.
    pub fn expire(&mut self, now_ns: u64, updates: &mut Vec<Update>) {
        self.settle_until(now_ns, updates);
        self.minisocks.expire(now_ns, updates);
        self.tell_queues(now_ns, updates);
    }

    /// How many sockets and minisocks are tracked now.
    pub fn len(&self) -> usize {
        self.sockets.len() + self.minisocks.len()
    }

    /// Whether nothing is tracked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// Finished sockets and minisocks that were forgotten to make room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// How far we agree with the kernel's table.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// The event's socket. One that had no cookie when it was first seen keeps an identity of our own until its destroy,
    /// by its address: one name in all of its updates.
    fn identify(&mut self, event: &Event, updates: &mut Vec<Update>) -> SocketKey {
        if event.key.cookie != 0 && self.by_address.is_empty() || event.skaddr == 0 {
            return event.key;
        }
        if let Some(key) = self.by_address.get(&event.skaddr).copied() {
            let repeats = event.certainty == Certainty::PerhapsRepeated && self.has_seen(key, event.kind);
            let is_another = match event.kind {
                EventKind::Birth { .. } => true,
                // A RST may come after the destroy.
                EventKind::Incident(_) => false,
                _ => self.sockets.get(&key).is_none_or(|tracked| matches!(tracked.stage, Stage::Departing(_))),
            };
            if repeats || !is_another {
                return key;
            }
            // Another socket at this address: the one before is gone, or no destroy was seen of it.
            self.by_address.remove(&event.skaddr);
            if let Some(former) = self.take_out(key) {
                let at_ns = if let Stage::Departing(at_ns) = former.stage { at_ns } else { event.at_ns };
                former.report_last(at_ns, updates);
            }
        }
        if event.key.cookie != 0 {
            return event.key;
        }
        if let EventKind::Incident(_) = event.kind {
            // A minisock that never got a cookie, or a stranger that no destroy will ever end.
            return self.minisocks.of(event.key, event.tuple).map_or(event.key, |minisock| minisock.subject.key);
        }
        self.nameless += 1;
        let key = SocketKey { netns: event.key.netns, cookie: NAMELESS | self.nameless };
        self.note_address(event.skaddr, key);
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
            | EventKind::Unlisted { .. }
            | EventKind::Found { .. }
            | EventKind::Held { .. }
            | EventKind::Taken
            | EventKind::QueueFound { .. }
            | EventKind::Lost { .. } => false,
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
        let Some(tuple) = event.tuple else { return };
        let mut connection = Connection::born(key, role_in(new, Role::Active), tuple, new, event.at_ns);
        connection.ownership.opener = Some(by);
        connection.queued = limit.map(|_| Queued { at_ns: Some(event.at_ns), limit, ..Queued::default() });
        if new == TcpState::Listen {
            self.begin_queue(key, limit);
        }
        self.begin(connection, TcpState::Close, Some(by), updates);
    }

    /// A child's first event.
    fn birth(&mut self, key: SocketKey, event: &Event, queue: Option<(u32, u32)>, updates: &mut Vec<Update>) {
        let Some(tuple) = event.tuple else { return };
        let mut connection = Connection::born(key, Role::Passive, tuple, TcpState::SynRecv, event.at_ns);
        let (depth, limit) = queue.unzip();
        connection.queued = Some(Queued { at_ns: Some(event.at_ns), depth, limit, ..Queued::default() });
        self.begin(connection, TcpState::Listen, None, updates);
    }

    /// A new life begins. A former one of the same socket ends here, unless it turns out to be this one.
    fn begin(&mut self, mut connection: Connection, old: TcpState, by: Option<Task>, updates: &mut Vec<Update>) {
        let (key, at_ns, new) = (connection.key, connection.first_seen_ns, connection.state);
        let happening = Happening::Transition { old, new, lasted_ns: None, by, sampled_ns: None };
        if let Some(Tracked { connection: known, .. }) = self.sockets.get_mut(&key)
            && known.is_known_after(at_ns)
        {
            let happening = if known.learn_birth(&connection) {
                happening
            } else {
                self.unexpected += 1;
                Happening::Unexpected { believed: known.state, old }
            };
            updates.push(Update { at_ns, subject: Subject::from(&**known), happening });
            return;
        }
        if let Some(former) = self.take_out(key) {
            connection.incarnation = former.connection.incarnation.saturating_add(1);
            former.report_last(at_ns, updates);
        } else if !self.has_room(updates) {
            return;
        }
        if new != TcpState::SynSent {
            self.displace(&connection, None, updates);
        }
        updates.push(Update { at_ns, subject: Subject::from(&connection), happening });
        self.sockets.insert(key, Tracked::new(connection));
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
        let by = by.filter(|task| !task.is_kernel_worker());
        let Some(connection) = self.moving(key, event, (old, new), updates) else { return };
        if matches!(new, TcpState::FinWait1 | TcpState::LastAck) {
            connection.ownership.closer = connection.ownership.closer.or(by);
        }
        let inherits = |owner: Option<Task>, by: &Task| owner.is_none_or(|owner| owner.pid != by.pid);
        let owner = connection.ownership.held_by();
        let waits = connection.is_queued();
        if let Some(by) = by.filter(|by| old != new && new.has_sent_fin() && inherits(owner, by)) {
            // Nobody closes what he does not hold.
            self.held(key, event.at_ns, by, updates);
        } else if waits && (old.has_sent_fin() || new.has_sent_fin()) {
            self.accepted_unseen(key, event.at_ns);
        }
        if new == TcpState::CloseWait {
            self.client_left(key, event.at_ns, Leaving::Fin);
        }
        self.step(key, event, (old, new), by, updates);
    }

    /// The socket's connection, for a step of it. One that is too late is told and not followed: what came after it is known.
    /// One of a socket that had ended is another life's.
    fn moving(
        &mut self,
        key: SocketKey,
        event: &Event,
        (old, new): (TcpState, TcpState),
        updates: &mut Vec<Update>,
    ) -> Option<&mut Connection> {
        if let Some(Tracked { connection, .. }) = self.sockets.get(&key) {
            let late = connection.is_known_after(event.at_ns);
            let revived = connection.state == TcpState::Close && (old, new) != (TcpState::Close, TcpState::Close);
            if late || revived && old != TcpState::Close {
                self.unexpected += 1;
                let happening = Happening::Unexpected { believed: connection.state, old };
                updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&**connection), happening });
            }
            if late {
                return None;
            }
            if revived {
                self.revive(key, old, event.at_ns, updates);
            }
        }
        self.existing(key, event, old, updates)
    }

    /// A socket that had ended lives again, in `state`: its opening was lost.
    fn revive(&mut self, key: SocketKey, state: TcpState, at_ns: u64, updates: &mut Vec<Update>) {
        let Some(former) = self.take_out(key) else { return };
        let Connection { role, local, remote, incarnation, .. } = *former.connection;
        former.report_last(at_ns, updates);
        let mut connection = Connection::new(key, role_in(state, role), (local, remote), state, at_ns);
        connection.incarnation = incarnation.saturating_add(1);
        self.sockets.insert(key, Tracked::new(connection));
    }

    /// The socket's connection; adopted now, in `state`, if it was there before we looked.
    fn existing(
        &mut self,
        key: SocketKey,
        event: &Event,
        state: TcpState,
        updates: &mut Vec<Update>,
    ) -> Option<&mut Connection> {
        if !self.sockets.contains_key(&key) {
            let tuple = event.tuple?;
            if !self.has_room(updates) {
                return None;
            }
            let connection = Connection::new(key, role_in(state, Role::Unknown), tuple, state, event.at_ns);
            self.sockets.insert(key, Tracked::new(connection));
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
        let connection = &mut *tracked.connection;
        let at_ns = event.at_ns;
        if connection.state != old || !old.can_become(new) {
            self.unexpected += 1;
            let happening = Happening::Unexpected { believed: connection.state, old };
            updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        }
        let lasted_ns = connection.enter(new, at_ns);
        let happening = Happening::Transition { old, new, lasted_ns, by, sampled_ns: None };
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        // Only now its local port is known. And before its SYN a connect() may fail because a minisock has these ends, which goes
        // on having them (`__inet_check_established()`).
        let sent = connection.evidence.map_or(connection.resets.received > 0, |evidence| evidence.segments_out > 0);
        if old == TcpState::SynSent && (new != TcpState::Close || sent) && !self.minisocks.is_empty() {
            let tuple = (key.netns, connection.local, connection.remote);
            let since_ns = at_ns.saturating_sub(lasted_ns.unwrap_or(0));
            let same = |minisock: &mut Minisock| minisock.subject.key == key && new == TcpState::Close;
            if !self.minisocks.get_mut(&tuple).is_some_and(same) {
                self.end_minisock(&tuple, since_ns, MinisockEnd::Reused, updates);
            }
        }
    }

    /// A minisock gives its place to a new connection with the same ends; `sampled_ns` if a listing shows it.
    fn displace(&mut self, connection: &Connection, sampled_ns: Option<u64>, updates: &mut Vec<Update>) {
        if !self.minisocks.is_empty() {
            let tuple = (connection.key.netns, connection.local, connection.remote);
            self.end_sampled(&tuple, connection.first_seen_ns, MinisockEnd::Reused, sampled_ns, updates);
        }
    }
}

/// The part of a socket that was first seen in `state`.
fn role_in(state: TcpState, otherwise: Role) -> Role {
    if state == TcpState::Listen { Role::Listener } else { otherwise }
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
