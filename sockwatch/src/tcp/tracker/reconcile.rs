//! Compares what we believe with the kernel's own table, and takes its word.
//!
//! A listing is no instant: each of its records was written at some time within a window. A record agrees if we believed
//! in its state at any time within the window, widened by a tolerance for what two CPUs' clocks leave open, and backwards by more,
//! since the tracepoint fires before the state is stored. Conversely, what we believed in throughout a listing must be in it; the kernel walks
//! its table without stopping it, and may skip a neighbour of one that goes, so only a second listing proves an absence.
//!
//! The table does not hold what waits dead in an accept queue; requests (`NEW_SYN_RECV`) in it are nobody's state yet.

mod crowds;
mod history;
mod listeners;

use std::collections::HashSet;

#[cfg(test)]
pub(super) use self::history::STAYS_PER_SOCKET;
pub(super) use self::{crowds::Crowds, history::History};
use self::{
    history::Nameless,
    listeners::{Listeners, is_queued},
};
use super::{Tracked, Tracker, role_in};
use crate::tcp::{
    close::Ending,
    connection::{Connection, Queued, Role},
    endpoint::Endpoint,
    event::{Certainty, Event, EventKind, Occasion, Place, SocketKey},
    listing::{Listing, Record, Round},
    minisock::{GRACE_NS, Minisock, MinisockEnd},
    queue::AcceptQueue,
    state::TcpState,
    update::{Happening, Subject, Update},
};

use super::NAMELESS;

/// How far a record's window is widened on both sides, in nanoseconds.
pub const TOLERANCE_NS: u64 = 3_000_000;

/// How much later than told a state is stored, at most: until then the table has one that its socket has left. What was missed shows as
/// the opposite: the table is ahead of us.
const LATE_NS: u64 = 100_000_000;

/// An absence that so many listings in a row agree on is proved.
const PROOF: u8 = 2;

/// What a record says to us.
enum Finding {
    Agrees,
    /// A request, or a stranger's: nothing that we follow.
    Nothing,
    /// Not what we believed, and no event could have told us.
    Untold,
    /// Not what we believed; `None`: we did not know it.
    News(Option<TcpState>),
}

impl Tracker {
    /// A round of listings is about to begin: what ends from now on may be in it, and is remembered until it is compared.
    pub fn expect_round(&mut self) {
        self.history.get_or_insert_default().rounds += 1;
        self.queues.values_mut().for_each(AcceptQueue::expect_round);
    }

    /// Rounds that were announced and not compared yet.
    pub(super) fn rounds_expected(&self) -> u32 {
        self.history.as_ref().map_or(0, |history| history.rounds)
    }

    /// Compares a round, once all events up to its end and the tolerance have been taken in. Returns what corrects us, as
    /// events to [apply](Tracker::apply).
    pub fn compare(&mut self, round: &Round) -> Vec<Event> {
        self.round = self.round.wrapping_add(1);
        self.agreement.rounds += 1;
        // A recording may say what it likes.
        self.agreement.unlisted = self.agreement.unlisted.saturating_add(round.unlisted);
        self.interval_ns = round.to_ns.saturating_sub(self.compared_ns);
        self.compared_ns = round.to_ns;
        let mut history = self.history.take().unwrap_or_default();
        history.rounds = history.rounds.saturating_sub(1);
        let mut events = Vec::new();
        if history.full {
            self.agreement.unlisted = self.agreement.unlisted.saturating_add(round.listings.len() as u64);
        } else {
            self.compare_listings(round, &history, &mut events);
        }
        self.queues.values_mut().for_each(|queue| queue.end_round(history.rounds));
        if history.rounds != 0 {
            self.history = Some(history);
        }
        events
    }

