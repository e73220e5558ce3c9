//! The contenders: one row each.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::load::Load;
use super::{Bench, PORT};

/// How to know that a tool is attached, so that the load may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// It says so: a line on its standard error begins with `tracing `.
    Announced,
    /// It holds a BPF program and sleeps in a poll call. (These tools' headers wait in a buffer.)
    Polling,
    /// It says so, as tcpdump does: `listening on lo`.
    Listening,
}

/// Where a tool's count comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// `connections=` in its summary line.
    Summary,
    /// The lines of its output that name the port.
    Lines,
    /// `accepted` in its report.
    Report,
    /// `connections=` in the summary of a replay of what it recorded.
    Replay,
    /// The first SYNs in the packets that it captured.
    Packets,
}

/// What a tool reports of the load, if it misses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reports {
    /// Every transition: five at each end of a connection, and two of each listener.
    Transitions,
    /// Each end of a connection once.
    Ends,
    /// Each accepted connection once.
    Accepts,
}

impl Reports {
    pub(super) fn expected(self, load: &Load) -> u64 {
        match self {
            Self::Transitions => 10 * load.connections + 2 * load.listeners,
            Self::Ends => 2 * load.connections,
            Self::Accepts => load.connections,
        }
    }
}

pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) ready: Ready,
    pub(super) counted: Counted,
    pub(super) reports: Reports,
    command: Program,
}

enum Program {
    /// A command of sockwatch and its arguments, but for the port.
    Sockwatch(&'static str, &'static [&'static str]),
    /// Another project's tool, and the Debian package that has it.
    Foreign { path: &'static str, arguments: &'static [&'static str], package: &'static str },
}

pub(super) const CONNECTIONS: &str = "sockwatch-connections";
pub(super) const JSON: &str = "sockwatch-json";
pub(super) const RECORDING: &str = "sockwatch-record";
pub(super) const CAPTURING: &str = "tcpdump";
pub(super) const SERVING: &str = "sockwatch-serve";
pub(super) const AGGREGATED: &str = "diagnose-aggregate";
pub(super) const BLAMING: &str = "diagnose-blame";

const fn trace(name: &'static str, arguments: &'static [&'static str]) -> Contender {
    let command = Program::Sockwatch("trace", arguments);
    Contender { name, ready: Ready::Announced, counted: Counted::Summary, reports: Reports::Ends, command }
}

const fn diagnose(name: &'static str, arguments: &'static [&'static str]) -> Contender {
    let command = Program::Sockwatch("diagnose", arguments);
    Contender { name, ready: Ready::Announced, counted: Counted::Report, reports: Reports::Accepts, command }
}

/// Every packet, as short as its headers: a TCP header has at most 60 bytes, an IPv4 header 20 here, Ethernet's 14.
const CAPTURE: &[&str] = &["--interface", "lo", "--snapshot-length", "96", "-w", "-", "tcp"];

const fn foreign(name: &'static str, reports: Reports, command: Program) -> Contender {
    Contender { name, ready: Ready::Polling, counted: Counted::Lines, reports, command }
}

/// Everything that takes turns with nothing attached.
pub(super) const CONTENDERS: &[Contender] = &[
    trace(CONNECTIONS, &["--connections"]),
    trace(JSON, &["--format", "json"]),
    Contender {
        name: RECORDING,
        ready: Ready::Announced,
        counted: Counted::Replay,
        reports: Reports::Ends,
        command: Program::Sockwatch("record", &["--force", "--output"]),
    },
    Contender {
        name: SERVING,
        ready: Ready::Announced,
        counted: Counted::Summary,
        reports: Reports::Ends,
        command: Program::Sockwatch("serve", &["--listen", "127.0.0.1:0"]),
    },
    diagnose("diagnose", &["--aggregate=never", "--no-blame", "--duration", "10m", "--format", "json"]),
    diagnose(AGGREGATED, &["--aggregate", "--no-blame", "--duration", "10m", "--format", "json"]),
    diagnose(BLAMING, &["--aggregate", "--duration", "10m", "--format", "json"]),
    Contender {
        name: CAPTURING,
        ready: Ready::Listening,
        counted: Counted::Packets,
        reports: Reports::Accepts,
        command: Program::Foreign { path: "/usr/bin/tcpdump", arguments: CAPTURE, package: "tcpdump" },
    },
    foreign(
        "tcpstates",
        Reports::Transitions,
        Program::Foreign { path: "/usr/sbin/tcpstates", arguments: &[], package: "libbpf-tools" },
    ),
    foreign(
        "tcplife",
        Reports::Ends,
        Program::Foreign { path: "/usr/sbin/tcplife", arguments: &[], package: "libbpf-tools" },
    ),
    foreign(
        "bpftrace",
        Reports::Transitions,
        Program::Foreign { path: "/usr/bin/bpftrace", arguments: &["-e", BPFTRACE_PROGRAM], package: "bpftrace" },
    ),
];

/// `args->field` is understood by every bpftrace; newer ones also take `args.field`.
const BPFTRACE_PROGRAM: &str = concat!(
    "tracepoint:sock:inet_sock_set_state { ",
    r#"printf("%llx %d %s %s %d %s %d %d>%d\n", args->skaddr, pid, comm, ntop(args->saddr), args->sport, "#,
    "ntop(args->daddr), args->dport, args->oldstate, args->newstate) }",
);

/// The tools of other projects attach through tracefs, which a fresh machine has not mounted: each gets it in a mount
/// namespace of its own, and the machine's mounts stay as they are.
const WITH_TRACEFS: &str = r#"mount -t tracefs tracefs /sys/kernel/tracing && exec "$0" "$@""#;

impl Contender {
    pub(super) fn is_sockwatch(&self) -> bool {
        matches!(self.command, Program::Sockwatch(..))
    }

    /// Why this contender cannot take part, if it cannot.
    pub(super) fn absence(&self) -> Option<String> {
        match self.command {
            Program::Sockwatch(..) => None,
            Program::Foreign { path, .. } if Path::new(path).is_file() => None,
            Program::Foreign { package, .. } => Some(format!("not installed (Debian: apt-get install {package})")),
        }
    }

    pub(super) fn command(&self, bench: &Bench) -> Command {
        match self.command {
            Program::Sockwatch(name, arguments) => {
                let mut command = sockwatch(bench, name, PORT);
                command.args(arguments);
                if self.counted == Counted::Replay {
                    command.arg(recording(bench));
                }
                command
            }
            Program::Foreign { path, arguments, .. } => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", WITH_TRACEFS, path]).args(arguments);
                command
            }
        }
    }
}

/// The file that is recorded to.
pub(super) fn recording(bench: &Bench) -> PathBuf {
    bench.scratch.0.join("bench.swr")
}

/// `sockwatch <command> --port <port>`
pub(super) fn sockwatch(bench: &Bench, name: &str, port: u16) -> Command {
    let mut command = Command::new(&bench.sockwatch);
    command.args([name, "--port", &port.to_string()]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = CONTENDERS.iter().map(|contender| contender.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CONTENDERS.len());
    }

    #[test]
    fn listeners_count_as_transitions_only() {
        let load = Load { connections: 100, listeners: 3, seconds: 1.0 };
        assert_eq!(Reports::Transitions.expected(&load), 1006);
        assert_eq!(Reports::Ends.expected(&load), 200);
        assert_eq!(Reports::Accepts.expected(&load), 100);
    }
}
