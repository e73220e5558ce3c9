//! Accept queues over time: what the trace says of a listener's queue, against what the test did and the kernel counted.

use std::{
    fs,
    io::Read,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, socket};

use crate::{
    harness::{Line, Machine, Trace, alone, kernel_names, patience, shared, skip, sockwatch},
    netns::Netns,
    network::Network,
    workload::{linger_zero, place, until_queued},
};

/// A listener with this backlog.
fn listener(address: SocketAddr, backlog: i32) -> TcpListener {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&fd, Backlog::new(backlog).unwrap()).unwrap();
    fd.into()
}

/// A connect() that nobody waits for.
fn begin_connecting(address: SocketAddr) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let _in_progress = connect(fd.as_raw_fd(), &SockaddrStorage::from(address));
    fd
}

fn trace(machine: Machine, address: SocketAddr) -> Trace {
    Trace::start(machine, &["--port", &address.port().to_string(), "--reconcile", "100ms"])
}

/// Reads until the queue is like this, and returns that line.
fn until(trace: &mut Trace, what: &str, fits: impl Fn(&Line) -> bool) -> Line {
    let fits = |line: &Line| line.is("queue") && fits(line);
    trace.until(what, fits);
    trace.seen.iter().find(|line| fits(line)).cloned().unwrap()
}

fn until_depth(trace: &mut Trace, depth: i64, accepted: i64) -> Line {
    until(trace, &format!("depth {depth} after {accepted}"), |line| {
        line.number("depth") == Some(depth) && line.number("accepted") == Some(accepted)
    })
}

/// Whether this trace knows which listener a connection waits for.
fn knows_listeners(trace: &Trace, name: &str) -> bool {
    let reason = if !trace.probes.has("enqueue") {
        "without the enqueue probe a connection's listener is not known"
    } else if !kernel_names("bpf_get_socket_ptr_cookie") {
        "this kernel gives a listener no cookie before it was listed"
    } else {
        return true;
    };
    skip(name, reason);
    false
}

#[test]
fn a_queue_of_one() {
    let Some(machine) = shared("a_queue_of_one") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    if !knows_listeners(&trace, "a_queue_of_one") {
        return;
    }
    let server = listener(address, 128);
    let connecting = Instant::now();
    let client = TcpStream::connect(address).unwrap();
    let waits = until_depth(&mut trace, 1, 0);
    assert_eq!((waits.number("limit"), waits.number("peak")), (Some(128), Some(1)), "{waits:?}");
    let oldest_ns = waits.number("oldest_ns").unwrap();
    assert!((0..=connecting.elapsed().as_nanos() as i64).contains(&oldest_ns), "{waits:?}");
    drop(server.accept().unwrap());
    let empty = until_depth(&mut trace, 0, 1);
    assert!(empty.0["oldest_ns"].is_null() && empty.0["oldest_at_least"].is_null(), "{empty:?}");
    // The kernel's count of drops comes with a comparison, perhaps later.
    assert_eq!((empty.number("dead_on_arrival"), empty.number("drops").unwrap_or(0)), (Some(0), 0), "{empty:?}");
    drop((client, server));
    trace.until_stopped();
    let ended = trace.finish();
    assert_eq!(ended.connection("listener").0["queue"]["accepted"], 1);
    assert_eq!(ended.counts["repaired"], 0);
}

