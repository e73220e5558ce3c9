//! A server that does what it is told, a line each: a process of its own, in one of three languages that know the same words.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio, exit, id},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{
    libc::EMFILE,
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
        },
        wait::{WaitPidFlag, waitpid},
    },
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use crate::{diagnose::findings::DeferAccept, netns::Netns, workload::linger_zero};

const PYTHON: &str = include_str!("server.py");
const C: &str = include_str!("server.c");
const ENTRY: &str = "SOCKWATCH_TEST_SCORE_SERVER";

/// What a server is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    Python,
    C,
    /// A program of that name, from elsewhere.
    Program(&'static str),
    /// A module of Python, from elsewhere.
    Module(&'static str),
}

/// The languages in which our own servers are.
pub(super) const LANGUAGES: [Language; 3] = [Language::Rust, Language::Python, Language::C];

/// How servers are started here.
pub(super) struct Workshop {
    directory: PathBuf,
    /// The interpreter itself: what is in the path may be a script that looks for it.
    python: Option<PathBuf>,
    /// It can tell perf what it calls.
    pub(super) python_tells: bool,
    /// server.c, compiled.
    c: Option<PathBuf>,
}

impl Workshop {
    pub(super) fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("sockwatch-score-{}", id()));
        fs::create_dir_all(&directory).unwrap();
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let asked = asked.ok().filter(|output| output.status.success());
        let python = asked.map(|output| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
        let tells = |python: &PathBuf| {
            let check = "import sys; sys.exit(not sys.is_stack_trampoline_active())";
            let status = Command::new(python).args(["-X", "perf", "-c", check]).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let python_tells = python.as_ref().is_some_and(tells);
        let (source, binary) = (directory.join("server.c"), directory.join("server-in-c"));
        fs::write(&source, C).unwrap();
        let options = ["-g", "-O1", "-fno-omit-frame-pointer", "-pthread", "-o"];
        let compiled = Command::new("cc").args(options).arg(&binary).arg(&source).status();
        let c = compiled.is_ok_and(|status| status.success()).then_some(binary);
        Self { directory, python, python_tells, c }
    }

    /// Why there is none in this language.
    pub(super) fn lacks(&self, language: Language) -> Option<String> {
        match language {
            Language::Rust => None,
            Language::Python => self.python.is_none().then(|| "no python3".into()),
            Language::C => self.c.is_none().then(|| "no C compiler".into()),
            Language::Program(program) => self.program_path(program).is_none().then(|| format!("no {program}")),
            Language::Module(module) => {
                let python = self.python.as_ref();
                let has = |python| Command::new(python).args(["-c", &format!("import {module}")]).output();
                let has = python.is_some_and(|python| has(python).is_ok_and(|output| output.status.success()));
                (!has).then(|| format!("no {module} in python3"))
            }
        }
    }

    /// Where a program is: in the path, or where Debian keeps PostgreSQL's.
    pub(super) fn program_path(&self, program: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
        let directories = std::env::split_paths(&path).chain(versions.map(|version| version.path().join("bin")));
        directories.map(|directory| directory.join(program)).find(|file| file.is_file())
    }

    /// A directory that is gone at the end.
    pub(super) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// An interpreter that tells perf what it calls, if it can.
    pub(super) fn python(&self) -> Command {
        let mut command = Command::new(self.python.as_ref().expect("it is looked for first"));
        if self.python_tells {
            command.args(["-X", "perf"]);
        }
        command
    }

    fn command(&self, language: Language) -> Command {
        match language {
            Language::Rust => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "score::server::served", "--ignored", "--nocapture", "--test-threads=1"]);
                command.env(ENTRY, "1");
                command
            }
            Language::Python => {
                let mut command = self.python();
                command.args(["-c", PYTHON]);
                command
            }
            Language::C => Command::new(self.c.as_ref().expect("it is looked for first")),
            Language::Program(program) => Command::new(program),
            Language::Module(module) => {
                let mut command = self.python();
                command.args(["-m", module]);
                command
            }
        }
    }

    pub(super) fn server(&self, language: Language) -> Server {
        Server::begin(self.command(language))
    }

    /// The same in a network namespace.
    pub(super) fn server_in(&self, netns: &Netns, language: Language) -> Server {
        netns.run(|| self.server(language))
    }

    /// A program that is killed in the end.
    pub(super) fn program(&self, mut command: Command) -> Program {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Program(child)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Somebody else's server.
pub(super) struct Program(Child);

impl Program {
    pub(super) fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    pub(super) fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(|child| child.parse().unwrap()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Workers outlive a parent that is killed.
        for child in self.children() {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running server of ours.
pub(super) struct Server {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn begin(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut server = Self { child, stdin, answers: BufReader::new(stdout) };
        server.begin_to("hello");
        // libtest says something of its own before.
        while server.answer() != "ok" {}
        server
    }

    pub(super) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Tells it a command, and waits until it is done.
    #[track_caller]
    pub(super) fn tell(&mut self, command: &str) {
        self.begin_to(command);
        assert_eq!(self.answer(), "ok", "{command}");
    }

    /// Tells it a command.
    pub(super) fn begin_to(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// Waits until what it was told last is done.
    #[track_caller]
    pub(super) fn ends(&mut self) {
        assert_eq!(self.answer(), "ok");
    }

    #[track_caller]
    pub(super) fn listen(&mut self, address: SocketAddr, backlog: usize) {
        self.tell(&format!("listen {} {} {backlog}", address.ip(), address.port()));
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        assert!(self.answers.read_line(&mut answer).unwrap() > 0, "the server is gone");
        answer.trim_end().to_owned()
    }

    /// Stops it, as a debugger or a full cgroup would.
    pub(super) fn stop(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.child.id();
        // Its children accept from the same socket.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let _ = kill(Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What it holds.
#[derive(Default)]
struct Hands {
    listener: Option<TcpListener>,
    streams: Vec<TcpStream>,
}

#[test]
#[ignore = "the entry point of the other tests' processes"]
fn served() {
    if std::env::var_os(ENTRY).is_none() {
        return;
    }
    // Whatever libtest has begun to say ends here.
    println!();
    let mut hands = Hands::default();
    for command in std::io::stdin().lines() {
        match hands.obey(&command.unwrap()) {
            Ok(()) => println!("ok"),
            Err(error) => println!("{error}"),
        }
    }
    exit(0)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[inline(never)]
fn waits_for_the_database(time: Duration) {
    thread::sleep(time);
    std::hint::black_box(time);
}

#[inline(never)]
fn renders_a_page(time: Duration) {
    let began = cpu_time();
    while cpu_time() - began < time {
        // Plain steps: without frame pointers nothing is seen but the innermost function.
        let mut number = 0;
        while number < 100_000 {
            number = std::hint::black_box(number + 1);
        }
    }
}

fn does(what: &str, time: Duration) {
    match what {
        "nothing" => {}
        "block" => waits_for_the_database(time),
        "compute" => renders_a_page(time),
        _ => panic!("unknown: {what}"),
    }
}

fn serve(listener: &TcpListener, count: usize, what: &str, time: Duration) {
    for _ in 0..count {
        does(what, time);
        drop(listener.accept().unwrap());
    }
}

/// Answers each line with the same.
fn converse(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

impl Hands {
    fn listener(&self) -> &TcpListener {
        self.listener.as_ref().unwrap()
    }

    fn obey(&mut self, command: &str) -> std::io::Result<()> {
        let words: Vec<_> = command.split(' ').collect();
        let number = |index: usize| -> usize { words[index].parse().unwrap() };
        let time = |index: usize| Duration::from_millis(words[index].parse().unwrap());
        let address = || SocketAddr::new(words[1].parse().unwrap(), words[2].parse().unwrap());
        match words[0] {
            "hello" => {}
            "listen" => self.listen(address(), words[3].parse().unwrap(), words.get(4).is_some())?,
            "defer" => setsockopt(self.listener(), DeferAccept, &words[1].parse().unwrap())?,
            "pin" => pin(),
            "descriptors" => {
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
                setrlimit(Resource::RLIMIT_NOFILE, words[1].parse().unwrap(), hard)?;
            }
            "idle" => drop(thread::spawn(rests)),
            "serve" => serve(self.listener(), number(1), words[2], time(3)),
            "leave" => {
                let listener = self.listener();
                thread::scope(|scope| scope.spawn(|| serve(listener, number(1), "nothing", Duration::ZERO)).join())
                    .unwrap();
            }
            "take" => {
                for _ in 0..number(1) {
                    let (stream, _) = self.listener().accept()?;
                    self.streams.push(stream);
                }
            }
            "exhaust" => self.exhaust(number(1))?,
            "flood" => self.streams.iter_mut().try_for_each(flood)?,
            "close" => self.streams.clear(),
            "abort" => {
                self.streams.iter().for_each(linger_zero);
                self.streams.clear();
            }
            "connect" => {
                for _ in 0..number(3) {
                    let stream = TcpStream::connect(address())?;
                    self.streams.extend(words.get(5).map(|_keep| stream));
                    thread::sleep(time(4));
                }
            }
            "fail" => {
                for _ in 0..number(3) {
                    match TcpStream::connect(address()) {
                        Ok(stream) => self.streams.push(stream),
                        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            "forever" => {
                println!("ok");
                serve(self.listener(), usize::MAX, words[1], time(2));
            }
            // Threads that accept from one socket.
            "echo" => {
                println!("ok");
                let work = || loop {
                    converse(self.listener().accept().unwrap().0);
                };
                thread::scope(|scope| (0..number(1)).for_each(|_| drop(scope.spawn(work))));
            }
            _ => panic!("unknown command {command}"),
        }
        Ok(())
    }

    fn listen(&mut self, address: SocketAddr, backlog: i32, shares: bool) -> std::io::Result<()> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReusePort, &shares)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        listen(&fd, Backlog::new(backlog)?)?;
        self.listener = Some(fd.into());
        Ok(())
    }

    fn exhaust(&mut self, mut failures: usize) -> std::io::Result<()> {
        while failures > 0 {
            match self.listener().accept() {
                Ok((stream, _)) => self.streams.push(stream),
                Err(error) if error.raw_os_error() == Some(EMFILE) => failures -= 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// More than the peer's window takes.
fn flood(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    loop {
        match stream.write(&[0; 1 << 16]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn rests() {
    loop {
        thread::park();
    }
}

/// To the first CPU.
fn pin() {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// Does something while so many others want the first CPU.
pub(super) fn beside_others<T>(others: usize, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                pin();
                while !done.load(Ordering::Relaxed) {
                    renders_a_page(Duration::from_millis(1));
                }
            });
        }
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}
