//! How many sockets are in a state now, by one listing of the kernel's table: works for every user, sees the caller's
//! network namespace.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fs,
    net::IpAddr,
};

use serde::Serialize;
use sockwatch::{
    source::table::{self, Listed},
    tcp::{endpoint::Endpoint, state::TcpState},
};

/// Sockets in a state.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// All of them, in this network namespace.
    pub(super) sockets: usize,
    /// Those that no process holds: inode 0.
    pub(super) without_process: usize,
    /// The three largest groups; none for `LISTEN`.
    pub(super) largest: Vec<Group>,
    /// For `LISTEN`: the three fullest accept queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) queues: Vec<Queue>,
    /// For `TIME_WAIT`: local ports in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ephemeral: Option<Ephemeral>,
}

/// Sockets that belong together.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Group {
    /// By what: one of two fields.
    #[serde(flatten)]
    pub(super) by: By,
    /// How many.
    pub(super) sockets: usize,
}

/// The end that the sockets of a group share.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    /// A server's port, for connections that came.
    LocalPort(u16),
    /// Where to, for connections that were opened here.
    Destination(String),
}

/// An accept queue.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Queue {
    /// The listener's address and port.
    pub(super) local: String,
    /// How many wait.
    pub(super) depth: u32,
    /// The limit; it takes one more.
    pub(super) limit: u32,
}

/// Local ports that the kernel chooses from, and what they are used for.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Ephemeral {
    /// The first (`net.ipv4.ip_local_port_range`).
    pub(super) low: u16,
    /// The last.
    pub(super) high: u16,
    /// How many there are without `net.ipv4.ip_local_reserved_ports`: so many connections from one address to one
    /// destination.
    pub(super) usable: u32,
    /// The three destinations that use most of them, of those with sockets in `TIME_WAIT`.
    pub(super) destinations: Vec<Use>,
}

/// Local ports in use from one address to one destination.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Use {
    /// The local address.
    pub(super) local: IpAddr,
    /// The remote address and port.
    pub(super) destination: String,
    /// Ports in use, in any state.
    pub(super) ports: usize,
    /// Those of them in `TIME_WAIT`.
    pub(super) time_wait: usize,
}

/// How many of a kind are shown.
const SHOWN: usize = 3;

/// Looks. A reason is one line.
pub(super) fn look(state: TcpState) -> super::Looked {
    if let TcpState::Close | TcpState::BoundInactive = state {
        return Err(format!("the kernel's table does not list sockets in {state}"));
    }
    let listed = table::list().map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let sysctl = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
    let range = sysctl("ip_local_port_range").ok();
    let reserved = sysctl("ip_local_reserved_ports").unwrap_or_default();
    let ephemeral = range.and_then(|range| EphemeralPorts::parse(&range, &reserved));
    Ok(tally(state, &listed, ephemeral))
}

/// The ports that `connect()` chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EphemeralPorts {
    low: u16,
    high: u16,
    usable: u32,
}

impl EphemeralPorts {
    /// From the texts of the two sysctls: `32768 60999`, and `8080,9100-9199`.
    fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut numbers = range.split_whitespace().map(str::parse::<u16>);
        let (low, high) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let width = |low: u16, high: u16| (u32::from(high) + 1).saturating_sub(u32::from(low));
        let within = |text: &str| {
            let (first, last) = text.trim().split_once('-').unwrap_or((text.trim(), text.trim()));
            Some(width(low.max(first.parse().ok()?), high.min(last.parse().ok()?)))
        };
        let reserved: u32 = reserved.split(',').filter_map(within).sum();
        Some(Self { low, high, usable: width(low, high).saturating_sub(reserved) })
    }

    fn holds(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

/// What groups sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    LocalPort(u16),
    Destination(IpAddr, u16),
}

fn tally(state: TcpState, listed: &[Listed], ports: Option<EphemeralPorts>) -> Counts {
    // Requests are listed as SYN_RECV.
    let wanted = if state == TcpState::NewSynRecv { TcpState::SynRecv } else { state };
    let listening: HashSet<u16> = in_state(listed, TcpState::Listen).map(|socket| socket.local.port).collect();
    let key = |socket: &Listed| key(socket, &listening, ports);
    let largest = if state == TcpState::Listen { Vec::new() } else { largest(in_state(listed, wanted).map(key)) };
    Counts {
        sockets: in_state(listed, wanted).count(),
        without_process: in_state(listed, wanted).filter(|socket| socket.inode == 0).count(),
        largest,
        queues: if state == TcpState::Listen { fullest(listed) } else { Vec::new() },
        ephemeral: ports.filter(|_| state == TcpState::TimeWait).map(|ports| ephemeral(ports, listed, &listening)),
    }
}

