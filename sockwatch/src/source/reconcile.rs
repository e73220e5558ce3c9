//! Listings of the kernel's socket table beside the stream of events: at the start, every now and then, and at once after a
//! loss, of every network namespace in which something happened. A thread of its own lists, so that nobody waits for it;
//! who compares is elsewhere.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use super::{
    SourceError, TableNews, Tick,
    table::{self, Asked, Listed, Namespace, Places, TableError},
};
use crate::{
    monotonic::now_ns,
    process::{
        self,
        holders::{Holders, add_inodes},
    },
    tcp::{
        event::{Event, EventKind, Task},
        filter::Filter,
        listing::{Listing, Record, Round},
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

/// When to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// So long after the last round, and at once after a loss.
    Every(Duration),
    /// At random instants, so far apart on average, and without rest: for an audit.
    AtRandom(Duration),
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

/// What to list.
#[derive(Debug)]
struct Order {
    namespaces: HashMap<u32, Option<PathBuf>>,
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
    pub fn start(filter: &Filter, schedule: Schedule) -> Result<Self, SourceError> {
        let (orders, todo) = mpsc::channel();
        let (done, rounds) = mpsc::channel();
        let mut lister = Lister { filter: filter.clone(), known: HashSet::new() };
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
            losses: 0,
            lost: false,
            random: now_ns() | 1,
        })
    }

    /// Looks at new events: where they happened, and whether some were lost.
    pub fn observe(&mut self, events: &[Event], tick: &Tick) {
        for event in events {
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
                let _ = self.orders.send(Order { namespaces: self.namespaces.clone() });
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

/// Lists on a thread of its own.
struct Lister {
    filter: Filter,
    /// Namespaces that were listed before.
    known: HashSet<u32>,
}

impl Lister {
    fn work(&mut self, order: &Order) -> Report {
        let began = Instant::now();
        let mut round = Round::default();
        let places = Places::look();
        let mut wanted: HashMap<u32, Option<PathBuf>> = order.namespaces.clone();
        if self.filter.netns.is_empty() {
            // What is there already, and where nothing has happened yet.
            for place in &places.found {
                wanted.entry(place.inode).or_default().get_or_insert_with(|| place.path.clone());
            }
        }
        let owners = Owners::look(&self.filter, wanted.keys().any(|netns| !self.known.contains(netns)));
        for (netns, hint) in wanted {
            let place = places.found.iter().find(|place| place.inode == netns).map(|place| place.path.clone());
            match place.or(hint).and_then(|path| Namespace::open(&path).ok()).filter(|it| it.inode() == netns) {
                Some(namespace) => match self.list(&namespace, &owners) {
                    Ok(listing) => round.listings.push(listing),
                    Err(_) => round.unlisted += 1,
                },
                None if self.known.remove(&netns) => round.gone.push(netns),
                None => round.unlisted += 1,
            }
        }
        round.to_ns = now_ns();
        Report { round, took: began.elapsed() }
    }

    fn list(&mut self, namespace: &Namespace, owners: &Owners) -> Result<Listing, TableError> {
        let netns = namespace.inode();
        let first = !self.known.contains(&netns);
        let from_ns = now_ns();
        let table::Listing { sockets, .. } = namespace.list(Asked::Sockets)?;
        let to_ns = now_ns();
        self.known.insert(netns);
        let ours = |it: &&Listed| self.filter.matches_tuple(it.key.netns, it.local, it.remote);
        let records = sockets.iter().filter(ours).map(|listed| owners.record(listed, first)).collect();
        Ok(Listing { netns, from_ns, to_ns, first, records })
    }
}

/// Who holds what, looked at once for a round.
struct Owners {
    /// Only for a namespace's first listing.
    holders: Option<Holders>,
    /// Of a process filter.
    owned: HashSet<u32>,
    /// Whether sockets that no event told us of may be ours at all.
    all: bool,
}

impl Owners {
    fn look(filter: &Filter, first: bool) -> Self {
        let mut owned = HashSet::new();
        for pid in &filter.pids {
            // One that has ended holds nothing.
            let _ = add_inodes(*pid, &mut owned);
        }
        let all = filter.pids.is_empty() && filter.cgroup.is_none();
        Self { holders: first.then(Holders::look), owned, all }
    }

    fn record(&self, listed: &Listed, first: bool) -> Record {
        let expires_in_ns =
            listed.timer.filter(|_| listed.minisock).map(|timer| u64::from(timer.expires_ms) * 1_000_000);
        let holder = self.holders.as_ref().filter(|_| first);
        Record {
            key: listed.key,
            tuple: (listed.local, listed.remote),
            state: listed.state,
            expires_in_ns,
            queue: listed.queue,
            from_ns: listed.filled.from_ns,
            to_ns: listed.filled.to_ns,
            holder: holder.and_then(|holders| task(holders, listed.inode)),
            ours: self.all || first && listed.inode != 0 && self.owned.contains(&listed.inode),
        }
    }
}

fn task(holders: &Holders, inode: u32) -> Option<Task> {
    let pid = holders.of(inode).first()?.pid;
    let comm = process::thread_name(pid, pid)?;
    Some(Task { pid, tid: pid, comm })
}
