//! How fast a number has grown lately.

use std::collections::VecDeque;

/// The last ten seconds are remembered, counted in steps.
pub(super) const WINDOW_NS: u64 = 10_000_000_000;
pub(super) const STEP_NS: u64 = 100_000_000;

/// Steps: how much it has grown in each.
#[derive(Debug, Default)]
pub(super) struct Pace(VecDeque<(u64, i64)>);

impl Pace {
    /// It grows.
    pub(super) fn grow(&mut self, at_ns: u64, by: i64) {
        let step = at_ns / STEP_NS;
        match self.0.back_mut() {
            // Events may be some microseconds out of order.
            Some((last, growth)) if *last >= step => *growth += by,
            _ => self.0.push_back((step, by)),
        }
        let oldest = step.saturating_sub(WINDOW_NS / STEP_NS);
        while self.0.front().is_some_and(|(step, _)| *step < oldest) {
            self.0.pop_front();
        }
    }

    /// How much it has grown since then; a step counts as a whole.
    pub(super) fn since(&self, since_ns: u64) -> u64 {
        let recent = self.0.iter().filter(|(step, _)| step * STEP_NS >= since_ns / STEP_NS * STEP_NS);
        recent.map(|(_, growth)| growth).sum::<i64>().max(0).unsigned_abs()
    }
}
