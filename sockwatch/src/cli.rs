//! The command line's shape. Only types: what the words do is in `command`.

mod diagnose;
mod export;
mod list;
mod otlp;
mod privilege;
mod record;
mod report;
mod serve;
mod top;
mod values;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};
use sockwatch::tcp::filter::{Ports, Prefix};

use self::values::{choice, duration, latency, pid, reconcile, ring_bytes};
pub(crate) use self::{
    diagnose::{Aggregate, DiagnoseArgs},
    export::{ExportArgs, ExportFormat},
    list::{At, ListArgs},
    otlp::{OtlpArgs, OtlpProtocol, OtlpSignal, Receiver},
    privilege::SandboxArgs,
    record::{InfoArgs, RecordArgs, ReplayArgs},
    report::ReportArgs,
    serve::{ServeArgs, ServingArgs},
    top::TopArgs,
    values::Reconcile,
};
use crate::command::lab;

/// See what happens to TCP sockets inside the Linux kernel, over time.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "First steps:
  sockwatch doctor                 what this machine allows, and what is lost without the rest
  sockwatch lab slow-accept        a server that accepts late, traced: the newcomer's first command
  sockwatch diagnose --port 8080   do connections wait for accept(), and why: in plain words, with numbers
  sockwatch trace --port 8080      every transition and every finished connection of port 8080
  sockwatch list                   the sockets that there are, each with its owner
  sockwatch explain CLOSE_WAIT     what a state means, who must act, how many sockets are in it now

Exit codes: 0 fine, 1 findings (doctor: reduced), 2 error.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show TCP state transitions and finished connections as they happen.
    Trace(Box<TraceArgs>),
    /// Say in plain words whether connections wait for accept(), and why, with evidence and what to change.
    Diagnose(Box<DiagnoseArgs>),
    /// Answer browsers and monitoring systems: queue waits, accept queues, endings and losses as a page, JSON and Prometheus metrics,
    /// all the time.
    Serve(Box<ServeArgs>),
    /// Write what `trace` sees to a file, to be replayed, looked at and queried.
    Record(Box<RecordArgs>),
    /// Show a recording as `trace` would have shown it.
    Replay(Box<ReplayArgs>),
    /// Say what a recording holds.
    Info(InfoArgs),
    /// Make of a recording a page to look at: verdict, waits, queues, states, the slowest and the broken connections.
    Report(Box<ReportArgs>),
    /// Make of a recording what other programs take: Parquet, CSV, JSON lines, a Perfetto timeline, folded stacks.
    Export(Box<ExportArgs>),
    /// Compare what sockwatch believes with the kernel's own socket table, at random instants.
    Audit(Box<AuditArgs>),
    /// Show the TCP sockets that there are: state, queues, timers, owners, and those without a process.
    List(Box<ListArgs>),
    /// Watch listeners, connections, states and findings on the terminal, live or from a recording.
    Top(Box<TopArgs>),
    /// Run a small experiment with real sockets, and trace it.
    Lab(LabArgs),
    /// A process of a lab.
    #[command(hide = true)]
    LabActor(ActorArgs),
    /// Say what this machine allows: each probe with the alternative taken and what is lost.
    Doctor(DoctorArgs),
    /// Explain a TCP state, an END word or a term: what it means, who must act, what to do.
    Explain(ExplainArgs),
    /// Print the JSON Schema of `trace --format json`.
    #[command(hide = true)]
    Schema,
    /// Print the JSON Schema of `list --format json`.
    #[command(hide = true)]
    ListSchema,
    /// Print the JSON Schema of `diagnose --format json`.
    #[command(hide = true)]
    DiagnoseSchema,
    /// Print the JSON Schema of `info --format json`.
    #[command(hide = true)]
    InfoSchema,
    /// Print docs/recording.md.
    #[command(hide = true)]
    RecordingFormat,
    /// Print docs/export.md.
    #[command(hide = true)]
    ExportFormat,
    /// Print docs/openapi.json.
    #[command(hide = true)]
    Openapi,
    /// Print docs/metrics.md.
    #[command(hide = true)]
    MetricsFormat,
    /// Print docs/otlp.md.
    #[command(hide = true)]
    OtlpFormat,
    /// Print docs/privileges.md.
    #[command(hide = true)]
    Privileges,
    /// Write man pages into a directory.
    #[command(hide = true)]
    ManPages {
        /// It must exist.
        directory: PathBuf,
    },
    /// Print what completes this program's command lines in a shell.
    #[command(hide = true)]
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the probe table as JSON.
    #[command(hide = true)]
    Probes,
    /// Print the index of docs/explain.
    #[command(hide = true)]
    ExplainIndex,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    Text,
    /// JSON; of traces and lists one object per line, described by docs/trace.schema.json and docs/list.schema.json; diagnose prints one.
    Json,
}