/// It takes one more than its limit; then SYNs are dropped, which only the kernel's counters tell.
#[test]
fn a_full_queue() {
    // Alone: whoever attaches to `inet_csk_accept` meanwhile keeps the kernel from telling that the accept returns.
    let Some(machine) = alone("a_full_queue") else { return };
    let (netns, address) = (Netns::new("full"), place());
    let mut trace = trace(machine, address);
    if !knows_listeners(&trace, "a_full_queue") {
        return;
    }
    let (server, clients) = netns.run(|| {
        let server = listener(address, 5);
        (server, [(); 3].map(|()| TcpStream::connect(address).unwrap()))
    });
    listen(&server, Backlog::new(2).unwrap()).unwrap();
    // Only a comparison tells it: from then on the namespace's counters are known.
    let full = until(&mut trace, "the limit", |line| line.number("limit") == Some(2));
    assert_eq!(full.number("depth"), Some(3), "{full:?}");
    let turned_away = netns.run(|| begin_connecting(address));
    // The listener's count and the namespace's are read one after the other, and the SYN is sent again after a second: until
    // none came between them.
    let dropped = until(&mut trace, "a dropped SYN, by both counts", |line| {
        line.number("drops").is_some_and(|drops| drops > 0 && line.0["netns"]["listen_drops"] == drops)
    });
    // Every one is dropped for the same reason.
    assert_eq!(dropped.0["netns"]["listen_overflows"], dropped.0["drops"], "{dropped:?}");
    assert_eq!(dropped.number("overflows"), Some(0), "a SYN is no last ACK: {dropped:?}");
    for _ in 0..4 {
        drop(server.accept().unwrap());
    }
    until_depth(&mut trace, 0, 4);
    drop((turned_away, clients, server));
    trace.until_stopped();
    let ended = trace.finish();
    let why = ended.connection("listener").0["why"].as_str().unwrap().to_owned();
    assert!(why.contains("4 connections accepted") && why.contains("dropped"), "{why}");
}

/// A handshake is half done when another one takes the last place in the queue: its last ACK is dropped. (Two at once could both
/// find room: the kernel looks before it takes the queue's lock.)
#[test]
fn the_last_ack_finds_the_queue_full() {
    let Some(machine) = shared("the_last_ack_finds_the_queue_full") else { return };
    let network = Network::new("last-ack");
    let address = network.server;
    let mut trace =
        Trace::start(machine, &["--netns", &network.far.name, "--local-port", "80", "--reconcile", "100ms"]);
    if !knows_listeners(&trace, "the_last_ack_finds_the_queue_full") {
        return;
    }
    let server = network.far.run(|| listener(address, 2));
    let queued = network.near.run(|| [(); 2].map(|()| TcpStream::connect(address).unwrap()));
    // SYN-ACKs go to nobody.
    let neighbour = ["10.77.0.1", "dev", "far"];
    network.far.ip(&[&["neigh", "replace"], &neighbour[..], &["lladdr", "02:00:00:00:00:99"]].concat());
    let client = network.near.run(|| begin_connecting(address));
    let requests = || standing(&["--netns", &network.far.name, "--local-port", "80"], "request");
    let start = Instant::now();
    while requests() < 1 {
        assert!(start.elapsed() < patience(), "no request");
    }
    // Over loopback, for which no neighbour is needed.
    let last = network.far.run(|| TcpStream::connect(address).unwrap());
    // The next one, a second later, reaches its client.
    network.far.ip(&[&["neigh", "del"], &neighbour[..]].concat());
    let tells = trace.probes.tells_overflow();
    let full = until(&mut trace, "an overflow", |line| {
        line.number("drops") > Some(0) && (!tells || line.number("overflows") > Some(0))
    });
    assert_eq!((full.number("depth"), full.number("limit")), (Some(3), Some(2)), "{full:?}");
    drop((client, last, queued, server));
    trace.until_stopped();
    trace.finish();
}

/// How many listed sockets have this standing.
fn standing(arguments: &[&str], standing: &str) -> usize {
    listed(arguments).iter().filter(|line| line["standing"] == standing).count()
}

