//! `sockwatch diagnose`

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{FilterArgs, Format, SandboxArgs, choice, duration, latency, ring_bytes};

/// Whether the kernel side counts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Aggregate {
    /// Where there are many.
    Auto,
    /// Yes.
    Always,
    /// No: each is told.
    Never,
}

/// `sockwatch diagnose`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch diagnose --port 8080                  half a minute of port 8080: do connections wait for accept(), and why
  sockwatch diagnose --duration 5m                every server on this machine; Ctrl-C ends it sooner
  sockwatch diagnose --pid 1234 --slow 20ms       a server that is to accept within 20 ms
  sockwatch diagnose --port 8080 --flame-graph wait.svg   and a picture of the functions that kept them waiting
  sockwatch diagnose --port 8080 --format json    one JSON object, described by docs/diagnose.schema.json
  sockwatch diagnose --recording web.swr          what was recorded, judged later

Read it from the top: the first sentence is the verdict. Below it stands each listener with how long connections waited in its
accept queue (p50: half of them no longer, p99: 99 of 100 no longer), then each finding with its evidence, what it is not,
and what to change. `sockwatch explain NAME` tells more of a finding. Who still waits at the end is counted with the time so far.
Where nobody connected there is nothing to judge: that is said, and the exit code is 0.

  WAIT    accept queue to accept(): the server's process      SHAKE   first SYN-ACK to accept queue: the network
  QUEUE   who waits now / at most / the limit             READ    accept() to the first read of data: server or client

Exit codes: 0 healthy, 1 findings, 2 error.")]
pub(crate) struct DiagnoseArgs {
    /// Judge a recording instead (`sockwatch record`); of a rotated one, all of its files. What threads did is not in it.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["duration", "no_blame", "flame_graph", "aggregate", "latency", "buffer", "probe", "no_sandbox"])]
    pub(crate) recording: Vec<PathBuf>,
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How long to measure: 10s, 5m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// From which wait in the accept queue on a connection counts as slow.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub(crate) slow: Duration,
    /// Do not look at what the accepting threads do while connections wait, nor at first reads (READ): each switch of their processes
    /// costs a microsecond or two more.
    #[arg(long)]
    pub(crate) no_blame: bool,
    /// Write where the waiting time went, by thread and function: a flame graph if FILE ends in .svg, else folded stacks.
    #[arg(long, value_name = "FILE", conflicts_with = "no_blame")]
    pub(crate) flame_graph: Option<PathBuf>,
    /// Count connections in the kernel instead of telling each: costs a busy server less, and tells neither leaks, port use, resets
    /// nor first reads.
    /// `auto`: where more than 10,000 connections come in a second when it starts, to any port of the network namespaces asked for.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Aggregate::Auto, default_missing_value = "always",
        num_args = 0..=1, require_equals = true)]
    pub(crate) aggregate: Aggregate,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// How long events may wait before they are taken in: longer costs the traced machine less.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = latency)]
    pub(crate) latency: Duration,
    /// Size of each CPU's ring buffer, a power of two: 512KiB, 4MiB (default: 32MiB shared out between the CPUs).
    #[arg(long, value_name = "SIZE", value_parser = ring_bytes)]
    pub(crate) buffer: Option<u32>,
    /// Take only this alternative of a probe, or leave it out: accept=syscall, drop=off. `doctor` lists them.
    #[arg(long, value_name = "PROBE=ALTERNATIVE", value_parser = choice)]
    pub(crate) probe: Vec<(String, String)>,
    /// What is dropped once it runs.
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
}
