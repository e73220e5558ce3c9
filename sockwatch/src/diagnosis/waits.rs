//! How long things took: a histogram, and what it says. Percentiles are right to within 1 %; count, mean, least and greatest are
//! exact.

use hdrhistogram::Histogram;

/// Two significant digits: buckets of 1 %, a few kB each.
const DIGITS: u8 = 2;

/// Durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Waits {
    histogram: Option<Histogram<u32>>,
    sum_ns: u128,
    count: u64,
    min_ns: u64,
    max_ns: u64,
    slow_ns: u64,
    slow: u64,
}

/// What a histogram says, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean_ns: u64,
    /// The least.
    pub min_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// Nine of ten took no longer.
    pub p90_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// 999 of 1000 took no longer.
    pub p999_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}

impl Waits {
    /// None yet; from `slow_ns` on they count as slow.
    pub fn new(slow_ns: u64) -> Self {
        Self { histogram: None, sum_ns: 0, count: 0, min_ns: u64::MAX, max_ns: 0, slow_ns, slow: 0 }
    }

    /// From now on, and of those that there are, others are slow.
    pub fn set_slow(&mut self, slow_ns: u64) {
        self.slow_ns = slow_ns;
        self.slow = self.histogram.as_ref().map_or(0, |histogram| histogram.count_between(slow_ns, u64::MAX));
    }

    /// Those that took so long or longer.
    #[must_use]
    pub fn from(&self, least_ns: u64) -> Self {
        let mut late = Self::new(self.slow_ns);
        let recorded = self.histogram.iter().flat_map(Histogram::iter_recorded);
        for bucket in recorded.filter(|bucket| bucket.value_iterated_to() >= least_ns) {
            late.add_many(
                bucket.value_iterated_to(),
                u32::try_from(bucket.count_since_last_iteration()).unwrap_or(u32::MAX),
            );
        }
        late
    }

    /// One more.
    pub fn add(&mut self, ns: u64) {
        self.add_many(ns, 1);
    }

    /// So many more.
    pub fn add_many(&mut self, ns: u64, count: u32) {
        if count == 0 {
            return;
        }
        // The bounds grow by themselves, and these digits are allowed.
        self.histogram = self.histogram.take().or_else(|| Histogram::new(DIGITS).ok());
        if let Some(histogram) = &mut self.histogram {
            let _never_too_large = histogram.record_n(ns, count);
        }
        self.sum_ns += u128::from(ns) * u128::from(count);
        self.count += u64::from(count);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
        if ns >= self.slow_ns {
            self.slow += u64::from(count);
        }
    }

    /// So many more, of which only this is known: how many lie around each duration, their sum and the longest of all.
    pub fn add_counted(&mut self, around: &[(u64, u32)], sum_ns: u64, longest_ns: u64) {
        let before_ns = self.sum_ns;
        for (ns, count) in around {
            self.add_many((*ns).min(longest_ns), *count);
        }
        self.sum_ns = before_ns + u128::from(sum_ns);
        if self.count > 0 {
            self.max_ns = self.max_ns.max(longest_ns);
        }
    }

    /// All of another's, too.
    pub fn merge(&mut self, other: &Self) {
        self.histogram = match (self.histogram.take(), &other.histogram) {
            (Some(mut ours), Some(theirs)) => {
                // Its bounds grow by themselves.
                let _never_too_large = ours.add(theirs);
                Some(ours)
            }
            (ours, theirs) => ours.or_else(|| theirs.clone()),
        };
        self.sum_ns += other.sum_ns;
        self.count += other.count;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.slow += other.slow;
    }

