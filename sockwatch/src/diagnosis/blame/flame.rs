//! Where waiting time went, as flame graphs take it: a line for each stack, the outermost function first.

use std::collections::BTreeMap;

use super::{Attribution, Cause, Kind};
use crate::{diagnosis::words::thread, tcp::endpoint::Endpoint};

/// `LISTENER;THREAD;KIND;FUNCTION;...;FUNCTION MICROSECONDS` for every stack, in alphabetical order.
pub fn folded<'a>(blamed: impl Iterator<Item = (Endpoint, &'a Attribution)>) -> Vec<String> {
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    for (listener, blame) in blamed {
        for part in &blame.parts {
            for cause in &part.stacks {
                *stacks.entry(format!("{listener};{}", path(part.kind, cause))).or_default() += cause.ns;
            }
        }
    }
    let micros = |(stack, ns): (String, u64)| (ns >= 1000).then(|| format!("{stack} {}", ns / 1000));
    stacks.into_iter().filter_map(micros).collect()
}

fn path(kind: Kind, cause: &Cause) -> String {
    let thread = thread(cause.task).to_string().replace(';', ":");
    let place = match &cause.stack {
        Some(stack) => stack.folded(),
        None if matches!(kind, Kind::Blocked | Kind::Busy | Kind::Draining) => "[too short to look]".into(),
        None => String::new(),
    };
    let path = format!("{thread};{};{place}", kind.word());
    path.trim_end_matches(';').into()
}
