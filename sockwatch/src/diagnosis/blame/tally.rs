//! What a thread did while somebody waited, summed up.

use std::{collections::HashMap, sync::Arc};

use super::{CpuLimit, Did, Spells, Stack};
use crate::tcp::event::Task;

/// Stacks that are told apart for each thread; the rest is told without.
const MOST_STACKS: usize = 256;

/// Causes that are told of each part.
const MOST_CAUSES: usize = 5;

/// Of one thread and one listener.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    blocked: HashMap<Option<Arc<Stack>>, u64>,
    starved_ns: u64,
    ran_ns: u64,
    drained_ns: u64,
    unknown_ns: u64,
    samples: HashMap<Arc<Stack>, u64>,
    /// Those of them that were taken while it drained.
    drained: HashMap<Arc<Stack>, u64>,
    glimpses: HashMap<Arc<Stack>, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, did: &Did, ns: u64) {
        if ns == 0 {
            return;
        }
        match did {
            Did::Blocked(stack) => {
                let is_known = self.blocked.len() < MOST_STACKS || self.blocked.contains_key(stack);
                *self.blocked.entry(stack.clone().filter(|_| is_known)).or_default() += ns;
            }
            Did::Starved => self.starved_ns += ns,
            Did::Ran => self.ran_ns += ns,
            Did::Drained => self.drained_ns += ns,
            Did::Unknown => self.unknown_ns += ns,
        }
    }

    pub(super) fn sample(&mut self, stack: &Arc<Stack>, is_draining: bool) {
        count(if is_draining { &mut self.drained } else { &mut self.samples }, stack);
    }

    pub(super) fn glimpse(&mut self, stack: &Arc<Stack>) {
        count(&mut self.glimpses, stack);
    }

    pub(super) fn has_samples(&self) -> bool {
        !self.samples.is_empty() || !self.drained.is_empty()
    }

    fn total_ns(&self) -> u64 {
        self.blocked.values().sum::<u64>() + self.starved_ns + self.ran_ns + self.drained_ns + self.unknown_ns
    }
}

fn count(counts: &mut HashMap<Arc<Stack>, u64>, stack: &Arc<Stack>) {
    if counts.len() < MOST_STACKS || counts.contains_key(stack) {
        *counts.entry(stack.clone()).or_default() += 1;
    }
}

/// What a thread that should have accepted did instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was blocked.
    Blocked,
    /// It could have run, and had no CPU.
    Starved,
    /// It ran something else.
    Busy,
    /// It asked for events while somebody waited, and handled others first.
    Draining,
    /// It was accepting.
    Accepting,
    /// There was no such thread.
    Nobody,
    /// It was not seen.
    Unknown,
}

impl Kind {
    /// Each of them, in the order of the report.
    pub const ALL: [Self; 7] =
        [Self::Blocked, Self::Starved, Self::Busy, Self::Draining, Self::Accepting, Self::Nobody, Self::Unknown];

    /// The word that is printed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Starved => "starved",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Accepting => "accepting",
            Self::Nobody => "nobody",
            Self::Unknown => "unknown",
        }
    }
}

/// One function of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The thread.
    pub task: Task,
    /// Where it was; `None`: too short to look.
    pub stack: Option<Arc<Stack>>,
    /// So much of the waiting time, in nanoseconds.
    pub ns: u64,
}

/// A part of the waiting time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the threads did.
    pub kind: Kind,
    /// So much of the waiting time, in nanoseconds.
    pub ns: u64,
    /// The functions that had most of it.
    pub causes: Vec<Cause>,
    /// All of it, each stack apart.
    pub stacks: Vec<Cause>,
}

