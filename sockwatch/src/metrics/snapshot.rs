//! What is told to whoever asks: plain figures of one instant.

use super::{
    Endings, labels,
    series::{Name, Series},
    survey::Taken,
};
use crate::{pipeline::Totals, tcp::state};

/// Everything that was counted until an instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The instant, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Listeners with a series of their own.
    pub listeners: Vec<(Name, Series)>,
    /// All other listeners.
    pub other: Series,
    /// How many of those there were.
    pub folded: u64,
    /// Accepted connections whose listener is not known.
    pub unattributed: u64,
    pub(super) endings: Endings,
    pub(super) retransmits: u64,
    pub(super) resets_sent: Vec<(String, u64)>,
    pub(super) resets_received: [u64; labels::ROLES.len()],
    pub(super) states: [u64; state::ALL.len()],
    pub(super) ports: Vec<Taken>,
    /// What the run has seen and lost.
    pub totals: Totals,
}

/// A kernel-side program's runs, where the kernel counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name in the object.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// How long all runs took, in nanoseconds.
    pub ns: u64,
}

/// What sockwatch itself costs, and is.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Its version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// `ebpf` or `poll`.
    pub source: String,
    /// When it was started, in seconds of Unix time.
    pub started_s: f64,
    /// CPU time in user space and in the kernel, in seconds. What its programs take is in `programs`.
    pub cpu_s: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Bytes of the records that came from the kernel.
    pub read_bytes: u64,
    /// Kernel-side programs; none unless `kernel.bpf_stats_enabled` is on.
    pub programs: Vec<Program>,
    /// Requests that were answered, by path and status.
    pub requests: Vec<(&'static str, u16, u64)>,
    /// Clients and requests that were turned away, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// What became of what was pushed; `None` if nothing is.
    pub otlp: Option<Pushed>,
}

/// What became of what was pushed to an OTLP receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Log records that are settled, by what became of them.
    pub records: Vec<(&'static str, u64)>,
    /// Log records that are not.
    pub waiting: u64,
    /// Requests, by signal and by how they were answered.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    /// Data points that were rejected out of requests that were taken.
    pub points_rejected: u64,
}

/// All that a scrape tells.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// What was counted.
    pub snapshot: std::sync::Arc<Snapshot>,
    /// At which price.
    pub cost: Cost,
}
