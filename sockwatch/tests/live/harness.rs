//! Starts `sockwatch trace`, reads its JSON lines while it runs, and renders them as text.

mod stories;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use jsonschema::Validator;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::Value;

pub(crate) use self::stories::{assert_stories, leave_out_overtaken, stories};

/// Whatever takes longer is broken: 15 s, or `SOCKWATCH_LIVE_PATIENCE` seconds, on an emulated machine.
pub(crate) fn patience() -> Duration {
    let seconds = std::env::var("SOCKWATCH_LIVE_PATIENCE").map_or(15, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// The built program.
pub(crate) fn sockwatch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockwatch"));
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

/// The machine: shared by tests that only wait, alone for those that measure or load it.
static MACHINE: RwLock<()> = RwLock::new(());

/// A test's share of the machine.
pub(crate) enum Machine {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// A share of the machine for a live test; `None`, and a line that says why, where it cannot run.
pub(crate) fn shared(name: &str) -> Option<Machine> {
    can_run(name).then(|| Machine::Shared { _guard: MACHINE.read().unwrap_or_else(|poisoned| poisoned.into_inner()) })
}

/// The same for a test that no other may disturb.
pub(crate) fn alone(name: &str) -> Option<Machine> {
    can_run(name).then(|| Machine::Alone { _guard: MACHINE.write().unwrap_or_else(|poisoned| poisoned.into_inner()) })
}

fn can_run(name: &str) -> bool {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    let Some(reason) = REFUSAL.get_or_init(refusal) else { return true };
    assert!(std::env::var_os("SOCKWATCH_LIVE").is_none_or(|value| value != "required"), "{name} cannot run: {reason}");
    skip(name, reason);
    false
}

/// Says that a test does not run.
pub(crate) fn skip(name: &str, reason: &str) {
    say(&format!("skipped: {name}: {reason}"));
}

/// A line where it shows: libtest would keep `eprintln!` to itself.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").unwrap();
}

/// `--probe` options for every trace, from `SOCKWATCH_LIVE_PROBES` (`accept=syscall,enqueue=off`): the same tests, seen by
/// other probes.
pub(crate) fn choices() -> Vec<String> {
    let choices = std::env::var("SOCKWATCH_LIVE_PROBES").unwrap_or_default();
    choices
        .split(',')
        .filter(|choice| !choice.is_empty())
        .flat_map(|choice| ["--probe".into(), choice.into()])
        .collect()
}

/// Why live tests cannot run here. Root whose programs the verifier rejects is no reason: that is a bug of sockwatch.
fn refusal() -> Option<String> {
    if !geteuid().is_root() {
        return Some("not root".into());
    }
    let output = sockwatch().args(["trace", "--source", "ebpf", "--duration", "1ms"]).args(choices()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // For whoever counts which alternatives the tests have run with.
    said.lines().filter(|line| line.starts_with("tracing ")).for_each(say);
    let refused = ["not permitted", "lockdown", "no BTF"].iter().any(|reason| said.contains(reason));
    (!output.status.success() && refused).then(|| said.replace('\n', " "))
}

/// One JSON line.
#[derive(Clone, Debug)]
pub(crate) struct Line(pub(crate) Value);

/// A line's socket: namespace, cookie, incarnation.
pub(crate) type Identity = (u64, u64, u64);

impl Line {
    pub(crate) fn kind(&self) -> &str {
        self.0["type"].as_str().unwrap()
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind() == kind
    }

    /// The end of a connection, not of a listener.
    pub(crate) fn is_finished_connection(&self) -> bool {
        self.is("connection") && self.role() != "listener"
    }

    pub(crate) fn role(&self) -> &str {
        self.0["socket"]["role"].as_str().unwrap_or_default()
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        let number = |name: &str| self.0["socket"][name].as_u64();
        // Without BTF the namespace is not told.
        Some((number("netns").unwrap_or(0), number("cookie")?, number("incarnation")?))
    }

    pub(crate) fn netns(&self) -> u64 {
        self.0["socket"]["netns"].as_u64().unwrap()
    }

    /// `local` or `remote`, as `address port`.
    pub(crate) fn end(&self, side: &str) -> String {
        let (address, port) = self.0["socket"][side].as_str().unwrap().rsplit_once(':').unwrap();
        format!("{} {port}", address.trim_matches(['[', ']']))
    }

    pub(crate) fn port(&self, side: &str) -> u16 {
        let (_, port) = self.0["socket"][side].as_str().unwrap().rsplit_once(':').unwrap();
        if port == "*" { 0 } else { port.parse().unwrap() }
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.0[name].as_i64()
    }

    /// A task's field: `by`, `opener`, `acceptor`, `closer`.
    pub(crate) fn pid(&self, task: &str) -> Option<u64> {
        self.0[task]["pid"].as_u64()
    }

    /// What happened, in a word or two.
    fn word(&self) -> String {
        let text = |name: &str| self.0[name].as_str().unwrap_or("-");
        match self.kind() {
            "transition" => format!("{}>{}", text("old"), text("new")),
            "listed" => format!("is {}", text("state")),
            "accept_failed" => format!("accept_failed {}", self.0["errno"]),
            "connection" if self.0["abandoned"] == true => format!("end {} abandoned", text("end")),
            "connection" => format!("end {}", text("end")),
            kind => kind.to_owned(),
        }
    }
}

/// A running trace.
pub(crate) struct Trace {
    child: Child,
    lines: Receiver<String>,
    stderr: Receiver<String>,
    /// What came so far.
    pub(crate) seen: Vec<Line>,
    pub(crate) said: Vec<String>,
    pub(crate) probes: Probes,
    _machine: Machine,
}

/// Which probes a trace has, from the line that announces it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes(HashMap<String, String>);

impl Probes {
    pub(crate) fn of(announcement: &str) -> Self {
        let words = announcement.rsplit(": ").next().unwrap_or_default().split(' ');
        Self(words.filter_map(|word| word.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
    }

    /// The alternative that a probe took, `off` if none.
    pub(crate) fn taken(&self, probe: &str) -> &str {
        self.0.get(probe).map_or("off", String::as_str)
    }

    pub(crate) fn has(&self, probe: &str) -> bool {
        self.taken(probe) != "off"
    }

    /// Whether a last ACK that is dropped at a full accept queue is told.
    pub(crate) fn tells_overflow(&self) -> bool {
        self.has("drop") && kernel_names("SKB_DROP_REASON_TCP_LISTEN_OVERFLOW")
    }

    /// Whether segments that come for minisocks, and what they do to them, are told. A minisock is recognised by its cookie, which
    /// the classic tracepoint does not generate.
    pub(crate) fn tells_minisocks(&self) -> bool {
        self.has("drop") && self.taken("state") != "tracepoint"
    }

    /// An expected story without the words that this trace cannot know.
    pub(crate) fn tell(&self, story: &str) -> String {
        let deaf = !self.tells_minisocks();
        let unknown = [
            ("enqueue", !self.has("enqueue")),
            ("reset_sent", !self.has("reset")),
            ("reset_received", !self.has("reset")),
            ("accept_failed 24", !self.has("accept-return")),
            ("listen_overflow", !self.tells_overflow()),
            ("minisock_segment", deaf),
            ("minisock_end", deaf),
            ("FIN_WAIT2>TIME_WAIT", deaf),
        ];
        unknown.into_iter().filter(|(_, unknown)| *unknown).fold(story.to_owned(), |story, (word, _)| {
            let story = format!("{story} ").replace(&format!(" {word} "), " ");
            story.trim_end().to_owned()
        })
    }
}

/// Whether the kernel's BTF has this name: what a probe may tell is up to an enumerator at times.
pub(crate) fn kernel_names(name: &str) -> bool {
    static BTF: OnceLock<Vec<u8>> = OnceLock::new();
    let btf = BTF.get_or_init(|| std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default());
    btf.windows(name.len()).any(|window| window == name.as_bytes())
}

/// A trace that has ended.
pub(crate) struct Ended {
    pub(crate) probes: Probes,
    pub(crate) lines: Vec<Line>,
    /// The summary's counters.
    pub(crate) counts: HashMap<String, u64>,
}

impl Trace {
    /// Runs `sockwatch trace --format json ARGUMENTS`, and returns once everything is attached.
    pub(crate) fn start(machine: Machine, arguments: &[&str]) -> Self {
        let mut command = sockwatch();
        command.args(["trace", "--format", "json", "--source", "ebpf"]).args(choices()).args(arguments);
        if !arguments.contains(&"--latency") {
            command.args(["--latency", "5ms"]);
        }
        Self::spawn(machine, command)
    }

    /// Runs any command that traces, and returns once everything is in place.
    pub(crate) fn spawn(machine: Machine, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        Self::follow(machine, child, output, &format!("{command:?}"))
    }

    /// The same for a process that was started already, and writes its lines to `output`.
    pub(crate) fn follow(
        machine: Machine,
        mut child: Child,
        output: impl std::io::Read + Send + 'static,
        command: &str,
    ) -> Self {
        let lines = read_lines(output);
        let stderr = read_lines(child.stderr.take().unwrap());
        let (seen, said, probes) = (Vec::new(), Vec::new(), Probes::default());
        let mut trace = Self { child, lines, stderr, seen, said, probes, _machine: machine };
        while !trace.said.last().is_some_and(|line| line.starts_with("tracing ")) {
            match trace.stderr.recv_timeout(patience()) {
                Ok(line) => trace.said.push(line),
                Err(_) => panic!("{command} did not start: {:?}", trace.said),
            }
        }
        trace.probes = trace.said.last().map_or_else(Probes::default, |line| Probes::of(line));
        trace
    }

    /// The process that traces.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads until a line fits.
    pub(crate) fn until(&mut self, what: &str, fits: impl Fn(&Line) -> bool) {
        self.until_count(1, what, fits);
    }

    /// Reads until so many lines fit, of all that the trace has said.
    pub(crate) fn until_count(&mut self, count: usize, what: &str, fits: impl Fn(&Line) -> bool) {
        let deadline = Instant::now() + patience();
        let mut found = self.seen.iter().filter(|line| fits(line)).count();
        while found < count {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let line = parse(&line);
                    found += usize::from(fits(&line));
                    self.seen.push(line);
                }
                Err(RecvTimeoutError::Timeout) => self.give_up(&format!("only {found} of {count} {what}")),
                Err(RecvTimeoutError::Disconnected) => self.give_up(&format!("ended before {count} {what}")),
            }
        }
    }

    /// Reads until so many connections have finished.
    pub(crate) fn until_finished(&mut self, count: usize) {
        self.until_count(count, "finished connections", Line::is_finished_connection);
    }

    /// Reads until a listener's end: where the listener is closed last, that is all.
    pub(crate) fn until_stopped(&mut self) {
        self.until("a listener's end", |line| line.is("connection") && line.role() == "listener");
    }

    /// Reads until so many connections are in an accept queue.
    pub(crate) fn until_queued(&mut self, count: usize) {
        let by_enqueue = self.probes.has("enqueue");
        self.until_count(count, "queued connections", |line| {
            let established = line.role() == "passive" && line.0["new"] == "ESTABLISHED";
            if by_enqueue { line.is("enqueue") } else { established }
        });
    }

    /// Does something that the trace sleeps through.
    pub(crate) fn freeze(&mut self, what: impl FnOnce()) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        what();
        kill(pid, Signal::SIGCONT).unwrap();
    }

    /// Ends it with SIGINT, and leaves what it wrote elsewhere to the caller.
    pub(crate) fn interrupt(mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        assert!(self.child.wait().unwrap().success(), "{:?}", self.stderr.iter().collect::<Vec<_>>());
    }

    /// Ends it without a look at what it lost.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn give_up(&mut self, reason: &str) -> ! {
        panic!("{reason}; said: {:?}; saw:\n{}", self.said, stories(&self.seen).join("\n"));
    }

    /// Ends the trace with SIGINT, and checks what holds for every trace: exit code 0, an `end` line, lines that fit
    /// the schema, no losses, and a summary on stderr that says so.
    pub(crate) fn finish(self) -> Ended {
        self.finish_by(Signal::SIGINT)
    }

    pub(crate) fn finish_by(self, signal: Signal) -> Ended {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.wait()
    }

    /// Waits for a trace that ends by itself.
    pub(crate) fn wait(mut self) -> Ended {
        let (status, said) = self.collect();
        assert!(status.success(), "{status}: {said:?}");
        Ended::checked(std::mem::take(&mut self.seen), &said)
    }

    /// For whoever reads why a test has failed: what it said last is its summary.
    fn tell(&self) {
        println!("{}", self.said.last().map_or("", String::as_str));
    }

    fn collect(&mut self) -> (ExitStatus, Vec<String>) {
        loop {
            match self.lines.recv_timeout(patience()) {
                Ok(line) => self.seen.push(parse(&line)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.give_up("sockwatch does not end"),
            }
        }
        let status = self.child.wait().unwrap();
        self.said.extend(self.stderr.iter());
        self.tell();
        (status, self.said.clone())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Already gone, unless the test failed: then what it lost and missed is of interest.
        if std::thread::panicking() && kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).is_ok()
        {
            let deadline = Instant::now() + patience();
            while let Ok(line) = self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                self.said.push(line);
            }
            self.tell();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// What holds for every trace that has ended: an `end` line, lines that fit the schema, no losses.
    pub(crate) fn checked(lines: Vec<Line>, said: &[String]) -> Self {
        assert!(lines.last().is_some_and(|line| line.is("end")), "no end line: {:?}", lines.last());
        let counts = summary(said);
        for name in ["lost", "dropped"] {
            assert_eq!(counts[name], 0, "{said:?}");
        }
        let announced = said.iter().find(|line| line.starts_with("tracing "));
        let probes = announced.map_or_else(Probes::default, |line| Probes::of(line));
        if counts["missed"] == 0 {
            // Before 6.7 the kernel skips a classic program that would interrupt any other, and does not count it.
            let uncounted = if probes.taken("state") == "tracepoint" { 2 } else { 0 };
            assert!(counts["unexpected"] <= uncounted, "{said:?}\n{}", stories(&lines).join("\n"));
        }
        lines.iter().for_each(check_schema);
        Self { probes, lines, counts }
    }

    pub(crate) fn stories(&self) -> Vec<String> {
        stories(&self.lines)
    }

    pub(crate) fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.is(kind))
    }

    /// The finished connection of this role; there must be one.
    pub(crate) fn connection(&self, role: &str) -> &Line {
        let mut found = self.all("connection").filter(|line| line.role() == role);
        let first = found.next().unwrap_or_else(|| panic!("no {role} connection in {:#?}", self.stories()));
        assert!(found.next().is_none(), "more than one {role} connection in {:#?}", self.stories());
        first
    }
}

/// The summary's counters, from the last line of stderr.
pub(crate) fn summary(said: &[String]) -> HashMap<String, u64> {
    let last = said.last().and_then(|line| line.strip_prefix("sockwatch: "));
    let last = last.unwrap_or_else(|| panic!("no summary at the end of {said:?}"));
    last.split(' ')
        .map(|pair| {
            let (name, count) = pair.split_once('=').unwrap();
            (name.to_owned(), count.parse().unwrap())
        })
        .collect()
}

pub(crate) fn parse(line: &str) -> Line {
    Line(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
}

/// What `sockwatch schema` prints, compiled once.
fn check_schema(line: &Line) {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        let output = sockwatch().arg("schema").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        jsonschema::validator_for(&serde_json::from_slice(&output.stdout).unwrap()).unwrap()
    });
    if let Err(error) = schema.validate(&line.0) {
        panic!("does not fit the schema: {error}: {}", line.0);
    }
}

pub(crate) fn read_lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
