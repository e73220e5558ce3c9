//! A listener over time: arrivals, accepts and depth, second by second; of a long run in wider steps.

use std::collections::VecDeque;

/// Seconds that the rates of now are of.
const RATE_OF: u64 = 5;

/// A second to begin with, in nanoseconds.
const WIDTH_NS: u64 = 1_000_000_000;

/// Steps at most; then pairs of them become one.
const MOST: usize = 600;

/// What happened in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Connections that entered the accept queue.
    pub arrived: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// The greatest depth.
    pub depth: u32,
    /// The limit, where it is known.
    pub limit: Option<u32>,
}

/// All steps since the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// When the first begins, in nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// How long each is.
    pub width_ns: u64,
    /// One after the other. A step in which nothing happened has the depth and the limit before it.
    pub steps: Vec<Step>,
    depth: u32,
    limit: Option<u32>,
    /// The last seconds, however wide the steps are by now.
    lately: VecDeque<Second>,
}

/// What happened in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Second {
    /// Which, from the beginning.
    number: u64,
    arrived: u64,
    accepted: u64,
}

impl Course {
    /// Begins now.
    pub fn new(began_ns: u64) -> Self {
        Self { began_ns, width_ns: WIDTH_NS, steps: Vec::new(), depth: 0, limit: None, lately: VecDeque::new() }
    }

    /// So many more entered.
    pub fn arrive(&mut self, at_ns: u64, count: u64) {
        self.at(at_ns).arrived += count;
        self.second(at_ns).arrived += count;
    }

    /// So many more were accepted.
    pub fn accept(&mut self, at_ns: u64, count: u64) {
        self.at(at_ns).accepted += count;
        self.second(at_ns).accepted += count;
    }

    /// The depth is this; `peak` is the greatest since it was told last.
    pub fn deepen(&mut self, at_ns: u64, depth: u32, peak: u32, limit: Option<u32>) {
        let limit = limit.or(self.limit);
        let step = self.at(at_ns);
        step.depth = step.depth.max(peak).max(depth);
        step.limit = limit;
        (self.depth, self.limit) = (depth, limit);
    }

    /// Nothing more happens until then.
    pub fn until(&mut self, now_ns: u64) {
        self.at(now_ns);
        self.second(now_ns);
    }

    /// Arrivals and accepts per second, of the last few that are over.
    pub fn rates(&self) -> (u64, u64) {
        let now = self.lately.back().map_or(0, |last| last.number);
        let over = self.lately.iter().filter(|second| (now.saturating_sub(RATE_OF)..now).contains(&second.number));
        let mean = |sum: u64| sum.div_ceil(now.clamp(1, RATE_OF));
        (mean(over.clone().map(|it| it.arrived).sum()), mean(over.map(|it| it.accepted).sum()))
    }

    /// The greatest arrivals in a step, per second.
    pub fn busiest_per_second(&self) -> u64 {
        let most = self.steps.iter().map(|step| step.arrived).max().unwrap_or(0);
        most * WIDTH_NS / self.width_ns
    }

    fn second(&mut self, at_ns: u64) -> &mut Second {
        let number = at_ns.saturating_sub(self.began_ns) / WIDTH_NS;
        if self.lately.back().is_none_or(|last| last.number < number) {
            self.lately.push_back(Second { number, ..Second::default() });
        }
        while self.lately.len() as u64 > RATE_OF + 1 {
            self.lately.pop_front();
        }
        // Events may be some microseconds out of order.
        let index = self.lately.iter().rposition(|second| second.number <= number).unwrap_or(0);
        &mut self.lately[index]
    }

    fn at(&mut self, at_ns: u64) -> &mut Step {
        let since_ns = at_ns.saturating_sub(self.began_ns);
        while since_ns / self.width_ns >= MOST as u64 {
            self.halve();
        }
        let index = usize::try_from(since_ns / self.width_ns).unwrap_or(MOST - 1);
        let quiet = Step { depth: self.depth, limit: self.limit, ..Step::default() };
        if self.steps.len() <= index {
            self.steps.resize(index + 1, quiet);
        }
        &mut self.steps[index]
    }

    fn halve(&mut self) {
        let pair = |pair: &[Step]| {
            pair.iter().fold(Step::default(), |sum, step| Step {
                arrived: sum.arrived + step.arrived,
                accepted: sum.accepted + step.accepted,
                depth: sum.depth.max(step.depth),
                limit: step.limit,
            })
        };
        self.steps = self.steps.chunks(2).map(pair).collect();
        self.width_ns *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = WIDTH_NS;

    #[test]
    fn a_quiet_second_keeps_the_depth_before_it() {
        let mut course = Course::new(S);
        course.arrive(S, 1);
        course.deepen(S + 1, 3, 4, Some(5));
        course.accept(4 * S, 1);
        let quiet = Step { depth: 3, limit: Some(5), ..Step::default() };
        let first = Step { arrived: 1, depth: 4, ..quiet };
        assert_eq!(course.steps, [first, quiet, quiet, Step { accepted: 1, ..quiet }]);
    }

    #[test]
    fn a_long_run_loses_no_arrival() {
        let mut course = Course::new(0);
        (0..5_000).for_each(|second| course.arrive(second * S, 1));
        assert!(course.steps.len() <= MOST);
        assert_eq!(course.steps.iter().map(|step| step.arrived).sum::<u64>(), 5_000);
        assert_eq!((course.width_ns, course.busiest_per_second()), (16 * S, 1));
        assert_eq!(course.rates(), (1, 0), "of seconds, not of steps");
        (0..10).for_each(|_| course.accept(5_001 * S, 1));
        assert_eq!(course.rates(), (1, 0), "this one is not over");
        course.until(5_002 * S);
        assert_eq!(course.rates(), (1, 2));
        course.until(5_020 * S);
        assert_eq!(course.rates(), (0, 0));
    }
}