    fn compare_listings(&mut self, round: &Round, history: &History, events: &mut Vec<Event>) {
        // What lives has the ends of what is gone.
        let mut nameless = history.nameless.clone();
        nameless.extend(self.nameless_by_ends());
        for listing in &round.listings {
            self.crowds.learn(listing);
            let mut openings = HashSet::new();
            let (listeners, young) = (Listeners::of(listing), self.young(listing));
            for record in &listing.records {
                if record.expires_in_ns.is_some() && young.contains(&record.tuple) {
                    // A new connection has taken its place since.
                    continue;
                }
                if let TcpState::SynRecv | TcpState::SynSent = record.state {
                    openings.insert(record.tuple);
                }
                // A listing gives every socket a cookie, one that we had to name ourselves, too.
                let name = nameless.get(&(record.key.netns, record.tuple)).copied();
                let name = name.or_else(|| self.nameless_minisock(record));
                let record = Record { key: name.unwrap_or(record.key), ..*record };
                self.compare_record(&record, listing, &listeners, history, events);
                self.compare_holder(&record, listing, events);
            }
            self.compare_queues(listing, &nameless, events);
            self.find_absent(listing, &openings, events);
        }
        for netns in &round.gone {
            self.find_purged(*netns, round.to_ns, events);
            self.crowds.forget(*netns);
        }
    }

    /// Sockets that we had to name ourselves, by their ends.
    fn nameless_by_ends(&self) -> Nameless {
        let named = self.by_address.values().filter_map(|key| Some((key, &self.sockets.get(key)?.connection)));
        // One that another child of the same handshake has outrun has its ends, and was never in the table.
        let named = named.filter(|(_, it)| it.ending != Some(Ending::Duplicate));
        named.map(|(key, it)| ((key.netns, (it.local, it.remote)), *key)).collect()
    }

    fn nameless_minisock(&mut self, record: &Record) -> Option<SocketKey> {
        let (local, remote) = record.tuple;
        let minisock = self.minisocks.get_mut(&(record.key.netns, local, remote))?;
        let key = minisock.subject.key;
        (record.expires_in_ns.is_some() && key.cookie & NAMELESS != 0).then_some(key)
    }

    /// The ends of what was born since the listing began.
    fn young(&self, listing: &Listing) -> HashSet<(Endpoint, Endpoint)> {
        let since_ns = listing.from_ns.saturating_sub(TOLERANCE_NS);
        let connections = self.sockets.values().map(|tracked| &tracked.connection);
        let young =
            connections.filter(|it| it.key.netns == listing.netns && it.birth_seen && it.first_seen_ns >= since_ns);
        young.map(|it| (it.local, it.remote)).collect()
    }

    fn compare_record(
        &mut self,
        record: &Record,
        listing: &Listing,
        listeners: &Listeners,
        history: &History,
        events: &mut Vec<Event>,
    ) {
        let window = (record.from_ns.saturating_sub(TOLERANCE_NS), record.to_ns.saturating_add(TOLERANCE_NS));
        if let TcpState::Close | TcpState::BoundInactive = record.state {
            // Not in the table any more, or not yet.
            return;
        }
        let finding = self.finding(record, window, history);
        let disagreement = Occasion::Disagreement { interval_ns: self.interval_ns };
        let occasion = match finding {
            Finding::Nothing => return,
            Finding::Agrees => {
                self.agreement.compared += 1;
                self.agreement.agreed += 1;
                return;
            }
            Finding::Untold => {
                self.agreement.displaced += 1;
                Occasion::Expected
            }
            Finding::News(None) if listing.first => {
                self.agreement.adopted += 1;
                Occasion::Expected
            }
            Finding::News(None) => {
                self.agreement.compared += 1;
                self.agreement.unknown += 1;
                disagreement
            }
            Finding::News(Some(_)) => {
                self.agreement.compared += 1;
                self.agreement.differing += 1;
                disagreement
            }
        };
        let &Record { state, expires_in_ns, queue, inode, .. } = record;
        let holder = listing.holders.get(&inode).and_then(|holders| holders.first()).copied();
        let listener = is_queued(record).then(|| listeners.of_child(record)).flatten();
        let kind = EventKind::Found { state, expires_in_ns, queue, holder, listener, occasion };
        events.push(event(record.to_ns, record.key, Some(record.tuple), kind));
    }

