//! `sockwatch diagnose` against servers that are well and servers that are not: verdict, exit code, and figures against the
//! test's own clocks.

mod blame;
mod counted;
pub(crate) mod findings;

use std::{
    collections::HashMap,
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, socket},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    harness::{Machine, Probes, alone, choices, skip, sockwatch},
    netns::Netns,
    puppet::Puppet,
    workload::place,
};

/// A running diagnosis.
pub(crate) struct Diagnosis {
    child: Child,
    pub(crate) probes: Probes,
    _machine: Option<Machine>,
}

/// What it came to.
pub(crate) struct Verdict {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
}

impl Diagnosis {
    /// Begins, and returns once the probes are in place; `None` where a connection's listener is not known.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Option<Self> {
        let machine = alone(name)?;
        let diagnosis = Self::begin(name, arguments, Some(machine))?;
        if !diagnosis.probes.has("enqueue") {
            diagnosis.interrupt();
            skip(name, "without the enqueue probe it is not known who waits");
            return None;
        }
        Some(diagnosis)
    }

    /// The same beside another one, or where connections are only counted.
    pub(crate) fn begin(name: &str, arguments: &[&str], machine: Option<Machine>) -> Option<Self> {
        let mut command = sockwatch();
        command.args(["diagnose", "--format", "json", "--latency", "5ms"]).args(choices()).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Byte by byte: what follows is left to whoever reads on.
        let (mut said, mut byte) = (Vec::new(), [0]);
        let stderr = child.stderr.as_mut().unwrap();
        while !said.ends_with(b"\n") || !String::from_utf8_lossy(&said).contains("tracing by eBPF") {
            if stderr.read(&mut byte).unwrap() == 0 {
                let said = String::from_utf8_lossy(&said);
                child.wait().unwrap();
                assert!(said.contains("without BTF"), "{said}");
                skip(name, "without BTF nothing can be diagnosed");
                return None;
            }
            said.push(byte[0]);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        let probes = Probes::of(said.lines().last().unwrap());
        Some(Self { child, probes, _machine: machine })
    }

    /// Ctrl-C: it reports what it has.
    pub(crate) fn interrupt(self) -> Verdict {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.wait()
    }

    /// Waits for the end of its time.
    pub(crate) fn wait(self) -> Verdict {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let report: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)));
        let schema = sockwatch().arg("diagnose-schema").output().unwrap();
        let schema = jsonschema::validator_for(&serde_json::from_slice(&schema.stdout).unwrap()).unwrap();
        if let Err(error) = schema.validate(&report) {
            panic!("does not fit the schema: {error}: {report}");
        }
        Verdict { code: output.status.code(), report }
    }
}

impl Verdict {
    /// The worst finding, of which there must be one, and what it says in all.
    #[track_caller]
    pub(crate) fn is(&self, name: &str) -> String {
        let finding = &self.report["findings"][0];
        assert_eq!((finding["name"].as_str(), self.code), (Some(name), Some(1)), "{:#}", self.report);
        assert_eq!(self.report["verdict"], "findings");
        finding.to_string()
    }

    pub(crate) fn listener(&self) -> &Value {
        &self.report["listeners"][0]
    }
}

/// A listener with this backlog.
pub(crate) fn listener(address: SocketAddr, backlog: i32) -> TcpListener {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&fd, Backlog::new(backlog).unwrap()).unwrap();
    fd.into()
}

/// A connect() that nobody waits for.
pub(crate) fn begin_connecting(address: SocketAddr) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let _in_progress = connect(fd.as_raw_fd(), &SockaddrStorage::from(address));
    fd
}

