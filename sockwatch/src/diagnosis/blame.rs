//! What the threads did that should have accepted, while somebody waited.
//!
//! The rule: a thread that accepted from a listener during the run could have accepted at any time. The time during which
//! somebody waited is split evenly over these threads, and each one's part goes to what it did: it was blocked, was runnable
//! and had no CPU, was accepting, or ran something else. Who waits for other events while a connection waits is blocked like any
//! other: the listener would have woken it. If nobody accepted, the threads of processes that hold the listener and have one
//! thread only stand in; of a process with more it is not known which should have: nobody's. Time of which a thread's doing was
//! not seen is unknown. All parts together are the waiting time.

pub mod flame;
mod limit;
mod spells;
mod stack;
mod tally;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use foldhash::fast::FixedState;

use self::tally::Tally;
pub use self::{
    limit::CpuLimit,
    spells::Spells,
    stack::{Frame, Stack},
    tally::{Attribution, Cause, Kind, Part},
};
use crate::tcp::event::{Comm, SocketKey, Task};

/// Tallies that are kept: listeners times threads.
const MOST_TALLIES: usize = 1 << 14;

/// Threads that are followed.
const MOST_THREADS: usize = 1 << 14;

/// Whom to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// A process that accepts from a listener.
    Acceptor {
        /// The process.
        pid: u32,
        /// The listener.
        listener: SocketKey,
    },
    /// Every process that holds a listener.
    Holders {
        /// One of them.
        pid: u32,
        /// The listener.
        listener: SocketKey,
        /// Its port.
        port: u16,
    },
}

/// What became known of a thread.
#[derive(Clone, Debug)]
pub struct Deed {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// What it is.
    pub what: What,
}

/// The kinds of it.
#[derive(Clone, Debug)]
pub enum What {
    /// It was there when its process began to be watched.
    Found {
        /// When.
        at_ns: u64,
        /// Its name.
        comm: Comm,
        /// What it sleeps in; `None`: it sleeps not.
        sleeps: Option<Arc<Stack>>,
    },
    /// It was off its CPU.
    Paused {
        /// Which of its pauses.
        number: u32,
        /// Since when; `None`: since it was found, or born.
        off_ns: Option<u64>,
        /// When it was woken.
        woken_ns: Option<u64>,
        /// When it was back; `None`: it still is not.
        on_ns: Option<u64>,
        /// Whether it waited for a CPU only.
        runnable: bool,
        /// Where it was, if it was long.
        stack: Option<Arc<Stack>>,
    },
    /// It was seen at this on a CPU.
    Sampled {
        /// When.
        at_ns: u64,
        /// At what.
        stack: Arc<Stack>,
    },
    /// It has ended.
    Gone {
        /// When.
        at_ns: u64,
    },
}

impl What {
    /// When it is over: nothing earlier can be said of the thread after it.
    fn until_ns(&self) -> u64 {
        match *self {
            Self::Found { at_ns, .. } | Self::Sampled { at_ns, .. } | Self::Gone { at_ns } => at_ns,
            Self::Paused { on_ns, .. } => on_ns.unwrap_or(u64::MAX),
        }
    }
}

/// A thread as it was last.
#[derive(Clone, Debug)]
struct Thread {
    pid: u32,
    comm: Comm,
    /// Its doing is told until then.
    told_ns: u64,
    /// Then it did this.
    then: Then,
    number: Option<u32>,
    born_ns: Option<u64>,
    gone_ns: Option<u64>,
}

#[derive(Clone, Debug)]
enum Then {
    /// It was on a CPU.
    Ran,
    /// It was found runnable.
    Runnable,
    /// It was found asleep.
    Slept(Arc<Stack>),
}

/// What is known of all threads that may accept.
#[derive(Debug, Default)]
pub(super) struct Blame {
    is_watching: bool,
    /// Who was named as a suspect.
    suspected: HashSet<(SocketKey, u32), FixedState>,
    /// Which listeners a process holds.
    held: HashMap<u32, Vec<SocketKey>, FixedState>,
    threads: HashMap<u32, Thread, FixedState>,
    tallies: HashMap<(SocketKey, u32), Tally, FixedState>,
    /// The limits that a process is under.
    limits: HashMap<u32, Vec<CpuLimit>, FixedState>,
    /// Not yet taken in: who waited then may not be known yet.
    pending: Vec<Deed>,
}

impl Blame {
    /// A process holds a listener.
    pub(super) fn hold(&mut self, pid: u32, listener: SocketKey) {
        let held = self.held.entry(pid).or_default();
        if !held.contains(&listener) {
            held.push(listener);
        }
    }

