//! sockwatch against the running kernel: real sockets, the built program, text in, text out.
//!
//! Needs root; where that or eBPF is refused each test says `skipped: NAME: reason` and passes. With
//! `SOCKWATCH_LIVE=required` (CI) it fails instead. Tests never sleep to wait for something: they read the trace.
#![allow(clippy::unwrap_used, reason = "tests")]

mod accept_queue;
mod audit;
mod chaos;
mod clock;
mod diagnose;
mod endings;
mod filters;
mod flood;
mod harness;
mod labs;
mod list;
mod load;
mod netns;
mod network;
mod output;
mod owners;
mod page;
mod privileges;
mod probes;
mod puppet;
mod queue;
mod recording;
mod score;
mod serve;
mod timelines;
mod top;
mod unprivileged;
mod verdicts;
mod without_btf;
mod witness;
mod workload;
