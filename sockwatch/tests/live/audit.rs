//! `sockwatch audit`: its verdict and its exit code.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use serde_json::Value;

use crate::{
    harness::{alone, shared, sockwatch},
    netns::Netns,
    workload::{converse, place},
};

/// An audit of one namespace, everything in place.
struct Audit {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Audit {
    fn start(netns: &Netns, arguments: &[&str]) -> Self {
        let mut command = sockwatch();
        command.args(["audit", "--netns", &netns.inode().to_string(), "--interval", "50ms"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("auditing") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "audit did not start");
        }
        Self { child, output }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// What it says up to the line with this text.
    fn read_until(&mut self, what: &str) -> String {
        let mut text = String::new();
        while !text.contains(what) {
            assert_ne!(self.output.read_line(&mut text).unwrap(), 0, "no {what}: {text}");
        }
        text
    }

    fn wait(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

#[test]
fn agreement_is_exit_code_0() {
    let Some(_machine) = shared("agreement_is_exit_code_0") else { return };
    let netns = Netns::new("audit0");
    let before = netns.run(|| TcpListener::bind(place()).unwrap());
    let audit = Audit::start(&netns, &["--duration", "2s"]);
    netns.run(|| (0..20).for_each(|_| converse(place())));
    let (code, text) = audit.wait();
    drop(before);
    assert!(text.contains("socket records agree (100.0000 %)"), "{text}");
    assert!(text.contains("taken over from the first listings: 1 sockets"), "{text}");
    assert_eq!(code, Some(0), "{text}");
}

/// While it is stopped its ring buffers overflow; what is open afterwards it cannot know.
#[test]
fn disagreement_is_exit_code_1() {
    let Some(_machine) = alone("disagreement_is_exit_code_1") else { return };
    let netns = Netns::new("audit1");
    let mut audit = Audit::start(&netns, &["--duration", "10m", "--buffer", "64KiB", "--format", "json"]);
    // What the first listing shows was there before.
    audit.read_until("\"type\":\"reconciled\"");
    audit.signal(Signal::SIGSTOP);
    let open = netns.run(|| {
        (0..2000).for_each(|_| converse(place_of_one()));
        let listener = TcpListener::bind(place()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    });
    audit.signal(Signal::SIGCONT);
    audit.read_until("\"found\":\"LISTEN\"");
    audit.signal(Signal::SIGINT);
    let (code, text) = audit.wait();
    drop(open);
    let counts: Value = serde_json::from_str(text.lines().rev().nth(1).unwrap()).unwrap();
    assert!(counts["type"] == "audit" && counts["unknown"].as_u64() > Some(0), "{counts}");
    assert_eq!(code, Some(1), "{text}");
}

/// The same port again and again: in a namespace of the test's own nobody else wants it.
fn place_of_one() -> std::net::SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, 80).into()
}
