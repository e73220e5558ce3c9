//! How connections end, and how they do not begin.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket, sockopt,
};

use crate::{
    harness::{Trace, assert_stories, shared, skip},
    puppet::Puppet,
    workload::{CLIENT, LISTENER, client_closes_first, client_leaves, close_by_fin, linger_zero, place, until_queued},
};

const QUEUED: &str = "passive: LISTEN>SYN_RECV SYN_RECV>ESTABLISHED enqueue";

/// Traces what `work` does at a port of its own until its listener has ended.
#[track_caller]
fn check(name: &str, expected: &[&str], work: impl FnOnce(std::net::SocketAddr, &mut Trace)) {
    let Some(machine) = shared(name) else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    work(address, &mut trace);
    let connections = expected.iter().filter(|story| !story.starts_with("listener")).count();
    if connections < expected.len() {
        trace.until_stopped();
    }
    trace.until_finished(connections);
    assert_stories(&trace.finish(), expected);
}

fn accepted(rest: &str) -> String {
    format!("{QUEUED} accept {rest}")
}

#[test]
fn server_closes_first() {
    let server = accepted("ESTABLISHED>FIN_WAIT1 FIN_WAIT1>FIN_WAIT2 FIN_WAIT2>CLOSE end local-fin");
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>LAST_ACK \
                  LAST_ACK>CLOSE end peer-fin";
    check("server_closes_first", &[LISTENER, &server, client], |address, _| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client_closes_first(server, client);
    });
}

