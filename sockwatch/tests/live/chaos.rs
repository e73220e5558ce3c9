//! A seeded random workload at full speed, audited against the kernel's own table throughout: all kinds of closes, resets,
//! half-closes, deaths in the accept queue, reuse of ports and orphans, over IPv4 and IPv6, in several network namespaces.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket, sockopt,
};
use serde_json::Value;

use crate::{
    harness::{Line, Trace, alone, patience, skip, sockwatch, summary},
    netns::Netns,
    witness::Witness,
    workload::converse,
};

const NAMESPACES: usize = 3;
/// Sockets that a worker keeps at most.
const KEPT: usize = 60;
/// Local ports that clients choose themselves, so that they come again while the last connection's `TIME_WAIT` lasts.
const CHOSEN_PORTS: std::ops::Range<u64> = 31_000..31_020;

/// In a namespace of the test's own.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One that makes and breaks connections.
struct Worker<'a> {
    random: Random,
    listener: TcpListener,
    kept: Vec<TcpStream>,
    servers: &'a Mutex<Vec<SocketAddr>>,
}

impl Worker<'_> {
    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.connect(),
            30..36 => self.connect_from_a_chosen_port(),
            36..62 => self.accept(),
            62..78 => self.with_one(|_, _| ()),
            78..84 => self.with_one(|stream, _| {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(stream, sockopt::Linger, &linger).unwrap();
            }),
            84..90 => self.keep_one(|stream, _| drop(stream.shutdown(Shutdown::Write))),
            90..94 => self.keep_one(|stream, random| {
                let bytes = [7; 3000];
                drop(stream.write(&bytes[..usize::try_from(random.below(3000)).unwrap()]));
            }),
            94..98 => self.keep_one(|stream, _| drop(stream.read(&mut [0; 4000]))),
            98 => self.refused(),
            _ => self.listen_anew(),
        }
    }

    fn server(&mut self) -> SocketAddr {
        let servers = self.servers.lock().unwrap();
        servers[usize::try_from(self.random.below(servers.len() as u64)).unwrap()]
    }

    fn keep(&mut self, stream: TcpStream) {
        stream.set_nonblocking(true).unwrap();
        if self.kept.len() == KEPT {
            self.with_one(|_, _| ());
        }
        self.kept.push(stream);
    }

    /// Gives up where the accept queue is full.
    fn connect(&mut self) {
        let server = self.server();
        if let Ok(stream) = TcpStream::connect_timeout(&server, Duration::from_millis(20)) {
            self.keep(stream);
        }
    }

    fn connect_from_a_chosen_port(&mut self) {
        let server = self.server();
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let client = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap();
        setsockopt(&client, sockopt::ReuseAddr, &true).unwrap();
        let port = CHOSEN_PORTS.start + self.random.below(CHOSEN_PORTS.end - CHOSEN_PORTS.start);
        let local = SocketAddr::new(server.ip(), u16::try_from(port).unwrap());
        // Taken, or in a TIME_WAIT that may not be reused yet: both are answers.
        if bind(client.as_raw_fd(), &SockaddrStorage::from(local)).is_ok() {
            let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(server));
            self.keep(TcpStream::from(client));
        }
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept() {
            self.keep(stream);
        }
    }

    /// Does something to one, and closes it.
    fn with_one(&mut self, what: impl FnOnce(&mut TcpStream, &mut Random)) {
        if self.kept.is_empty() {
            return;
        }
        let index = self.random.below(self.kept.len() as u64);
        let mut stream = self.kept.swap_remove(usize::try_from(index).unwrap());
        what(&mut stream, &mut self.random);
    }

    /// Does something to one, and keeps it.
    fn keep_one(&mut self, what: impl FnOnce(&mut TcpStream, &mut Random)) {
        if self.kept.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.kept.len() as u64)).unwrap();
        what(&mut self.kept[index], &mut self.random);
    }

    fn refused(&mut self) {
        let nobody = SocketAddr::new(self.server().ip(), 1);
        assert!(TcpStream::connect_timeout(&nobody, Duration::from_secs(10)).is_err());
    }

    /// Whoever is in the queue of the old listener is lost with it.
    fn listen_anew(&mut self) {
        let address = self.listener.local_addr().unwrap();
        self.listener = {
            let fresh = listener(address.ip(), self.random.below(12));
            let mut servers = self.servers.lock().unwrap();
            let place = servers.iter().position(|server| *server == address).unwrap();
            servers[place] = fresh.local_addr().unwrap();
            fresh
        };
    }
}

fn listener(address: IpAddr, backlog: u64) -> TcpListener {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made: OwnedFd =
        socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap();
    bind(made.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0))).unwrap();
    listen(&made, Backlog::new(i32::try_from(backlog).unwrap()).unwrap()).unwrap();
    TcpListener::from(made)
}

/// How much chaos: `SOCKWATCH_LIVE_CHAOS=SEEDS:SECONDS:WORKERS`, one seed after the other, and so many workers in each namespace,
/// each with a listener.
struct Dose {
    seeds: u64,
    seconds: u64,
    workers: u64,
}

fn dose() -> Dose {
    let wanted = std::env::var("SOCKWATCH_LIVE_CHAOS").unwrap_or_else(|_| "1:6:4".into());
    let numbers: Vec<u64> = wanted.split(':').map(|number| number.parse().unwrap()).collect();
    let [seeds, seconds, workers] = numbers[..] else { panic!("SEEDS:SECONDS:WORKERS, not {wanted}") };
    Dose { seeds, seconds, workers }
}

