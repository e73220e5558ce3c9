//! Whether connections wait for accept(), and why, as far as a stream of updates proves it. Pure: updates in, a report out; no
//! I/O, no clock. The instant of the report is an argument.
//!
//! A finding is a file in `finding/` and a row of [`finding::CHECKS`].

pub mod blame;
pub mod close_wait;
pub mod course;
pub mod endings;
pub mod finding;
pub mod first_reads;
pub mod look;
pub mod measure;
pub mod ports;
mod report;
pub mod waits;
pub mod words;

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

pub use self::report::Report;
use self::{
    blame::{Blame, CpuLimit, Deed, Spells, Suspect, Suspicion, long_ns},
    close_wait::{CloseWaits, Parked},
    endings::Endings,
    finding::{Scene, findings},
    first_reads::FirstReads,
    look::{Group, Kept, Look, Looked},
    measure::{Measure, Measured, counted::Counted},
    ports::{Routes, Settings},
};
use crate::{
    pipeline::Totals,
    tcp::{
        connection::{Connection, Role},
        event::SocketKey,
        minisock::TIME_WAIT_NS,
        queue::Leaving,
        state::TcpState,
        update::{Happening, Subject, Update},
    },
};

/// Connections between birth and accept that are followed at once.
const MOST_CHILDREN: usize = 1 << 20;

/// Listeners that are followed at once.
const MOST_LISTENERS: usize = 1 << 14;

/// Room is looked for once in so many times that there is none.
const REFUSED_BETWEEN: u64 = 1024;

/// What is believed of accept queues since the run began.
#[derive(Debug)]
pub struct Diagnosis {
    began_ns: u64,
    slow_ns: u64,
    listeners: HashMap<SocketKey, Measure, FixedState>,
    /// How often there was no room for another one.
    refused: u64,
    /// Those that were born and not accepted.
    children: HashMap<SocketKey, Child, FixedState>,
    close_waits: CloseWaits,
    blame: Blame,
    routes: Routes,
    endings: Endings,
    reads: FirstReads,
    /// The kernel's table at the beginning and at the end.
    looks: Vec<Look>,
    /// Listeners with `TCP_DEFER_ACCEPT`, and its seconds.
    defers: HashMap<SocketKey, u32>,
    /// Accepted connections whose listener is not known.
    unattributed: u64,
    is_counted: bool,
}

/// A connection before accept().
#[derive(Clone, Copy, Debug)]
struct Child {
    entered_ns: u64,
    /// Whose queue it is in, once that is known.
    listener: Option<SocketKey>,
    half_closed_ns: Option<u64>,
}

impl Diagnosis {
    /// Begins now; a connection that waits for `slow_ns` is slow.
    pub fn new(began_ns: u64, slow_ns: u64) -> Self {
        Self {
            began_ns,
            slow_ns,
            listeners: HashMap::default(),
            refused: 0,
            children: HashMap::default(),
            close_waits: CloseWaits::default(),
            blame: Blame::default(),
            routes: Routes::default(),
            endings: Endings::default(),
            reads: FirstReads::default(),
            looks: Vec::new(),
            defers: HashMap::new(),
            unattributed: 0,
            is_counted: false,
        }
    }

    /// What is slow is something else, of the waits that there were, too.
    pub fn set_slow(&mut self, slow_ns: u64) {
        self.slow_ns = slow_ns;
        self.listeners.values_mut().for_each(|measure| measure.set_slow(slow_ns));
    }

