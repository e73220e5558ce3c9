//! What the threads did that should have accepted, while somebody waited.
//!
//! The rule: a thread that accepted from a listener during the run could have accepted at any time. The time during which
//! somebody waited for long is split evenly over these threads, and each one's part goes to what it did: it was blocked, was
//! runnable and had no CPU, was accepting, or ran something else: draining, if it had asked for events while somebody waited, and
//! had not accepted since. Who sleeps in accept() or waits for events counts only as far as all of them do: the kernel may wake one
//! of many, and those that it leaves asleep keep nobody waiting; but if all sleep, the listener would have woken one, and does not:
//! they wait for something else. If nobody accepted, the threads of processes that hold the listener and have one thread only
//! stand in; of a process with more it is not known which should have: nobody's. Time of which a thread's doing was not seen is
//! unknown. All parts together are the waiting time.

pub mod flame;
mod limit;
mod rounds;
mod spells;
mod stack;
mod tally;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use foldhash::fast::FixedState;

pub use self::{
    limit::CpuLimit,
    spells::{Spells, long_ns},
    stack::{Frame, Stack},
    tally::{Attribution, Cause, Kind, Part},
};
use self::{
    rounds::{Rounds, Step},
    tally::Tally,
};
use crate::tcp::{
    endpoint::Endpoint,
    event::{Comm, SocketKey, Task},
};

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
        /// Where it listens.
        local: Endpoint,
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
        /// Which of its records.
        number: u32,
        /// What it did until then; `None`: nothing was seen.
        before: Option<Sums>,
        /// Since when; `None`: since it was found, or born.
        off_ns: Option<u64>,
        /// When it was woken.
        woken_ns: Option<u64>,
        /// When it was back; `None`: it still is not.
        on_ns: Option<u64>,
        /// Whether it waited for a CPU only.
        runnable: bool,
        /// Whether it waited for one of several events.
        asked: bool,
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
        /// What it did until then.
        before: Option<Sums>,
    },
}

/// What a thread did in pauses too short to be told of, and between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Since when; until what is told next.
    pub since_ns: u64,
    /// So long it was on a CPU.
    pub ran_ns: u64,
    /// So long it was blocked.
    pub blocked_ns: u64,
    /// So long it was runnable, and had no CPU.
    pub starved_ns: u64,
}

