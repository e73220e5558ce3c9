//! What a monitoring system scrapes: updates in, counts out. Pure: no I/O, no clock; the instant of a look is an
//! argument.
//!
//! An update costs a match, and for what happens to an accept queue one look-up and one addition: nothing is allocated.
//! What can be counted when somebody asks (sockets by state, depths, ports) is counted then, from the tracker itself.
//! What is asked for is a [`Snapshot`], plain figures that another thread makes text of. Every metric is a row of
//! [`table::TABLE`].
//!
//! Labels are bounded: of listeners so many have a series, of destinations the fullest; the others are summed. No
//! connection has a label of its own.

pub mod document;
pub mod histogram;
mod labels;
pub mod points;
pub mod series;
pub mod snapshot;
mod survey;
pub mod table;
pub mod text;

use std::io;

pub use self::snapshot::{Cost, Program, Pushed, Scrape, Snapshot};
use self::{labels::end_at, series::Listeners, survey::Survey};
use crate::{
    pipeline::Totals,
    process::names::Names,
    sink::{Sight, Sink, selected::Selection},
    tcp::{
        connection::{Connection, Role},
        event::{Comm, SocketKey, Task},
        reset::ResetReasons,
        state::TcpState,
        tracker::Kind,
        update::{Happening, Subject, Update},
    },
};

/// Reasons for a RST that are told apart.
const MOST_REASONS: usize = 128;

/// What tells that a connection has entered an accept queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// The enqueue probe, with the listener.
    Enqueues,
    /// Its birth: there is no enqueue probe. Whose queue it is follows from the address, where only one listens there.
    Births,
}

/// How a connection ended, in the word that it is counted under.
pub fn end_word(connection: &Connection) -> &'static str {
    labels::ENDS[end_at(connection)]
}

/// Connections that ended, by how and by role.
type Endings = [[u64; labels::ROLES.len()]; labels::ENDS.len()];

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    listeners: Listeners,
    arrivals: Arrivals,
    endings: Box<Endings>,
    retransmits: u64,
    resets_sent: Vec<(u32, u64)>,
    resets_received: [u64; labels::ROLES.len()],
    /// Accepted connections whose listener is not known.
    unattributed: u64,
    totals: Totals,
    names: Option<Names>,
    reasons: ResetReasons,
}

impl Metrics {
    /// Counts from now on; so many listeners have a series of their own.
    pub fn new(most_listeners: usize, arrivals: Arrivals) -> Self {
        Self {
            listeners: Listeners::new(most_listeners),
            arrivals,
            endings: Box::new([[0; labels::ROLES.len()]; labels::ENDS.len()]),
            retransmits: 0,
            resets_sent: Vec::new(),
            resets_received: [0; labels::ROLES.len()],
            unattributed: 0,
            totals: Totals::default(),
            names: None,
            reasons: ResetReasons::default(),
        }
    }

    /// Knows what processes are called; else their threads' names stand for them.
    #[must_use]
    pub fn knowing(self, names: Names) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Knows what the kernel's numbers of reasons for a RST mean.
    #[must_use]
    pub fn naming(self, reasons: ResetReasons) -> Self {
        Self { reasons, ..self }
    }

    /// From now on so many listeners get a series of their own; those that have one keep it.
    pub fn limit(&mut self, most_listeners: usize) {
        self.listeners.limit(most_listeners);
    }

    /// Takes an update in.
    pub fn take(&mut self, update: &Update) {
        let Update { at_ns, subject, happening } = update;
        let at_ns = *at_ns;
        if subject.role == Role::Listener && !matches!(happening, Happening::Ended(_)) {
            self.introduce(subject, at_ns);
        }
        match happening {
            Happening::Enqueued { listener, handshake_ns, .. } => {
                self.enter(subject, *listener, *handshake_ns, at_ns);
            }
            Happening::Accepted { listener, wait_ns, .. } => self.accept(subject, *listener, *wait_ns, at_ns),
            Happening::AcceptFailed { errno, .. } => self.listener(subject, at_ns).fail(*errno, 1),
            Happening::SynAckRetransmitted { .. } => self.listener(subject, at_ns).synack_retransmits += 1,
            Happening::Queue(figures) => self.listeners.tell(subject.key, figures, at_ns),
            Happening::Transition { old: TcpState::Listen, new: TcpState::SynRecv, .. }
                if self.arrivals == Arrivals::Births =>
            {
                if let Some(series) = self.listeners.at_address(subject.key.netns, subject.local, at_ns) {
                    series.arrivals += 1;
                }
            }
            Happening::ResetSent { reason } => self.count_reset(*reason),
            Happening::ResetReceived => self.resets_received[labels::role_at(subject.role)] += 1,
            Happening::Retransmitted { .. } => self.retransmits += 1,
            Happening::Ended(connection) => {
                self.endings[end_at(connection)][labels::role_at(subject.role)] += 1;
                if subject.role == Role::Listener {
                    if let Some(figures) = &connection.accept_queue {
                        self.introduce(subject, at_ns);
                        self.listeners.tell(subject.key, figures, at_ns);
                    }
                    self.listeners.end(subject.key, at_ns);
                }
            }
            // Overflows are in the queue's figures, what a minisock comes to in the next look at all sockets, and what
            // was repaired in the agreement.
            Happening::Transition { .. }
            | Happening::Listed { .. }
            | Happening::Inherited { .. }
            | Happening::ListenOverflow
            | Happening::MinisockSegment
            | Happening::MinisockEnded { .. }
            | Happening::Disagreed { .. }
            | Happening::QueueDisagreed { .. }
            | Happening::Unexpected { .. } => {}
        }
    }

