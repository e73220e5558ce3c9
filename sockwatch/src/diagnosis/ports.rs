//! Local ports that connections to one destination take: those that are open, and those that their end leaves in `TIME_WAIT` at
//! the side that closed first. When all are taken, connect() fails with `EADDRNOTAVAIL`.

mod forecast;
mod pace;

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::FixedState;

use self::{
    forecast::{Pressure, exhausted_in_ns},
    pace::{Pace, STEP_NS, WINDOW_NS},
};
use super::{REFUSED_BETWEEN, measure::Acceptor};
use crate::tcp::{
    close::Ending,
    connection::{Connection, Role},
    endpoint::Endpoint,
    event::{SocketKey, Task},
    minisock::TIME_WAIT_NS,
    update::Subject,
};

/// Destinations, and ports taken, that are followed at once.
pub(super) const MOST_ROUTES: usize = 1 << 14;
const MOST_PORTS: usize = 1 << 20;

/// Room for so many ports is kept.
const LEAST_ROOM: usize = 64;

/// Processes that are told apart by destination.
const MOST_NAMES: usize = 16;

/// So many more that are open, and one in ten of those that were opened, are no accident.
const LEAST_LEAK: u64 = 10;

/// `tcp_tw_reuse` lets a new connection take the place of one that has been in `TIME_WAIT` for so long.
const REUSED_AFTER_NS: u64 = 1_000_000_000;

/// From where to where; each has all ports of the range for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The network namespace.
    pub netns: u32,
    /// This end's address.
    pub source: IpAddr,
    /// The other end.
    pub remote: Endpoint,
}

/// What a network namespace allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.ip_local_port_range`, the first.
    pub first: u16,
    /// And the last.
    pub last: u16,
    /// Ports within it that `net.ipv4.ip_local_reserved_ports` keeps.
    pub reserved: u16,
    /// `net.ipv4.tcp_tw_reuse`: 0 never, 1 always, 2 on loopback.
    pub reuse: u8,
    /// `net.ipv4.tcp_timestamps` is on: nothing is reused without.
    pub timestamps: bool,
}

impl Settings {
    /// Ports that connect() can take. It tries them in pairs: of an odd number the last is left out (`__inet_hash_connect`).
    pub fn capacity(&self) -> u64 {
        let range = u64::from(self.last.saturating_sub(self.first)) + 1;
        let tried = if range > 1 { range & !1 } else { range };
        tried.saturating_sub(self.reserved.into())
    }

    /// How long `TIME_WAIT` keeps a port from a new connection to the same destination.
    pub fn holds_ns(&self, route: &Route) -> u64 {
        let is_loopback =
            route.source.to_canonical().is_loopback() || route.remote.address.to_canonical().is_loopback();
        let reused = self.timestamps && (self.reuse == 1 || self.reuse == 2 && is_loopback);
        if reused { REUSED_AFTER_NS } else { TIME_WAIT_NS }
    }
}

/// Ports of one route, at the end of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUse {
    /// From where to where.
    pub route: Route,
    /// What the namespace allows.
    pub settings: Settings,
    /// Ports of connections that are open.
    pub open: u64,
    /// Ports that `TIME_WAIT` keeps from new connections.
    pub time_wait: u64,
    /// Ports taken in the last ten seconds of the run, and not given back, in tenths per second.
    pub tenths_per_second: u64,
    /// The part of them that goes to connections which stay open.
    pub leaked_tenths_per_second: u64,
    /// When no port is left if it goes on so, in nanoseconds from now; `None`: never.
    pub exhausted_in_ns: Option<u64>,
    /// connect() that failed before a SYN was sent.
    pub failed: u64,
    /// Who opened them, the busiest first.
    pub openers: Vec<Acceptor>,
}

impl PortUse {
    /// Ports that are taken.
    pub fn taken(&self) -> u64 {
        self.open + self.time_wait
    }
}

/// A port that is taken.
#[derive(Clone, Copy, Debug)]
struct Port {
    number: u16,
    /// A minisock keeps it since then, at the latest.
    closed_ns: Option<u64>,
}

/// All of a route's.
#[derive(Debug, Default)]
struct Ports {
    taken: HashMap<SocketKey, Port, FixedState>,
    /// When the first was seen to be taken.
    first_ns: Option<u64>,
    /// Ports that are taken, and not given back.
    takes: Pace,
    /// Connections that ended and left their port to `TIME_WAIT`.
    ends: Pace,
    failed: u64,
    openers: Vec<Acceptor>,
}

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: HashMap<Route, Ports, FixedState>,
    taken: usize,
    /// How often there was no room for another route.
    refused: u64,
}