    fn finding(&mut self, record: &Record, window: (u64, u64), history: &History) -> Finding {
        let (from_ns, to_ns) = window;
        let round = self.round;
        let (local, remote) = record.tuple;
        if let Some(expires_in_ns) = record.expires_in_ns {
            if let Some(minisock) = self.minisocks.get_mut(&(record.key.netns, local, remote))
                && minisock.subject.key == record.key
            {
                (minisock.round, minisock.absences, minisock.doubtful) = (round, 0, false);
                minisock.learn_time(record.state, record.to_ns.saturating_add(expires_in_ns));
                if minisock.was_in(record.state, from_ns, to_ns) {
                    return Finding::Agrees;
                }
                return if history.agrees(record, window) {
                    Finding::Agrees
                } else if (minisock.state, record.state) == (TcpState::FinWait2, TcpState::TimeWait) {
                    // Up to 6.10 the kernel does not say which socket a consumed segment was for.
                    Finding::Untold
                } else {
                    Finding::News(Some(minisock.state))
                };
            }
        } else if let Some(tracked) = self.sockets.get_mut(&record.key) {
            (tracked.round, tracked.absences) = (round, 0);
            if tracked.connection.was_in(record.state, from_ns, to_ns, LATE_NS) || history.agrees(record, window) {
                return Finding::Agrees;
            }
            // A request has its child's cookie, and is listed until the child takes its place.
            let believed = tracked.connection.state;
            let request = record.state == TcpState::SynRecv && tracked.connection.role == Role::Passive;
            return if request { Finding::Nothing } else { Finding::News(Some(believed)) };
        }
        if history.agrees(record, window) {
            return Finding::Agrees;
        }
        let believed = self.sockets.get(&record.key).map(|tracked| tracked.connection.state);
        let untold = record.expires_in_ns.is_some() && self.crowds.was_full(record.key.netns);
        match believed {
            _ if !record.ours => Finding::Nothing,
            None | Some(TcpState::Close) if untold => Finding::Untold,
            None if record.state == TcpState::SynRecv => Finding::Nothing,
            // Its `CLOSE` was missed: the table has its minisock already.
            believed => Finding::News(believed),
        }
    }

    /// What must have been in the listing throughout, and was not. `openings` have taken the place of minisocks with the same
    /// ends: of a request no event tells, and of a connect() not yet which port it took.
    fn find_absent(&mut self, listing: &Listing, openings: &HashSet<(Endpoint, Endpoint)>, events: &mut Vec<Event>) {
        let began_ns = listing.from_ns.saturating_sub(TOLERANCE_NS);
        let ended_ns = listing.to_ns.saturating_add(TOLERANCE_NS);
        let disagreement = Occasion::Disagreement { interval_ns: self.interval_ns };
        let proof = if self.crowds.was_full(listing.netns) { 1 } else { PROOF };
        let Self { round, sockets, minisocks, agreement, .. } = self;
        for (key, tracked) in sockets.iter_mut().filter(|(key, _)| key.netns == listing.netns) {
            let connection = &*tracked.connection;
            let must = connection.state != TcpState::Close
                && !connection.is_known_after(began_ns)
                && key.cookie & NAMELESS == 0
                && tracked.round != *round;
            let unseen = must && !listing.first && tracked.is_known_by_accept();
            tracked.absences = if must { tracked.absences + 1 } else { 0 };
            if unseen || tracked.absences >= PROOF {
                // Of one that was accepted dead the first listing told nothing either: that makes two.
                agreement.absent += u64::from(!unseen);
                let occasion = if unseen { Occasion::Expected } else { disagreement };
                let kind = EventKind::Lost { minisock: None, occasion };
                events.push(event(listing.to_ns, *key, None, kind));
            }
        }
        let reused = |minisock: &Minisock| openings.contains(&(minisock.subject.local, minisock.subject.remote));
        for minisock in minisocks.iter_mut().filter(|minisock| minisock.subject.key.netns == listing.netns) {
            let (key, tuple) = (minisock.subject.key, Some((minisock.subject.local, minisock.subject.remote)));
            let must = minisock.since_ns <= began_ns && minisock.round != *round;
            minisock.absences = if must { minisock.absences + 1 } else { 0 };
            if minisock.absences < proof && !(must && reused(minisock)) {
                continue;
            }
            // Nobody tells of it: a SYN takes a minisock away (`TCP_TW_SYN`), and is dropped where the accept queue is full, or the
            // kernel has made none. One without a cookie cannot be found by it.
            let early = minisock.surely_until_ns > ended_ns && key.cookie & NAMELESS == 0 && !reused(minisock);
            agreement.displaced += u64::from(early);
            let occasion = Occasion::Expected;
            let place = if reused(minisock) { Place::Taken } else { Place::Free };
            events.push(event(listing.to_ns, key, tuple, EventKind::Lost { minisock: Some(place), occasion }));
        }
    }