/// What times count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Time {
    /// The trace's start.
    Relative,
    /// The time of day, UTC (JSON: Unix time).
    Wall,
    /// CLOCK_MONOTONIC: boot, without suspends.
    Monotonic,
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceName {
    /// eBPF where the machine allows it, else polling, and says so.
    Auto,
    /// eBPF or nothing: every event.
    Ebpf,
    /// Poll the kernel's socket table: works for any user, sees what lasts longer than the interval.
    Poll,
}

/// Which sockets. Repeated words of one kind are alternatives; different kinds must all match.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Show sockets with this port at either end: 8080 or 8000-8100.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub(crate) port: Vec<Ports>,
    /// Show sockets with this local port.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub(crate) local_port: Vec<Ports>,
    /// Show sockets with this remote port.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub(crate) remote_port: Vec<Ports>,
    /// Show sockets with an end in this network: 10.0.0.7, 10.0.0.0/8, 2001:db8::/32.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub(crate) addr: Vec<Prefix>,
    /// Show sockets that this process opened, listens on or accepted.
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = pid)]
    pub(crate) pid: Vec<u32>,
    /// Show sockets of the processes in this cgroup (v2) and below: /sys/fs/cgroup/system.slice or a path within it.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Show sockets of this network namespace: a name of `ip netns`, a path, or an inode number.
    #[arg(long, value_name = "NETNS", value_delimiter = ',')]
    pub(crate) netns: Vec<String>,
}

impl FilterArgs {
    /// As they would be written.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        let mut option = |name: &str, values: Vec<String>| {
            if !values.is_empty() {
                words.push(format!("--{name} {}", values.join(",")));
            }
        };
        let ports = |ports: &[Ports]| ports.iter().map(ToString::to_string).collect();
        option("port", ports(&self.port));
        option("local-port", ports(&self.local_port));
        option("remote-port", ports(&self.remote_port));
        option("addr", self.addr.iter().map(ToString::to_string).collect());
        option("pid", self.pid.iter().map(ToString::to_string).collect());
        option("cgroup", self.cgroup.iter().map(|path| path.display().to_string()).collect());
        option("netns", self.netns.clone());
        words.join(" ")
    }
}

/// How events are collected.
#[derive(Args, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Collecting")]
pub(crate) struct CollectArgs {
    /// Where events come from.
    #[arg(long, value_enum, default_value_t = SourceName::Auto)]
    pub(crate) source: SourceName,
    /// How long events may wait before they are shown: longer costs the traced machine less.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = latency)]
    pub(crate) latency: Duration,
    /// How often to poll (--source poll): shorter sees more.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = latency)]
    pub(crate) interval: Duration,
    /// How often to compare with the kernel's socket table, and correct what was missed; off: never, and sockets that were
    /// there before are not known.
    #[arg(long, value_name = "TIME|off", default_value = "5s", value_parser = reconcile)]
    pub(crate) reconcile: Reconcile,
    /// Size of each CPU's ring buffer between kernel and sockwatch, a power of two: 512KiB, 4MiB (default: 32MiB shared
    /// out between the CPUs).
    #[arg(long, value_name = "SIZE", value_parser = ring_bytes)]
    pub(crate) buffer: Option<u32>,
    /// Go without handshake times: no probe on hot kernel paths.
    #[arg(long)]
    pub(crate) no_handshake: bool,
    /// Take only this alternative of a probe, or leave it out: accept=syscall, drop=off. `doctor` lists them.
    #[arg(long, value_name = "PROBE=ALTERNATIVE", value_parser = choice)]
    pub(crate) probe: Vec<(String, String)>,
    /// What is dropped once it runs.
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Attach the program that does nothing, too.
    #[arg(long, hide = true)]
    pub(crate) with_empty_probe: bool,
}

impl Default for CollectArgs {
    fn default() -> Self {
        Self {
            source: SourceName::Auto,
            latency: Duration::from_millis(20),
            interval: Duration::from_millis(100),
            reconcile: Reconcile::Every(Duration::from_secs(5)),
            buffer: None,
            no_handshake: false,
            probe: Vec::new(),
            sandbox: SandboxArgs::default(),
            with_empty_probe: false,
        }
    }
}

/// `sockwatch trace`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch trace --port 8080                        everything about port 8080
  sockwatch trace --port 8080 --connections          a line per finished connection
  sockwatch trace --port 8080 --connections --why    and who ended each, in a sentence
  sockwatch trace --pid 1234 --format json > t.json  one process, for other programs
  sockwatch trace --addr 10.0.0.0/8 --duration 30s   half a minute of one network

