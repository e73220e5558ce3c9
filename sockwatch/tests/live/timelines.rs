//! Every connection's whole life, over each address family and each way to accept.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    thread,
};

use io_uring::{IoUring, opcode, types::Fd};
use nix::{
    sys::socket::{SockFlag, accept, accept4},
    unistd::{close, gettid},
};

use crate::{
    harness::{Ended, Line, Machine, Probes, Trace, alone, assert_stories, shared, skip},
    netns::Netns,
    puppet::Puppet,
    workload::{
        CLIENT, LISTENER, SERVER, STORIES, client_closes_first, close_by_fin, connect_from, converse, free_address,
        free_port, place,
    },
};

#[test]
fn ipv4() {
    let Some(machine) = shared("ipv4") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    converse(address);
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, &STORIES);
    assert_eq!(ends(&ended, "passive"), [address.to_string().replace(':', " "), remote_of(&ended, "passive")]);
    assert_eq!(ends(&ended, "active"), [remote_of(&ended, "passive"), remote_of(&ended, "active")]);
}

#[test]
fn ipv6() {
    let Some(machine) = shared("ipv6") else { return };
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, free_port()));
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    converse(address);
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, &STORIES);
    assert_eq!(ended.connection("passive").end("local"), format!("::1 {}", address.port()));
    assert_eq!(ended.connection("active").end("remote"), format!("::1 {}", address.port()));
}

/// A server on `::` takes an IPv4 client: its end is v4-mapped, the client's is IPv4.
#[test]
fn v4_mapped() {
    let Some(machine) = shared("v4_mapped") else { return };
    let address = SocketAddr::from((free_address(), free_port()));
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let client_port = client.local_addr().unwrap().port();
    let (server, _) = listener.accept().unwrap();
    client_closes_first(client, server);
    drop(listener);
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, &STORIES);
    let (server, client) = (ended.connection("passive"), ended.connection("active"));
    assert_eq!(server.end("local"), format!("::ffff:{} {}", address.ip(), address.port()));
    assert_eq!(server.end("remote"), format!("::ffff:127.0.0.1 {client_port}"));
    assert_eq!(client.end("local"), format!("127.0.0.1 {client_port}"));
    assert_eq!(client.end("remote"), format!("{} {}", address.ip(), address.port()));
    assert_eq!(ended.connection("listener").end("local"), format!(":: {}", address.port()));
}