    /// Takes an update in.
    pub fn take(&mut self, update: &Update) {
        let Update { at_ns, subject, happening } = update;
        let at_ns = *at_ns;
        if subject.role == Role::Listener
            && let Some(measure) = self.measure(subject.key, subject, at_ns)
        {
            measure.introduce(subject);
        }
        match happening {
            Happening::Transition { new: TcpState::TimeWait, .. } => self.routes.wait(at_ns, subject),
            Happening::Transition { old, new, .. } => self.step(at_ns, subject, *old, *new),
            Happening::Listed { state, expires_ns, .. } => self.list(at_ns, subject, *state, *expires_ns),
            Happening::Enqueued { listener, handshake_ns, synack_retransmits, .. } => {
                let known = listener.map(|cookie| SocketKey { cookie, ..subject.key });
                let Some(listener) = known.or_else(|| self.listener_at(subject)) else { return };
                self.enter(at_ns, subject, listener);
                if let Some(measure) = self.measure(listener, subject, at_ns) {
                    measure.shake(*handshake_ns, *synack_retransmits, &subject.remote);
                }
            }
            Happening::Accepted { by, listener, wait_ns, .. } => {
                let known = listener.map(|cookie| SocketKey { cookie, ..subject.key });
                let child = self.children.get(&subject.key).copied();
                let known = child.and_then(|child| child.listener).or(known).or_else(|| self.listener_at(subject));
                let Some(listener) = known else {
                    self.children.remove(&subject.key);
                    self.unattributed += 1;
                    return;
                };
                // It was accepted before anybody told that it had entered.
                self.enter(at_ns, subject, listener);
                self.children.remove(&subject.key);
                self.blame.accepted(at_ns, by.tid);
                self.reads.accept(at_ns, subject.key, listener);
                if let Some(measure) = self.measure(listener, subject, at_ns) {
                    measure.accept(at_ns, child.map(|child| child.entered_ns), subject.key.cookie, *wait_ns, *by);
                }
                if let Some(since_ns) = child.and_then(|child| child.half_closed_ns) {
                    self.close_waits.enter(Parked::new(subject, since_ns));
                }
                self.close_waits.own(subject.key, *by);
            }
            Happening::Inherited { by, .. } => {
                self.close_waits.own(subject.key, *by);
                if subject.role != Role::Listener {
                    // Somebody accepted it without our seeing it.
                    self.leave_unaccepted(at_ns, subject.key);
                }
            }
            Happening::AcceptFailed { by, errno } => {
                if let Some(measure) = self.measure(subject.key, subject, at_ns) {
                    measure.fail(*by, *errno);
                }
            }
            Happening::SynAckRetransmitted { client } => {
                if let Some(measure) = self.measure(subject.key, subject, at_ns) {
                    measure.shake_again(*client);
                }
            }
            Happening::ListenOverflow => {
                if let Some(measure) = self.measure(subject.key, subject, at_ns) {
                    measure.overflow();
                }
            }
            Happening::Queue(figures) => {
                if let Some(measure) = self.measure(subject.key, subject, at_ns) {
                    measure.tell(at_ns, figures);
                }
            }
            Happening::Disagreed { found, .. } => match found {
                Some(state) => self.list(at_ns, subject, *state, None),
                None => {
                    self.close_waits.leave(subject.key);
                    self.routes.free(subject);
                }
            },
            Happening::MinisockEnded { .. } => {
                self.endings.forget(subject.key);
                self.routes.free(subject);
            }
            Happening::Ended(connection) => self.ended(at_ns, subject, connection),
            Happening::ResetSent { .. }
            | Happening::ResetReceived
            | Happening::Retransmitted { .. }
            | Happening::MinisockSegment
            | Happening::QueueDisagreed { .. }
            | Happening::Unexpected { .. } => {}
        }
    }

    /// Takes in what the kernel side has counted of a listener until now.
    pub fn count(&mut self, at_ns: u64, listener: SocketKey, counted: &Counted) {
        if let Some(measure) = self.listeners.get_mut(&listener) {
            measure.count(at_ns, counted);
        }
    }

    /// So many more accepts of connections whose listener is not known were counted.
    pub fn count_unattributed(&mut self, accepted: u64) {
        self.unattributed += accepted;
        self.is_counted = true;
    }

