//! When a thread asked for events, and when it accepted: who asked while somebody waited, and has not accepted since, handles
//! other events first.

use std::collections::BTreeMap;

/// Steps that are kept between two looks.
const MOST: usize = 1 << 12;

/// What it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It was back from waiting for events.
    Asked,
    /// It accepted.
    Accepted,
}

/// The steps of one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    steps: BTreeMap<u64, Step>,
    /// When it asked last before all of them, if it has not accepted since.
    asked_ns: Option<u64>,
}

impl Rounds {
    pub(super) fn put(&mut self, at_ns: u64, step: Step) {
        self.steps.insert(at_ns, step);
        if self.steps.len() > MOST
            && let Some((at_ns, step)) = self.steps.pop_first()
        {
            self.asked_ns = asked(at_ns, step);
        }
    }

    /// When it had asked last at a time, if it had not accepted since.
    pub(super) fn asked_ns(&self, at_ns: u64) -> Option<u64> {
        let last = self.steps.range(..=at_ns).next_back();
        last.map_or(self.asked_ns, |(at_ns, step)| asked(*at_ns, *step))
    }

    /// Cuts a time where it took a step, each piece with when it had asked; what is before its end is forgotten.
    pub(super) fn cut(&mut self, from_ns: u64, to_ns: u64) -> Vec<(u64, u64, Option<u64>)> {
        let (mut pieces, mut begin_ns) = (Vec::new(), from_ns);
        while let Some(entry) = self.steps.first_entry().filter(|entry| *entry.key() < to_ns) {
            let (at_ns, step) = entry.remove_entry();
            if at_ns > begin_ns {
                pieces.push((begin_ns, at_ns, self.asked_ns));
                begin_ns = at_ns;
            }
            self.asked_ns = asked(at_ns, step);
        }
        pieces.push((begin_ns, to_ns, self.asked_ns));
        pieces
    }
}

fn asked(at_ns: u64, step: Step) -> Option<u64> {
    match step {
        Step::Asked => Some(at_ns),
        Step::Accepted => None,
    }
}