/// The same addresses and ports at both ends, in two network namespaces: two connections.
#[test]
fn same_tuple_in_two_namespaces() {
    let Some(machine) = shared("same_tuple_in_two_namespaces") else { return };
    let (one, other) = (Netns::new("one"), Netns::new("other"));
    let (from, to) = (place(), place());
    let mut trace = Trace::start(machine, &["--port", &to.port().to_string()]);
    let open = || {
        let listener = TcpListener::bind(to).unwrap();
        let client = connect_from(from, to);
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    };
    let (first, second) = (one.run(open), other.run(open));
    for (_listener, client, server) in [first, second] {
        client_closes_first(client, server);
    }
    trace.until_count(2, "listeners' ends", |line| line.is("connection") && line.role() == "listener");
    let ended = trace.finish();
    assert_stories(&ended, &[LISTENER, LISTENER, CLIENT, CLIENT, SERVER, SERVER]);
    let mut expected = vec![one.inode(), other.inode()];
    expected.sort_unstable();
    for role in ["active", "passive"] {
        let lines: Vec<_> = ended.all("connection").filter(|line| line.role() == role).collect();
        let mut found: Vec<_> = lines.iter().map(|line| line.netns()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{role}");
        assert_eq!(lines[0].end("local"), lines[1].end("local"));
        assert_eq!(lines[0].end("remote"), lines[1].end("remote"));
    }
}

/// accept() by libc, accept4(): the acceptor is the calling thread, the descriptor the returned one.
#[test]
fn accept_and_accept4() {
    let Some(machine) = shared("accept_and_accept4") else { return };
    check_accept(
        machine,
        &[|listener| accept(listener).unwrap(), |listener| accept4(listener, SockFlag::SOCK_CLOEXEC).unwrap()],
        |probes| probes.has("accept-return") || probes.taken("accept") == "syscall",
    );
}

#[test]
fn accept_by_io_uring() {
    let Some(machine) = shared("accept_by_io_uring") else { return };
    if let Err(error) = IoUring::new(2) {
        skip("accept_by_io_uring", &format!("this kernel refuses io_uring: {error}"));
        return;
    }
    // Only its completion tells the descriptor, and it is looked at only where accepts are traced by system call.
    check_accept(machine, &[accept_io_uring], |probes| probes.has("accept-io-uring"));
}

/// Single-shot IORING_OP_ACCEPT.
fn accept_io_uring(listener: RawFd) -> RawFd {
    let mut ring = IoUring::new(2).unwrap();
    let entry = opcode::Accept::new(Fd(listener), std::ptr::null_mut(), std::ptr::null_mut()).build();
    // SAFETY: the entry points to nothing, and the listener outlives the wait for its completion below.
    unsafe { ring.submission().push(&entry).unwrap() };
    ring.submit_and_wait(1).unwrap();
    let result = ring.completion().next().unwrap().result();
    assert!(result >= 0, "{}", std::io::Error::from_raw_os_error(-result));
    result
}

fn check_accept(machine: Machine, ways: &[fn(RawFd) -> RawFd], tells_descriptor: fn(&Probes) -> bool) {
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    if trace.probes.taken("accept") == "syscall" && !tells_descriptor(&trace.probes) {
        skip("accept_by_io_uring", "nothing here sees it: accepts are traced by system call, and io_uring is not");
        return;
    }
    let listener = TcpListener::bind(address).unwrap();
    let mut expected = vec![LISTENER];
    let mut descriptors = Vec::new();
    for (index, way) in ways.iter().enumerate() {
        let client = TcpStream::connect(address).unwrap();
        let descriptor = way(listener.as_raw_fd());
        trace.until_count(index + 1, "accepts", |line| line.is("accept"));
        let accepted = trace.seen.iter().rfind(|line| line.is("accept")).unwrap();
        descriptors.push(Some(i64::from(descriptor)));
        assert_eq!(accepted.pid("by"), Some(std::process::id().into()));
        assert_eq!(accepted.0["by"]["tid"].as_i64(), Some(gettid().as_raw().into()));
        assert_eq!(accepted.port("remote"), client.local_addr().unwrap().port());
        assert!(accepted.number("wait_ns").is_some_and(|wait| wait > 0), "{accepted:?}");
        close_by_fin(&mut trace, index + 1, client, || close(descriptor).unwrap());
        expected.extend([CLIENT, SERVER]);
    }
    drop(listener);
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, &expected);
    if tells_descriptor(&ended.probes) {
        let ends = ended.all("connection").filter(|line| line.role() == "passive");
        assert_eq!(ends.map(|line| line.number("fd")).collect::<Vec<_>>(), descriptors);
    }
}

/// Processes that share a listener: the accept names the worker, the listener's owner stays who called listen().
#[test]
fn prefork_workers() {
    let Some(machine) = shared("prefork_workers") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind(address).unwrap();
    let mut workers = [Puppet::sharing(&listener), Puppet::sharing(&listener)];
    let mut expected = vec![LISTENER];
    let mut acceptors = Vec::new();
    for round in 0..2 {
        for worker in &mut workers {
            if round == 0 {
                worker.tell("inherit");
            }
            let client = TcpStream::connect(address).unwrap();
            worker.tell("accept");
            acceptors.push(u64::from(worker.pid()));
            close_by_fin(&mut trace, acceptors.len(), client, || worker.tell("close"));
            expected.extend([CLIENT, SERVER]);
        }
    }
    drop((workers, listener));
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, &expected);
    let named: Vec<_> = ended.all("accept").map(|line| line.pid("by").unwrap()).collect();
    assert_eq!(named, acceptors);
    let own = u64::from(std::process::id());
    assert_eq!(ended.connection("listener").pid("opener"), Some(own));
    let children = ended.all("connection").filter(|line| line.role() == "passive");
    let closers: Vec<_> = children.map(|line| line.pid("closer").unwrap()).collect();
    assert_eq!(closers, acceptors);
}

