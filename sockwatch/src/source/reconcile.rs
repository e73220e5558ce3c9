//! Listings of the kernel's socket table beside the stream of events: at the start, every now and then, and at once after a
//! loss, of every network namespace in which something happened. A thread of its own lists, so that nobody waits for it;
//! who compares is elsewhere.

mod lister;
mod owners;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use self::lister::Lister;
use super::{SourceError, TableNews, Tick};
use crate::{
    monotonic::now_ns,
    tcp::{
        event::{Event, EventKind},
        filter::Filter,
        listing::Round,
        loss::Losses,
    },
};

/// Between the announcement of a round and its first listing: what ends from the announcement on is remembered, and the
/// comparison looks back a little.
const LEAD: Duration = Duration::from_millis(6);

/// After a round nothing is listed for so many times as long as it took: never more than about 2 % of a CPU.
const REST: u32 = 50;

/// After a loss the next round comes at once, but not more often than this.
const LOSS_INTERVAL: Duration = Duration::from_millis(250);

/// Processes that are remembered between two rounds.
const MOST_OWNERS: usize = 1 << 16;

/// When to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// So long after the last round, and at once after a loss.
    Every(Duration),
    /// At random instants, so far apart on average, and without rest: for an audit.
    AtRandom(Duration),
}

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that the filter lets in.
    All,
    /// Listeners only: their connections are not followed.
    Listeners,
}

/// Lists, and says what is there.
#[derive(Debug)]
pub struct Reconciler {
    schedule: Schedule,
    orders: Sender<Order>,
    rounds: Receiver<Report>,
    state: State,
    due: Instant,
    /// Namespaces seen, with the file of a thread that was in it, where one was named.
    namespaces: HashMap<u32, Option<PathBuf>>,
    last_netns: Option<u32>,
    /// Processes that opened or accepted since the last order.
    owners: HashSet<u32>,
    last_owner: u32,
    losses: u64,
    /// Something was lost since the last order.
    lost: bool,
    random: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resting,
    /// Announced at this time.
    Announced(Instant),
    Listing,
}

/// Where to list.
#[derive(Debug)]
struct Order {
    namespaces: HashMap<u32, Option<PathBuf>>,
    /// Processes that opened or accepted since the last order.
    owners: HashSet<u32>,
}

/// What came of it.
#[derive(Debug)]
struct Report {
    round: Round,
    took: Duration,
}

impl Reconciler {
    /// Starts the thread. The first round begins at once: with every namespace that can be found, unless the filter names
    /// some.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(filter: &Filter, schedule: Schedule, scope: Scope) -> Result<Self, SourceError> {
        let (orders, todo) = mpsc::channel();
        let (done, rounds) = mpsc::channel();
        let mut lister = Lister::new(filter.clone(), scope);
        let work = move || {
            for order in todo {
                if done.send(lister.work(&order)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("reconcile".into())
            .spawn(work)
            .map_err(|error| SourceError::Read { what: "the socket table: no thread could be started", error })?;
        let namespaces = filter.netns.iter().map(|netns| (*netns, None)).collect();
        Ok(Self {
            schedule,
            orders,
            rounds,
            state: State::Resting,
            due: Instant::now(),
            namespaces,
            last_netns: None,
            owners: HashSet::new(),
            last_owner: 0,
            losses: 0,
            lost: false,
            random: now_ns() | 1,
        })
    }

    /// Looks at new events: where they happened, and whether some were lost.
    pub fn observe(&mut self, events: &[Event], tick: &Tick) {
        for event in events {
            self.observe_owner(event.kind);
            let netns = event.key.netns;
            if self.last_netns != Some(netns) && netns != 0 {
                self.last_netns = Some(netns);
                let place = self.namespaces.entry(netns).or_default();
                if let EventKind::Opening { by, .. } = event.kind {
                    *place = Some(format!("/proc/{}/task/{}/ns/net", by.pid, by.tid).into());
                }
            }
        }
        let losses = count(&tick.losses);
        if losses != self.losses {
            self.losses = losses;
            self.lost = true;
            self.due = self.due.min(Instant::now() + LOSS_INTERVAL);
        }
    }

    /// Notes who owns sockets: those processes are looked at first.
    fn observe_owner(&mut self, kind: EventKind) {
        if let EventKind::Opening { by, .. } | EventKind::Accept { by, .. } = kind
            && by.pid != self.last_owner
            && self.owners.len() < MOST_OWNERS
        {
            self.last_owner = by.pid;
            self.owners.insert(by.pid);
        }
    }

    /// What there is to say now. Called after each batch of events.
    pub fn news(&mut self) -> TableNews {
        match self.state {
            State::Resting if self.due <= Instant::now() => {
                self.state = State::Announced(Instant::now());
                TableNews::Expected
            }
            State::Announced(at) if at.elapsed() >= LEAD => {
                self.state = State::Listing;
                self.lost = false;
                // A thread that is gone never answers, and nothing more is compared.
                let owners = std::mem::take(&mut self.owners);
                let _ = self.orders.send(Order { namespaces: self.namespaces.clone(), owners });
                self.last_owner = 0;
                TableNews::Nothing
            }
            State::Listing => match self.rounds.try_recv() {
                Ok(report) => {
                    self.state = State::Resting;
                    let rest = if self.lost { LOSS_INTERVAL } else { self.rest(report.took) };
                    self.due = Instant::now() + rest;
                    for netns in &report.round.gone {
                        self.namespaces.remove(netns);
                    }
                    TableNews::Listed(report.round)
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => TableNews::Nothing,
            },
            State::Resting | State::Announced(_) => TableNews::Nothing,
        }
    }

    fn rest(&mut self, took: Duration) -> Duration {
        match self.schedule {
            Schedule::Every(interval) => interval.max(took * REST),
            Schedule::AtRandom(mean) => {
                // Marsaglia's xorshift: only to fall on no rhythm of the traced programs.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                mean * u32::try_from(self.random % 2000).unwrap_or(0) / 1000
            }
        }
    }
}

/// Whatever may have cost an event.
fn count(losses: &Losses) -> u64 {
    losses.lost() + losses.missed() + losses.dropped() + losses.late
}
