//! Connections that the kernel side counts: the same figures as when it tells each.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use serde_json::Value;

use super::{Diagnosis, Verdict, begin_connecting, listener};
use crate::{
    harness::{Machine, alone},
    workload::{linger_zero, place, until_queued},
};

/// One that tells each connection and one that counts them, at the same traffic.
struct Both {
    told: Diagnosis,
    counted: Diagnosis,
    _machine: Machine,
}

impl Both {
    fn start(name: &str, port: u16) -> Option<Self> {
        let (machine, port) = (alone(name)?, port.to_string());
        let begin = |how| Diagnosis::begin(name, &["--port", &port, "--no-blame", how], None);
        Some(Self { told: begin("--aggregate=never")?, counted: begin("--aggregate")?, _machine: machine })
    }

    fn interrupt(self) -> (Verdict, Verdict) {
        (self.told.interrupt(), self.counted.interrupt())
    }
}

#[track_caller]
fn same(told: &Value, counted: &Value, field: &str) {
    assert_eq!(told[field], counted[field], "{field}: told {told:#}, counted {counted:#}");
}

/// Within a bucket's width, and what lies between two programs on one hook.
#[track_caller]
fn alike(told: &Value, counted: &Value, spread: &str) {
    let (told, counted) = (&told[spread], &counted[spread]);
    same(told, counted, "count");
    for field in ["mean_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"] {
        let (one, other) = (told[field].as_u64().unwrap(), counted[field].as_u64().unwrap());
        let apart = one.abs_diff(other);
        assert!(apart <= one / 16 + 200_000, "{spread} {field}: told {told:#}, counted {counted:#}");
    }
}

#[test]
fn the_same_figures_as_when_each_is_told() {
    const CLIENTS: u64 = 60;
    let address = place();
    let server = listener(address, 128);
    let Some(both) = Both::start("the_same_figures_as_when_each_is_told", address.port()) else { return };
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    for number in 0..CLIENTS {
        // The server's delay.
        thread::sleep(Duration::from_millis(number % 7));
        drop(server.accept().unwrap());
    }
    drop(clients);
    let (told, counted) = both.interrupt();
    assert_eq!((&told.report["aggregated"], &counted.report["aggregated"]), (&false.into(), &true.into()));
    let (told, counted) = (told.listener(), counted.listener());
    for field in ["netns", "cookie", "local", "accepted", "arrived", "still_waiting", "limit"] {
        same(told, counted, field);
    }
    alike(told, counted, "wait");
    alike(told, counted, "handshake");
    assert_eq!(counted["accepted"], CLIENTS, "{counted:#}");
    assert_eq!(told["acceptors"], counted["acceptors"]);
}

#[test]
fn who_leaves_and_who_still_waits() {
    const STAY: usize = 3;
    let address = place();
    let server = listener(address, 128);
    let Some(both) = Both::start("who_leaves_and_who_still_waits", address.port()) else { return };
    let stay: Vec<_> = (0..STAY).map(|_| TcpStream::connect(address).unwrap()).collect();
    drop(TcpStream::connect(address).unwrap());
    // So long they wait.
    thread::sleep(Duration::from_millis(1200));
    let (told, counted) = both.interrupt();
    drop((stay, server));
    assert!(counted.is("nobody-accepts").contains("the oldest for 1."), "{:#}", counted.report);
    told.is("nobody-accepts");
    let (told, counted) = (told.listener(), counted.listener());
    for field in ["arrived", "accepted", "still_waiting", "left_by_fin", "left_by_rst"] {
        same(told, counted, field);
    }
    assert_eq!(counted["still_waiting"], STAY + 1, "{counted:#}");
}

/// Those in its queue are reset by this end: no client has left.
#[test]
fn a_listener_that_closes_with_its_queue() {
    const STAY: usize = 3;
    let address = place();
    let server = listener(address, 128);
    let Some(both) = Both::start("a_listener_that_closes_with_its_queue", address.port()) else { return };
    let stay: Vec<_> = (0..STAY).map(|_| TcpStream::connect(address).unwrap()).collect();
    let resets = TcpStream::connect(address).unwrap();
    until_queued(address, STAY as u32 + 1);
    // So long they wait.
    thread::sleep(Duration::from_millis(1200));
    linger_zero(&resets);
    drop(resets);
    drop(server);
    drop(stay);
    let (told, counted) = both.interrupt();
    let (told, counted) = (told.listener(), counted.listener());
    for field in ["arrived", "accepted", "still_waiting", "left_by_fin", "left_by_rst"] {
        same(told, counted, field);
    }
    assert_eq!((&counted["left_by_rst"], &counted["arrived"]), (&1.into(), &(STAY + 1).into()), "{counted:#}");
}