/// Who connects, listens, accepts and closes is a thread, with its own name.
#[test]
fn threads_are_named() {
    // Alone: a process that another test starts meanwhile has a copy of these sockets until it runs its program, and whoever
    // lets go last has closed them.
    let Some(machine) = alone("threads_are_named") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let (listener, listening) = on_thread("sw-listening", || TcpListener::bind(address).unwrap());
    let (client, connecting) = on_thread("sw-connecting", || TcpStream::connect(address).unwrap());
    let (server, accepting) = on_thread("sw-accepting", || listener.accept().unwrap().0);
    let ((), closing) = on_thread("sw-closing", || client_closes_first(client, server));
    drop(listener);
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, &STORIES);
    let task = |line: &Line, task: &str| {
        let task = &line.0[task];
        assert_eq!(task["pid"], std::process::id(), "{line:?}");
        (task["comm"].as_str().unwrap().to_owned(), task["tid"].as_i64().unwrap())
    };
    assert_eq!(task(ended.connection("listener"), "opener"), listening);
    assert_eq!(task(ended.connection("active"), "opener"), connecting);
    assert_eq!(task(ended.connection("passive"), "acceptor"), accepting);
    for role in ["active", "passive"] {
        assert_eq!(task(ended.connection(role), "closer"), closing, "{role}");
    }
    assert_eq!(task(ended.all("accept").next().unwrap(), "by"), accepting);
}

/// Runs on a thread of this name; also returns its name and id.
fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> (T, (String, i64)) {
    thread::scope(|scope| {
        let run = || (work(), gettid().as_raw().into());
        let (value, tid) = thread::Builder::new().name(name.into()).spawn_scoped(scope, run).unwrap().join().unwrap();
        (value, (name.to_owned(), tid))
    })
}

/// Bytes are the payload's: neither SYN nor FIN counts.
#[test]
fn payload_bytes() {
    use std::io::{Read, Write};
    let Some(machine) = shared("payload_bytes") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"12345").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    server.write_all(b"123").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    client_closes_first(client, server);
    drop(listener);
    trace.until_stopped();
    let ended = trace.finish();
    let bytes = |role| {
        let connection = ended.connection(role);
        ["acked_bytes", "received_bytes", "unread_bytes"].map(|name| connection.number(name).unwrap())
    };
    assert_eq!(bytes("active"), [5, 3, 0], "the client");
    assert_eq!(bytes("passive"), [3, 5, 0], "the server");
}

/// A descriptor that connects again keeps its cookie: a new incarnation, and a life of its own.
#[test]
fn reconnecting_is_a_new_incarnation() {
    use nix::sys::socket::{AddressFamily, SockType, SockaddrIn, connect, socket};
    let Some(machine) = shared("reconnecting_is_a_new_incarnation") else { return };
    let port = free_port();
    let mut trace = Trace::start(machine, &["--remote-port", &port.to_string()]);
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    for _ in 0..2 {
        let refused = connect(client.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port));
        assert_eq!(refused, Err(nix::errno::Errno::ECONNREFUSED));
    }
    drop(client);
    trace.until_finished(2);
    let ended = trace.finish();
    let story = "active: CLOSE>SYN_SENT reset_received SYN_SENT>CLOSE end refused";
    assert_stories(&ended, &[story, story]);
    let identities: Vec<_> = ended.all("connection").map(|line| line.identity().unwrap()).collect();
    assert_eq!(identities[0].1, identities[1].1, "one cookie");
    assert_eq!([identities[0].2, identities[1].2], [0, 1]);
}

fn ends(ended: &Ended, role: &str) -> [String; 2] {
    ["local", "remote"].map(|side| ended.connection(role).end(side))
}

fn remote_of(ended: &Ended, role: &str) -> String {
    ended.connection(role).end("remote")
}