    /// Who should be watched that was not named before: the processes of listeners at which somebody waited.
    pub fn suspects(&mut self) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (listener, measure) in self.listeners.iter().filter(|(_, measure)| measure.has_waited()) {
            let (listener, local) = (*listener, measure.local());
            if let Some(pid) = measure.owner().filter(|pid| self.blame.suspect(*pid, listener, Suspicion::Owner)) {
                suspects.push(Suspect::Holders { pid, listener, local });
            }
            for acceptor in measure.acceptors().filter(|it| self.blame.suspect(it.pid, listener, Suspicion::Acceptor)) {
                suspects.push(Suspect::Acceptor { pid: acceptor.pid, listener });
            }
        }
        suspects
    }

    /// A process holds a listener, and is watched from now on.
    pub fn hold(&mut self, pid: u32, listener: SocketKey) {
        self.blame.hold(pid, listener);
    }

    /// A process has been under a limit of CPU time.
    pub fn limit(&mut self, pid: u32, limit: CpuLimit) {
        self.blame.limit(pid, limit);
    }

    /// Takes in what a thread did.
    pub fn deed(&mut self, deed: Deed) {
        self.blame.push(deed);
    }

    /// From now on it is told when connections are first read from.
    pub fn begin_reads(&mut self) {
        self.reads.begin();
    }

    /// A connection was first read from.
    pub fn read(&mut self, at_ns: u64, connection: SocketKey) {
        self.reads.read(at_ns, connection);
    }

    /// Everything until then was taken in by [`Self::take`].
    pub fn settle(&mut self, until_ns: u64) {
        // Who waits since then has waited for long by now; of those who came later it is not known yet.
        let until_ns = until_ns.saturating_sub(long_ns(self.slow_ns));
        let Self { blame, listeners, .. } = self;
        listeners.values_mut().for_each(|measure| measure.leave_open(until_ns));
        blame.settle(until_ns, |listener| spells(listeners, listener));
    }

    /// Nothing more will be taken in.
    pub fn end(&mut self, now_ns: u64) {
        let Self { blame, listeners, slow_ns, .. } = self;
        listeners.values_mut().for_each(|measure| measure.leave_open(now_ns.saturating_sub(long_ns(*slow_ns))));
        blame.finish(now_ns, |listener| spells(listeners, listener));
    }

    /// Takes in what the kernel's table said at the beginning and at the end.
    pub fn look(&mut self, looks: Vec<Look>) {
        self.looks = looks;
    }

    /// Listeners of slow handshakes, each with a process that holds it and the number by which it does: whether they have
    /// `TCP_DEFER_ACCEPT` only the process's descriptor tells. As of the last look.
    pub fn slow_to_shake(&self) -> Vec<(SocketKey, u32, u32)> {
        let rows = self.looks.last().into_iter().flat_map(|look| &look.rows);
        let slow = rows.filter(|row| self.listeners.get(&row.key).is_some_and(Measure::has_slow_handshakes));
        let held = |row: &look::Row| match row.kept {
            Kept::By(task) => Some((row.key, task.pid, row.inode)),
            Kept::Queued | Kept::Request | Kept::Orphan | Kept::Minisock | Kept::Unseen => None,
        };
        slow.filter_map(held).collect()
    }

    /// A listener has `TCP_DEFER_ACCEPT`.
    pub fn defer(&mut self, listener: SocketKey, seconds: u32) {
        self.defers.insert(listener, seconds);
    }

    /// Network namespaces in which connections were opened: [`Self::report`] wants their settings.
    pub fn opens_in(&self) -> HashSet<u32> {
        self.routes.namespaces().collect()
    }

    /// What it comes to; `settings` are those of the namespaces where they could be read.
    pub fn report(&self, now_ns: u64, totals: &Totals, settings: &HashMap<u32, Settings>) -> Report {
        let mut listeners: Vec<_> = self.listeners.values().map(|measure| measure.measured(now_ns)).collect();
        let reads = self.reads.by_listener();
        for listener in &mut listeners {
            let key = SocketKey { netns: listener.netns, cookie: listener.cookie };
            let acceptors = listener.acceptors.iter().map(|acceptor| acceptor.task);
            let spells = self.listeners.get(&key).map(Measure::spells);
            listener.defers_s = self.defers.get(&key).copied().filter(|seconds| *seconds > 0);
            listener.reads = reads.as_ref().map(|reads| reads.get(&key).copied().unwrap_or_default());
            listener.blame = spells.and_then(|spells| self.blame.attribute(key, acceptors, spells, now_ns));
        }
        let order = |it: &Measured| (std::cmp::Reverse((it.slow, it.arrived.max(it.accepted))), it.local, it.cookie);
        listeners.sort_by_key(order);
        let ran_ns = now_ns.saturating_sub(self.began_ns);
        let leaks = self.close_waits.by_process(self.began_ns, now_ns);
        let ports = self.routes.used(now_ns, settings);
        let looked = Looked::compare(&self.looks);
        let scene = Scene {
            listeners: &listeners,
            close_waits: &leaks,
            ports: &ports,
            looked: &looked,
            ended: &self.endings.by_group(),
            endings: &self.endings,
            now_ns,
            slow_ns: self.slow_ns,
            ran_ns,
        };
        let findings = findings(&scene);
        Report {
            ran_ns,
            slow_ns: self.slow_ns,
            findings,
            listeners,
            ports,
            unattributed: self.unattributed,
            is_counted: self.is_counted,
            events: totals.events,
            losses: totals.losses,
        }
    }

    /// How many were accepted, and how many wait now, for whoever waits for the report.
    pub fn progress(&self) -> (u64, usize) {
        (self.listeners.values().map(Measure::accepted).sum(), self.children.len())
    }

    /// The measure of a listener. `subject` is the listener or one of its children.
    fn measure(&mut self, listener: SocketKey, subject: &Subject, at_ns: u64) -> Option<&mut Measure> {
        if !self.listeners.contains_key(&listener) {
            if self.listeners.len() >= MOST_LISTENERS {
                // Those that are closed make room; to look for them each time would take too long.
                if self.refused.is_multiple_of(REFUSED_BETWEEN) {
                    self.listeners.retain(|_, measure| !measure.is_over());
                }
                self.refused += 1;
            }
            if self.listeners.len() >= MOST_LISTENERS {
                return None;
            }
            // One that was not listening before is watched from now on.
            let began_ns = if subject.role == Role::Listener { at_ns.max(self.began_ns) } else { self.began_ns };
            let measure = Measure::new(listener, subject.local, began_ns, self.slow_ns);
            self.listeners.insert(listener, measure);
        }
        self.listeners.get_mut(&listener)
    }

    /// The only listener at a child's address.
    fn listener_at(&self, child: &Subject) -> Option<SocketKey> {
        let at = |local| {
            let here = |(key, measure): &(&SocketKey, &Measure)| {
                key.netns == child.key.netns && measure.local() == local && !measure.is_over()
            };
            let mut found = self.listeners.iter().filter(here);
            let only = found.next();
            only.filter(|_| found.next().is_none()).map(|(key, _)| *key)
        };
        at(child.local).or_else(|| at(child.local.at_any_address()))
    }

    fn step(&mut self, at_ns: u64, subject: &Subject, old: TcpState, new: TcpState) {
        if subject.role == Role::Listener {
            if let Some(measure) = self.listeners.get_mut(&subject.key) {
                match new {
                    TcpState::Listen => measure.begin_again(),
                    _closed => measure.end(at_ns),
                }
            }
            return;
        }
        if (old, new) == (TcpState::Listen, TcpState::SynRecv) && self.children.len() < MOST_CHILDREN {
            self.children.insert(subject.key, Child { entered_ns: at_ns, listener: None, half_closed_ns: None });
        }
        if old == TcpState::SynSent && new == TcpState::Established {
            self.routes.open(at_ns, subject);
        }
        if old == TcpState::CloseWait {
            self.close_waits.leave(subject.key);
        }
        let leaving = match new {
            TcpState::CloseWait => Leaving::Fin,
            TcpState::Close => Leaving::Rst,
            _goes_on => return,
        };
        match self.children.get_mut(&subject.key) {
            Some(child) => {
                let Child { entered_ns, listener, .. } = *child;
                child.half_closed_ns = (leaving == Leaving::Fin).then_some(at_ns);
                let measure = listener.and_then(|listener| self.listeners.get_mut(&listener));
                if let Some(measure) = measure.filter(|measure| !measure.is_over()) {
                    measure.leave(at_ns, entered_ns, subject.key.cookie, leaving);
                }
            }
            None if leaving == Leaving::Fin => self.close_waits.enter(Parked::new(subject, at_ns)),
            None => {}
        }
    }

    /// A listing has it in this state, and we did not know; a minisock until then.
    fn list(&mut self, at_ns: u64, subject: &Subject, state: TcpState, expires_ns: Option<u64>) {
        let began_ns = expires_ns.map_or(at_ns, |expires_ns| expires_ns.saturating_sub(TIME_WAIT_NS));
        self.routes.list(subject, (state == TcpState::TimeWait).then_some(began_ns));
        // One that waits in an accept queue has a listener, but no process.
        let queued = self.children.contains_key(&subject.key) || subject.role == Role::Passive;
        if state == TcpState::CloseWait && !queued {
            self.close_waits.enter(Parked { seen_to_enter: false, ..Parked::new(subject, at_ns) });
        } else if state != TcpState::CloseWait {
            self.close_waits.leave(subject.key);
        }
    }

    /// A child is in its listener's queue.
    fn enter(&mut self, at_ns: u64, subject: &Subject, listener: SocketKey) {
        let Some(child) = self.children.get_mut(&subject.key).filter(|child| child.listener.is_none()) else { return };
        child.listener = Some(listener);
        let entered_ns = child.entered_ns;
        if let Some(measure) = self.measure(listener, subject, at_ns) {
            measure.enter(entered_ns, subject.key.cookie);
        }
    }

    fn leave_unaccepted(&mut self, at_ns: u64, key: SocketKey) {
        let Some(Child { entered_ns, listener: Some(listener), .. }) = self.children.remove(&key) else { return };
        if let Some(measure) = self.listeners.get_mut(&listener) {
            measure.remove(at_ns, entered_ns, key.cookie);
        }
    }

    /// With whom a connection is.
    fn group(&self, subject: &Subject) -> Group {
        let is_served = match subject.role {
            Role::Passive => true,
            Role::Active | Role::Listener => false,
            Role::Unknown => self.listener_at(subject).is_some(),
        };
        if is_served { Group::served(subject) } else { Group::opened(subject) }
    }

    fn ended(&mut self, at_ns: u64, subject: &Subject, connection: &Connection) {
        self.close_waits.leave(subject.key);
        self.reads.end(subject.key, connection.payload());
        self.routes.end(at_ns, subject, connection);
        if subject.role != Role::Listener {
            self.endings.end(self.group(subject), connection, at_ns);
            return self.leave_unaccepted(connection.ended_ns.unwrap_or(at_ns), subject.key);
        }
        if let Some(measure) = self.listeners.get_mut(&subject.key) {
            if let Some(figures) = &connection.accept_queue {
                measure.tell(at_ns, figures);
            }
            measure.end(connection.ended_ns.unwrap_or(at_ns));
        }
    }
}

fn spells(listeners: &HashMap<SocketKey, Measure, FixedState>, listener: SocketKey) -> Option<&Spells> {
    listeners.get(&listener).map(Measure::spells)
}

#[cfg(test)]
mod tests;