impl Routes {
    /// A connection that was opened here is established.
    pub(super) fn open(&mut self, at_ns: u64, subject: &Subject) {
        if !self.take(subject, None) {
            return;
        }
        let Some(ports) = self.routes.get_mut(&route(subject)) else { return };
        ports.first_ns.get_or_insert(at_ns);
        ports.takes.grow(at_ns, 1);
        let Some(owner) = subject.owner else { return };
        if let Some(opener) = ports.openers.iter_mut().find(|opener| opener.task.pid == owner.pid) {
            opener.accepted += 1;
        } else if ports.openers.len() < MOST_NAMES {
            ports.openers.push(Acceptor { task: owner, accepted: 1 });
        }
    }

    /// A listing has it, and we did not know: it was there before, in `TIME_WAIT` since then. Of two ports the greater one is taken for the client's.
    pub(super) fn list(&mut self, subject: &Subject, time_wait_since_ns: Option<u64>) {
        let is_client = match subject.role {
            Role::Active => true,
            Role::Unknown => subject.local.port > subject.remote.port,
            Role::Passive | Role::Listener => false,
        };
        if is_client {
            self.take(subject, time_wait_since_ns);
        }
    }

    /// A connection is over: its minisock keeps its port if it closed first.
    pub(super) fn end(&mut self, at_ns: u64, subject: &Subject, connection: &Connection) {
        let Some(ports) = self.routes.get_mut(&route(subject)) else { return };
        let is_kept = matches!(connection.ending, Some(Ending::LocalFin | Ending::BothFin | Ending::Orphaned));
        if is_kept {
            if let Some(port) = ports.taken.get_mut(&subject.key) {
                port.closed_ns = Some(connection.ended_ns.unwrap_or(at_ns));
                ports.ends.grow(at_ns, 1);
            }
            return;
        }
        ports.failed += u64::from(failed_here(connection));
        if ports.give_back(subject.key) {
            self.taken -= 1;
            ports.takes.grow(at_ns, -1);
        }
    }

    /// An orphan's minisock comes to `TIME_WAIT`, which begins then.
    pub(super) fn wait(&mut self, at_ns: u64, subject: &Subject) {
        let ports = self.routes.get_mut(&route(subject));
        if let Some(port) = ports.and_then(|ports| ports.taken.get_mut(&subject.key)) {
            port.closed_ns = Some(at_ns);
        }
    }

    /// Its minisock is gone, or the kernel has it no longer.
    pub(super) fn free(&mut self, subject: &Subject) {
        if let Some(ports) = self.routes.get_mut(&route(subject))
            && ports.give_back(subject.key)
        {
            self.taken -= 1;
        }
    }

    /// Namespaces whose settings are asked for.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> {
        self.routes.keys().map(|route| route.netns)
    }

    /// The routes in namespaces whose settings are known, the fullest first.
    pub(super) fn used(&self, now_ns: u64, settings: &HashMap<u32, Settings>) -> Vec<PortUse> {
        let known = self.routes.iter().filter_map(|(route, ports)| Some((route, ports, settings.get(&route.netns)?)));
        let mut all: Vec<_> = known.map(|(route, ports, settings)| ports.used(now_ns, *route, *settings)).collect();
        all.retain(|it| it.taken() > 0);
        all.sort_by_key(|it| (std::cmp::Reverse(it.taken() * 1_000_000 / it.settings.capacity().max(1)), it.route));
        all
    }

    fn take(&mut self, subject: &Subject, closed_ns: Option<u64>) -> bool {
        let route = route(subject);
        if self.routes.len() >= MOST_ROUTES && !self.routes.contains_key(&route) {
            // Those without a port make room; to look for them each time would take too long.
            if self.refused.is_multiple_of(REFUSED_BETWEEN) {
                self.routes.retain(|_, ports| !ports.taken.is_empty());
            }
            self.refused += 1;
        }
        let is_full = self.routes.len() >= MOST_ROUTES && !self.routes.contains_key(&route);
        if is_full || self.taken >= MOST_PORTS || subject.local.port == 0 {
            return false;
        }
        let ports = self.routes.entry(route).or_default();
        let is_new = ports.taken.insert(subject.key, Port { number: subject.local.port, closed_ns }).is_none();
        self.taken += usize::from(is_new);
        is_new
    }
}