fn in_state(listed: &[Listed], state: TcpState) -> impl Iterator<Item = &Listed> {
    listed.iter().filter(move |socket| socket.state == state)
}

/// Whether it came or was opened here, a socket does not say. It came if its port has a listener, or could not have been
/// chosen by the kernel.
fn key(socket: &Listed, listening: &HashSet<u16>, ports: Option<EphemeralPorts>) -> Key {
    let port = socket.local.port;
    if listening.contains(&port) || ports.is_some_and(|ports| !ports.holds(port)) {
        Key::LocalPort(port)
    } else {
        Key::Destination(socket.remote.address.to_canonical(), socket.remote.port)
    }
}

fn largest(keys: impl Iterator<Item = Key>) -> Vec<Group> {
    let mut groups = HashMap::new();
    for key in keys {
        *groups.entry(key).or_insert(0) += 1;
    }
    let mut groups: Vec<(Key, usize)> = groups.into_iter().collect();
    groups.sort_unstable_by_key(|(key, sockets)| (Reverse(*sockets), *key));
    groups.truncate(SHOWN);
    let by = |key| match key {
        Key::LocalPort(port) => By::LocalPort(port),
        Key::Destination(address, port) => By::Destination(Endpoint { address, port }.to_string()),
    };
    groups.into_iter().map(|(key, sockets)| Group { by: by(key), sockets }).collect()
}

fn fullest(listed: &[Listed]) -> Vec<Queue> {
    let queues = listed.iter().filter_map(|socket| Some((socket.queue?, socket.local.to_string())));
    let mut queues: Vec<_> = queues.map(|((depth, limit), local)| Queue { local, depth, limit }).collect();
    // By what is taken of it; an empty queue says nothing, but shows the limit.
    queues.sort_by_cached_key(|queue| {
        let taken = u64::from(queue.depth) * 1000 / (u64::from(queue.limit) + 1);
        (Reverse(taken), Reverse(queue.depth), queue.local.clone())
    });
    queues.truncate(SHOWN);
    queues
}

