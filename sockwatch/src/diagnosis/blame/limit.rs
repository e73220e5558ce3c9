//! A limit of CPU time, and how often it kept threads from running that could.

use std::fmt;

use crate::diagnosis::words::{Grouped, time};

/// A cgroup with a limit of CPU time (`cpu.max`), and what it counts (`cpu.stat`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuLimit {
    /// Its path below the root of its hierarchy.
    pub cgroup: String,
    /// So much CPU time is allowed, in nanoseconds, all CPUs together.
    pub quota_ns: u64,
    /// In each so long period, in nanoseconds.
    pub period_ns: u64,
    /// Periods in which there was something to run.
    pub periods: u64,
    /// Those of them in which the time was used up, and threads were kept from running.
    pub throttled: u64,
    /// For how long, in nanoseconds: the sum over all CPUs.
    pub throttled_ns: u64,
}

impl CpuLimit {
    /// What it has counted since an earlier time; `None` if it is another limit now, or counts anew.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let is_same = (self.quota_ns, self.period_ns) == (earlier.quota_ns, earlier.period_ns);
        Some(Self {
            periods: self.periods.checked_sub(earlier.periods).filter(|_| is_same)?,
            throttled: self.throttled.checked_sub(earlier.throttled)?,
            throttled_ns: self.throttled_ns.checked_sub(earlier.throttled_ns)?,
            ..self.clone()
        })
    }

    /// What it did, as evidence.
    pub fn words(&self) -> String {
        let Self { periods, throttled, throttled_ns, .. } = self;
        format!(
            "{self}: it kept threads from running in {} of {} periods, for {} over all CPUs",
            Grouped(*throttled),
            Grouped(*periods),
            time(*throttled_ns)
        )
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cgroup, quota_ns, period_ns, .. } = self;
        write!(f, "the cgroup {cgroup} may use {} of CPU time each {} (cpu.max)", time(*quota_ns), time(*period_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_did_since_is_told() {
        let counted = |quota_ns, periods, throttled, throttled_ns| CpuLimit {
            cgroup: "/web".into(),
            quota_ns,
            period_ns: 100_000_000,
            periods,
            throttled,
            throttled_ns,
        };
        let (before, after) = (counted(20_000_000, 100, 5, 1_000), counted(20_000_000, 1_300, 1_105, 7_200_001_000));
        let did = after.since(&before).unwrap();
        assert_eq!(did, counted(20_000_000, 1_200, 1_100, 7_200_000_000));
        assert_eq!(
            did.words(),
            "the cgroup /web may use 20.0ms of CPU time each 100ms (cpu.max): it kept threads from running in 1,100 of 1,200 periods, for 7.20s over all CPUs"
        );
        assert_eq!(before.since(&after), None, "it counts anew");
        assert_eq!(after.since(&counted(30_000_000, 100, 5, 1_000)), None, "it is another limit");
    }
}
