//! What kept a server from accept(): the finding names the function that the test made it wait in, and the shares are those of the
//! test's own clocks.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    diagnose::{Diagnosis, Verdict, listener},
    harness::skip,
    workload::place,
};

const CLIENTS: usize = 20;

/// A share may be so many points off.
const POINTS: f64 = 10.0;

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[inline(never)]
fn asks_the_database(time: Duration) {
    thread::sleep(time);
    std::hint::black_box(time);
}

#[inline(never)]
fn computes_a_report(time: Duration) {
    let began = cpu_time();
    while cpu_time() - began < time {
        std::hint::black_box((0..1000).sum::<u64>());
    }
}

/// What the server did while its clients waited.
struct Own {
    took: Duration,
    ran: Duration,
}

/// Clients come all at once; the server does something before it accepts each of them.
fn serve(server: &TcpListener, address: SocketAddr, mut before_each: impl FnMut()) -> Own {
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (began, ran) = (Instant::now(), cpu_time());
    for _ in &clients {
        before_each();
        drop(server.accept().unwrap());
    }
    Own { took: began.elapsed(), ran: cpu_time() - ran }
}

/// The percentage of a kind, of what is known; little must be unknown.
#[track_caller]
fn share(verdict: &Verdict, kind: &str) -> f64 {
    let blame = &verdict.listener()["blame"];
    let of = |kind: &str| -> f64 {
        let part = blame["parts"].as_array().unwrap().iter().find(|part| part["kind"] == kind).unwrap();
        part["percent"].as_f64().unwrap()
    };
    let all: u64 = blame["parts"].as_array().unwrap().iter().map(|part| part["ns"].as_u64().unwrap()).sum();
    assert_eq!(Value::from(all), blame["waiting_ns"], "{blame:#}");
    assert!(of("unknown") < 30.0, "{blame:#}");
    of(kind) * 100.0 / (100.0 - of("unknown"))
}

#[track_caller]
fn is_near(verdict: &Verdict, kind: &str, own: Duration, of: &Own) {
    let (told, expected) = (share(verdict, kind), 100.0 * own.as_secs_f64() / of.took.as_secs_f64());
    assert!((told - expected).abs() <= POINTS, "{kind}: told {told}, measured {expected}: {:#}", verdict.report);
}

/// Starts, unless the kernel lets nobody watch threads.
fn start(name: &str, address: SocketAddr) -> Option<Diagnosis> {
    let port = address.port().to_string();
    Diagnosis::start(name, &["--port", &port])
}

fn is_watched(name: &str, verdict: &Verdict) -> bool {
    let is_watched = !verdict.listener()["blame"].is_null();
    if !is_watched {
        skip(name, "this kernel lets nobody watch threads");
    }
    is_watched
}

#[test]
fn a_server_that_sleeps_in_a_function() {
    const NAME: &str = "a_server_that_sleeps_in_a_function";
    let address = place();
    let picture = std::env::temp_dir().join(format!("sockwatch-{}.svg", std::process::id()));
    let words = ["--port", &address.port().to_string(), "--flame-graph", picture.to_str().unwrap()];
    let Some(diagnosis) = Diagnosis::start(NAME, &words) else { return };
    let server = listener(address, 128);
    let each = Duration::from_millis(60);
    let own = serve(&server, address, || asks_the_database(each));
    let verdict = diagnosis.interrupt();
    if !is_watched(NAME, &verdict) {
        return;
    }
    let drawn = std::fs::read_to_string(&picture).unwrap();
    std::fs::remove_file(picture).unwrap();
    assert!(drawn.contains("<svg") && drawn.contains("asks_the_database"), "{drawn}");
    let said = verdict.is("acceptor-blocked");
    assert!(said.contains("asks_the_database (clock_nanosleep)"), "{said}");
    is_near(&verdict, "blocked", each * CLIENTS as u32, &own);
}

/// Where others leave it a CPU: else it is starved, and rightly called so.
#[test]
fn a_server_that_computes_in_a_function() {
    const NAME: &str = "a_server_that_computes_in_a_function";
    let address = place();
    let Some(diagnosis) = start(NAME, address) else { return };
    let server = listener(address, 128);
    let own = serve(&server, address, || computes_a_report(Duration::from_millis(60)));
    let verdict = diagnosis.interrupt();
    if !is_watched(NAME, &verdict) {
        return;
    }
    is_near(&verdict, "busy", own.ran, &own);
    is_near(&verdict, "starved", own.took.saturating_sub(own.ran), &own);
    if own.ran < own.took * 2 / 3 {
        return skip(NAME, "others have the CPUs: the rest of it");
    }
    let said = verdict.is("acceptor-busy");
    assert!(said.contains("computes_a_report"), "{said}");
}

