//! Times in buckets: cheap to add to, and of a fixed size.

/// The buckets' upper bounds, each inclusive, in nanoseconds: 1, 2, 5 from 10 µs to 100 s. What took longer is in a
/// last one.
pub const BOUNDS_NS: [u64; 22] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    50_000_000_000,
    100_000_000_000,
];

/// How many times fell into each bucket, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDS_NS.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    /// Adds a time. A negative one (accepted before it was queued: Fast Open) is none at all.
    pub(super) fn add(&mut self, ns: i64) {
        let ns = ns.max(0).unsigned_abs();
        self.counts[BOUNDS_NS.partition_point(|bound_ns| *bound_ns < ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds all of another.
    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many times there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Each bucket's upper bound in seconds, the last one infinite, and how many are in it and in none below.
    pub fn buckets(&self) -> [(f64, u64); BOUNDS_NS.len() + 1] {
        std::array::from_fn(|at| {
            let bound = BOUNDS_NS.get(at).map_or(f64::INFINITY, |ns| *ns as f64 / 1e9);
            (bound, self.counts[at])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ns: i64, bound: f64) {
        let mut histogram = Histogram::default();
        histogram.add(ns);
        let within: Vec<_> = histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(within, [(bound, 1)], "{ns}");
    }

    #[test]
    fn bounds_are_inclusive() {
        check(-5, 1e-5);
        check(10_000, 1e-5);
        check(10_001, 2e-5);
        check(200_000_000, 0.2);
        check(200_000_001, 0.5);
        check(100_000_000_000, 100.0);
        check(100_000_000_001, f64::INFINITY);
        check(i64::MAX, f64::INFINITY);
    }

    #[test]
    fn what_is_merged_is_added_up() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.add(15_000);
        other.add(15_000);
        other.add(1_000_000_000);
        one.merge(&other);
        assert_eq!((one.count(), one.sum_ns()), (3, 1_000_030_000));
        assert_eq!(one.buckets()[1], (2e-5, 2));
    }
}