fn ephemeral(ports: EphemeralPorts, listed: &[Listed], listening: &HashSet<u16>) -> Ephemeral {
    let mut uses = HashMap::new();
    for socket in listed {
        if let Key::Destination(address, port) = key(socket, listening, Some(ports)) {
            let (ports, time_wait) = uses.entry((socket.local.address.to_canonical(), address, port)).or_insert((0, 0));
            *ports += 1;
            *time_wait += usize::from(socket.state == TcpState::TimeWait);
        }
    }
    let mut uses: Vec<_> = uses.into_iter().filter(|(_, (_, time_wait))| *time_wait > 0).collect();
    uses.sort_unstable_by_key(|(ends, (ports, _))| (Reverse(*ports), *ends));
    uses.truncate(SHOWN);
    let destinations = uses.into_iter().map(|((local, address, port), (ports, time_wait))| {
        let destination = Endpoint { address, port }.to_string();
        Use { local, destination, ports, time_wait }
    });
    let EphemeralPorts { low, high, usable } = ports;
    Ephemeral { low, high, usable, destinations: destinations.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockwatch::tcp::event::SocketKey;

    const PORTS: EphemeralPorts = EphemeralPorts { low: 40_000, high: 49_999, usable: 10_000 };

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint { address: address.ip(), port: address.port() }
    }

    fn socket(state: TcpState, local: &str, remote: &str, inode: u32) -> Listed {
        let key = SocketKey { netns: 1, cookie: 1 };
        Listed { inode, ..Listed::bare(key, end(local), end(remote), state) }
    }

    fn listener(local: &str, depth: u32, limit: u32) -> Listed {
        Listed { queue: Some((depth, limit)), ..socket(TcpState::Listen, local, "0.0.0.0:0", 7) }
    }

    fn groups(counts: &Counts) -> Vec<String> {
        let one = |group: &Group| serde_json::to_string(group).unwrap();
        counts.largest.iter().map(one).collect()
    }

    #[test]
    fn what_came_is_grouped_by_port_and_what_was_opened_by_destination() {
        use TcpState::{CloseWait, Established};
        let listed = [
            listener("0.0.0.0:8080", 0, 128),
            listener("0.0.0.0:45000", 0, 128),
            socket(CloseWait, "10.0.0.1:8080", "10.0.0.9:50000", 0),
            socket(CloseWait, "10.0.0.1:8080", "10.0.0.9:50001", 5),
            socket(CloseWait, "10.0.0.1:45000", "10.0.0.9:50002", 6),
            socket(CloseWait, "10.0.0.1:40001", "10.0.0.2:443", 7),
            socket(CloseWait, "[::ffff:10.0.0.1]:40002", "[::ffff:10.0.0.2]:443", 8),
            socket(CloseWait, "10.0.0.1:40003", "10.0.0.2:443", 9),
            socket(CloseWait, "10.0.0.1:22", "10.0.0.3:50003", 10),
            socket(Established, "10.0.0.1:40004", "10.0.0.2:443", 11),
        ];
        let counts = tally(CloseWait, &listed, Some(PORTS));
        assert_eq!((counts.sockets, counts.without_process), (7, 1));
        let expected = [
            r#"{"destination":"10.0.0.2:443","sockets":3}"#,
            r#"{"local_port":8080,"sockets":2}"#,
            r#"{"local_port":22,"sockets":1}"#,
        ];
        assert_eq!(groups(&counts), expected);
        assert_eq!((counts.queues, counts.ephemeral), (vec![], None));
    }

    #[test]
    fn time_wait_shows_ports_by_destination() {
        use TcpState::{Established, SynSent, TimeWait};
        let listed = [
            listener("0.0.0.0:8080", 0, 128),
            socket(TimeWait, "10.0.0.1:40001", "10.0.0.2:443", 0),
            socket(TimeWait, "10.0.0.1:40002", "10.0.0.2:443", 0),
            socket(Established, "10.0.0.1:40003", "10.0.0.2:443", 4),
            socket(SynSent, "10.0.0.1:40004", "10.0.0.3:443", 5),
            socket(TimeWait, "10.0.0.5:40001", "10.0.0.2:443", 0),
            socket(TimeWait, "10.0.0.1:8080", "10.0.0.9:50000", 0),
        ];
        let ephemeral = tally(TimeWait, &listed, Some(PORTS)).ephemeral.unwrap();
        let used = |local: &str, ports, time_wait| Use {
            local: local.parse().unwrap(),
            destination: "10.0.0.2:443".into(),
            ports,
            time_wait,
        };
        assert_eq!(ephemeral.destinations, [used("10.0.0.1", 3, 2), used("10.0.0.5", 1, 1)]);
        assert_eq!(tally(TimeWait, &listed, None).ephemeral, None);
    }

    #[test]
    fn listeners_show_the_fullest_queues() {
        let listed = [
            listener("0.0.0.0:1", 0, 4096),
            listener("0.0.0.0:2", 100, 4096),
            listener("0.0.0.0:3", 6, 5),
            listener("0.0.0.0:4", 0, 128),
        ];
        let counts = tally(TcpState::Listen, &listed, Some(PORTS));
        let queues: Vec<_> = counts.queues.iter().map(|queue| (queue.local.as_str(), queue.depth)).collect();
        assert_eq!(queues, [("0.0.0.0:3", 6), ("0.0.0.0:2", 100), ("0.0.0.0:1", 0)]);
        assert_eq!((counts.sockets, counts.without_process, counts.largest), (4, 0, vec![]));
    }

    #[test]
    fn requests_are_counted_as_they_are_listed() {
        let listed = [socket(TcpState::SynRecv, "10.0.0.1:80", "10.0.0.9:50000", 0)];
        for state in [TcpState::SynRecv, TcpState::NewSynRecv] {
            let counts = tally(state, &listed, None);
            assert_eq!((counts.sockets, counts.without_process), (1, 1));
        }
    }

    #[test]
    fn the_port_range_is_without_reserved_ports() {
        let ports = |range, reserved| EphemeralPorts::parse(range, reserved).map(|ports| ports.usable);
        assert_eq!(ports("32768\t60999\n", "\n"), Some(28_232));
        assert_eq!(ports("32768\t60999\n", "8080,32768,40000-40009,60990-65535\n"), Some(28_232 - 1 - 10 - 10));
        assert_eq!(ports("1 65535", ""), Some(65_535));
        assert_eq!((ports("", ""), ports("x 1", ""), ports("5 1", "")), (None, None, Some(0)));
    }
}