/// The waiting time at a listener, and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// How long somebody waited, in nanoseconds: the parts' sum.
    pub waiting_ns: u64,
    /// The threads that it was split over.
    pub threads: Vec<Task>,
    /// None of them was seen to accept: they only could have.
    pub nobody_accepted: bool,
    /// So many of them slept in accept() or waited for events while others did something: that is not counted.
    pub spared: usize,
    /// One for each kind, in the order of [`Kind::ALL`].
    pub parts: Vec<Part>,
    /// The limits of CPU time that they are under, each once.
    pub limits: Vec<CpuLimit>,
    /// Before it is finished: what all threads' times come to, when the first of them was there and the last of them gone, and
    /// where those slept that somebody who comes would wake.
    threads_ns: u64,
    span_ns: Option<(u64, u64)>,
    idle: Vec<(Kind, Cause)>,
}

impl Attribution {
    pub(super) fn new(waiting_ns: u64, nobody_accepted: bool) -> Self {
        let parts = Kind::ALL.map(|kind| Part { kind, ns: 0, causes: Vec::new(), stacks: Vec::new() }).to_vec();
        Self {
            waiting_ns,
            threads: Vec::new(),
            nobody_accepted,
            spared: 0,
            parts,
            limits: Vec::new(),
            threads_ns: 0,
            span_ns: None,
            idle: Vec::new(),
        }
    }

    /// Limits that a thread is under.
    pub(super) fn limit(&mut self, limits: &[CpuLimit]) {
        for limit in limits {
            if !self.limits.iter().any(|known| known.cgroup == limit.cgroup) {
                self.limits.push(limit.clone());
            }
        }
    }

    /// A thread could have accepted for `could_ns`, from then to then.
    pub(super) fn add(&mut self, task: Task, tally: &Tally, could_ns: u64, (from_ns, to_ns): (u64, u64)) {
        self.threads.push(task);
        self.threads_ns += could_ns;
        let (first_ns, last_ns) = self.span_ns.unwrap_or((from_ns, to_ns));
        self.span_ns = Some((first_ns.min(from_ns), last_ns.max(to_ns)));
        let mut idle_ns = 0;
        for (stack, ns) in &tally.blocked {
            match stack {
                Some(slept) if slept.is_idle() => {
                    idle_ns += ns;
                    self.idle.push((Kind::Blocked, Cause { task, stack: stack.clone(), ns: *ns }));
                }
                _other => self.book(Kind::Blocked, task, stack.as_ref(), *ns),
            }
        }
        self.book(Kind::Starved, task, None, tally.starved_ns);
        self.book_running(task, tally);
        let unseen_ns = could_ns.saturating_sub(tally.total_ns());
        let unknown_ns = tally.unknown_ns + unseen_ns;
        // What was not seen of one that slept most of the time, is as little to blame.
        if unknown_ns > 0 && idle_ns >= could_ns / 2 {
            self.idle.push((Kind::Unknown, Cause { task, stack: None, ns: unknown_ns }));
        } else {
            self.book(Kind::Unknown, task, None, unknown_ns);
        }
    }

    /// What it ran is known by samples, or else by what it ran when its CPU was taken away.
    fn book_running(&mut self, task: Task, tally: &Tally) {
        let Tally { ran_ns, drained_ns, samples, drained, glimpses, .. } = tally;
        for (kind, ns, seen) in
            [(Kind::Busy, *ran_ns, [samples, drained]), (Kind::Draining, *drained_ns, [drained, samples])]
        {
            let seen = seen.into_iter().find(|seen| !seen.is_empty()).unwrap_or(glimpses);
            let all: u64 = seen.values().sum();
            if all == 0 {
                self.book(kind, task, None, ns);
            }
            for (stack, count) in seen {
                let kind = if stack.is_accepting() { Kind::Accepting } else { kind };
                self.book(kind, task, Some(stack), scaled(ns, *count, all));
            }
        }
    }

    fn book(&mut self, kind: Kind, task: Task, stack: Option<&Arc<Stack>>, ns: u64) {
        if ns > 0
            && let Some(part) = self.parts.iter_mut().find(|part| part.kind == kind)
        {
            part.ns += ns;
            part.stacks.push(Cause { task, stack: stack.cloned(), ns });
        }
    }

