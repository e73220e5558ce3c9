//! connect() that fails.

use std::{net::TcpStream, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket, sockopt,
    },
};

use super::{assert_endings, check_near, connect_blocking, connected, nonblocking};
use crate::{
    harness::{Trace, shared},
    network::{Firewall, Network, set},
};

/// The first answer comes while connect() still holds the socket, and is only remembered; the second one ends it.
#[test]
fn icmp_answers_the_syn() {
    let expected = "active unreached: ADDRESS not reached: ICMP answered 2 SYNs with host unreachable (EHOSTUNREACH)";
    check_near(
        "icmp_answers_the_syn",
        &[expected],
        |network| network.answer_with("unreachable"),
        |network, _| {
            assert_eq!(connect_blocking(network), Some(libc::EHOSTUNREACH));
        },
    );
}

#[test]
fn icmp_says_no_network() {
    let expected = "active unreached: ADDRESS not reached: ICMP answered 2 SYNs with network unreachable (ENETUNREACH)";
    let prepare = |network: &Network| {
        network.answer_with("unreachable");
        network.far.ip(&["route", "del", "unreachable", "10.77.9.9"]);
    };
    check_near("icmp_says_no_network", &[expected], prepare, |network, _| {
        assert_eq!(connect_blocking(network), Some(libc::ENETUNREACH));
    });
}

/// A client that does not wait, asks for the error at once, and goes: the kernel forgets it when it is asked.
#[test]
fn icmp_error_is_read_away() {
    let expected = "active given-up: client PROCESS gave up connecting after TIME; 1 SYN unanswered";
    check_near(
        "icmp_error_is_read_away",
        &[expected],
        |network| network.answer_with("unreachable"),
        |network, _| {
            network.near.run(|| {
                let client = nonblocking();
                let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
                assert_eq!(getsockopt(&client, sockopt::SocketError).unwrap(), libc::EHOSTUNREACH);
            });
        },
    );
}

#[test]
fn icmp_error_is_left() {
    let expected = "active given-up: client PROCESS gave up connecting after TIME; 1 SYN unanswered; ICMP had said \
                    host unreachable (EHOSTUNREACH)";
    check_near(
        "icmp_error_is_left",
        &[expected],
        |network| network.answer_with("unreachable"),
        |network, _| {
            network.near.run(|| {
                let client = nonblocking();
                let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
            });
        },
    );
}

/// A neighbour that does not answer ARP: this host itself says that it cannot be reached.
#[test]
fn nobody_answers_arp() {
    let expected = "active unreached: ADDRESS not reached: ICMP answered 1 SYN with host unreachable (EHOSTUNREACH)";
    let Some(machine) = shared("nobody_answers_arp") else { return };
    let network = Network::new("arp");
    // Three questions, before the SYN is sent again.
    set(&network.near, "neigh/near/retrans_time_ms", "100");
    let mut trace = Trace::start(machine, &["--netns", &network.near.name]);
    network.near.run(|| {
        let error = TcpStream::connect(("10.77.0.3", 80)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    });
    trace.until_finished(1);
    let ended = trace.finish();
    assert_endings(&ended, &[expected]);
}

#[test]
fn syn_unanswered() {
    let expected = "active timed-out: ADDRESS did not answer 2 SYNs in TIME";
    let prepare = |network: &Network| {
        network.silence();
        set(&network.near, "tcp_syn_retries", "1");
        set(&network.near, "tcp_syn_linear_timeouts", "0");
    };
    check_near("syn_unanswered", &[expected], prepare, |network, _| {
        assert_eq!(connect_blocking(network), Some(libc::ETIMEDOUT));
    });
}

#[test]
fn syn_unanswered_within_user_timeout() {
    let expected = "active timed-out: ADDRESS did not answer 2 SYNs in TIME; TCP_USER_TIMEOUT was TIME";
    check_near("syn_unanswered_within_user_timeout", &[expected], Network::silence, |network, _| {
        network.near.run(|| {
            let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            setsockopt(&client, sockopt::TcpUserTimeout, &1500).unwrap();
            let result = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
            assert_eq!(result, Err(Errno::ETIMEDOUT));
        });
    });
}

/// No port is left: connect() fails before anything is sent.
#[test]
fn no_port_is_free() {
    let expected = "active given-up: connect to ADDRESS failed on this host before a SYN was sent";
    let prepare = |network: &Network| set(&network.near, "ip_local_port_range", "40000 40000");
    check_near("no_port_is_free", &[expected], prepare, |network, _| {
        let held = connected(network);
        assert_eq!(connect_blocking(network), Some(libc::EADDRNOTAVAIL));
        held
    });
}

/// What many firewalls do, and what a process cannot tell from a RST.
#[test]
fn port_unreachable() {
    let expected = "active refused: refused by ADDRESS; no RST was seen: perhaps ICMP, port unreachable";
    check_near("port_unreachable", &[expected], Network::silence, |network, trace| {
        let firewall = Firewall::new(network);
        let client = network.near.run(|| {
            let client = nonblocking();
            let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
            client
        });
        firewall.answer();
        trace.until("the client's end", |line| line.0["new"] == "CLOSE");
        assert_eq!(getsockopt(&client, sockopt::SocketError).unwrap(), libc::ECONNREFUSED);
    });
}

#[test]
fn nobody_listens() {
    let expected = "active refused: refused: nobody listened on ADDRESS (RST)";
    check_near(
        "nobody_listens",
        &[expected],
        |_| (),
        |network, _| {
            assert_eq!(connect_blocking(network), Some(libc::ECONNREFUSED));
        },
    );
}

/// The connecting process is killed.
#[test]
fn killed_while_it_connects() {
    let expected = "active given-up: client PROCESS gave up connecting after TIME; 1 SYN unanswered";
    check_near("killed_while_it_connects", &[expected], Network::silence, |network, trace| {
        let client = network.near.run(|| {
            let client = nonblocking();
            let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
            client
        });
        let mut holder = std::process::Command::new("sleep").arg("60").stdin(client).spawn().unwrap();
        trace.until("SYN", |line| line.0["new"] == "SYN_SENT");
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
}
