//! Payload figures: what the programs really wrote and read, whichever way the connection ended. Neither SYN nor FIN counts.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use super::{Pair, check_near, connected, fill, mask};
use crate::{
    harness::{Ended, Trace, shared},
    network::set,
    workload::{linger_zero, place},
};

/// Acknowledged, received and unread bytes.
type Bytes = [usize; 3];

/// A figure that depends on the scheduler.
const ANY: usize = usize::MAX;

/// Traces what `work` does with a pair, which returns what the trace has to say of client and server.
#[track_caller]
fn check(name: &str, work: impl FnOnce(&mut Pair) -> [Bytes; 2]) {
    let Some(machine) = shared(name) else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let mut pair = Pair::new(address, &mut trace);
    let expected = work(&mut pair);
    drop(pair);
    trace.until_finished(2);
    let ended = trace.finish();
    for (role, expected) in ["active", "passive"].into_iter().zip(expected) {
        let found = bytes(&ended, role);
        let fits = found.iter().zip(expected).all(|(found, expected)| expected == ANY || *found == expected);
        assert!(fits, "{role}: expected {expected:?}, found {found:?} in {:#?}", ended.stories());
    }
}

fn bytes(ended: &Ended, role: &str) -> Bytes {
    let connection = ended.connection(role);
    ["acked_bytes", "received_bytes", "unread_bytes"].map(|name| connection.number(name).unwrap().try_into().unwrap())
}

#[test]
fn payload_of_a_reset() {
    check("payload_of_a_reset", |pair| {
        pair.client().write_all(&[0; 30]).unwrap();
        pair.server().read_exact(&mut [0; 5]).unwrap();
        pair.server().write_all(&[0; 7]).unwrap();
        pair.client().read_exact(&mut [0; 4]).unwrap();
        linger_zero(pair.client());
        pair.client = None;
        pair.until("passive", "CLOSE");
        [[30, 7, 3], [7, 30, 25]]
    });
}

#[test]
fn payload_of_unread_data() {
    check("payload_of_unread_data", |pair| {
        pair.client().write_all(&[0; 30]).unwrap();
        pair.server().read_exact(&mut [0; 5]).unwrap();
        pair.server = None;
        pair.until("active", "CLOSE");
        [[30, 0, 0], [0, 30, 25]]
    });
}

/// The kernel ends the connection before the client reads what came last: it was unread then.
#[test]
fn payload_of_an_end_before_the_read() {
    check("payload_of_an_end_before_the_read", |pair| {
        pair.client().write_all(&[0; 3]).unwrap();
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.server().read_to_end(&mut Vec::new()).unwrap();
        pair.server().write_all(&[0; 11]).unwrap();
        pair.server = None;
        pair.until("active", "CLOSE");
        pair.client().read_exact(&mut [0; 11]).unwrap();
        [[3, 11, 11], [11, 3, 0]]
    });
}

#[test]
fn payload_of_fins_that_cross() {
    check("payload_of_fins_that_cross", |pair| {
        let (to_server, to_client) = (fill(pair.client()), fill(pair.server()));
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.server().read_exact(&mut vec![0; to_server]).unwrap();
        pair.until("passive", "CLOSING");
        pair.client().read_exact(&mut vec![0; to_client]).unwrap();
        pair.until("passive", "CLOSE");
        pair.until("active", "CLOSE");
        // The server had read all; the client was perhaps still reading when the FIN came.
        [[to_server, to_client, ANY], [to_client, to_server, 0]]
    });
}

#[test]
fn payload_of_an_orphan() {
    check("payload_of_an_orphan", |pair| {
        pair.client().write_all(&[0; 9]).unwrap();
        pair.client = None;
        pair.until("active", "CLOSE");
        pair.server().read_to_end(&mut Vec::new()).unwrap();
        pair.server = None;
        [[9, 0, 0], [0, 9, 0]]
    });
}

/// A socket that connects to itself: both SYNs cross, and it sends what it receives.
#[test]
fn payload_of_a_self_connect() {
    let Some(machine) = shared("payload_of_a_self_connect") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let own = SockaddrStorage::from(address);
    bind(socket.as_raw_fd(), &own).unwrap();
    connect(socket.as_raw_fd(), &own).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"echo").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    drop(stream);
    trace.until_finished(1);
    let ended = trace.finish();
    assert_eq!(bytes(&ended, "active"), [4, 4, 0], "{:#?}", ended.stories());
    let why = ended.connection("active").0["why"].as_str().unwrap().to_owned();
    assert_eq!(mask(&why), "both ends closed at once; TIME_WAIT on both sides");
}

#[test]
fn payload_of_a_timeout() {
    let expected = "active timed-out: server did not acknowledge; N retransmissions unanswered";
    let prepare = |network: &crate::network::Network| set(&network.near, "tcp_retries2", "2");
    let ended = check_near("payload_of_a_timeout", &[expected], prepare, |network, trace| {
        let (mut client, mut server) = connected(network);
        client.write_all(&[0; 10]).unwrap();
        server.read_exact(&mut [0; 10]).unwrap();
        server.write_all(&[0; 6]).unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        network.silence();
        client.write_all(&[0; 100]).unwrap();
        trace.until("the client's end", |line| line.role() == "active" && line.0["new"] == "CLOSE");
    });
    if let Some(ended) = ended {
        assert_eq!(bytes(&ended, "active"), [10, 6, 4]);
    }
}

/// Nothing was moved, and a SYN is no payload.
#[test]
fn payload_of_a_refused_connect() {
    let Some(machine) = shared("payload_of_a_refused_connect") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    drop(TcpListener::bind(address).unwrap());
    TcpStream::connect(address).unwrap_err();
    trace.until_finished(1);
    assert_eq!(bytes(&trace.finish(), "active"), [0; 3]);
}
