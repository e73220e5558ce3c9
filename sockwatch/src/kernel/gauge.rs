//! What the kernel-side programs take: the kernel measures it while somebody asks for it (`BPF_ENABLE_STATS`, 5.8 and later, by
//! `CAP_SYS_ADMIN`), which makes each run a little slower. So it is asked for a while only.

use std::{
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use aya::sys::{Stats, enable_stats};

/// It is measured for so long.
const WINDOW: Duration = Duration::from_secs(1);

/// Measures while it is there, and not longer than a second.
#[derive(Debug)]
pub struct Gauge {
    on: Option<OwnedFd>,
    began: Instant,
    measured: Duration,
    /// Runs and nanoseconds before.
    before: (u64, u64),
}

/// What programs took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// For how long it was measured.
    pub measured: Duration,
    /// How often they ran.
    pub runs: u64,
    /// How long, in nanoseconds.
    pub ns: u64,
}

impl Gauge {
    /// Begins, with what the programs had run before; `None` if the kernel lets nobody measure.
    pub(super) fn start(before: (u64, u64)) -> Option<Self> {
        let on = enable_stats(Stats::RunTime).ok()?;
        Some(Self { on: Some(on), began: Instant::now(), measured: Duration::ZERO, before })
    }

    /// Ends it once it has measured for long enough.
    pub fn tick(&mut self) {
        if self.on.is_some() && self.began.elapsed() >= WINDOW {
            self.end();
        }
    }

    fn end(&mut self) {
        if self.on.take().is_some() {
            self.measured = self.began.elapsed();
        }
    }

    /// What they took, of what they have run by now.
    pub(super) fn taken(mut self, now: (u64, u64)) -> Taken {
        self.end();
        let measured = if is_always_on() { self.began.elapsed() } else { self.measured };
        Taken { measured, runs: now.0.saturating_sub(self.before.0), ns: now.1.saturating_sub(self.before.1) }
    }
}

/// Whether the kernel measures for everybody, all the time.
pub(super) fn is_always_on() -> bool {
    fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|on| on.trim() != "0")
}
