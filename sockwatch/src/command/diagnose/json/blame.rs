//! Where waiting time went, as JSON tells it.

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::diagnosis::blame::{Attribution, Cause as Found, Part as FoundPart};

use super::Task;

/// Where the time went that connections waited, by what the threads did that accepted during the run: it is split evenly over them.
#[derive(Serialize, JsonSchema)]
pub(super) struct Blame {
    /// How long somebody waited, in nanoseconds: the sum of all parts.
    waiting_ns: u64,
    /// The threads.
    threads: Vec<Task>,
    /// None of them accepted: each is the only thread of a process that holds the listener.
    nobody_accepted: bool,
    /// All parts.
    parts: Vec<Part>,
}

/// A part of the waiting time.
#[derive(Serialize, JsonSchema)]
struct Part {
    /// `blocked`; `starved`: could run, and had no CPU; `busy`: ran something else; `accepting`; `nobody`: no thread was there that
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
            percent: it.permille(part.ns) as f64 / 10.0,
            causes: part.causes.iter().map(Cause::from).collect(),
        };
        Self {
            waiting_ns: it.waiting_ns,
            threads: it.threads.iter().map(|task| Task::from(*task)).collect(),
            nobody_accepted: it.nobody_accepted,
            parts: it.parts.iter().map(part).collect(),
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