/// Linger 0: close() sends a RST.
#[test]
fn client_resets() {
    let server = accepted("reset_received ESTABLISHED>CLOSE end peer-rst");
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>CLOSE reset_sent end aborted";
    check("client_resets", &[LISTENER, &server, client], |address, _| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        linger_zero(&client);
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// close() with unread data: a RST to the client, and the number of bytes that nobody read.
#[test]
fn server_closes_with_unread_data() {
    let Some(machine) = shared("server_closes_with_unread_data") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    assert_eq!(server.peek(&mut [0; 6]).unwrap(), 6);
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    drop((client, listener));
    trace.until_stopped();
    let ended = trace.finish();
    let server = accepted("ESTABLISHED>CLOSE reset_sent end aborted");
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED reset_received ESTABLISHED>CLOSE end peer-rst";
    assert_stories(&ended, &[LISTENER, &server, client]);
    assert_eq!(ended.connection("passive").number("unread_bytes"), Some(6));
    assert_eq!(ended.connection("active").number("error"), Some(104));
}

#[test]
fn refused() {
    check("refused", &["active: CLOSE>SYN_SENT reset_received SYN_SENT>CLOSE end refused"], |address, _| {
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// The listener is closed while a connection waits in its queue.
#[test]
fn listener_closed_with_a_queue() {
    let server = format!("{QUEUED} ESTABLISHED>CLOSE reset_sent end unqueued abandoned");
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED reset_received ESTABLISHED>CLOSE end peer-rst";
    check("listener_closed_with_a_queue", &[LISTENER, &server, client], |address, trace| {
        let listener = TcpListener::bind(address).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        trace.until_queued(1);
        drop(listener);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// The client gives up (FIN) while it waits in the queue; then the listener is closed.
#[test]
fn abandoned_in_the_queue() {
    let server = format!("{QUEUED} ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>CLOSE reset_sent end unqueued abandoned");
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>FIN_WAIT1 FIN_WAIT1>FIN_WAIT2 \
                  FIN_WAIT2>FIN_WAIT2 FIN_WAIT2>CLOSE end orphaned minisock_segment minisock_end";
    check("abandoned_in_the_queue", &[LISTENER, &server, client], |address, trace| {
        let listener = TcpListener::bind(address).unwrap();
        client_leaves(trace, TcpStream::connect(address).unwrap());
        drop(listener);
    });
}

/// The client closes, and the server does not, yet: the kernel replaces the client's socket by an orphan's minisock, which
/// the server's FIN then finds.
#[test]
fn orphaned() {
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>FIN_WAIT1 FIN_WAIT1>FIN_WAIT2 \
                  FIN_WAIT2>FIN_WAIT2 FIN_WAIT2>CLOSE end orphaned minisock_segment FIN_WAIT2>TIME_WAIT";
    let server = accepted("ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>LAST_ACK LAST_ACK>CLOSE end peer-fin");
    check("orphaned", &[LISTENER, client, &server], |address, trace| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client_leaves(trace, client);
        drop(server);
    });
}

/// The client resets while it waits in the queue; accept() still returns it: dead on arrival.
#[test]
fn dead_on_arrival() {
    let server = format!("{QUEUED} reset_received ESTABLISHED>CLOSE accept end peer-rst");
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>CLOSE reset_sent end aborted";
    check("dead_on_arrival", &[LISTENER, &server, client], |address, trace| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        linger_zero(&client);
        drop(client);
        trace.until("RST", |line| line.role() == "passive" && line.0["new"] == "CLOSE");
        drop(listener.accept().unwrap());
    });
}

/// No descriptor is left: accept() fails with EMFILE, and the connection goes on waiting.
#[test]
fn accept_without_descriptors() {
    without_descriptors("accept_without_descriptors", &[]);
}

#[test]
fn accept_without_descriptors_by_kretprobe() {
    without_descriptors("accept_without_descriptors_by_kretprobe", &["--probe", "accept-return=kretprobe"]);
}

#[test]
fn accept_without_descriptors_by_syscall() {
    without_descriptors("accept_without_descriptors_by_syscall", &["--probe", "accept-return=syscall"]);
}

#[track_caller]
fn without_descriptors(name: &str, choice: &[&str]) {
    let Some(machine) = shared(name) else { return };
    let address = place();
    let port = address.port().to_string();
    let mut trace = Trace::start(machine, &[&["--port", &port], choice].concat());
    if let Some(refused) = trace.said.iter().find(|said| said.contains("no accept-return probe")) {
        return skip(name, refused);
    }
    let mut server = Puppet::new();
    server.tell(&format!("listen {address}"));
    let client = TcpStream::connect(address).unwrap();
    server.tell("descriptors 3");
    let answer = server.ask("accept");
    // EMFILE, in whichever words the C library has for it.
    assert!(answer.ends_with("(os error 24)"), "{answer}");
    server.tell("descriptors 100");
    server.tell("accept");
    close_by_fin(&mut trace, 1, client, || server.tell("close"));
    server.tell("stop");
    trace.until_stopped();
    let ended = trace.finish();
    let listener = "listener: CLOSE>LISTEN accept_failed 24 LISTEN>CLOSE end stopped";
    let child = accepted("ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>LAST_ACK LAST_ACK>CLOSE end peer-fin");
    assert_stories(&ended, &[listener, CLIENT, &child]);
    if let Some(failed) = ended.all("accept_failed").next() {
        assert_eq!(failed.pid("by"), Some(server.pid().into()));
    }
}

/// connect() to a full accept queue is not answered; the client closes before it is.
#[test]
fn given_up_at_a_full_queue() {
    let Some(machine) = shared("given_up_at_a_full_queue") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--remote-port", &address.port().to_string()]);
    let stream = |flags| socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC | flags, None).unwrap();
    let listener = stream(SockFlag::empty());
    setsockopt(&listener, sockopt::ReuseAddr, &true).unwrap();
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    // A limit of 0 takes one.
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    until_queued(address, 1);
    let client = stream(SockFlag::SOCK_NONBLOCK);
    let unanswered = connect(client.as_raw_fd(), &SockaddrStorage::from(address));
    assert_eq!(unanswered, Err(nix::errno::Errno::EINPROGRESS));
    drop(client);
    trace.until_finished(1);
    let ended = trace.finish();
    let expected =
        ["active: CLOSE>SYN_SENT SYN_SENT>CLOSE end given-up", "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED"];
    assert_stories(&ended, &expected);
}
