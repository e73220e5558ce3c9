//! Limits, files, pipes, signals and text.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{Trace, assert_stories, patience, shared, sockwatch, summary},
    workload::{STORIES, client_closes_first, converse, place},
};

/// A path in the temporary directory that does not exist; removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockwatch-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A trace whose standard output is not read by the harness; attached when this returns.
fn spawn(arguments: &[&str], stdout: Stdio) -> (Child, BufReader<ChildStderr>) {
    let mut child = sockwatch()
        .args(["trace", "--source", "ebpf"])
        .args(arguments)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.lines().last().is_some_and(|line| line.starts_with("tracing ")) {
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "did not start: {said}");
    }
    (child, stderr)
}

fn interrupt(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Runs a program that must end by itself.
fn run(arguments: &[&str]) -> Output {
    sockwatch().arg("trace").args(arguments).output().unwrap()
}

#[test]
fn count_ends_the_trace() {
    let Some(machine) = shared("count_ends_the_trace") else { return };
    let address = place();
    let trace = Trace::start(machine, &["--port", &address.port().to_string(), "--connections", "--count", "3"]);
    converse(address);
    converse(address);
    let ended = trace.wait();
    assert_eq!(ended.lines.iter().filter(|line| line.is_finished_connection()).count(), 3);
    assert_eq!(ended.counts["connections"], 3);
    assert_eq!(ended.lines.last().unwrap().number("connections"), Some(3));
    assert_eq!(ended.all("transition").count(), 0, "--connections alone");
}

#[test]
fn transitions_alone() {
    let Some(machine) = shared("transitions_alone") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string(), "--transitions"]);
    converse(address);
    trace.until_count(3, "transitions to CLOSE", |line| line.0["new"] == "CLOSE");
    let expected = STORIES.map(|story| story.split_once(" end ").unwrap().0);
    assert_stories(&trace.finish(), &expected);
}

/// The trace ends by itself, no sooner than asked; its last event is in.
#[test]
fn duration_ends_the_trace() {
    let Some(machine) = shared("duration_ends_the_trace") else { return };
    let address = place();
    let trace = Trace::start(machine, &["--port", &address.port().to_string(), "--duration", "300ms"]);
    let began = Instant::now();
    converse(address);
    let ended = trace.wait();
    assert!(began.elapsed() > Duration::from_millis(250), "{:?}", began.elapsed());
    assert_stories(&ended, &STORIES);
}

/// SIGTERM and SIGHUP end a trace as SIGINT does; [`Trace::finish`] is SIGINT everywhere else.
#[test]
fn signals_end_the_trace() {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let Some(machine) = shared("signals_end_the_trace") else { return };
        let address = place();
        let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
        converse(address);
        trace.until_stopped();
        assert_stories(&trace.finish_by(signal), &STORIES);
    }
}

/// What happened before the signal is shown, even if nothing was shown yet.
#[test]
fn a_signal_flushes() {
    let Some(machine) = shared("a_signal_flushes") else { return };
    let address = place();
    let trace = Trace::start(machine, &["--port", &address.port().to_string(), "--latency", "10s"]);
    converse(address);
    assert_stories(&trace.finish(), &STORIES);
}

/// Text, too.
#[test]
fn a_signal_flushes_text() {
    let Some(_machine) = shared("a_signal_flushes_text") else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let address = place();
        let port = address.port().to_string();
        let (child, stderr) = spawn(&["--port", &port, "--latency", "10s"], Stdio::piped());
        converse(address);
        interrupt(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{signal}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().filter(|line| line.ends_with(" peer-fin")).count(), 1, "{text}");
        let said: Vec<_> = stderr.lines().map(Result::unwrap).collect();
        // Two connections and a listener: 5 + 6 transitions, enqueue, accept, 2 of the listener, 3 destroys.
        assert!(summary(&said)["events"] >= 15, "{said:?}");
    }
}

#[test]
fn output_to_a_new_file() {
    let Some(_machine) = shared("output_to_a_new_file") else { return };
    let (address, file) = (place(), Scratch::new("new.json"));
    let port = address.port().to_string();
    let arguments = ["--port", &port, "--format", "json", "--output", file.0.to_str().unwrap()];
    let (child, _stderr) = spawn(&arguments, Stdio::piped());
    converse(address);
    interrupt(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    let text = fs::read_to_string(&file.0).unwrap();
    assert!(text.starts_with("{\"type\":\"start\",") && text.ends_with("}\n"), "{text}");
    let kinds = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].clone());
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "connection").count(), 3, "{kinds:?}");
    assert_eq!(kinds.last().unwrap(), "end");
}