/// Bursts within the backlog, one after the other. On a machine that is full of other work a wait may be long: then it is no
/// longer the healthy server that this is about, so only half a second counts as slow.
#[test]
fn a_healthy_server_is_healthy() {
    let address = place();
    let port = address.port().to_string();
    let Some(diagnosis) = Diagnosis::start("a_healthy_server_is_healthy", &["--port", &port, "--slow", "500ms"]) else {
        return;
    };
    const BURSTS: usize = 10;
    const CLIENTS: usize = 100;
    let server = listener(address, 128);
    thread::scope(|scope| {
        let serve = || (0..BURSTS * CLIENTS).for_each(|_| drop(server.accept().unwrap()));
        let serving = scope.spawn(serve);
        for _ in 0..BURSTS {
            let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
            for mut client in clients {
                let _end = client.read(&mut [0]);
            }
        }
        serving.join().unwrap();
    });
    let verdict = diagnosis.interrupt();
    assert_eq!(verdict.code, Some(0), "{:#}", verdict.report);
    assert_eq!(verdict.report["verdict"], "healthy");
    let probes = &verdict.report["cost"]["probes"];
    let [runs, ns] = ["runs", "ns"].map(|name| probes[name].as_u64().unwrap());
    assert!(runs >= 1000 && ns / runs < 1_000_000, "{probes}");
    let listener = verdict.listener();
    assert_eq!((&listener["accepted"], &listener["wait"]["count"]), (&1000.into(), &1000.into()), "{listener}");
    assert_eq!((&listener["still_waiting"], &listener["limit"]), (&0.into(), &128.into()), "{listener}");
    assert_eq!(listener["acceptors"][0]["accepted"], 1000, "{listener}");
}

/// The waits lie between what the test measured from within and from without, at every percentile.
#[test]
fn a_server_that_sleeps_before_each_accept() {
    const CLIENTS: usize = 10;
    const DELAY: Duration = Duration::from_millis(60);
    let address = place();
    let port = address.port().to_string();
    let Some(diagnosis) = Diagnosis::start("a_server_that_sleeps_before_each_accept", &["--port", &port, "--no-blame"])
    else {
        return;
    };
    let server = listener(address, 128);
    let connect = |_| {
        let calling = Instant::now();
        let client = TcpStream::connect(address).unwrap();
        (client.local_addr().unwrap().port(), (client, calling, Instant::now()))
    };
    let clients: HashMap<_, _> = (0..CLIENTS).map(connect).collect();
    let (mut at_least, mut at_most) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        // What the server does wrong.
        thread::sleep(DELAY);
        let calling = Instant::now();
        let (_, client) = server.accept().unwrap();
        let (_, connecting, connected) = &clients[&client.port()];
        at_least.push((calling - *connected).as_nanos() as u64);
        at_most.push(connecting.elapsed().as_nanos() as u64);
    }
    let verdict = diagnosis.interrupt();
    let said = verdict.is("slow-accept");
    assert!(said.contains("waited 100ms or more for accept()") && said.contains("the longest pause was"), "{said}");
    let wait = &verdict.listener()["wait"];
    assert_eq!(wait["count"], CLIENTS, "{wait}");
    at_least.sort_unstable();
    at_most.sort_unstable();
    for (name, rank) in
        [("min_ns", 0), ("p50_ns", CLIENTS / 2 - 1), ("p90_ns", CLIENTS * 9 / 10 - 1), ("max_ns", CLIENTS - 1)]
    {
        let told = wait[name].as_u64().unwrap();
        // A bucket is 1 %; whatever lies between a call and the clock is no more than a millisecond on a machine at rest.
        let range = at_least[rank] - at_least[rank] / 100 - 1_000_000..=at_most[rank] + at_most[rank] / 100 + 1_000_000;
        assert!(range.contains(&told), "{name} {told}, measured {range:?}");
    }
    assert_eq!(verdict.listener()["acceptors"][0]["by"]["pid"], std::process::id());
}

#[test]
fn a_server_that_never_accepts() {
    let address = place();
    let arguments = ["--port", &address.port().to_string(), "--duration", "2500ms"];
    let Some(diagnosis) = Diagnosis::start("a_server_that_never_accepts", &arguments) else { return };
    let server = listener(address, 128);
    let clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
    let verdict = diagnosis.wait();
    let said = verdict.is("nobody-accepts");
    assert!(said.contains("3 connections wait") && said.contains("no accept during the run"), "{said}");
    drop((clients, server));
}