Columns of finished connections: SHAKE first SYN-ACK to accept queue, WAIT accept queue to accept(), LIFE birth to end.
END: local-fin (this end closed first, TIME_WAIT here), peer-fin, both-fin, peer-rst, aborted (reset by this end),
refused, timed-out, unreached, given-up, abandoned (left the accept queue unaccepted), unqueued (its listener closed),
duplicate (another child of the same handshake was first), orphaned (closed here, not yet by the peer), destroyed (ss -K),
stopped (a listener), vanished (polling).
`sockwatch explain WORD` tells more of each.")]
pub(crate) struct TraceArgs {
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How to collect.
    #[command(flatten)]
    pub(crate) collect: CollectArgs,
    /// How to show.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
    /// Record it, too, to this file, which must not exist: as `record` does.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) record: Option<PathBuf>,
}

/// `sockwatch audit`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch audit                              ten seconds of everything on this machine
  sockwatch audit --port 8080 --duration 60s   a minute of one port
  sockwatch audit --format json                each disagreement as a line, and the counts

Traces as `trace` does, lists the kernel's sockets at random instants, and compares each of them with what the trace believes
of it: any difference is printed in full. A record agrees if the trace held its state within 3 ms of the listing.
Exit codes: 0 everything agrees, 1 something does not, 2 error.")]
pub(crate) struct AuditArgs {
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How far apart the listings are on average.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = latency)]
    pub(crate) interval: Duration,
    /// How long events may wait before they are taken in.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = latency)]
    pub(crate) latency: Duration,
    /// Size of each CPU's ring buffer, a power of two: 512KiB, 4MiB (default: 32MiB shared out between the CPUs).
    #[arg(long, value_name = "SIZE", value_parser = ring_bytes)]
    pub(crate) buffer: Option<u32>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// What is dropped once it runs.
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}

/// What to show and where.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct ShowArgs {
    /// Show a line per transition, accept, reset and the like (default: these and finished connections).
    #[arg(long)]
    pub(crate) transitions: bool,
    /// Show a line per finished connection (default: these and transitions).
    #[arg(long)]
    pub(crate) connections: bool,
    /// Show a line per listener whose accept queue changed, once a second at most (JSON: by default, too).
    #[arg(long)]
    pub(crate) queues: bool,
    /// Show a line per finished connection and below it, in a sentence, who ended it and why (JSON says it always).
    #[arg(long)]
    pub(crate) why: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// What times count from.
    #[arg(long, value_enum, default_value_t = Time::Relative)]
    pub(crate) time: Time,
    /// Stop after so long: 500ms, 30s, 5m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Stop after so many finished connections.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Write to this file instead of standard output; it must not exist.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `sockwatch lab`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch lab                        every experiment, a line for each
  sockwatch lab slow-accept            connections that wait in the accept queue
  sockwatch lab close-wait-leak        a server that never closes

Each experiment is told step by step between the lines of its trace. All but slow-accept need root: they run in network
namespaces of their own, which are gone when they end.")]
pub(crate) struct LabArgs {
    /// Which experiment; without one, all are listed.
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(lab::names()), hide_possible_values = true)]
    pub(crate) name: Option<String>,
    /// List the experiments.
    #[arg(long, conflicts_with = "name")]
    pub(crate) list: bool,
    /// slow-accept: how long the server sleeps before each accept [default: 200ms].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) delay: Option<Duration>,
    /// slow-accept: how many clients connect at once [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) clients: Option<u32>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// As in `trace`.
    #[arg(long, hide = true, value_parser = choice)]
    pub(crate) probe: Vec<(String, String)>,
    /// Write the events that the trace took in to this file, as lines of text.
    #[arg(long, hide = true)]
    pub(crate) record_events: Option<PathBuf>,
}

/// `sockwatch lab-actor`
#[derive(Args, Debug)]
pub(crate) struct ActorArgs {
    /// What the process is called.
    pub(crate) name: String,
}

/// `sockwatch doctor`
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Also try every alternative of each probe, not only the first that attaches, and name the fields that this kernel
    /// does not have.
    #[arg(long)]
    pub(crate) all: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// `sockwatch explain`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch explain                    every topic, a line for each
  sockwatch explain CLOSE-WAIT         a state, as the kernel or ss spells it
  sockwatch explain peer-rst           a word of the column END
  sockwatch explain accept queue       a term
  sockwatch explain tcp_fin_timeout    a sysctl: the topic that it belongs to")]
pub(crate) struct ExplainArgs {
    /// A state, an END word or a term, in any spelling; lists all of them if missing.
    #[arg(value_name = "STATE|TERM")]
    pub(crate) topic: Vec<String>,
    /// Do not look how many sockets are in the state now.
    #[arg(long)]
    pub(crate) no_counts: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What the topics tell people to paste is parsed as it stands, up to a pipe or a redirection.
    #[test]
    fn commands_of_topics_are_consistent() {
        let lines = sockwatch::explain::TOPICS.iter().flat_map(|topic| topic.markdown.lines());
        let mut count = 0;
        for line in lines.filter(|line| line.starts_with("sockwatch ")) {
            let words = line.split_whitespace().take_while(|word| !["|", ">"].contains(word));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
            count += 1;
        }
        assert!(count > 20, "{count}");
    }
}