#[test]
fn output_to_an_existing_file_is_refused() {
    let Some(_machine) = shared("output_to_an_existing_file_is_refused") else { return };
    let file = Scratch::new("existing");
    fs::write(&file.0, "precious").unwrap();
    let output = run(&["--output", file.0.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(file.0.to_str().unwrap()) && said.contains("exists"), "{said}");
    assert_eq!(fs::read_to_string(&file.0).unwrap(), "precious");
}

/// A full disk: exit 2, and a message that names the output.
#[test]
fn output_that_cannot_be_written() {
    let Some(_machine) = shared("output_that_cannot_be_written") else { return };
    let address = place();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = sockwatch()
        .args(["trace", "--source", "ebpf", "--format", "json", "--port", &address.port().to_string()])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{said}");
    assert!(said.contains("cannot write the output") && said.contains("No space left"), "{said}");
}

/// `| head -1`: the reader goes away. Exit 0, no message about it.
#[test]
fn a_broken_pipe_is_a_normal_end() {
    let Some(_machine) = shared("a_broken_pipe_is_a_normal_end") else { return };
    for format in ["json", "text"] {
        let address = place();
        let (mut child, stderr) = spawn(&["--port", &address.port().to_string(), "--format", format], Stdio::piped());
        if format == "text" {
            converse(address);
        }
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        assert_ne!(stdout.read_line(&mut first).unwrap(), 0);
        drop(stdout);
        // The next line finds that out.
        converse(address);
        let status = wait(&mut child);
        let said: Vec<_> = stderr.lines().map(Result::unwrap).collect();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{format}: {said:?}");
        assert!(!said.iter().any(|line| line.contains("error") || line.contains("panic")), "{said:?}");
    }
}

/// Waits for a child that must end by itself; a watchdog kills it otherwise.
fn wait(child: &mut Child) -> std::process::ExitStatus {
    let (ended, has_ended) = mpsc::channel::<()>();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let watchdog = thread::spawn(move || {
        if has_ended.recv_timeout(patience()).is_err_and(|error| error == mpsc::RecvTimeoutError::Timeout) {
            kill(pid, Signal::SIGKILL).unwrap();
        }
    });
    let status = child.wait().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    status
}

/// A trace as text of what `work` does, until so many connections have finished.
fn text(arguments: &[&str], connections: usize, work: impl FnOnce()) -> String {
    let count = connections.to_string();
    let (child, _stderr) = spawn(&[arguments, &["--count", &count]].concat(), Stdio::piped());
    work();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

/// The longest IPv4 addresses and ports: columns line up below their heads, within 100 columns.
#[test]
fn text_lines_up() {
    let Some(_machine) = shared("text_lines_up") else { return };
    let netns = crate::netns::Netns::new("text");
    netns.ip(&["address", "add", "192.168.100.200/24", "dev", "lo"]);
    netns.ip(&["address", "add", "192.168.100.201/24", "dev", "lo"]);
    let (from, to) = (SocketAddr::from(([192, 168, 100, 200], 54321)), SocketAddr::from(([192, 168, 100, 201], 12345)));
    let text = text(&["--netns", &netns.name], 2, || {
        netns.run(|| {
            let listener = TcpListener::bind(to).unwrap();
            let client = crate::workload::connect_from(from, to);
            let (server, _) = listener.accept().unwrap();
            client_closes_first(client, server);
        });
    });
    let mut lines = text.lines();
    let (transitions, connections) = (lines.next().unwrap(), lines.next().unwrap());
    let column = |head: &str, name: &str| head.find(name).unwrap_or_else(|| panic!("no {name} in {head}"));
    let (mut of_transitions, mut of_connections) = (0, 0);
    for line in lines {
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        let (head, names): (&str, &[&str]) = if line.as_bytes()[11] == b'=' {
            of_connections += 1;
            (connections, &["LOCAL", "REMOTE", "SHAKE", "WAIT", "LIFE", "PROCESS", "END"])
        } else {
            of_transitions += 1;
            (transitions, &["LOCAL", "REMOTE", "EVENT", "AFTER", "PROCESS"])
        };
        for name in names {
            let at = column(head, name);
            assert_eq!(&line[at - 1..at], " ", "before {name}: {line}\n{text}");
            assert_ne!(&line[at..=at], " ", "at {name}: {line}\n{text}");
        }
        let at = column(head, "REMOTE");
        assert!(line[at..].starts_with("192.168.100.20") || line[at..].starts_with("0.0.0.0:*"), "{line}");
    }
    assert!(of_transitions >= 13 && of_connections == 2, "{text}");
}

/// A sentence below each finished connection, and only there.
#[test]
fn why_is_told_below() {
    let Some(_machine) = shared("why_is_told_below") else { return };
    let address = place();
    let arguments = ["--port", &address.port().to_string(), "--connections", "--why"];
    let text = text(&arguments, 2, || converse(address));
    let told: Vec<_> = text.lines().filter(|line| line.starts_with("             ")).map(str::trim).collect();
    assert_eq!(told.len(), 2, "{text}");
    let client = told.iter().find(|line| line.ends_with("closed first; 60 s TIME_WAIT on the client's side"));
    assert!(client.is_some_and(|line| line.contains(&format!("/{} ", std::process::id()))), "{text}");
    let server = "client closed first; TIME_WAIT on the client's side; server ";
    assert!(told.iter().any(|line| line.starts_with(server)), "{text}");
}

/// The kernel says since 6.10 why it sent a RST; its number means another reason in another kernel.
#[test]
fn reasons_of_resets_are_named() {
    let Some(machine) = shared("reasons_of_resets_are_named") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind(address).unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut server, b"unread").unwrap();
    client.peek(&mut [0; 6]).unwrap();
    drop(client);
    trace.until_finished(1);
    drop((server, listener));
    let ended = trace.finish();
    let sent = ended.all("reset_sent").next().unwrap();
    match sent.number("reason").unwrap() {
        0 => crate::harness::skip("reasons_of_resets_are_named", "this kernel gives no reason"),
        _ => assert_eq!(sent.0["reason_name"], "TCP_ABORT_ON_CLOSE"),
    }
}

/// A thread's name is anybody's to choose: no control byte of it reaches the output, text or JSON.
#[test]
fn thread_names_cannot_write_to_the_terminal() {
    let Some(machine) = shared("thread_names_cannot_write_to_the_terminal") else { return };
    let named = |work: &(dyn Fn() + Sync)| {
        thread::scope(|scope| {
            scope.spawn(|| {
                fs::write("/proc/thread-self/comm", "\x1b[31m\r\x07\u{9b}\n\"x").unwrap();
                work();
            });
        });
    };
    let address = place();
    let port = address.port().to_string();
    for arguments in [&["--port", &port, "--why"] as &[&str], &["--port", &port, "--format", "json"]] {
        let text = text(arguments, 2, || named(&|| converse(address)));
        assert!(text.contains("[31m"), "{text}");
        let bad: Vec<_> = text.lines().filter(|line| line.contains(char::is_control)).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
    drop(machine);
}

/// Not a terminal: no colours; NO_COLOR or not.
#[test]
fn no_colours_into_a_pipe() {
    let Some(_machine) = shared("no_colours_into_a_pipe") else { return };
    let address = place();
    let text = text(&["--port", &address.port().to_string()], 2, || converse(address));
    assert!(!text.contains('\x1b'), "{text:?}");
}

/// Each clock is what the first line says, for the first connection's time.
#[test]
fn clocks() {
    for clock in ["relative", "wall", "monotonic"] {
        let Some(machine) = shared("clocks") else { return };
        let address = place();
        let mut trace = Trace::start(machine, &["--port", &address.port().to_string(), "--time", clock]);
        let before = monotonic_ns();
        converse(address);
        trace.until_stopped();
        // The last ACK may come after close() has returned.
        let after = monotonic_ns();
        let ended = trace.finish();
        let start = &ended.lines[0].0;
        assert_eq!(start["clock"], clock);
        let offset_ns = match clock {
            "relative" => -start["start_monotonic_ns"].as_i64().unwrap(),
            "wall" => start["wall_offset_ns"].as_i64().unwrap(),
            _ => 0,
        };
        for line in ended.all("transition") {
            let at_ns = line.number("at_ns").unwrap() - offset_ns;
            assert!((before..=after).contains(&at_ns), "{clock}: {before} {at_ns} {after}");
        }
    }
}

fn monotonic_ns() -> i64 {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// A program that is gone before its connection is accepted still has its name in the trace.
#[test]
fn a_process_that_is_gone_is_still_named() {
    let Some(machine) = shared("a_process_that_is_gone_is_still_named") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind(address).unwrap();
    let connect = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let mut child = Command::new("bash").args(["-c", &connect]).spawn().unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    drop(server);
    trace.until_finished(2);
    let ended = trace.finish();
    let client = ended.connection("active");
    assert_eq!(client.pid("opener"), Some(pid.into()));
    assert_eq!(client.0["opener"]["comm"], "bash");
    assert_eq!(client.pid("closer"), Some(pid.into()));
}

/// Nothing to show, nothing on standard output but the frame.
#[test]
fn an_idle_trace() {
    let Some(machine) = shared("an_idle_trace") else { return };
    let trace = Trace::start(machine, &["--port", &place().port().to_string()]);
    drop(TcpStream::connect(place()).unwrap_err());
    let ended = trace.finish();
    let kinds: Vec<_> = ended.lines.iter().map(|line| line.kind().to_owned()).collect();
    assert_eq!(kinds, ["start", "end"]);
    assert_eq!(ended.counts["events"], 0);
}