    /// How many lie in each octave: its beginning in nanoseconds, and a count; none left out between the first and the last.
    pub fn octaves(&self) -> Vec<(u64, u64)> {
        let Some(histogram) = &self.histogram else { return Vec::new() };
        let mut octaves: Vec<(u64, u64)> = Vec::new();
        for recorded in histogram.iter_recorded() {
            let begins_ns = 1 << recorded.value_iterated_to().max(1).ilog2();
            while let Some((last_ns, _)) = octaves.last().filter(|(last_ns, _)| last_ns * 2 < begins_ns) {
                octaves.push((last_ns * 2, 0));
            }
            match octaves.last_mut().filter(|(last_ns, _)| *last_ns == begins_ns) {
                Some((_, count)) => *count += recorded.count_since_last_iteration(),
                None => octaves.push((begins_ns, recorded.count_since_last_iteration())),
            }
        }
        octaves
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many were slow.
    pub fn slow(&self) -> u64 {
        self.slow
    }

    /// All of them together, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        u64::try_from(self.sum_ns).unwrap_or(u64::MAX)
    }

    /// What they say; `None` if there are none.
    pub fn spread(&self) -> Option<Spread> {
        let histogram = self.histogram.as_ref()?;
        let at = |quantile| histogram.value_at_quantile(quantile).clamp(self.min_ns, self.max_ns);
        Some(Spread {
            count: self.count,
            mean_ns: u64::try_from(self.sum_ns / u128::from(self.count.max(1))).unwrap_or(u64::MAX),
            min_ns: self.min_ns,
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: self.max_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn none_say_nothing() {
        assert_eq!(Waits::new(1).spread(), None);
    }

    #[test]
    fn one_is_all_of_it() {
        let mut waits = Waits::new(100);
        waits.add(123_456_789);
        let spread = waits.spread().unwrap();
        let all = [spread.mean_ns, spread.min_ns, spread.p50_ns, spread.p999_ns, spread.max_ns];
        assert_eq!((all, spread.count, waits.slow()), ([123_456_789; 5], 1, 1));
    }

    #[test]
    fn what_is_slow_may_change() {
        let mut waits = Waits::new(1_000);
        [10, 500, 2_000, 3_000].into_iter().for_each(|ns| waits.add(ns));
        assert_eq!((waits.slow(), waits.from(500).count()), (2, 3));
        waits.set_slow(100);
        waits.add(200);
        assert_eq!(waits.slow(), 4);
    }

    #[test]
    fn octaves_leave_none_out_between() {
        let mut waits = Waits::new(1);
        assert_eq!(waits.octaves(), []);
        [1_000, 1_010, 9_000].into_iter().for_each(|ns| waits.add(ns));
        assert_eq!(waits.octaves(), [(512, 2), (1_024, 0), (2_048, 0), (4_096, 0), (8_192, 1)]);
    }

    proptest! {
        /// Two halves together are the whole.
        #[test]
        fn merged_is_as_if_added(all in proptest::collection::vec(0_u64..10_000_000_000, 0..100), half in 0_usize..100) {
            let of = |some: &[u64]| {
                let mut waits = Waits::new(5_000);
                some.iter().for_each(|ns| waits.add(*ns));
                waits
            };
            let half = half.min(all.len());
            let mut merged = of(&all[..half]);
            merged.merge(&of(&all[half..]));
            let whole = of(&all);
            prop_assert_eq!(merged.spread(), whole.spread());
            prop_assert_eq!((merged.slow(), merged.octaves()), (whole.slow(), whole.octaves()));
        }

        /// The same percentiles as by sorting, within a bucket.
        #[test]
        fn percentiles_are_those_of_a_sorted_list(mut all in proptest::collection::vec(0_u64..10_000_000_000_000, 1..300)) {
            let mut waits = Waits::new(5_000);
            all.iter().for_each(|ns| waits.add(*ns));
            all.sort_unstable();
            let spread = waits.spread().unwrap();
            for (quantile, told) in [(0.5, spread.p50_ns), (0.9, spread.p90_ns), (0.99, spread.p99_ns)] {
                let rank = ((quantile * all.len() as f64).ceil() as usize).clamp(1, all.len());
                let exact = all[rank - 1];
                prop_assert!(told.abs_diff(exact) <= exact / 100 + 1, "{} {} {}", quantile, told, exact);
            }
            prop_assert_eq!((spread.min_ns, spread.max_ns), (all[0], all[all.len() - 1]));
            prop_assert_eq!(waits.slow(), all.iter().filter(|ns| **ns >= 5_000).count() as u64);
        }
    }
}
