//! A network of a test's own: two namespaces joined by a cable, a server's address at the far end, and what the
//! network may do to packets for it.

use std::{fs, net::SocketAddr};

use crate::netns::Netns;

/// The server's address, which is on no cable: the far namespace routes to it, or says that it cannot.
const SERVER: &str = "10.77.9.9";

/// A client's namespace and a server's.
pub(crate) struct Network {
    pub(crate) near: Netns,
    pub(crate) far: Netns,
    /// The server's address and a port.
    pub(crate) server: SocketAddr,
}

impl Network {
    pub(crate) fn new(tag: &str) -> Self {
        let (near, far) = (Netns::new(&format!("{tag}-n")), Netns::new(&format!("{tag}-f")));
        near.ip(&["link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &far.name]);
        near.ip(&["address", "add", "10.77.0.1/24", "dev", "near"]);
        near.ip(&["link", "set", "near", "up"]);
        far.ip(&["address", "add", "10.77.0.2/24", "dev", "far"]);
        far.ip(&["link", "set", "far", "up"]);
        far.ip(&["address", "add", &format!("{SERVER}/32"), "dev", "lo"]);
        near.ip(&["route", "add", "default", "via", "10.77.0.2"]);
        Self { near, far, server: (SERVER.parse::<std::net::Ipv4Addr>().unwrap(), 80).into() }
    }

    /// The server's host is gone without a word: packets for it are dropped.
    pub(crate) fn silence(&self) {
        self.far.ip(&["address", "del", &format!("{SERVER}/32"), "dev", "lo"]);
        self.far.ip(&["route", "add", "blackhole", SERVER]);
    }

    /// The far namespace is a router that answers packets for the server with ICMP: `unreachable`, `prohibit`.
    pub(crate) fn answer_with(&self, route: &str) {
        set(&self.far, "ip_forward", "1");
        // Otherwise one ICMP a second is sent to a host, and none to spare.
        set(&self.far, "icmp_ratemask", "0");
        self.far.ip(&["address", "del", &format!("{SERVER}/32"), "dev", "lo"]);
        self.far.ip(&["route", "add", route, SERVER]);
    }
}

/// Sets `net.ipv4.NAME` of a namespace.
pub(crate) fn set(netns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    netns.run(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
}