/// An event loop that has another event to handle whenever it asks, and takes that one first.
#[test]
fn a_server_that_handles_other_events_first() {
    const NAME: &str = "a_server_that_handles_other_events_first";
    let address = place();
    let Some(diagnosis) = start(NAME, address) else { return };
    let server = listener(address, 128);
    let (mut ours, mut others) = UnixStream::pair().unwrap();
    let other = thread::spawn(move || {
        let mut byte = [0];
        while others.read(&mut byte).unwrap() > 0 {
            thread::sleep(Duration::from_millis(2));
            others.write_all(&byte).unwrap();
        }
    });
    let own = serve(&server, address, || {
        ours.write_all(&[0]).unwrap();
        let mut asked = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut asked, PollTimeout::NONE).unwrap(), 1);
        ours.read_exact(&mut [0]).unwrap();
        computes_a_report(Duration::from_millis(60));
    });
    drop(ours);
    other.join().unwrap();
    let verdict = diagnosis.interrupt();
    if !is_watched(NAME, &verdict) {
        return;
    }
    is_near(&verdict, "draining", own.ran, &own);
    if own.ran < own.took * 2 / 3 {
        return skip(NAME, "others have the CPUs: the rest of it");
    }
    let said = verdict.is("acceptor-busy");
    assert!(said.contains("handled other events first") && said.contains("computes_a_report"), "{said}");
}

#[test]
fn a_server_whose_cpu_others_have() {
    const NAME: &str = "a_server_whose_cpu_others_have";
    const OTHERS: usize = 8;
    let address = place();
    let Some(diagnosis) = start(NAME, address) else { return };
    let server = listener(address, 128);
    let done = AtomicBool::new(false);
    let one_cpu = || {
        let mut cpus = CpuSet::new();
        cpus.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
    };
    let own = thread::scope(|scope| {
        for _ in 0..OTHERS {
            scope.spawn(|| {
                one_cpu();
                while !done.load(Ordering::Relaxed) {
                    computes_a_report(Duration::from_millis(1));
                }
            });
        }
        let serving = scope.spawn(|| {
            one_cpu();
            serve(&server, address, || computes_a_report(Duration::from_millis(6)))
        });
        let own = serving.join().unwrap();
        done.store(true, Ordering::Relaxed);
        own
    });
    let verdict = diagnosis.interrupt();
    if !is_watched(NAME, &verdict) {
        return;
    }
    verdict.is("acceptor-starved");
    is_near(&verdict, "starved", own.took.saturating_sub(own.ran), &own);
}

/// A python that tells perf what it calls.
fn python() -> Option<&'static str> {
    let tells = |name: &&str| {
        let check = "import sys; sys.exit(not sys.is_stack_trampoline_active())";
        let status = Command::new(name).args(["-X", "perf", "-c", check]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    ["python3", "python3.14", "python3.13", "python3.12"].into_iter().find(tells)
}

#[test]
fn a_python_server_that_sleeps_in_a_function() {
    const NAME: &str = "a_python_server_that_sleeps_in_a_function";
    const SERVER: &str = "
import socket, sys, time
def asks_the_database():
    time.sleep(0.06)
def serve(server):
    for _ in range(20):
        asks_the_database()
        server.accept()[0].close()
server = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=128)
print('ready', flush=True)
sys.stdin.readline()
serve(server)
print('done', flush=True)
sys.stdin.readline()
";
    let Some(python) = python() else { return skip(NAME, "no python that knows -X perf") };
    let address = place();
    let Some(diagnosis) = start(NAME, address) else { return };
    let mut server = Command::new(python)
        .args(["-X", "perf", "-c", SERVER, &address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut stdin = server.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"go\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "done");
    let verdict = diagnosis.interrupt();
    drop((stdin, clients));
    server.wait().unwrap();
    if !is_watched(NAME, &verdict) {
        return;
    }
    let said = verdict.is("acceptor-blocked");
    assert!(said.contains("py::asks_the_database"), "{said}");
}

/// It accepts at once, and reads late, or never.
#[test]
fn a_server_that_reads_late() {
    const NAME: &str = "a_server_that_reads_late";
    const LATE: Duration = Duration::from_millis(300);
    let address = place();
    let Some(diagnosis) = start(NAME, address) else { return };
    let server = listener(address, 128);
    let began = Instant::now();
    let mut pairs: Vec<_> = (0..5)
        .map(|_| {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"hello").unwrap();
            let (stream, _) = server.accept().unwrap();
            // A look is no read.
            assert!(stream.peek(&mut [0]).is_ok());
            (stream, client)
        })
        .collect();
    thread::sleep(LATE);
    for (stream, _) in &mut pairs[..3] {
        // Twice: the first time counts.
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
    }
    let own = u64::try_from(began.elapsed().as_nanos()).unwrap();
    drop(pairs.pop());
    let verdict = diagnosis.interrupt();
    let reads = &verdict.listener()["reads"];
    if reads.is_null() {
        // Without the helper for cookies nobody could say whose read it was.
        let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let helper = b"bpf_get_socket_ptr_cookie";
        assert!(!btf.windows(helper.len()).any(|window| window == helper), "{:#}", verdict.report);
        return;
    }
    assert_eq!((&reads["first"]["count"], &reads["never"], &reads["not_yet"]), (&3.into(), &1.into(), &1.into()));
    let [least, most] = ["min_ns", "max_ns"].map(|field| reads["first"][field].as_u64().unwrap());
    assert!(LATE.as_nanos() as u64 <= least && most <= own, "{reads:#}, measured {own} ns");
}