impl What {
    /// When it is over: nothing earlier can be said of the thread after it.
    fn until_ns(&self) -> u64 {
        match *self {
            Self::Found { at_ns, .. } | Self::Sampled { at_ns, .. } | Self::Gone { at_ns, .. } => at_ns,
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

/// As what a process is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Suspicion {
    Owner,
    Acceptor,
}

/// What is known of all threads that may accept.
#[derive(Debug, Default)]
pub(super) struct Blame {
    is_watching: bool,
    /// Who was named as a suspect.
    suspected: HashSet<(SocketKey, u32, Suspicion), FixedState>,
    /// Which listeners a process holds.
    held: HashMap<u32, Vec<SocketKey>, FixedState>,
    threads: HashMap<u32, Thread, FixedState>,
    rounds: HashMap<u32, Rounds, FixedState>,
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

    /// Whether a process was not yet suspected to keep a listener waiting, as its owner or as one that accepts: who is its owner
    /// may have left it to others, who accepts has not.
    pub(super) fn suspect(&mut self, pid: u32, listener: SocketKey, as_what: Suspicion) -> bool {
        self.suspected.insert((listener, pid, as_what))
    }

    /// A process is under a limit.
    pub(super) fn limit(&mut self, pid: u32, limit: CpuLimit) {
        self.limits.entry(pid).or_default().push(limit);
    }

    pub(super) fn push(&mut self, deed: Deed) {
        self.is_watching = true;
        self.pending.push(deed);
    }

    /// A thread accepted.
    pub(super) fn accepted(&mut self, at_ns: u64, tid: u32) {
        if self.is_watching {
            self.step(at_ns, tid, Step::Accepted);
        }
    }

    fn step(&mut self, at_ns: u64, tid: u32, step: Step) {
        if self.rounds.len() < MOST_THREADS || self.rounds.contains_key(&tid) {
            self.rounds.entry(tid).or_default().put(at_ns, step);
        }
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
                if stack.waits_for_events() {
                    self.step(at_ns, tid, Step::Asked);
                }
                let asked_ns = self.rounds.get(&tid).and_then(|rounds| rounds.asked_ns(at_ns));
                for listener in self.held.get(&pid).into_iter().flatten() {
                    if let Some(spells) = spells(*listener).filter(|spells| spells.covers(at_ns))
                        && let Some(tally) = tally(&mut self.tallies, *listener, tid)
                    {
                        tally.sample(&stack, spells.within_that_of(asked_ns, at_ns, at_ns + 1) > 0);
                    }
                }
            }
            What::Gone { at_ns, before } => {
                let Some(thread) = self.threads.get_mut(&tid) else { return };
                thread.gone_ns = Some(at_ns);
                let told_ns = thread.told_ns;
                self.book_sums(pid, tid, (told_ns, at_ns), &Did::Ran, before, spells);
            }
            What::Paused { number, before, off_ns, woken_ns, on_ns, runnable, asked, stack } => {
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
                let last = thread.number.replace(number);
                let told_ns = std::mem::replace(&mut thread.told_ns, on_ns.unwrap_or(u64::MAX));
                let then = std::mem::replace(&mut thread.then, Then::Ran);
                let lost = last.is_some_and(|last| number.wrapping_sub(last) > 1);
                let until = match (off_ns, then) {
                    _ if lost => Did::Unknown,
                    // It did not leave a CPU, so it had none until now.
                    (None, Then::Slept(stack)) => Did::Blocked(Some(stack)),
                    (None, Then::Runnable) => Did::Starved,
                    (None, Then::Ran) => Did::Unknown,
                    (Some(_), _) => Did::Ran,
                };
                self.book_sums(pid, tid, (told_ns, first_ns), &until, before, spells);
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
                if asked {
                    self.step(on_ns, tid, Step::Asked);
                }
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

    /// What it did until it is told of again: its sums are spread evenly over their time, before them it did this.
    fn book_sums<'a>(
        &mut self,
        pid: u32,
        tid: u32,
        (told_ns, until_ns): (u64, u64),
        did: &Did,
        sums: Option<Sums>,
        spells: &impl Fn(SocketKey) -> Option<&'a Spells>,
    ) {
        let Some(Sums { since_ns, ran_ns, blocked_ns, starved_ns }) = sums else {
            return self.book(pid, tid, (told_ns, until_ns), did, spells);
        };
        self.book(pid, tid, (told_ns, since_ns), did, spells);
        let from_ns = told_ns.max(since_ns);
        for (did, sum_ns) in [(Did::Blocked(None), blocked_ns), (Did::Starved, starved_ns), (Did::Ran, ran_ns)] {
            self.book_part(pid, tid, (from_ns, until_ns), &did, (sum_ns, until_ns - since_ns), spells);
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
        self.book_part(pid, tid, (from_ns, to_ns), did, (1, 1), spells);
    }

    /// The same of what it did for some of that time only: for `part` of `all`.
    fn book_part<'a>(
        &mut self,
        pid: u32,
        tid: u32,
        (from_ns, to_ns): (u64, u64),
        did: &Did,
        (part, all): (u64, u64),
        spells: &impl Fn(SocketKey) -> Option<&'a Spells>,
    ) {
        let rounds = self.rounds.get_mut(&tid).filter(|_| matches!(did, Did::Ran));
        let pieces = rounds.map_or_else(|| vec![(from_ns, to_ns, None)], |rounds| rounds.cut(from_ns, to_ns));
        for listener in self.held.get(&pid).into_iter().flatten() {
            let Some(spells) = spells(*listener) else { continue };
            for (from_ns, to_ns, asked_ns) in &pieces {
                let ns = spells.within(*from_ns, *to_ns);
                if ns > 0
                    && let Some(tally) = tally(&mut self.tallies, *listener, tid)
                {
                    let drained_ns = spells.within_that_of(*asked_ns, *from_ns, *to_ns);
                    tally.add(did, tally::scaled(ns - drained_ns, part, all));
                    tally.add(&Did::Drained, tally::scaled(drained_ns, part, all));
                }
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
            let tally = self.tallies.get(&(listener, task.tid)).unwrap_or(&empty);
            attribution.add(task, tally, ns, (from_ns, to_ns));
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
    /// It ran.
    Ran,
    /// It ran since it had asked for events, and somebody had waited even then.
    Drained,
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
