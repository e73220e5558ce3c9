//! Many connections at full speed: none is lost, and the kernel's own counters agree.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{alone, sockwatch, summary},
    netns::Netns,
    workload::free_port,
};

/// How many, unless `SOCKWATCH_LIVE_CONNECTIONS` says otherwise: an emulated machine takes its time.
const CONNECTIONS: u64 = 100_000;
/// Threads of clients, and of the server. Each client thread has its own destination: TIME_WAIT holds the ports of a
/// destination, and the ephemeral ports of one are not enough.
const THREADS: u64 = 8;

/// What a socket must have gone through, a bit each.
const CLIENT: &[(&str, &str)] = &[
    ("CLOSE", "SYN_SENT"),
    ("SYN_SENT", "ESTABLISHED"),
    ("ESTABLISHED", "FIN_WAIT1"),
    ("FIN_WAIT1", "FIN_WAIT2"),
    ("FIN_WAIT2", "CLOSE"),
];
const SERVER: &[(&str, &str)] = &[
    ("LISTEN", "SYN_RECV"),
    ("SYN_RECV", "ESTABLISHED"),
    ("ESTABLISHED", "CLOSE_WAIT"),
    ("CLOSE_WAIT", "LAST_ACK"),
    ("LAST_ACK", "CLOSE"),
];
const ACCEPTED: u16 = 1 << 8;
const ENQUEUED: u16 = 1 << 9;
const FINISHED: u16 = 1 << 10;
const TRANSITIONS: u16 = 0b11111;

#[test]
fn none_of_many_is_lost() {
    let Some(_machine) = alone("none_of_many_is_lost") else { return };
    let connections = std::env::var("SOCKWATCH_LIVE_CONNECTIONS").map_or(CONNECTIONS, |text| text.parse().unwrap());
    let netns = Netns::new("load");
    let port = free_port();
    let file = tempfile();
    let mut child = sockwatch()
        .args(["trace", "--source", "ebpf", "--format", "json", "--buffer", BUFFER, "--port", &port.to_string()])
        .stdout(file.try_clone().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.starts_with("tracing ") {
        said.clear();
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "did not start");
    }
    let began = Instant::now();
    let (accepted, opens) = netns.run(|| {
        let before = opens();
        let accepted = load(port, connections);
        (accepted, opens().map(|(name, count)| (name, count - before.iter().find(|(it, _)| *it == name).unwrap().1)))
    });
    let loaded = began.elapsed();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    let traced = began.elapsed();
    let lines: Vec<_> = rest.lines().map(str::to_owned).collect();
    let counts = summary(&lines);
    eprintln!("{connections} connections in {loaded:?}, traced in {traced:?}: {}", lines.last().unwrap());
    assert_eq!([counts["lost"], counts["dropped"]], [0, 0], "{lines:?}");
    assert_eq!(accepted, connections);
    // Rarely, on a slow machine, the kernel makes two children of one handshake, and drops one of them at once.
    let [(_, active), (_, passive)] = opens;
    assert!(active == connections && passive >= connections, "the kernel's counters: {opens:?}");
    let twins = passive - connections;
    // Whatever is not there must have been said: as missed, or as a transition that did not fit.
    let told = counts["missed"] + counts["unexpected"];
    let whole = active + passive;
    assert!((whole.saturating_sub(told)..=whole).contains(&counts["connections"]), "{whole}: {lines:?}");
    check(file, connections, told + twins);
    eprintln!("checked in {:?}", began.elapsed());
}

const BUFFER: &str = "128MiB";

/// Connects, and closes from the client's side; returns how many were accepted.
fn load(port: u16, connections: u64) -> u64 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let accepted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while accepted.fetch_add(1, Ordering::Relaxed) < connections {
                    let (mut server, _) = listener.accept().unwrap();
                    assert_eq!(server.read(&mut [0]).unwrap(), 0);
                }
                accepted.fetch_sub(1, Ordering::Relaxed);
            });
        }
        for thread in 1..=THREADS {
            scope.spawn(move || {
                for _ in 0..connections / THREADS {
                    let client = TcpStream::connect((Ipv4Addr::new(127, 0, 1, thread as u8), port)).unwrap();
                    close_first(client);
                }
            });
        }
    });
    accepted.into_inner()
}