    /// Brings what all threads' times come to, to what the waiting time comes to.
    pub(super) fn finish(mut self, spells: &Spells, now_ns: u64) -> Self {
        let (first_ns, last_ns) = self.span_ns.unwrap_or((now_ns, now_ns));
        let nobody_ns = (spells.within(0, first_ns) + spells.within(last_ns, now_ns)).min(self.waiting_ns);
        let covered_ns = self.waiting_ns - nobody_ns;
        self.spare_idle(covered_ns);
        let all_ns = self.threads_ns.max(self.parts.iter().map(|part| part.ns).sum());
        for part in &mut self.parts {
            part.ns = scaled(part.ns, covered_ns, all_ns);
            part.stacks.iter_mut().for_each(|cause| cause.ns = scaled(cause.ns, covered_ns, all_ns));
            part.stacks.sort_by_key(|cause| std::cmp::Reverse(cause.ns));
            part.causes = merged(&part.stacks);
        }
        let told_ns: u64 = self.parts.iter().map(|part| part.ns).sum();
        for part in &mut self.parts {
            match part.kind {
                Kind::Nobody => part.ns = nobody_ns,
                // What rounding left over, and all of it where no thread is known.
                Kind::Unknown => part.ns += covered_ns - told_ns.min(covered_ns),
                Kind::Blocked | Kind::Starved | Kind::Busy | Kind::Draining | Kind::Accepting => {}
            }
        }
        self
    }

    /// Who sleeps until somebody comes has no part in it while another was woken, or was kept by something else: of one that
    /// comes, the kernel may tell a single thread. As far as the others' times do not reach, all slept: then it was they.
    fn spare_idle(&mut self, covered_ns: u64) {
        let idle_ns: u64 = self.idle.iter().map(|(_, cause)| cause.ns).sum();
        if idle_ns == 0 {
            return;
        }
        let others_ns = self.threads_ns.saturating_sub(idle_ns);
        let all_slept_ns = covered_ns.saturating_sub(others_ns).min(idle_ns);
        self.threads_ns = others_ns + all_slept_ns;
        let idle = std::mem::take(&mut self.idle);
        if all_slept_ns == 0 {
            let mut tids: Vec<_> = idle.iter().map(|(_, cause)| cause.task.tid).collect();
            tids.sort_unstable();
            tids.dedup();
            self.spared = tids.len();
        }
        for (kind, Cause { task, stack, ns }) in idle {
            self.book(kind, task, stack.as_ref(), scaled(ns, all_slept_ns, idle_ns));
        }
    }

    /// A part's size.
    pub fn ns(&self, kind: Kind) -> u64 {
        self.part(kind).map_or(0, |part| part.ns)
    }

    /// A part.
    pub fn part(&self, kind: Kind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// Parts as one.
    pub fn joined(&self, kinds: &[Kind]) -> Part {
        let kind = kinds.first().copied().unwrap_or(Kind::Unknown);
        let parts: Vec<_> = kinds.iter().filter_map(|kind| self.part(*kind)).collect();
        let mut stacks: Vec<_> = parts.iter().flat_map(|part| part.stacks.iter().cloned()).collect();
        stacks.sort_by_key(|cause| std::cmp::Reverse(cause.ns));
        Part { kind, ns: parts.iter().map(|part| part.ns).sum(), causes: merged(&stacks), stacks }
    }

    /// A time's share of the waiting time, in tenths of a percent.
    pub fn permille(&self, ns: u64) -> u64 {
        scaled(1000, ns, self.waiting_ns)
    }
}

/// The causes with the same function become one, those with most come first, and only so many stay.
fn merged(stacks: &[Cause]) -> Vec<Cause> {
    let mut merged: Vec<Cause> = Vec::new();
    for cause in stacks {
        let function = |cause: &Cause| cause.stack.as_ref().map(|stack| stack.words());
        match merged.iter_mut().find(|it| it.task.tid == cause.task.tid && function(it) == function(cause)) {
            Some(same) => same.ns += cause.ns,
            None => merged.push(cause.clone()),
        }
    }
    merged.sort_by_key(|cause| std::cmp::Reverse(cause.ns));
    merged.truncate(MOST_CAUSES);
    merged
}

pub(super) fn scaled(value: u64, by: u64, of: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}
