//! What the findings about accepting threads have in common: connections wait, and most of that time has one explanation.

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
    kind: Kind,
) -> impl Iterator<Item = (&'a Measured, &'a Attribution, &'a Part)> {
    let waits = scene.listeners.iter().filter(|listener| {
        let is_stuck = listener.starved_ns.is_some_and(|ns| ns >= scene.stuck_ns());
        (listener.is_slow() || is_stuck && !listener.is_closed) && !is_explained(listener, found)
    });
    waits.filter_map(move |listener| {
        let blame = listener.blame.as_ref()?;
        let part = blame.part(kind)?;
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
        "somebody waited for {} in all; meanwhile the accepting threads were: {}",
        time(blame.waiting_ns),
        words.join(", ")
    )
}

/// Over how many threads it was split, and that they only could have accepted, where that is so.
fn threads(blame: &Attribution) -> Option<String> {
    let threads = count(blame.threads.len() as u64, "thread");
    match (blame.threads.len(), blame.nobody_accepted) {
        (1, false) => None,
        (_, false) => Some(format!("split evenly over the {threads} that accepted")),
        (_, true) => Some(format!(
            "no thread accepted during the run: this is the only thread of each process that could, {threads}"
        )),
    }
}

/// The causes of a part, as evidence: a line for each.
pub(super) fn causes<'a>(blame: &'a Attribution, part: &'a Part, verb: &'a str) -> impl Iterator<Item = String> + 'a {
    part.causes.iter().take(3).map(move |cause| {
        let Cause { task, stack, ns } = cause;
        let share = percent(blame.permille(*ns));
        match stack {
            Some(stack) => {
                let line = stack.line(FRAMES);
                let called = if line.is_empty() { String::new() } else { format!(": {line}") };
                format!("{share}: {} {verb} {}{called}", thread(*task), stack.words())
            }
            None => format!("{share}: {} {verb} something shorter than was looked at", thread(*task)),
        }
    })
}

/// Who was stopped for most of a part, if somebody was: that is no fault of what it was in then.
pub(super) fn stopped(part: &Part) -> Option<Task> {
    let stopped = || part.stacks.iter().filter(|cause| cause.stack.as_ref().is_some_and(|stack| stack.is_stopped()));
    let ns: u64 = stopped().map(|cause| cause.ns).sum();
    stopped().next().filter(|_| ns > part.ns / 2).map(|cause| cause.task)
}

/// Who it was: its thread, and where.
pub(super) fn culprit(part: &Part) -> Option<(String, String)> {
    let cause = part.causes.iter().find(|cause| cause.stack.is_some())?;
    Some((thread(cause.task).to_string(), cause.stack.as_ref()?.words()))
}