/// FIN from here first, then from the server: neither a delayed ACK nor an orphan makes a difference.
fn close_first(mut client: TcpStream) {
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// Connections that this thread's network namespace has opened, as the kernel counts them.
fn opens() -> [(&'static str, u64); 2] {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let values: HashMap<_, _> = names.split(' ').zip(values.split(' ')).collect();
    ["ActiveOpens", "PassiveOpens"].map(|name| (name, values[name].parse().unwrap()))
}

/// Every connection has its transitions, accept, wait and end. Lines are picked apart by position: parsing them all would
/// take longer than the trace.
fn check(mut file: File, connections: u64, told: u64) {
    let mut again = file.try_clone().unwrap();
    file.rewind().unwrap();
    let mut sockets: HashMap<(bool, u64), u16> = HashMap::new();
    let mut enqueued_twice = 0;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() != 0 {
        if let Some((socket, bits)) = note(&line) {
            let seen = sockets.entry(socket).or_default();
            assert!(*seen & bits & !ENQUEUED == 0, "twice: {line}");
            enqueued_twice += u64::from(*seen & bits & ENQUEUED != 0);
            *seen |= bits;
        }
        line.clear();
    }
    let enqueued = sockets.values().filter(|seen| **seen & ENQUEUED != 0).count();
    assert!(enqueued as u64 + told >= connections, "{enqueued} enqueues");
    assert_eq!(enqueued_twice, 0, "enqueues told twice");
    for (passive, whole) in [(false, TRANSITIONS | FINISHED), (true, TRANSITIONS | FINISHED | ACCEPTED)] {
        let (complete, partial): (Vec<_>, Vec<_>) =
            sockets.iter().filter(|((role, _), _)| *role == passive).partition(|(_, seen)| **seen & whole == whole);
        assert!(
            partial.len() as u64 <= told,
            "{} incomplete, such as\n{}",
            partial.len(),
            partial.first().map_or_else(String::new, |((_, cookie), _)| lines_of(&mut again, *cookie))
        );
        assert!(complete.len() as u64 <= connections && complete.len() as u64 + told >= connections);
    }
}

/// All lines about a socket, and about others with the same tuple.
fn lines_of(file: &mut File, cookie: u64) -> String {
    let mut lines_with = |wanted: &str| {
        file.rewind().unwrap();
        let lines = BufReader::new(&mut *file).lines().map(Result::unwrap);
        lines.filter(|line| line.contains(wanted)).collect::<Vec<_>>()
    };
    let own = lines_with(&format!("\"cookie\":{cookie},"));
    let tuple = own.last().map(|line| between(line, "\"local\":", ",\"owner").to_owned());
    tuple.map_or(own, |tuple| lines_with(&tuple)).join("\n")
}

/// Which socket a line is about (whether it is the server's, and its cookie), and what it says of it.
fn note(line: &str) -> Option<((bool, u64), u16)> {
    let passive = if line.contains("\"role\":\"passive\"") {
        true
    } else if line.contains("\"role\":\"active\"") {
        false
    } else {
        return None;
    };
    let cookie = between(line, "\"cookie\":", ",").parse().unwrap();
    let bits = match between(line, "{\"type\":\"", "\"") {
        "transition" => {
            let (old, new) = (between(line, "\"old\":\"", "\""), between(line, "\"new\":\"", "\""));
            let path = if passive { SERVER } else { CLIENT };
            1 << path.iter().position(|step| *step == (old, new)).unwrap_or_else(|| panic!("unforeseen: {line}"))
        }
        // Its birth is missing: the connection is incomplete.
        "accept" if !line.contains("\"wait_ns\":") => 0,
        "accept" => {
            let wait_ns: i64 = between(line, "\"wait_ns\":", "}").parse().unwrap_or_else(|_| panic!("no wait: {line}"));
            assert!((0..60_000_000_000).contains(&wait_ns), "{line}");
            ACCEPTED
        }
        "enqueue" => ENQUEUED,
        // Its transition to CLOSE is missing.
        "connection" if !line.contains("\"end\":") => 0,
        "connection" => {
            let end = if passive { "peer-fin" } else { "local-fin" };
            assert_eq!(between(line, "\"end\":\"", "\""), end, "{line}");
            FINISHED
        }
        // Of the network, not of the trace.
        "minisock_segment" | "minisock_end" | "retransmit" => return None,
        // A transition that is missing: counted as such, and compared with `missed`. Of an accept that is, the close tells who
        // had it.
        "unexpected" | "heir" => return None,
        kind => panic!("unforeseen {kind}: {line}"),
    };
    Some(((passive, cookie), bits))
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> &'a str {
    let from = line.find(before).map_or_else(|| panic!("no {before}: {line}"), |at| at + before.len());
    let length = line[from..].find(after).unwrap_or_else(|| panic!("no {after}: {line}"));
    &line[from..from + length]
}

/// A file without a name: it is gone when the test is.
fn tempfile() -> File {
    let path = std::env::temp_dir().join(format!("sockwatch-load-{}.json", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}
