//! A network of a test's own: two namespaces joined by a cable, a server's address at the far end, and what the
//! network may do to packets for it.

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket};

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

/// A firewall that answers with ICMP, port unreachable, when it is told to; needs the network's silence.
pub(crate) struct Firewall {
    packets: OwnedFd,
    icmp: OwnedFd,
}

impl Firewall {
    pub(crate) fn new(network: &Network) -> Self {
        let open = |family, kind, protocol| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        network.far.run(|| Self {
            packets: open(AddressFamily::Packet, SockType::Datagram, Some(SockProtocol::EthIp)),
            icmp: open(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp)),
        })
    }

    /// Answers the first packet for the server that has come since.
    pub(crate) fn answer(&self) {
        const HEADERS: usize = 40;
        let mut packet = [0; 128];
        while packet[16..20] != [10, 77, 9, 9] {
            recv(self.packets.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        }
        // Destination unreachable, port; then what it is about: the headers of IP and TCP.
        let mut answer = vec![3, 3, 0, 0, 0, 0, 0, 0];
        answer.extend_from_slice(&packet[..HEADERS]);
        let sum: u32 = answer.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !(folded + (folded >> 16)) as u16;
        answer[2..4].copy_from_slice(&checksum.to_be_bytes());
        let client = SockaddrIn::new(packet[12], packet[13], packet[14], packet[15], 0);
        sendto(self.icmp.as_raw_fd(), &answer, &client, MsgFlags::empty()).unwrap();
    }
}

/// Sets `net.ipv4.NAME` of a namespace.
pub(crate) fn set(netns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    netns.run(|| match fs::write(&path, value) {
        // An older kernel, which behaves as if it were 0.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && value == "0" => {}
        result => result.unwrap_or_else(|error| panic!("{path}: {error}")),
    });
}