fn listed(arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = sockwatch().args(["list", "--format", "json"]).args(arguments).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Clients that give up while they wait: by FIN and by RST, counted with how long they had waited; then they are accepted.
#[test]
fn clients_that_give_up() {
    let Some(machine) = shared("clients_that_give_up") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    if !knows_listeners(&trace, "clients_that_give_up") {
        return;
    }
    let server = listener(address, 128);
    let connecting = Instant::now();
    let (by_fin, by_rst) = (TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap());
    let ports = [&by_fin, &by_rst].map(|client| client.local_addr().unwrap().port());
    // connect() returns before its last ACK is there.
    until_queued(address, 2);
    let connected = Instant::now();
    until_depth(&mut trace, 2, 0);
    let leaving = Instant::now();
    by_fin.shutdown(Shutdown::Write).unwrap();
    linger_zero(&by_rst);
    drop(by_rst);
    let line = until(&mut trace, "two that left", |line| {
        line.number("left_by_fin") == Some(1) && line.number("left_by_rst") == Some(1)
    });
    // Another CPU may take the RST in after close() has returned.
    let left = connecting.elapsed();
    assert_eq!(line.number("depth"), Some(2), "they keep their places: {line:?}");
    let range = (leaving - connected).as_nanos() as i64..=left.as_nanos() as i64;
    assert!(range.contains(&line.number("longest_left_ns").unwrap()), "{line:?} {range:?}");
    assert_eq!(depth_in_table(address), 2);
    for _ in 0..2 {
        drop(server.accept().unwrap());
    }
    let line = until_depth(&mut trace, 0, 2);
    assert_eq!((line.number("half_closed_on_arrival"), line.number("dead_on_arrival")), (Some(1), Some(1)), "{line:?}");
    let mut by_fin = by_fin;
    let _reset_or_end = by_fin.read(&mut [0]);
    drop((by_fin, server));
    trace.until_stopped();
    let ended = trace.finish();
    for line in ended.all("connection").filter(|line| line.role() == "passive") {
        assert!(ports.contains(&line.port("remote")), "{line:?}");
        assert!(range.contains(&line.number("left_after_ns").unwrap()), "{line:?} {range:?}");
        assert!(line.number("wait_ns") > line.number("left_after_ns"), "{line:?}");
    }
    assert_eq!(ended.counts["repaired"], 0);
}

/// Recv-Q in the kernel's own table.
fn depth_in_table(address: SocketAddr) -> u64 {
    let lines = listed(&["--local-port", &address.port().to_string()]);
    let line = lines.iter().find(|line| line["state"] == "LISTEN").unwrap();
    line["queue"]["depth"].as_u64().unwrap_or_else(|| panic!("{line}"))
}

/// listen() once more changes the limit, and no event tells.
#[test]
fn another_limit() {
    let Some(machine) = shared("another_limit") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let server = listener(address, 7);
    trace.until("listen()", |line| line.0["new"] == "LISTEN");
    listen(&server, Backlog::new(9).unwrap()).unwrap();
    let line = until(&mut trace, "the limit", |line| line.number("limit") == Some(9));
    assert_eq!(line.0["limited_by_somaxconn"], false, "{line:?}");
    drop(server);
    trace.until_stopped();
    trace.finish();
}

/// Whatever listen() asks for, `net.core.somaxconn` is the most.
#[test]
fn a_limit_by_somaxconn() {
    let Some(machine) = shared("a_limit_by_somaxconn") else { return };
    let (netns, address) = (Netns::new("somaxconn"), place());
    let mut trace = trace(machine, address);
    let server = netns.run(|| {
        fs::write("/proc/sys/net/core/somaxconn", "3").unwrap();
        listener(address, 100)
    });
    let line = until(&mut trace, "somaxconn", |line| line.0["limited_by_somaxconn"] == true);
    assert_eq!(line.number("limit"), Some(3), "{line:?}");
    drop(server);
    trace.until_stopped();
    trace.finish();
}

/// Whoever waits when the trace begins is in the depth, for an unknown time, and is its listener's.
#[test]
fn a_queue_from_before() {
    let Some(machine) = shared("a_queue_from_before") else { return };
    let address = place();
    let server = listener(address, 128);
    let clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    let mut trace = trace(machine, address);
    let line = until_depth(&mut trace, 2, 0);
    assert_eq!(line.0["oldest_at_least"], true, "{line:?}");
    let children = |line: &Line| line.role() == "passive" && line.0["socket"]["owner"]["pid"] == std::process::id();
    trace.until_count(2, "children of ours", |line| line.is("listed") && children(line));
    drop(server.accept().unwrap());
    // Where no hook tells the listener, the next comparison finds it shorter.
    until(&mut trace, "one less", |line| line.number("depth") == Some(1));
    drop((clients, server));
    trace.until_stopped();
    trace.finish();
}
