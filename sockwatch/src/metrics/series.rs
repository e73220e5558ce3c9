//! What is counted of listeners: a series for each address and process, so many at most, and one for all others.
//!
//! Sockets that listen at the same address for the same process are one series (`SO_REUSEPORT`, a server that was
//! restarted). A listener that passes to another process goes on in that one's series.

use std::collections::{HashMap, hash_map::Entry};

use foldhash::fast::FixedState;

use super::histogram::Histogram;
use crate::tcp::{
    endpoint::Endpoint,
    event::{Comm, SocketKey, Task},
    queue::{Age, QueueFigures, Totals},
};

/// A series of which nothing listens any more is kept for so long: a scrape or two after its end, its last counts are
/// seen.
pub const GONE_NS: u64 = 300_000_000_000;

/// Listening sockets that are told apart at once; those of `other` included.
const MOST_SOCKETS: usize = 1 << 16;

/// Errors of accept() that are told apart in one series.
const MOST_ERRORS: usize = 32;

/// What a series is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The network namespace; 0 where it is not known.
    pub netns: u32,
    /// Where it listens.
    pub local: Endpoint,
    /// Its process; empty where nobody is known.
    pub process: Comm,
}

/// How accept queues are now: of several sockets their sum, and the oldest of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Who waits, the dead included; `None` if nobody listens, or it is not known.
    pub depth: Option<u64>,
    /// Their limit, where it is known of all.
    pub limit: Option<u64>,
    /// How long the oldest has waited, in nanoseconds; 0 if nobody waits.
    pub oldest_ns: u64,
    sockets: u64,
}

/// What is counted of one name. Everything but `now` only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// From the accept queue's entry to accept().
    pub waits: Histogram,
    /// From the first SYN-ACK to the accept queue's entry.
    pub handshakes: Histogram,
    /// Connections that entered the accept queue.
    pub arrivals: u64,
    /// Connections accepted.
    pub accepts: u64,
    /// Those that nobody had accepted when their client closed, and when it reset them.
    pub left: [u64; 2],
    /// Accepted in `CLOSE_WAIT`, and in `CLOSE`.
    pub late: [u64; 2],
    /// Reset because their listener was closed.
    pub unqueued: u64,
    /// Last ACKs that found the queue full.
    pub overflows: u64,
    /// Packets dropped at the listener.
    pub drops: u64,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u64,
    /// Errors of accept(), by errno.
    pub errors: Vec<(i32, u64)>,
    /// As of the last look.
    pub now: Now,
    /// When it began to count from 0, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Sockets that listen.
    sockets: u64,
    active_ns: u64,
}

impl Series {
    /// accept() failed so often.
    pub(super) fn fail(&mut self, errno: i32, times: u64) {
        if let Some((_, count)) = self.errors.iter_mut().find(|(its, _)| *its == errno) {
            *count += times;
        } else if self.errors.len() < MOST_ERRORS {
            self.errors.push((errno, times));
        }
    }

    /// Takes in what has been counted of a socket since it was `seen` last.
    fn absorb(&mut self, seen: &mut Totals, totals: &Totals) {
        // An accept that nobody saw may take back that its client had left; what was told stays told.
        let more = |seen: &mut u64, now: u64| {
            let more = now.saturating_sub(*seen);
            *seen += more;
            more
        };
        self.accepts += more(&mut seen.accepted, totals.accepted);
        self.left[0] += more(&mut seen.left_by_fin, totals.left_by_fin);
        self.left[1] += more(&mut seen.left_by_rst, totals.left_by_rst);
        self.late[0] += more(&mut seen.half_closed_on_arrival, totals.half_closed_on_arrival);
        self.late[1] += more(&mut seen.dead_on_arrival, totals.dead_on_arrival);
        self.unqueued += more(&mut seen.unqueued, totals.unqueued);
        self.overflows += more(&mut seen.overflows, totals.overflows);
        let before = seen.drops.unwrap_or(0);
        let now = totals.drops.unwrap_or(0).max(before);
        self.drops += u64::from(now - before);
        seen.drops = Some(now);
    }
}

/// Which series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// One of its own.
    Own(usize),
    /// That of all others.
    Other,
}

/// A socket that listens.
#[derive(Debug)]
struct Place {
    at: At,
    local: Endpoint,
    /// Whose name it has.
    owner: Option<Task>,
    /// The listener itself was told of: its name is its own.
    introduced: bool,
    /// Its figures come from its queue: accepts are in them.
    followed: bool,
    seen: Totals,
    active_ns: u64,
}

type Addresses = HashMap<(u32, Endpoint), Option<At>, FixedState>;

/// All series.
#[derive(Debug)]
pub(super) struct Listeners {
    most: usize,
    series: Vec<Option<(Name, Series)>>,
    other: Series,
    names: HashMap<Name, usize, FixedState>,
    places: HashMap<SocketKey, Place, FixedState>,
    /// Who listens at an address: its series, or `None` if there are several. Made when it is asked for: where every
    /// probe is in place, nobody asks.
    addresses: Option<Addresses>,
    /// Listening sockets that got no series of their own.
    folded: u64,
}

