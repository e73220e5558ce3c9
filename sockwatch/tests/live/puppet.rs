//! Processes that do what a test tells them: this test binary once more, reading commands from its standard input.
//!
//! For tests about who did something: owners by pid, cgroups, limits of a process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio, exit},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{owners::receive, workload::converse};

const ENTRY: &str = "SOCKWATCH_TEST_PUPPET";

/// A process on strings.
pub(crate) struct Puppet {
    child: Child,
    strings: BufReader<UnixStream>,
}

impl Puppet {
    pub(crate) fn new() -> Self {
        Self::spawn(Stdio::null())
    }

    /// A worker that shares this listener, as after fork(): it gets it as descriptor 2.
    pub(crate) fn sharing(listener: &TcpListener) -> Self {
        Self::spawn(listener.as_fd().try_clone_to_owned().unwrap().into())
    }

    /// One that gets this as descriptor 2.
    pub(crate) fn with_stderr(stderr: OwnedFd) -> Self {
        Self::spawn(stderr.into())
    }

    fn spawn(stderr: Stdio) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "puppet::puppet", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ENTRY, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut puppet = Self { child, strings: BufReader::new(ours) };
        puppet.tell("hello");
        puppet
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it a command and waits until it is done.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: &str) {
        assert_eq!(self.ask(command), "ok", "{command}");
    }

    /// Tells it a command; its answer is `ok` or what went wrong.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        writeln!(self.strings.get_mut(), "{command}").unwrap();
        let mut answer = String::new();
        self.strings.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a puppet holds.
#[derive(Default)]
struct Hands {
    listener: Option<TcpListener>,
    streams: Vec<TcpStream>,
}

#[test]
#[ignore = "the entry point of the other tests' processes"]
fn puppet() {
    if std::env::var_os(ENTRY).is_none() {
        return;
    }
    let strings = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut answers = strings.try_clone().unwrap();
    let mut hands = Hands::default();
    for command in BufReader::new(strings).lines() {
        let answer = match hands.obey(&command.unwrap()) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        writeln!(answers, "{answer}").unwrap();
    }
    exit(0)
}

impl Hands {
    fn obey(&mut self, command: &str) -> std::io::Result<()> {
        let mut words = command.split(' ');
        let (verb, mut object) = (words.next().unwrap(), || words.next().unwrap().to_owned());
        match verb {
            "hello" => {}
            "listen" => self.listener = Some(TcpListener::bind(object())?),
            "inherit" => self.listener = Some(std::io::stderr().as_fd().try_clone_to_owned()?.into()),
            // From a message that came on descriptor 2.
            "receive" => self.streams.push(receive(std::io::stderr())?),
            "stop" => self.listener = None,
            "accept" => self.streams.push(self.listener.as_ref().unwrap().accept()?.0),
            "connect" => self.streams.push(TcpStream::connect(object())?),
            // For the FIN of the oldest one.
            "wait" => assert_eq!(self.streams[0].read(&mut [0])?, 0),
            // The oldest one.
            "close" => drop(self.streams.remove(0)),
            "converse" => converse(object().parse().unwrap()),
            "descriptors" => {
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
                setrlimit(Resource::RLIMIT_NOFILE, object().parse().unwrap(), hard)?;
            }
            _ => panic!("unknown command {command}"),
        }
        Ok(())
    }
}