/// More clients at once than the queue holds, and a server that then takes them at once; those who were turned away try again.
#[test]
fn a_backlog_that_is_too_small() {
    let (netns, address) = (Netns::new("too-small"), place());
    let arguments = ["--netns", &netns.name, "--duration", "3s", "--slow", "700ms"];
    let Some(diagnosis) = Diagnosis::start("a_backlog_that_is_too_small", &arguments) else { return };
    let done = AtomicBool::new(false);
    let (server, clients) = netns.run(|| {
        let server = listener(address, 4);
        (server, (0..20).map(|_| begin_connecting(address)).collect::<Vec<_>>())
    });
    let verdict = thread::scope(|scope| {
        let serve = || {
            while let Ok((stream, _)) = server.accept()
                && !done.load(Ordering::Relaxed)
            {
                drop(stream);
            }
        };
        let serving = scope.spawn(serve);
        let verdict = diagnosis.wait();
        done.store(true, Ordering::Relaxed);
        // The one that the server waits for.
        drop(netns.run(|| TcpStream::connect(address).unwrap()));
        serving.join().unwrap();
        verdict
    });
    drop(clients);
    let said = verdict.is("queue-too-small");
    assert!(said.contains("overflowed at 4") && said.contains("a backlog of"), "{said}");
    assert!(verdict.listener()["drops"].as_u64() > Some(0), "{}", verdict.listener());
}

#[test]
fn a_server_without_descriptors() {
    let address = place();
    let port = address.port().to_string();
    let Some(diagnosis) = Diagnosis::start("a_server_without_descriptors", &["--port", &port]) else { return };
    if !diagnosis.probes.has("accept-return") {
        diagnosis.interrupt();
        return skip("a_server_without_descriptors", "without the accept-return probe failures are not told");
    }
    let mut server = Puppet::new();
    server.tell(&format!("listen {address}"));
    let client = TcpStream::connect(address).unwrap();
    server.tell("descriptors 3");
    for _ in 0..3 {
        assert!(server.ask("accept").ends_with("(os error 24)"));
    }
    let verdict = diagnosis.interrupt();
    let said = verdict.is("descriptor-limit");
    assert!(said.contains("accept() failed 3 times") && said.contains(&server.pid().to_string()), "{said}");
    drop(client);
}

/// A client that closes first, in a namespace with few ports: the forecast names the moment at which connect() fails.
#[test]
fn a_client_that_will_run_out_of_ports() {
    const PORTS: u32 = 400;
    const EVERY: Duration = Duration::from_millis(20);
    let (netns, address) = (&Netns::new("few-ports"), place());
    let arguments = ["--netns", &netns.name];
    netns.run(|| {
        let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
        set("ip_local_port_range", &format!("20000 {}", 20000 + PORTS - 1));
        // On loopback ports would be taken again after a second.
        set("tcp_tw_reuse", "0");
    });
    let Some(diagnosis) = Diagnosis::start("a_client_that_will_run_out_of_ports", &arguments) else { return };
    let (failed, told) = thread::scope(|scope| {
        let connect = move || {
            let server = listener(address, 128);
            let began = Instant::now();
            for number in 0.. {
                thread::sleep((EVERY * number).saturating_sub(began.elapsed()));
                match TcpStream::connect(address) {
                    Ok(client) => {
                        let (mut accepted, _) = server.accept().unwrap();
                        drop(client);
                        assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
                    }
                    Err(error) => {
                        assert_eq!((error.raw_os_error(), number), (Some(nix::libc::EADDRNOTAVAIL), PORTS));
                        return Instant::now();
                    }
                }
            }
            unreachable!()
        };
        let connecting = scope.spawn(move || netns.run(connect));
        thread::sleep(EVERY * PORTS / 2);
        let (interrupted, verdict) = (Instant::now(), diagnosis.interrupt());
        let told = Instant::now();
        // The forecast counts from somewhere between: the last look at the kernel's table takes its time.
        let failed = connecting.join().unwrap();
        (failed.duration_since(told)..=failed.duration_since(interrupted), verdict)
    });
    let said = told.is("port-exhaustion");
    assert!(said.contains("of 400 ports are taken"), "{said}");
    let ports = &told.report["ports"][0];
    let foretold = Duration::from_nanos(ports["exhausted_in_ns"].as_u64().unwrap());
    let near = *failed.start() * 9 / 10..=*failed.end() * 11 / 10;
    assert!(near.contains(&foretold), "{foretold:?}, it was {failed:?}: {ports}");
}