impl Listeners {
    /// So many series at most, besides that of all others.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            series: Vec::new(),
            other: Series::default(),
            names: HashMap::default(),
            places: HashMap::default(),
            addresses: None,
            folded: 0,
        }
    }

    /// From now on so many; those that there are stay.
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn folded(&self) -> u64 {
        self.folded
    }

    pub(super) fn other(&self) -> &Series {
        &self.other
    }

    pub(super) fn own(&self) -> impl Iterator<Item = &(Name, Series)> {
        self.series.iter().flatten()
    }

    /// Whether a listener's name is that of this owner already.
    pub(super) fn is_owned(&self, key: SocketKey, owner: Task) -> bool {
        self.places.get(&key).is_some_and(|place| place.owner == Some(owner))
    }

    /// The listener itself is told: its name is certain.
    pub(super) fn introduce(&mut self, key: SocketKey, local: Endpoint, named: Option<(Task, Comm)>, at_ns: u64) {
        let (owner, process) = named.unzip();
        if !self.places.contains_key(&key) {
            let name = Name { netns: key.netns, local, process: process.unwrap_or_default() };
            self.admit(key, name, true, at_ns);
        }
        let Some(place) = self.places.get_mut(&key) else { return };
        place.owner = owner.or(place.owner);
        place.active_ns = place.active_ns.max(at_ns);
        let (at, was_introduced) = (place.at, std::mem::replace(&mut place.introduced, true));
        let At::Own(slot) = at else { return };
        let Some((before, series)) = self.series.get_mut(slot).and_then(Option::as_mut) else { return };
        series.active_ns = series.active_ns.max(at_ns);
        let name = Name { netns: key.netns, local, process: process.unwrap_or(before.process) };
        if *before == name {
            return;
        }
        let is_provisional = !was_introduced || before.process == Comm::default();
        if is_provisional && series.sockets == 1 && !self.names.contains_key(&name) {
            self.names.remove(before);
            self.names.insert(name, slot);
            *before = name;
        } else {
            let provisional = (is_provisional && series.sockets == 1).then_some(slot);
            self.move_to(key, name, provisional, at_ns);
        }
        if let Some(place) = self.places.get_mut(&key) {
            place.local = local;
        }
        self.addresses = None;
    }

    /// The series of a listener that is told of by its child, or by what happened to it.
    pub(super) fn of(&mut self, key: SocketKey, local: Endpoint, at_ns: u64) -> &mut Series {
        if !self.places.contains_key(&key) {
            self.admit(key, Name { netns: key.netns, local, process: Comm::default() }, false, at_ns);
        }
        let at = match self.places.get_mut(&key) {
            Some(place) => {
                place.active_ns = place.active_ns.max(at_ns);
                place.at
            }
            // There was no room to remember it.
            None => At::Other,
        };
        self.series_at(at, at_ns)
    }

    /// The series of the only listener whose child this local address can have.
    pub(super) fn at_address(&mut self, netns: u32, local: Endpoint, at_ns: u64) -> Option<&mut Series> {
        if self.addresses.is_none() {
            self.addresses = Some(self.index());
        }
        let addresses = self.addresses.as_ref()?;
        let found = addresses.get(&(netns, local)).or_else(|| addresses.get(&(netns, local.at_any_address())));
        let at = found.copied().flatten()?;
        Some(self.series_at(at, at_ns))
    }

    /// A child was accepted whose listener is known.
    pub(super) fn accept(&mut self, key: SocketKey, local: Endpoint, at_ns: u64) -> &mut Series {
        self.of(key, local, at_ns);
        // A queue that is told has it in its figures.
        let counts = self.places.get_mut(&key).is_none_or(|place| {
            place.seen.accepted += u64::from(!place.followed);
            !place.followed
        });
        let series = self.of(key, local, at_ns);
        series.accepts += u64::from(counts);
        series
    }

    /// How a listener's queue is. It was introduced before.
    pub(super) fn tell(&mut self, key: SocketKey, figures: &QueueFigures, at_ns: u64) {
        let Some(place) = self.places.get_mut(&key) else { return };
        place.followed = true;
        let at = place.at;
        let mut seen = place.seen;
        self.series_at(at, at_ns).absorb(&mut seen, &figures.totals);
        if let Some(place) = self.places.get_mut(&key) {
            place.seen = seen;
        }
    }

    /// A listener is over; its series stays for a while.
    pub(super) fn end(&mut self, key: SocketKey, at_ns: u64) {
        let Some(place) = self.places.remove(&key) else { return };
        let series = self.series_at(place.at, at_ns);
        series.sockets = series.sockets.saturating_sub(1);
        self.addresses = None;
    }

    /// A look at all queues begins.
    pub(super) fn begin_look(&mut self) {
        self.series.iter_mut().flatten().for_each(|(_, series)| series.now = Now::default());
        self.other.now = Now::default();
    }

    /// One of them; without figures if the queue is not known.
    pub(super) fn look(&mut self, key: SocketKey, figures: Option<&QueueFigures>, at_ns: u64) {
        let Some(place) = self.places.get_mut(&key) else { return };
        place.active_ns = at_ns;
        let at = place.at;
        if let Some(figures) = figures {
            self.tell(key, figures, at_ns);
        }
        let limit = figures.and_then(|figures| figures.totals.limit).map(u64::from);
        let now = &mut self.series_at(at, at_ns).now;
        if let Some(figures) = figures {
            now.depth = Some(now.depth.unwrap_or(0) + u64::from(figures.depth));
        }
        now.limit = if now.sockets == 0 { limit } else { now.limit.zip(limit).map(|(sum, limit)| sum + limit) };
        now.oldest_ns = now.oldest_ns.max(figures.and_then(|figures| figures.oldest).map_or(0, Age::ns));
        now.sockets += 1;
    }

    /// Forgets what has been gone for long: just after a look, so that whatever listens is active now.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        let is_old = |active_ns: u64| now_ns.saturating_sub(active_ns) > GONE_NS;
        let lost = self.places.iter().filter(|(_, place)| is_old(place.active_ns));
        for key in lost.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(place) = self.places.remove(&key) else { continue };
            if let At::Own(slot) = place.at
                && let Some((_, series)) = self.series.get_mut(slot).and_then(Option::as_mut)
            {
                series.sockets = series.sockets.saturating_sub(1);
            }
        }
        for slot in &mut self.series {
            if let Some((name, _)) = slot.take_if(|(_, series)| series.sockets == 0 && is_old(series.active_ns)) {
                self.names.remove(&name);
            }
        }
        self.addresses = None;
    }

    fn series_at(&mut self, at: At, at_ns: u64) -> &mut Series {
        let series = match at {
            At::Own(slot) => self.series.get_mut(slot).and_then(Option::as_mut).map(|(_, series)| series),
            At::Other => None,
        };
        let series = series.unwrap_or(&mut self.other);
        series.active_ns = series.active_ns.max(at_ns);
        series
    }

    /// A socket that was not known gets its place.
    fn admit(&mut self, key: SocketKey, name: Name, introduced: bool, at_ns: u64) {
        if self.places.len() >= MOST_SOCKETS {
            return;
        }
        let at = self.find(name, at_ns);
        self.folded += u64::from(at == At::Other);
        self.series_at(at, at_ns).sockets += 1;
        let (local, seen) = (name.local, Totals::default());
        self.places.insert(key, Place { at, local, owner: None, introduced, followed: false, seen, active_ns: at_ns });
        self.addresses = None;
    }

    /// The series of this name; a new one, if there is room.
    fn find(&mut self, name: Name, at_ns: u64) -> At {
        let slot = match self.names.entry(name) {
            Entry::Occupied(known) => return At::Own(*known.get()),
            Entry::Vacant(_) if self.series.iter().flatten().count() >= self.most => return At::Other,
            Entry::Vacant(vacant) => {
                let free = self.series.iter().position(Option::is_none).unwrap_or(self.series.len());
                *vacant.insert(free)
            }
        };
        let series = Series { since_ns: at_ns, active_ns: at_ns, ..Series::default() };
        match self.series.get_mut(slot) {
            Some(free) => *free = Some((name, series)),
            None => self.series.push(Some((name, series))),
        }
        At::Own(slot)
    }

    /// A socket goes on in another series; what a provisional one had counted goes with it.
    fn move_to(&mut self, key: SocketKey, name: Name, provisional: Option<usize>, at_ns: u64) {
        let counted = provisional.and_then(|slot| self.series.get_mut(slot)?.take());
        if let Some((name, _)) = &counted {
            self.names.remove(name);
        }
        let at = self.find(name, at_ns);
        let Some(place) = self.places.get_mut(&key) else { return };
        let before = std::mem::replace(&mut place.at, at);
        if counted.is_none() {
            let former = self.series_at(before, at_ns);
            former.sockets = former.sockets.saturating_sub(1);
        }
        self.folded += u64::from(at == At::Other);
        let series = self.series_at(at, at_ns);
        series.sockets += 1;
        if let Some((_, counted)) = counted {
            series.merge(&counted);
        }
    }

    fn index(&self) -> Addresses {
        let mut addresses = Addresses::default();
        for (key, place) in &self.places {
            let found = addresses.entry((key.netns, place.local)).or_insert(Some(place.at));
            if *found != Some(place.at) {
                *found = None;
            }
        }
        addresses
    }
}

impl Series {
    /// Adds what another has counted.
    fn merge(&mut self, other: &Self) {
        self.since_ns = self.since_ns.min(other.since_ns);
        self.waits.merge(&other.waits);
        self.handshakes.merge(&other.handshakes);
        self.arrivals += other.arrivals;
        self.accepts += other.accepts;
        for (count, more) in self.left.iter_mut().zip(other.left).chain(self.late.iter_mut().zip(other.late)) {
            *count += more;
        }
        self.unqueued += other.unqueued;
        self.overflows += other.overflows;
        self.drops += other.drops;
        self.synack_retransmits += other.synack_retransmits;
        other.errors.iter().for_each(|(errno, times)| self.fail(*errno, *times));
    }
}
