//! Recordings of the running kernel's events: they tell what the trace told, survive whatever ends them, and stop with clear
//! words where they cannot go on.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    chaos::work,
    harness::{Line, Trace, alone, choices, patience, shared, sockwatch},
    netns::Netns,
    workload::{converse, converse_with, place},
};

/// A directory of the test's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockwatch-live-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file system in memory with that little room, below a directory.
struct Small(PathBuf);

impl Small {
    fn mount(on: &Path, bytes: u64) -> Self {
        let options = format!("size={bytes}");
        mount(Some("tmpfs"), on, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(on.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A recording that is under way.
struct Recording {
    child: Child,
    said: String,
}

impl Recording {
    /// Returns once everything is attached.
    fn start(arguments: &[&str]) -> Self {
        let mut command = sockwatch();
        command.args(["record", "--source", "ebpf", "--latency", "5ms"]).args(choices()).args(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut said, mut byte) = (String::new(), [0]);
        let stderr = child.stderr.as_mut().unwrap();
        while !said.lines().any(|line| line.starts_with("tracing ")) || !said.ends_with('\n') {
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{command:?} ended: {said}");
            said.push(char::from(byte[0]));
        }
        Self { child, said }
    }

    /// How long its threads have waited for a CPU so far.
    fn waited(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let waited = tasks.filter_map(|task| {
            let told = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            told.split(' ').nth(1)?.parse::<u64>().ok()
        });
        Duration::from_nanos(waited.sum())
    }

    /// Connections, until there is nobody left to record them.
    fn load_until_it_ends(&mut self, server: SocketAddr) {
        let listener = TcpListener::bind(server).unwrap();
        while self.child.try_wait().unwrap().is_none() {
            converse_with(&listener, server);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Its exit code, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        self.child.stderr.take().unwrap().read_to_string(&mut self.said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.code().is_some() || status.signal() == Some(Signal::SIGKILL as i32), "{status}");
        (status.code(), self.said)
    }
}

/// The program's output, which must be a success.
fn output(arguments: &[&str]) -> String {
    let output = sockwatch().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn info(file: &str) -> Value {
    serde_json::from_str(&output(&["info", file, "--format", "json"])).unwrap()
}

fn lines(file: &str, options: &[&str]) -> Vec<Value> {
    let text = output(&[&["replay", file, "--format", "json"], options].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines of a trace of chaos are, byte by byte, those of its recording.
#[test]
fn replays_what_was_traced() {
    let Some(machine) = alone("replays_what_was_traced") else { return };
    let (scratch, netns) = (Scratch::new("replay"), Netns::new("replay"));
    let (file, shown) = (scratch.file("chaos.swr"), scratch.file("chaos.jsonl"));
    let inode = netns.inode().to_string();
    let trace = ["--netns", &inode, "--reconcile", "300ms", "--record", &file, "--output", &shown];
    let trace = Trace::start(machine, &trace);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| netns.run(|| work(3, &over)));
        // Until it has been written more than once.
        let begun = Instant::now();
        while fs::metadata(&file).is_ok_and(|file| file.len() < 200_000) && begun.elapsed() < patience() {
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    });
    trace.interrupt();
    let (traced, replayed) = (fs::read_to_string(&shown).unwrap(), output(&["replay", &file, "--format", "json"]));
    let finished = traced.lines().filter(|line| line.contains("\"type\":\"connection\"")).count();
    assert!(finished > 500, "only {finished} connections");
    let differing = traced.lines().zip(replayed.lines()).find(|(one, other)| one != other);
    assert_eq!(differing, None);
    assert_eq!(traced.lines().count(), replayed.lines().count());
    let wanted = lines(&file, &["--local-port", "80", "--connections"]);
    assert!(wanted.iter().all(|line| line["type"] != "transition"), "filters choose, as they do when tracing");
    // Nothing but what the filter lets through counts.
    let port =
        lines(&file, &["--connections"]).iter().find_map(|line| Some(line["socket"]["local"].as_str()?.to_owned()));
    let port = port.unwrap().rsplit_once(':').unwrap().1.to_owned();
    let chosen = lines(&file, &["--local-port", &port, "--connections"]);
    let of_port = |line: &&Value| line["type"] == "connection";
    assert!(chosen.iter().filter(of_port).count() > 0);
    let suffix = format!(":{port}");
    assert!(chosen.iter().filter(of_port).all(|line| line["socket"]["local"].as_str().unwrap().ends_with(&suffix)));
}

fn monotonic_ns() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    u64::try_from(now.as_nanos()).unwrap()
}

/// How often it is killed: `SOCKWATCH_LIVE_KILLS`.
fn kills() -> u64 {
    std::env::var("SOCKWATCH_LIVE_KILLS").map_or(50, |kills| kills.parse().unwrap())
}

/// Recordings of the same connections, each killed at its own instant: to start one takes longer than that.
const KILLED_TOGETHER: u64 = 10;

/// Killed at any instant, it has lost no more than the last interval between two flushes.
#[test]
fn a_killed_recording_lacks_the_last_second_at_most() {
    let Some(_machine) = alone("a_killed_recording_lacks_the_last_second_at_most") else { return };
    let (scratch, server) = (Scratch::new("killed"), place());
    let port = server.port().to_string();
    let (listener, mut killed) = (TcpListener::bind(server).unwrap(), Vec::new());
    for first in (0..kills()).step_by(usize::try_from(KILLED_TOGETHER).unwrap()) {
        let numbers = first..kills().min(first + KILLED_TOGETHER);
        let mut running: Vec<_> = numbers
            .map(|number| {
                let file = scratch.file(&format!("{number}.swr"));
                let recording = Recording::start(&["-o", &file, "--port", &port, "--flush", "500ms"]);
                (number, file, recording)
            })
            .collect();
        let waited: HashMap<_, _> =
            running.iter().map(|(number, _, recording)| (*number, recording.waited())).collect();
        let begun_ns = monotonic_ns();
        // Instants that nothing here is in step with.
        let until_ns = |number: u64| begun_ns + 1_200_000_000 + (number * 618_033_989) % 1_000_000_000;
        running.sort_by_key(|(number, ..)| until_ns(*number));
        for (number, file, mut recording) in running {
            let last_ns = loop {
                converse_with(&listener, server);
                // The load's pace: as fast as it goes, it would have the CPU that the recorders need.
                thread::sleep(Duration::from_millis(1));
                let now_ns = monotonic_ns();
                if now_ns >= until_ns(number) {
                    break now_ns;
                }
            };
            let waited = recording.waited().saturating_sub(waited[&number]);
            recording.child.kill().unwrap();
            recording.end();
            killed.push((number, file, last_ns, waited));
        }
    }
    for (number, file, last_ns, waited) in killed {
        check_killed(number, &file, last_ns, waited);
    }
}

/// All until a moment before that is in it, but for what happened while the recorder `waited` for a CPU.
fn check_killed(number: u64, file: &str, last_ns: u64, waited: Duration) {
    let killed = info(file);
    assert_eq!(killed["files"][0]["complete"], false, "{killed}");
    // In the order in which they happened.
    let told = output(&["replay", file, "--format", "json", "--time", "monotonic", "--transitions"]);
    let told = told.lines().rev().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told_ns = told.filter(|line| line["type"] == "transition").find_map(|line| line["at_ns"].as_u64()).unwrap();
    let lacking = Duration::from_nanos(last_ns.saturating_sub(told_ns));
    // The interval, and what a machine takes to write.
    let most = Duration::from_millis(500) + patience() / 30 + waited;
    assert!(lacking <= most, "killed {number}: {lacking:?} are missing, it waited {waited:?} for a CPU");
}

#[test]
fn a_full_disk_ends_it_and_what_was_written_can_be_read() {
    let Some(_machine) = alone("a_full_disk_ends_it_and_what_was_written_can_be_read") else { return };
    let (scratch, server) = (Scratch::new("full"), place());
    let _small = Small::mount(&scratch.0, 512 << 10);
    let (file, port) = (scratch.file("full.swr"), server.port().to_string());
    let mut recording = Recording::start(&["-o", &file, "--port", &port, "--flush", "100ms"]);
    recording.load_until_it_ends(server);
    let (code, said) = recording.end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("No space left on device") && said.contains("can be read"), "{said}");
    let whole = info(&file);
    assert_eq!(whole["files"][0]["bytes"].as_u64().unwrap(), fs::metadata(&file).unwrap().size());
    assert!(whole["events"].as_u64().unwrap() > 100, "{whole}");
    assert_eq!(whole["files"][0]["complete"], false);
    assert!(lines(&file, &["--connections"]).len() > 10);
}

#[test]
fn a_deleted_file_ends_it() {
    let Some(_machine) = shared("a_deleted_file_ends_it") else { return };
    let (scratch, server) = (Scratch::new("deleted"), place());
    let (file, port) = (scratch.file("gone.swr"), server.port().to_string());
    let mut recording = Recording::start(&["-o", &file, "--port", &port, "--flush", "100ms"]);
    fs::remove_file(&file).unwrap();
    recording.load_until_it_ends(server);
    let (code, said) = recording.end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("was deleted while it was written"), "{said}");
}

#[test]
fn a_vanished_directory_ends_a_rotation() {
    let Some(_machine) = shared("a_vanished_directory_ends_a_rotation") else { return };
    let (scratch, server) = (Scratch::new("vanished"), place());
    let directory = scratch.0.join("logs");
    fs::create_dir(&directory).unwrap();
    let (file, port) = (scratch.file("logs/web.swr"), server.port().to_string());
    let mut recording = Recording::start(&["-o", &file, "--port", &port, "--flush", "100ms", "--rotate-size", "1kB"]);
    fs::remove_dir_all(&directory).unwrap();
    recording.load_until_it_ends(server);
    let (code, said) = recording.end();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("was deleted") || said.contains("cannot create"), "{said}");
}

/// As a service manager ends it, and with everything that a recording may hold.
#[test]
fn sigterm_is_a_normal_end() {
    let Some(_machine) = shared("sigterm_is_a_normal_end") else { return };
    let (scratch, server) = (Scratch::new("sigterm"), place());
    let (file, port) = (scratch.file("web.swr"), server.port().to_string());
    let recording = Recording::start(&["-o", &file, "--port", &port]);
    (0..20).for_each(|_| converse(server));
    recording.signal(Signal::SIGTERM);
    let (code, said) = recording.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("in {file}")) && said.contains("lost=0"), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let whole = info(&file);
    assert_eq!((&whole["files"][0]["complete"], &whole["lost"]), (&true.into(), &0.into()), "{whole}");
    assert_eq!(whole["filter"], format!("--port {port}"));
    assert!(whole["processes"].as_u64().unwrap() >= 1, "{whole}");
    let told: Vec<_> = lines(&file, &[]).into_iter().map(Line).collect();
    assert_eq!(told.iter().filter(|line| line.is_finished_connection()).count(), 40);
    let owned = told.iter().filter(|line| line.is("connection")).all(|line| {
        line.0["cgroup"] != Value::Null || {
            // The root of the hierarchy has no name.
            fs::read_to_string("/proc/self/cgroup").unwrap().trim().ends_with('/')
        }
    });
    assert!(owned, "whose it was is known from the recording");
}

/// What a person would be told is in it, whatever becomes of the file afterwards.
#[test]
fn a_cut_recording_is_told_to_be_cut() {
    let Some(_machine) = shared("a_cut_recording_is_told_to_be_cut") else { return };
    let (scratch, server) = (Scratch::new("cut"), place());
    let (file, port) = (scratch.file("web.swr"), server.port().to_string());
    let recording = Recording::start(&["-o", &file, "--port", &port]);
    (0..20).for_each(|_| converse(server));
    recording.signal(Signal::SIGINT);
    assert_eq!(recording.end().0, Some(0));
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    let replay = sockwatch().args(["replay", &file]).output().unwrap();
    let said = String::from_utf8(replay.stderr).unwrap();
    assert!(replay.status.success() && said.contains("is cut within a batch"), "{said}");
    let mut damaged = bytes.clone();
    let middle = bytes.len() / 2;
    damaged[middle..middle + 200].fill(0xa5);
    fs::write(&file, &damaged).unwrap();
    let replay = Command::new(env!("CARGO_BIN_EXE_sockwatch")).args(["replay", &file]).output().unwrap();
    let said = String::from_utf8(replay.stderr).unwrap();
    assert!(replay.status.success() || replay.status.code() == Some(2), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// What waits in an accept queue is found in its recording, too, and a server that accepts at once is healthy there.
#[test]
fn a_recording_is_diagnosed() {
    let Some(_machine) = alone("a_recording_is_diagnosed") else { return };
    let scratch = Scratch::new("diagnosed");
    let diagnose = |file: &str| {
        let diagnosed = sockwatch().args(["diagnose", "--recording", file, "--format", "json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&diagnosed.stdout).unwrap();
        (diagnosed.status.code(), report)
    };
    let record = |name: &str, load: &dyn Fn(&TcpListener)| {
        let (file, listener) = (scratch.file(name), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = listener.local_addr().unwrap().port().to_string();
        let recording = Recording::start(&["-o", &file, "--port", &port]);
        load(&listener);
        recording.signal(Signal::SIGINT);
        assert_eq!(recording.end().0, Some(0));
        diagnose(&file)
    };
    let (code, healthy) = record("healthy.swr", &|listener| {
        (0..50).for_each(|_| converse_with(listener, listener.local_addr().unwrap()));
    });
    assert_eq!((code, healthy["verdict"].as_str()), (Some(0), Some("healthy")), "{healthy}");
    assert!(healthy["recorded_on"].is_string(), "{healthy}");
    let (code, stuck) = record("stuck.swr", &|listener| {
        let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        let until_ns = monotonic_ns() + 1_000_000_000;
        while monotonic_ns() < until_ns {
            std::thread::yield_now();
        }
        drop(clients);
    });
    assert_eq!((code, stuck["verdict"].as_str()), (Some(1), Some("findings")), "{stuck}");
    let found = stuck["findings"][0]["name"].as_str().unwrap();
    assert!(["nobody-accepts", "clients-leave", "slow-accept"].contains(&found), "{stuck}");
}

/// What there is at the end of a recording is what the kernel's table has: state, ends, and what keeps each socket.
#[test]
fn lists_what_the_kernel_has() {
    let Some(_machine) = alone("lists_what_the_kernel_has") else { return };
    let (scratch, server) = (Scratch::new("list"), place());
    let (file, port) = (scratch.file("web.swr"), server.port().to_string());
    let recording = Recording::start(&["-o", &file, "--port", &port]);
    let listener = TcpListener::bind(server).unwrap();
    (0..3).for_each(|_| converse_with(&listener, server));
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(server).unwrap()).collect();
    let accepted: Vec<_> = (0..2).map(|_| listener.accept().unwrap()).collect();
    let list = |options: &[&str]| -> Vec<(String, String, String, String)> {
        let text = output(&[&["list", "--port", &port, "--format", "json"], options].concat());
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
        let sockets = lines.filter(|line| line["local"].is_string());
        let mut sockets: Vec<_> = sockets
            .map(|line| (word(&line, "state"), word(&line, "local"), word(&line, "remote"), word(&line, "standing")))
            .collect();
        sockets.sort();
        sockets
    };
    let has_settled = |(state, ..): &(String, String, String, String)| {
        ["LISTEN", "ESTABLISHED", "TIME_WAIT"].contains(&state.as_str())
    };
    let begun = Instant::now();
    let mut found = list(&[]);
    while !found.iter().all(has_settled) {
        assert!(begun.elapsed() < patience(), "{found:?}");
        found = list(&[]);
    }
    recording.signal(Signal::SIGINT);
    assert_eq!(recording.end().0, Some(0));
    assert_eq!(list(&["--recording", &file]), found);
    let count = |wanted: &str| found.iter().filter(|(.., standing)| standing == wanted).count();
    assert_eq!((count("minisock"), count("queued"), count("held")), (3, 2, 7), "{found:?}");
    drop((clients, accepted));
}