impl Ports {
    /// A port is free again. Returns whether it was taken. Room that was needed once is not kept: there may be thousands of
    /// destinations, each of them busy for a while.
    fn give_back(&mut self, key: SocketKey) -> bool {
        let was_taken = self.taken.remove(&key).is_some();
        if self.taken.capacity() > LEAST_ROOM && self.taken.len() < self.taken.capacity() / 8 {
            self.taken.shrink_to(2 * self.taken.len());
        }
        was_taken
    }

    /// Ports taken per nanosecond; 0 if it does not go on.
    fn rate(&self, now_ns: u64) -> f64 {
        let Some(first_ns) = self.first_ns else { return 0.0 };
        let window_ns = now_ns.saturating_sub(WINDOW_NS) / STEP_NS * STEP_NS;
        let since_ns = first_ns.max(window_ns);
        let rate = self.takes.since(since_ns) as f64 / now_ns.saturating_sub(since_ns).max(1) as f64;
        let last_second_ns = now_ns.saturating_sub(1_000_000_000);
        let goes_on = self.takes.since(last_second_ns) as f64 * 2.0 >= rate * 1e9;
        if goes_on { rate } else { 0.0 }
    }

    /// The part of that rate which never comes back: connections that stay open. 0 unless it is plain.
    fn leaks(&self, now_ns: u64, rate: f64) -> f64 {
        let since_ns = now_ns.saturating_sub(WINDOW_NS) / STEP_NS * STEP_NS;
        let (takes, ends) = (self.takes.since(since_ns), self.ends.since(since_ns));
        let stay = takes.saturating_sub(ends);
        if stay < LEAST_LEAK || stay.saturating_mul(10) < takes { 0.0 } else { rate * stay as f64 / takes as f64 }
    }

    fn used(&self, now_ns: u64, route: Route, settings: Settings) -> PortUse {
        let holds_ns = settings.holds_ns(&route);
        let in_range = |port: &&Port| (settings.first..=settings.last).contains(&port.number);
        let mut left_ns = Vec::new();
        let mut open = 0;
        for port in self.taken.values().filter(in_range) {
            match port.closed_ns {
                None => open += 1,
                Some(closed_ns) => {
                    let left = closed_ns.saturating_add(holds_ns).saturating_sub(now_ns);
                    left_ns.extend((left > 0).then_some(left));
                }
            }
        }
        left_ns.sort_unstable();
        let time_wait = left_ns.len() as u64;
        let rate = self.rate(now_ns);
        let pressure = Pressure { rate, leaks: self.leaks(now_ns, rate) };
        let mut openers = self.openers.clone();
        openers.sort_by_key(|opener| std::cmp::Reverse(opener.accepted));
        PortUse {
            route,
            settings,
            open,
            time_wait,
            tenths_per_second: (rate * 1e10) as u64,
            leaked_tenths_per_second: (pressure.leaks * 1e10) as u64,
            exhausted_in_ns: exhausted_in_ns(open + time_wait, settings.capacity(), pressure, &left_ns, holds_ns),
            failed: self.failed,
            openers,
        }
    }
}

fn route(subject: &Subject) -> Route {
    Route { netns: subject.key.netns, source: subject.local.address, remote: subject.remote }
}

/// connect() failed before a SYN was sent, and nobody had closed the socket: no port was free, or no packet could be made.
fn failed_here(connection: &Connection) -> bool {
    let nothing_sent = connection.evidence.is_some_and(|it| it.segments_out == 0 && it.shutdown == 0 && it.error == 0);
    connection.ending == Some(Ending::ConnectAborted) && nothing_sent
}

/// The process that opened most of them.
pub(super) fn opener(ports: &PortUse) -> Option<Task> {
    ports.openers.first().map(|opener| opener.task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_was_busy_keeps_no_room() {
        const MANY: u64 = 10_000;
        let key = |cookie| SocketKey { netns: 1, cookie };
        let mut ports = Ports::default();
        for cookie in 0..MANY {
            ports.taken.insert(key(cookie), Port { number: 1, closed_ns: None });
        }
        assert!((0..MANY).all(|cookie| ports.give_back(key(cookie))) && !ports.give_back(key(0)));
        assert!(ports.taken.capacity() <= LEAST_ROOM, "{}", ports.taken.capacity());
    }
}