/// The queue is full for an instant in which nobody looks.
#[test]
fn a_burst_that_does_not_fit() {
    const BACKLOG: u32 = 4;
    let address = place();
    let server = listener(address, BACKLOG as i32);
    let Some(both) = Both::start("a_burst_that_does_not_fit", address.port()) else { return };
    // So long the listener is there.
    thread::sleep(Duration::from_millis(1500));
    // Two last ACKs at once would find the same depth.
    let fill = |place| {
        let client = begin_connecting(address);
        until_queued(address, place);
        client
    };
    let mut clients: Vec<_> = (1..=BACKLOG + 1).map(fill).collect();
    clients.extend((0..15).map(|_| begin_connecting(address)));
    (0..=BACKLOG).for_each(|_| drop(server.accept().unwrap()));
    let (told, counted) = both.interrupt();
    drop(clients);
    for verdict in [told, counted] {
        assert!(verdict.is("queue-too-small").contains("overflowed at 4"), "{:#}", verdict.report);
        assert_eq!(verdict.listener()["greatest_depth"], BACKLOG + 1, "{:#}", verdict.report);
    }
}

/// A listener that shares its address.
fn sharing(address: SocketAddr) -> TcpListener {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::ReusePort, &true).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&fd, Backlog::new(64).unwrap()).unwrap();
    fd.into()
}

/// How many were accepted at each listener.
fn accepted(verdict: &Verdict) -> BTreeMap<u64, u64> {
    let listeners = verdict.report["listeners"].as_array().unwrap().iter();
    listeners.map(|it| (it["cookie"].as_u64().unwrap(), it["accepted"].as_u64().unwrap())).collect()
}

#[test]
fn listeners_that_share_an_address() {
    const CLIENTS: u64 = 40;
    let address = place();
    let listeners = [sharing(address), sharing(address)];
    // Of its port, and with nothing to accept.
    let _anywhere = sharing((Ipv4Addr::UNSPECIFIED, address.port()).into());
    let Some(both) = Both::start("listeners_that_share_an_address", address.port()) else { return };
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut taken = vec![0; listeners.len()];
    listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
    // connect() may return before the listener has its last ACK.
    while taken.iter().sum::<u64>() < CLIENTS {
        for (listener, taken) in listeners.iter().zip(&mut taken) {
            *taken += u64::from(listener.accept().is_ok());
        }
    }
    drop(clients);
    let (told, counted) = both.interrupt();
    let (told, counted) = (accepted(&told), accepted(&counted));
    assert_eq!(told, counted);
    let mut shares: Vec<_> = counted.into_values().filter(|share| *share > 0).collect();
    shares.sort_unstable();
    let mut expected = taken;
    expected.sort_unstable();
    assert_eq!(shares, expected);
}

/// More come and go than are counted apart at once.
#[test]
fn listeners_that_come_and_go() {
    const CLIENTS: u64 = 5;
    let address = place();
    let Some(machine) = alone("listeners_that_come_and_go") else { return };
    let arguments = ["--port", &address.port().to_string(), "--no-blame", "--aggregate"];
    let Some(diagnosis) = Diagnosis::begin("listeners_that_come_and_go", &arguments, Some(machine)) else { return };
    for _ in 0..3 {
        (0..100).for_each(|_| drop(sharing(address)));
        // So long no other comes.
        thread::sleep(Duration::from_millis(1500));
    }
    let server = sharing(address);
    thread::sleep(Duration::from_millis(500));
    for _ in 0..CLIENTS {
        let client = TcpStream::connect(address).unwrap();
        drop((server.accept().unwrap(), client));
    }
    let verdict = diagnosis.interrupt();
    let taken = accepted(&verdict);
    assert_eq!(
        taken.values().filter(|accepted| **accepted > 0).collect::<Vec<_>>(),
        [&CLIENTS],
        "{:#}",
        verdict.report
    );
}

/// Who was reset in a queue goes with it, without another word: neither the next listener there nor another one of that port has
/// those who wait.
#[test]
fn who_was_reset_goes_with_the_listener() {
    const CLIENTS: u32 = 3;
    let address = place();
    let Some(machine) = alone("who_was_reset_goes_with_the_listener") else { return };
    let (server, anywhere) = (sharing(address), sharing((Ipv4Addr::UNSPECIFIED, address.port()).into()));
    let arguments = ["--port", &address.port().to_string(), "--no-blame", "--aggregate"];
    let Some(diagnosis) = Diagnosis::begin("who_was_reset_goes_with_the_listener", &arguments, Some(machine)) else {
        return;
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    until_queued(address, CLIENTS);
    clients.iter().for_each(linger_zero);
    drop(clients);
    // So long they are dead in the queue.
    thread::sleep(Duration::from_millis(500));
    drop(server);
    let next = sharing(address);
    thread::sleep(Duration::from_millis(1500));
    let verdict = diagnosis.interrupt();
    drop((next, anywhere));
    let listeners = verdict.report["listeners"].as_array().unwrap();
    let figures = |it: &Value| ["arrived", "left_by_rst", "still_waiting"].map(|field| it[field].as_u64().unwrap());
    let mut figures: Vec<_> = listeners.iter().map(figures).collect();
    figures.sort_unstable();
    let gone = [CLIENTS.into(), CLIENTS.into(), 0];
    assert_eq!(figures, [[0; 3], [0; 3], gone], "{:#}", verdict.report);
}
