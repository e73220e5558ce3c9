//! Where waiting time went, as JSON tells it.

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::diagnosis::blame::{Attribution, Cause as Found, CpuLimit as Limit, Part as FoundPart};

use super::Task;

/// Where the time went that connections waited for long, by what the threads did that accepted during the run: it is split evenly
/// over them, but for the time that some slept in accept() or waited for events while others did something.
#[derive(Serialize, JsonSchema)]
pub(super) struct Blame {
    /// How long somebody was in the queue who waited for long, in nanoseconds: the sum of all parts.
    waiting_ns: u64,
    /// The threads.
    threads: Vec<Task>,
    /// None of them accepted: each is the only thread of a process that holds the listener.
    nobody_accepted: bool,
    /// So many of them slept in accept() or waited for events while others did something: that is not counted.
    spared: usize,
    /// All parts.
    parts: Vec<Part>,
    /// Limits of CPU time that these threads are under.
    cpu_limits: Vec<CpuLimit>,
}

/// A cgroup with a limit of CPU time (`cpu.max`), and what it did while its processes were watched.
#[derive(Serialize, JsonSchema)]
struct CpuLimit {
    /// Its path below the root of its hierarchy.
    cgroup: String,
    /// So much CPU time is allowed, in nanoseconds, all CPUs together.
    quota_ns: u64,
    /// In each so long period, in nanoseconds.
    period_ns: u64,
    /// Periods in which there was something to run.
    periods: u64,
    /// Those of them in which threads were kept from running.
    throttled_periods: u64,
    /// For how long, in nanoseconds: the sum over all CPUs.
    throttled_ns: u64,
}

/// A part of the waiting time.
#[derive(Serialize, JsonSchema)]
struct Part {
    /// `blocked`; `starved`: could run, and had no CPU; `busy`: ran something else; `draining`: asked for events while
    /// somebody waited, and handled others first; `accepting`; `nobody`: no thread was there that
    /// accepted; `unknown`: not seen.
    kind: &'static str,
    /// How much of it, in nanoseconds.
    ns: u64,
    /// In percent of the waiting time.
    percent: f64,
    /// The functions with the most of it; those of samples are estimates.
    causes: Vec<Cause>,
}

/// Where a thread was.
#[derive(Serialize, JsonSchema)]
struct Cause {
    /// The thread.
    by: Task,
    /// How much of the waiting time, in nanoseconds.
    ns: u64,
    /// The function that answers for it: the innermost that is not a library's.
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// The system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    syscall: Option<String>,
    /// The stack, folded: the outermost function first, then the kernel's with `_[k]`. Absent for what was too short to look.
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<String>,
}

impl From<&Attribution> for Blame {
    fn from(it: &Attribution) -> Self {
        let part = |part: &FoundPart| Part {
            kind: part.kind.word(),
            ns: part.ns,
            percent: 100.0 * part.ns as f64 / it.waiting_ns.max(1) as f64,
            causes: part.causes.iter().map(Cause::from).collect(),
        };
        Self {
            waiting_ns: it.waiting_ns,
            threads: it.threads.iter().map(|task| Task::from(*task)).collect(),
            nobody_accepted: it.nobody_accepted,
            spared: it.spared,
            parts: it.parts.iter().map(part).collect(),
            cpu_limits: it.limits.iter().map(CpuLimit::from).collect(),
        }
    }
}

impl From<&Limit> for CpuLimit {
    fn from(limit: &Limit) -> Self {
        Self {
            cgroup: limit.cgroup.clone(),
            quota_ns: limit.quota_ns,
            period_ns: limit.period_ns,
            periods: limit.periods,
            throttled_periods: limit.throttled,
            throttled_ns: limit.throttled_ns,
        }
    }
}

impl From<&Found> for Cause {
    fn from(found: &Found) -> Self {
        let stack = found.stack.as_ref();
        Self {
            by: found.task.into(),
            ns: found.ns,
            function: stack.and_then(|stack| stack.function()).map(str::to_owned),
            syscall: stack.and_then(|stack| stack.syscall()).map(str::to_owned),
            stack: stack.map(|stack| stack.folded()),
        }
    }
}