    /// What all this comes to now. Looks at every socket that passes, which takes some milliseconds where there are
    /// hundreds of thousands: not to be asked for more often than somebody reads it.
    pub fn snapshot(&mut self, sight: &Sight<'_>, selection: &mut Selection) -> Snapshot {
        let mut survey = Survey::default();
        self.listeners.begin_look();
        for living in sight.tracker.living(sight.now_ns) {
            if !selection.admits(&living.subject, sight.now_ns) {
                continue;
            }
            survey.add(&living);
            if let Kind::Listener(figures) = living.kind {
                self.introduce(&living.subject, sight.now_ns);
                self.listeners.look(living.subject.key, figures.as_ref(), sight.now_ns);
            }
        }
        self.listeners.sweep(sight.now_ns);
        let name = |number: u32| match self.reasons.name(number) {
            Some(name) => name.to_owned(),
            None if number == 0 => labels::UNKNOWN.to_owned(),
            None => number.to_string(),
        };
        Snapshot {
            at_ns: sight.now_ns,
            listeners: self.listeners.own().cloned().collect(),
            other: self.listeners.other().clone(),
            folded: self.listeners.folded(),
            unattributed: self.unattributed,
            endings: *self.endings,
            retransmits: self.retransmits,
            resets_sent: self.resets_sent.iter().map(|(number, count)| (name(*number), *count)).collect(),
            resets_received: self.resets_received,
            states: survey.states,
            ports: survey.fullest(),
            totals: self.totals,
        }
    }

    fn introduce(&mut self, subject: &Subject, at_ns: u64) {
        // Its name is looked up once: it shall not change when the process ends.
        let owner = subject.owner.filter(|owner| !self.listeners.is_owned(subject.key, *owner));
        let named = owner.map(|owner| (owner, self.process(owner, at_ns)));
        self.listeners.introduce(subject.key, subject.local, named, at_ns);
    }

    fn listener(&mut self, subject: &Subject, at_ns: u64) -> &mut series::Series {
        self.listeners.of(subject.key, subject.local, at_ns)
    }

    fn enter(&mut self, child: &Subject, listener: Option<u64>, handshake_ns: Option<i64>, at_ns: u64) {
        let netns = child.key.netns;
        let series = match listener {
            Some(cookie) => Some(self.listeners.of(SocketKey { netns, cookie }, child.local, at_ns)),
            None => self.listeners.at_address(netns, child.local, at_ns),
        };
        let Some(series) = series else { return };
        if self.arrivals == Arrivals::Enqueues {
            series.arrivals += 1;
        }
        if let Some(ns) = handshake_ns {
            series.handshakes.add(ns);
        }
    }

    fn accept(&mut self, child: &Subject, listener: Option<u64>, wait_ns: Option<i64>, at_ns: u64) {
        let netns = child.key.netns;
        let series = match listener {
            Some(cookie) => self.listeners.accept(SocketKey { netns, cookie }, child.local, at_ns),
            None => {
                let Some(series) = self.listeners.at_address(netns, child.local, at_ns) else {
                    self.unattributed += 1;
                    return;
                };
                // The queue's own figures do not have it.
                series.accepts += 1;
                series
            }
        };
        if let Some(ns) = wait_ns {
            series.waits.add(ns);
        }
    }

    /// A process's name, fit for a label: names that look the same are the same.
    fn process(&mut self, task: Task, at_ns: u64) -> Comm {
        let comm = self.names.as_mut().and_then(|names| names.of_thread(task, at_ns)).unwrap_or(task.comm);
        if comm.bytes().iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return comm;
        }
        Comm::from(comm.to_string().as_str())
    }

    fn count_reset(&mut self, reason: u32) {
        if let Some((_, count)) = self.resets_sent.iter_mut().find(|(its, _)| *its == reason) {
            *count += 1;
        } else if self.resets_sent.len() < MOST_REASONS {
            self.resets_sent.push((reason, 1));
        }
    }
}

impl Sink for Metrics {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.take(update);
        Ok(())
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.totals = *totals;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