    /// A namespace's end purges its minisocks, and nobody tells.
    fn find_purged(&mut self, netns: u32, at_ns: u64, events: &mut Vec<Event>) {
        for minisock in self.minisocks.iter_mut().filter(|minisock| minisock.subject.key.netns == netns) {
            let tuple = Some((minisock.subject.local, minisock.subject.remote));
            let kind = EventKind::Lost { minisock: Some(Place::Free), occasion: Occasion::Expected };
            events.push(event(at_ns, minisock.subject.key, tuple, kind));
        }
    }

    /// The kernel's table has a socket that we did not know, or believed in another state.
    pub(super) fn found(&mut self, key: SocketKey, event: &Event, updates: &mut Vec<Update>) {
        let EventKind::Found { state, expires_in_ns, queue, holder, listener, occasion } = event.kind else { return };
        let Some(tuple) = event.tuple else { return };
        match expires_in_ns {
            Some(expires_in_ns) => self.found_minisock(key, event, state, expires_in_ns, occasion, updates),
            None if self.sockets.contains_key(&key) => self.correct(key, event, (state, occasion), updates),
            None if self.has_room(updates) => {
                let other = if listener.is_some() { Role::Passive } else { Role::Unknown };
                let role = role_in(state, other);
                let mut connection = Connection::new(key, role, tuple, state, event.at_ns);
                connection.ownership.holder = holder;
                connection.ownership.listener = listener;
                connection.queued = listener.map(|_| Queued::default());
                connection.ownership.listener_owner = listener.and_then(|listener| self.listener_owner(key, listener));
                if let Some((depth, limit)) = queue {
                    let (depth, limit) = (Some(depth), Some(limit));
                    connection.queued = Some(Queued { at_ns: Some(event.at_ns), depth, limit, ..Queued::default() });
                }
                self.displace(&connection, Some(self.interval_ns), updates);
                let happening = news(occasion, state, queue, None);
                updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&connection), happening });
                self.sockets.insert(key, Tracked::new(connection));
                if role == Role::Listener {
                    self.name_waiting(key);
                }
            }
            None => {}
        }
    }

    /// A socket is in another state than we believed: events are missing.
    fn correct(
        &mut self,
        key: SocketKey,
        event: &Event,
        (state, occasion): (TcpState, Occasion),
        updates: &mut Vec<Update>,
    ) {
        let Some(tracked) = self.sockets.get(&key) else { return };
        let believed = tracked.connection.state;
        // What was seen since is true now, whatever was missing before.
        let seen_since = tracked.connection.is_known_after(event.at_ns);
        if believed == TcpState::Close && state != TcpState::Close && !seen_since {
            self.revive(key, state, event.at_ns, updates);
        }
        let Some(Tracked { connection, .. }) = self.sockets.get_mut(&key) else { return };
        let was_taken = state.has_sent_fin() && connection.is_queued();
        if connection.state != state && !seen_since {
            connection.enter(state, event.at_ns);
        }
        connection.sampled_ns = connection.sampled_ns.max(occasion.interval_ns());
        let happening = Happening::Disagreed { believed: Some(believed), found: Some(state) };
        updates.push(Update { at_ns: event.at_ns, subject: Subject::from(&**connection), happening });
        if was_taken {
            self.accepted_unseen(key, event.at_ns);
        }
    }

    fn found_minisock(
        &mut self,
        key: SocketKey,
        event: &Event,
        state: TcpState,
        expires_in_ns: u64,
        occasion: Occasion,
        updates: &mut Vec<Update>,
    ) {
        let Some((local, remote)) = event.tuple else { return };
        let at_ns = event.at_ns;
        let known = self.minisocks.get_mut(&(key.netns, local, remote));
        if known.is_some_and(|minisock| minisock.subject.key != key && minisock.since_ns > at_ns) {
            // Another has taken its place since.
            return;
        }
        let mut believed = None;
        let mut subject = None;
        if let Some(minisock) = self.minisocks.remove(&(key.netns, local, remote)) {
            believed = (minisock.subject.key == key).then_some(minisock.state);
            subject = (minisock.subject.key == key).then_some(minisock.subject);
        }
        // What became of the socket is plain: it closed first.
        if let Some(tracked) = self.sockets.get_mut(&key)
            && tracked.connection.state != TcpState::Close
            && !tracked.connection.is_known_after(at_ns)
        {
            let connection = &mut *tracked.connection;
            believed = Some(connection.state);
            connection.enter(TcpState::Close, at_ns);
            connection.ended_ns = Some(at_ns);
            connection.sampled_ns = connection.sampled_ns.max(occasion.interval_ns());
            connection.ending = Some(if state == TcpState::TimeWait { Ending::LocalFin } else { Ending::Orphaned });
            subject = Some(Subject::from(&*connection));
            self.settle(key, at_ns);
        }
        let subject = subject.unwrap_or_else(|| {
            Subject::from(&Connection::new(key, Role::Unknown, (local, remote), TcpState::Close, at_ns))
        });
        let happening = match occasion {
            Occasion::Expected => news(occasion, state, None, Some(at_ns.saturating_add(expires_in_ns))),
            Occasion::Disagreement { .. } => Happening::Disagreed { believed, found: Some(state) },
        };
        updates.push(Update { at_ns, subject, happening });
        self.admit_minisock(Minisock::new(subject, state, at_ns, Some(expires_in_ns)), updates);
    }

    /// The kernel's table has it no longer.
    pub(super) fn lost(
        &mut self,
        key: SocketKey,
        event: &Event,
        minisock: Option<Place>,
        occasion: Occasion,
        updates: &mut Vec<Update>,
    ) {
        let at_ns = event.at_ns;
        if let Some(place) = minisock {
            let Some(minisock) = self.minisocks.of(key, event.tuple) else { return };
            let (tuple, subject, believed) = (minisock.tuple(), minisock.subject, Some(minisock.state));
            let over = minisock.expires_ns <= at_ns.saturating_add(GRACE_NS);
            if let Occasion::Disagreement { .. } = occasion {
                updates.push(Update { at_ns, subject, happening: Happening::Disagreed { believed, found: None } });
            }
            let end = match place {
                Place::Taken => MinisockEnd::Reused,
                Place::Free if over => MinisockEnd::Expired,
                Place::Free => MinisockEnd::Gone,
            };
            self.end_sampled(&tuple, at_ns, end, Some(self.interval_ns), updates);
            return;
        }
        if self.find_dead_on_arrival(key) {
            if let Some(tracked) = self.take_out(key) {
                tracked.report_last(at_ns, updates);
            }
            return;
        }
        let Some(mut tracked) = self.take_out(key) else { return };
        let connection = &mut *tracked.connection;
        let happening = Happening::Disagreed { believed: Some(connection.state), found: None };
        connection.sampled_ns = connection.sampled_ns.max(occasion.interval_ns());
        connection.vanish(at_ns);
        updates.push(Update { at_ns, subject: Subject::from(&*connection), happening });
        tracked.report_last(at_ns, updates);
    }
}

fn event(at_ns: u64, key: SocketKey, tuple: Option<(Endpoint, Endpoint)>, kind: EventKind) -> Event {
    Event { at_ns, key, skaddr: 0, tuple, kind, certainty: Certainty::Once }
}

/// A socket that we did not know.
fn news(occasion: Occasion, state: TcpState, queue: Option<(u32, u32)>, expires_ns: Option<u64>) -> Happening {
    match occasion {
        Occasion::Expected => Happening::Listed { state, queue, expires_ns },
        Occasion::Disagreement { .. } => Happening::Disagreed { believed: None, found: Some(state) },
    }
}

#[cfg(test)]
mod tests;