    /// Whether a process was not yet suspected to keep a listener waiting.
    pub(super) fn suspect(&mut self, pid: u32, listener: SocketKey) -> bool {
        self.suspected.insert((listener, pid))
    }

    /// A process is under a limit.
    pub(super) fn limit(&mut self, pid: u32, limit: CpuLimit) {
        self.limits.entry(pid).or_default().push(limit);
    }

    pub(super) fn push(&mut self, deed: Deed) {
        self.is_watching = true;
        self.pending.push(deed);
    }

    /// Takes in what happened until then.
    pub(super) fn settle<'a>(&mut self, until_ns: u64, spells: impl Fn(SocketKey) -> Option<&'a Spells>) {
        let mut pending = std::mem::take(&mut self.pending);
        for deed in pending.extract_if(.., |deed| deed.what.until_ns() <= until_ns) {
            self.take(deed, &spells);
        }
        self.pending = pending;
    }

    /// Takes in the rest: now all is over, and who does something still does it.
    pub(super) fn finish<'a>(&mut self, now_ns: u64, spells: impl Fn(SocketKey) -> Option<&'a Spells>) {
        for mut deed in std::mem::take(&mut self.pending) {
            if let What::Paused { on_ns, .. } = &mut deed.what {
                // It still is.
                on_ns.get_or_insert(now_ns);
            }
            self.take(deed, &spells);
        }
        let last: Vec<_> =
            self.threads.iter().filter(|(_, thread)| thread.gone_ns.is_none()).map(|(tid, _)| *tid).collect();
        for tid in last {
            let Some(thread) = self.threads.get(&tid).filter(|thread| thread.told_ns < now_ns).cloned() else {
                continue;
            };
            let seen = |tallies: &HashMap<_, Tally, FixedState>| {
                let of = |held: &SocketKey| tallies.get(&(*held, tid)).is_some_and(Tally::has_samples);
                self.held.get(&thread.pid).is_some_and(|held| held.iter().any(of))
            };
            let did = match &thread.then {
                Then::Ran => Did::Ran,
                // It never left its CPU, if it had one.
                Then::Runnable if seen(&self.tallies) => Did::Ran,
                Then::Runnable => Did::Unknown,
                Then::Slept(stack) => Did::Blocked(Some(stack.clone())),
            };
            self.book(thread.pid, tid, (thread.told_ns, now_ns), &did, &spells);
        }
    }

    fn take<'a>(&mut self, deed: Deed, spells: &impl Fn(SocketKey) -> Option<&'a Spells>) {
        let Deed { pid, tid, what } = deed;
        match what {
            What::Found { at_ns, comm, sleeps } => {
                let then = sleeps.map_or(Then::Runnable, Then::Slept);
                let found = Thread { pid, comm, told_ns: at_ns, then, number: None, born_ns: None, gone_ns: None };
                if self.threads.len() < MOST_THREADS {
                    // Its own words are better than what was found.
                    self.threads.entry(tid).or_insert(found);
                }
            }
            What::Sampled { at_ns, stack } => {
                for listener in self.held.get(&pid).into_iter().flatten() {
                    if spells(*listener).is_some_and(|spells| spells.covers(at_ns))
                        && let Some(tally) = tally(&mut self.tallies, *listener, tid)
                    {
                        tally.sample(&stack);
                    }
                }
            }
            What::Gone { at_ns } => {
                let Some(thread) = self.threads.get_mut(&tid) else { return };
                thread.gone_ns = Some(at_ns);
                let (from_ns, did) = (thread.told_ns, Did::Ran);
                self.book(pid, tid, (from_ns, at_ns), &did, spells);
            }
            What::Paused { number, off_ns, woken_ns, on_ns, runnable, stack } => {
                let first_ns = off_ns.or(on_ns).unwrap_or(0);
                let born = Thread {
                    pid,
                    comm: Comm::default(),
                    told_ns: first_ns,
                    then: Then::Ran,
                    number: None,
                    born_ns: Some(first_ns),
                    gone_ns: None,
                };
                if self.threads.len() >= MOST_THREADS {
                    return;
                }
                let thread = self.threads.entry(tid).or_insert(born);
                let before = thread.number.replace(number);
                let told_ns = std::mem::replace(&mut thread.told_ns, on_ns.unwrap_or(u64::MAX));
                let then = std::mem::replace(&mut thread.then, Then::Ran);
                let lost = before.is_some_and(|before| number.wrapping_sub(before) > 1);
                let until = match (off_ns, then) {
                    _ if lost => Did::Unknown,
                    // It did not leave a CPU, so it had none until now.
                    (None, Then::Slept(stack)) => Did::Blocked(Some(stack)),
                    (None, Then::Runnable) => Did::Starved,
                    (None, Then::Ran) => Did::Unknown,
                    (Some(_), _) => Did::Ran,
                };
                self.book(pid, tid, (told_ns, first_ns), &until, spells);
                let (Some(off_ns), on_ns) = (off_ns, on_ns.unwrap_or(u64::MAX)) else { return };
                if runnable {
                    if let Some(stack) = &stack {
                        self.glimpse(pid, tid, stack);
                    }
                    return self.book(pid, tid, (off_ns, on_ns), &Did::Starved, spells);
                }
                let woken_ns = woken_ns.unwrap_or(on_ns);
                self.book(pid, tid, (off_ns, woken_ns), &Did::Blocked(stack), spells);
                self.book(pid, tid, (woken_ns, on_ns), &Did::Starved, spells);
            }
        }
    }

    /// What it ran when its CPU was taken away.
    fn glimpse(&mut self, pid: u32, tid: u32, stack: &Arc<Stack>) {
        for listener in self.held.get(&pid).into_iter().flatten() {
            if let Some(tally) = tally(&mut self.tallies, *listener, tid) {
                tally.glimpse(stack);
            }
        }
    }

    fn book<'a>(
        &mut self,
        pid: u32,
        tid: u32,
        (from_ns, to_ns): (u64, u64),
        did: &Did,
        spells: &impl Fn(SocketKey) -> Option<&'a Spells>,
    ) {
        for listener in self.held.get(&pid).into_iter().flatten() {
            let ns = spells(*listener).map_or(0, |spells| spells.within(from_ns, to_ns));
            if ns > 0
                && let Some(tally) = tally(&mut self.tallies, *listener, tid)
            {
                tally.add(did, ns);
            }
        }
    }

    /// Who is to blame for the waiting at a listener; `None` where nobody looked, or nobody waited.
    pub(super) fn attribute(
        &self,
        listener: SocketKey,
        acceptors: impl Iterator<Item = Task>,
        spells: &Spells,
        now_ns: u64,
    ) -> Option<Attribution> {
        let waiting_ns = spells.within(0, now_ns);
        if !self.is_watching || waiting_ns == 0 {
            return None;
        }
        let mut candidates: Vec<Task> = acceptors.collect();
        let nobody_accepted = candidates.is_empty();
        if nobody_accepted {
            candidates = self.lone_threads(listener);
        }
        let mut attribution = Attribution::new(waiting_ns, nobody_accepted);
        let empty = Tally::default();
        for task in candidates {
            attribution.limit(self.limits.get(&task.pid).map(Vec::as_slice).unwrap_or_default());
            let thread = self.threads.get(&task.tid);
            let from_ns = thread.and_then(|thread| thread.born_ns).unwrap_or(0);
            let to_ns = thread.and_then(|thread| thread.gone_ns).unwrap_or(now_ns);
            let ns = spells.within(from_ns, to_ns);
            attribution.add(task, self.tallies.get(&(listener, task.tid)).unwrap_or(&empty), ns, to_ns);
        }
        Some(attribution.finish(spells, now_ns))
    }

    /// The threads of processes that hold the listener and have no other.
    fn lone_threads(&self, listener: SocketKey) -> Vec<Task> {
        let mut threads: HashMap<u32, Vec<Task>, FixedState> = HashMap::default();
        for (tid, thread) in &self.threads {
            if thread.gone_ns.is_none() && self.held.get(&thread.pid).is_some_and(|held| held.contains(&listener)) {
                let task = Task { pid: thread.pid, tid: *tid, comm: thread.comm };
                threads.entry(thread.pid).or_default().push(task);
            }
        }
        if threads.values().any(|threads| threads.len() > 1) {
            return Vec::new();
        }
        threads.into_values().flatten().collect()
    }
}

/// What a thread did for some time.
#[derive(Clone, Debug)]
enum Did {
    Blocked(Option<Arc<Stack>>),
    Starved,
    Ran,
    Unknown,
}

fn tally(
    tallies: &mut HashMap<(SocketKey, u32), Tally, FixedState>,
    listener: SocketKey,
    tid: u32,
) -> Option<&mut Tally> {
    if tallies.len() >= MOST_TALLIES && !tallies.contains_key(&(listener, tid)) {
        return None;
    }
    Some(tallies.entry((listener, tid)).or_default())
}

#[cfg(test)]
mod tests;