/// Works in this thread's network namespace until it is over.
pub(crate) fn work(seed: u64, over: &AtomicBool) {
    // An orphan's FIN_WAIT2 is to end within the test.
    std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "2").unwrap();
    // Half of them IPv6.
    let listeners: Vec<_> = (0..dose().workers)
        .map(|number| {
            let address = if number % 2 == 0 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            listener(address, 8)
        })
        .collect();
    let servers = Mutex::new(listeners.iter().map(|listener| listener.local_addr().unwrap()).collect());
    std::thread::scope(|scope| {
        for (number, listener) in listeners.into_iter().enumerate() {
            let (servers, seed) = (&servers, seed * 100 + number as u64);
            scope.spawn(move || {
                let mut worker = Worker { random: Random::new(seed), listener, kept: Vec::new(), servers };
                while !over.load(Ordering::Relaxed) {
                    worker.step();
                }
            });
        }
    });
}

/// Runs `sockwatch audit` over the workload; returns its lines. `None` where the kernel tells nothing of minisocks: there a
/// `TIME_WAIT` whose place was taken and freed again is only in the listings.
fn audit(namespaces: &[Netns], seed: u64, arguments: &[&str]) -> Option<(Vec<Value>, String)> {
    let inodes: Vec<_> = namespaces.iter().map(|netns| netns.inode().to_string()).collect();
    let mut command = sockwatch();
    command.args(["audit", "--format", "json", "--netns", &inodes.join(",")]).args(arguments);
    let mut audit = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (output, mut said) = (audit.stdout.take().unwrap(), BufReader::new(audit.stderr.take().unwrap()));
    let mut line = String::new();
    while !line.starts_with("auditing") {
        if line.contains("no drop probe") {
            audit.kill().unwrap();
            audit.wait().unwrap();
            return None;
        }
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "audit did not start");
    }
    let over = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        for (number, netns) in namespaces.iter().enumerate() {
            let over = &over;
            scope.spawn(move || netns.run(|| work(seed * 10 + number as u64, over)));
        }
        let lines = BufReader::new(output).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        lines
    });
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    audit.wait().unwrap();
    Some((lines, rest))
}

fn of_type<'a>(lines: &'a [Value], name: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == name).collect()
}

#[test]
fn agrees_with_the_kernel() {
    let Some(_machine) = alone("agrees_with_the_kernel") else { return };
    let Dose { seeds, seconds, .. } = dose();
    for seed in 1..=seeds {
        let namespaces: Vec<_> = (0..NAMESPACES).map(|number| Netns::new(&format!("chaos{number}"))).collect();
        let witness = Witness::start();
        let duration = format!("{seconds}s");
        let Some((lines, said)) = audit(&namespaces, seed, &["--duration", &duration, "--interval", "100ms"]) else {
            return skip("agrees_with_the_kernel", "this kernel tells nothing of minisocks (no drop probe)");
        };
        let result = of_type(&lines, "audit")[0];
        println!("seed {seed}: {result} {said}");
        let disagreements = of_type(&lines, "disagreement");
        let unexplained: Vec<_> = disagreements.iter().filter(|line| !witness.explains(&line["socket"])).collect();
        // What the kernel skipped, and counted, the listings have to correct.
        let missed = missed(&said);
        assert!(unexplained.len() <= missed, "seed {seed}: {said}\n{unexplained:#?}");
        if disagreements.is_empty() {
            assert_eq!(result["compared"], result["agreed"], "{said}");
        }
        let enough = if patience() > Duration::from_secs(30) { 50 } else { 5_000 };
        assert!(result["compared"].as_u64().unwrap() >= enough, "{said}");
    }
}

/// Events that the kernel skipped: from 7.x on, which can preempt tracepoints' programs, an emulated one skips some.
fn missed(said: &str) -> usize {
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    summary(&lines)["missed"].try_into().unwrap()
}

/// A ring buffer that is far too small loses, and counts what it loses; once the load is over what is believed agrees again.
#[test]
fn agrees_again_after_losses() {
    let Some(machine) = alone("agrees_again_after_losses") else { return };
    let netns = Netns::new("losses");
    let inode = netns.inode().to_string();
    let mut trace = Trace::start(machine, &["--netns", &inode, "--buffer", "64KiB", "--reconcile", "300ms"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| netns.run(|| work(7, &over)));
        trace.until_count(100, "finished connections", Line::is_finished_connection);
        trace.freeze(|| netns.run(|| (0..2000).for_each(|_| converse(SERVER))));
        trace.until("losses", |line| line.is("losses") && line.number("lost") > Some(0));
        over.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    });
    // All sockets are closed now. One listing to repair what it shows, two more to prove absences.
    let rounds = trace.seen.iter().filter(|line| line.is("reconciled")).count();
    trace.until_count(rounds + 5, "rounds", |line| line.is("reconciled"));
    let counts: Vec<_> = trace.seen.iter().filter(|line| line.is("reconciled")).map(|line| line.0.clone()).collect();
    let (last, before) = (&counts[counts.len() - 1], &counts[counts.len() - 2]);
    let wrong = |counts: &Value| ["differing", "unknown", "absent"].map(|name| counts[name].as_u64().unwrap());
    assert_eq!(wrong(last), wrong(before), "still repairing");
    assert!(wrong(last).iter().sum::<u64>() > 0, "nothing was repaired: {last}");
    trace.kill();
}
