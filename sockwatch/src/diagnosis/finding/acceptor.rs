//! What the findings about accepting threads have in common: connections wait, and most of that time has one explanation.

use std::cmp::Reverse;

use super::{Finding, Name, Place, Scene, accept_works, depth, is_explained, network_is_fine, overflow, rates, waits};
use crate::{
    diagnosis::{
        blame::{Attribution, Cause, Kind, Part},
        measure::Measured,
        words::{Grouped, count, percent, place, thread, time},
    },
    tcp::event::Task,
};

/// Frames of a stack that are told.
const FRAMES: usize = 6;

/// A listener whose connections wait because of this: it has half of the waiting time at least.
pub(super) fn because_of<'a>(
    scene: &Scene<'a>,
    found: &[Finding],
    kinds: &'static [Kind],
) -> impl Iterator<Item = (&'a Measured, &'a Attribution, Part)> {
    let waits = scene.listeners.iter().filter(|listener| {
        let is_stuck = listener.starved_ns.is_some_and(|ns| ns >= scene.stuck_ns());
        (listener.is_slow() || is_stuck && !listener.is_closed) && !is_explained(listener, found)
    });
    waits.filter_map(move |listener| {
        let blame = listener.blame.as_ref()?;
        let part = blame.joined(kinds);
        (part.ns > 0 && part.ns >= blame.waiting_ns / 2).then_some((listener, blame, part))
    })
}

/// The finding, but for what it says of its own.
pub(super) fn finding(
    name: Name,
    scene: &Scene<'_>,
    listener: &Measured,
    blame: &Attribution,
    did: &str,
    fix: Vec<String>,
) -> Finding {
    let slow = match listener.since_accept_ns {
        None => {
            format!("{} in the accept queue, and nobody accepted", count(listener.still_waiting.into(), "connection"))
        }
        Some(_) => format!(
            "{} of {} waited {} or more for accept()",
            Grouped(listener.slow),
            count(listener.waits(), "connection"),
            time(scene.slow_ns)
        ),
    };
    let mut evidence = vec![shares(blame)];
    evidence.extend(threads(blame));
    evidence.extend(waits(listener));
    evidence.push(rates(listener));
    evidence.push(depth(listener));
    evidence.extend(overflow(listener));
    let mut rules_out: Vec<_> = network_is_fine(listener).into_iter().chain(accept_works(listener)).collect();
    if listener.turned_away() == 0 {
        rules_out.push("a backlog that is too small: nobody was turned away".into());
    }
    Finding {
        name,
        place: Place::from(listener),
        sentence: format!("{}: {slow}; {did}", place(listener)),
        evidence,
        rules_out,
        fix,
        hurt: listener.hurt_by_accept(),
    }
}

/// All parts of the waiting time, as evidence.
pub(super) fn shares(blame: &Attribution) -> String {
    let parts = blame.parts.iter().filter(|part| part.ns > 0);
    let words: Vec<_> =
        parts.map(|part| format!("{} {}", part.kind.word(), percent(blame.permille(part.ns)))).collect();
    format!(
        "somebody who waited long was in the queue for {}; meanwhile the accepting threads were: {}",
        time(blame.waiting_ns),
        words.join(", ")
    )
}

/// Over how many threads it was split, and that they only could have accepted, where that is so.
fn threads(blame: &Attribution) -> Option<String> {
    let threads = count(blame.threads.len() as u64, "thread");
    match (blame.threads.len(), blame.nobody_accepted) {
        (1, false) => None,
        (_, false) if blame.spared > 0 => Some(format!(
            "split evenly over the {threads} that accepted, without the time that {} slept until a connection or an event comes: \
             the kernel had others to wake",
            Grouped(blame.spared as u64)
        )),
        (_, false) => Some(format!("split evenly over the {threads} that accepted")),
        (_, true) => Some(format!(
            "no thread accepted during the run: this is the only thread of each process that could, {threads}"
        )),
    }
}

/// The causes of a part, as evidence: a line for each.
pub(super) fn causes<'a>(blame: &'a Attribution, part: &'a Part, verb: &'a str) -> impl Iterator<Item = String> + 'a {
    part.causes.iter().take(3).map(move |cause| line(blame, cause, verb))
}

/// Where the accepting threads were for the most of the time, whatever it was that they did there, as evidence.
pub(super) fn whereabouts(blame: &Attribution) -> Vec<String> {
    let known = blame.parts.iter().filter_map(|part| {
        let verb = match part.kind {
            Kind::Blocked => "blocked in",
            Kind::Busy | Kind::Draining => "ran",
            Kind::Starved | Kind::Accepting | Kind::Nobody | Kind::Unknown => return None,
        };
        Some(part.causes.iter().filter(|cause| cause.stack.is_some()).map(move |cause| (cause, verb)))
    });
    let mut causes: Vec<_> = known.flatten().collect();
    causes.sort_by_key(|(cause, _)| Reverse(cause.ns));
    causes.into_iter().take(2).map(|(cause, verb)| line(blame, cause, verb)).collect()
}

fn line(blame: &Attribution, cause: &Cause, verb: &str) -> String {
    let (share, thread) = (percent(blame.permille(cause.ns)), thread(cause.task));
    match &cause.stack {
        Some(stack) => {
            let line = stack.line(FRAMES);
            let called = if line.is_empty() { String::new() } else { format!(": {line}") };
            format!("{share}: {thread} {verb} {}{called}", stack.words())
        }
        None => format!("{share}: {thread} {verb} something shorter than was looked at"),
    }
}

/// Who was stopped for most of a part, if somebody was: that is no fault of what it was in then.
pub(super) fn stopped(part: &Part) -> Option<Task> {
    let stopped = || part.stacks.iter().filter(|cause| cause.stack.as_ref().is_some_and(|stack| stack.is_stopped()));
    let ns: u64 = stopped().map(|cause| cause.ns).sum();
    stopped().next().filter(|_| ns > part.ns / 2).map(|cause| cause.task)
}

/// Who it was.
pub(super) struct Culprit {
    /// The thread that did most of it.
    pub(super) thread: String,
    /// Where it was.
    pub(super) place: String,
    /// How much of the waiting time threads were there, this one and others.
    pub(super) ns: u64,
    /// Whether nearly all of it was this thread's, there.
    pub(super) is_alone: bool,
}

/// Who it was, and where.
pub(super) fn culprit(part: &Part) -> Option<Culprit> {
    let cause = part.causes.iter().find(|cause| cause.stack.is_some())?;
    let place = cause.stack.as_ref()?.words();
    let is_there = |other: &&Cause| other.stack.as_ref().is_some_and(|stack| stack.words() == place);
    let ns = part.stacks.iter().filter(is_there).map(|other| other.ns).sum();
    let is_alone = cause.ns.saturating_mul(10) >= part.ns.saturating_mul(9);
    Some(Culprit { thread: thread(cause.task).to_string(), place, ns, is_alone })
}

/// That there was CPU enough, where it is so.
pub(super) fn not_cpu(blame: &Attribution) -> Option<String> {
    let starved_ns = blame.ns(Kind::Starved);
    let was_limited = blame.limits.iter().any(|limit| limit.throttled > 0);
    (starved_ns <= blame.waiting_ns / 20 && !was_limited)
        .then(|| format!("too little CPU: it waited for one {} of that time", percent(blame.permille(starved_ns))))
}
