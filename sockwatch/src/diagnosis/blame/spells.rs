//! When somebody waited for long.

/// Who waits so long, waits for long, whatever else counts as slow: so late is told what threads did meanwhile.
const LONG_NS: u64 = 1_000_000_000;

/// Spells that are kept; of more, the later are not known.
const MOST: usize = 1 << 20;

/// The times during which an accept queue held somebody who waited for long, one after the other: everybody is in the queue for
/// an instant, and what threads did in these instants says nothing of those that last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spells {
    over: Vec<(u64, u64)>,
    since_ns: Option<u64>,
}

/// From which wait on it is a long one, if those of `slow_ns` are slow.
pub fn long_ns(slow_ns: u64) -> u64 {
    slow_ns.min(LONG_NS)
}

impl Spells {
    /// Somebody waited from then to then.
    pub fn put(&mut self, from_ns: u64, to_ns: u64) {
        if from_ns >= to_ns || self.over.len() >= MOST {
            return;
        }
        let first = self.over.partition_point(|(_, end_ns)| *end_ns < from_ns);
        let next = self.over.partition_point(|(begin_ns, _)| *begin_ns <= to_ns);
        let touched = &self.over[first..next];
        let from_ns = touched.first().map_or(from_ns, |(begin_ns, _)| from_ns.min(*begin_ns));
        let to_ns = touched.last().map_or(to_ns, |(_, end_ns)| to_ns.max(*end_ns));
        self.over.splice(first..next, [(from_ns, to_ns)]);
    }

    /// Somebody has waited since then and still does, or nobody does.
    pub fn leave_open(&mut self, since_ns: Option<u64>) {
        let ended_ns = self.over.last().map_or(0, |(_, to_ns)| *to_ns);
        self.since_ns = since_ns.map(|since_ns| since_ns.max(ended_ns));
    }

    /// How much of a time somebody waited.
    pub fn within(&self, from_ns: u64, to_ns: u64) -> u64 {
        let first = self.over.partition_point(|(_, end_ns)| *end_ns <= from_ns);
        let common = |begin_ns: u64, end_ns: u64| end_ns.min(to_ns).saturating_sub(begin_ns.max(from_ns));
        let over = self.over[first..].iter().take_while(|(begin_ns, _)| *begin_ns < to_ns);
        let over_ns: u64 = over.map(|(begin_ns, end_ns)| common(*begin_ns, *end_ns)).sum();
        over_ns + self.since_ns.map_or(0, |since_ns| common(since_ns, u64::MAX))
    }

    /// How much of a time somebody waited in the spell that there was at `of_ns`, before it.
    pub(super) fn within_that_of(&self, of_ns: Option<u64>, from_ns: u64, to_ns: u64) -> u64 {
        let Some(of_ns) = of_ns else { return 0 };
        let over = self.over.get(self.over.partition_point(|(_, end_ns)| *end_ns <= of_ns));
        let open = self.since_ns.map(|since_ns| (since_ns, u64::MAX));
        let that =
            over.copied().into_iter().chain(open).find(|(begin_ns, end_ns)| (*begin_ns..*end_ns).contains(&of_ns));
        that.map_or(0, |(begin_ns, end_ns)| end_ns.min(to_ns).saturating_sub(begin_ns.max(from_ns)))
    }

    /// Whether somebody waited then.
    pub fn covers(&self, at_ns: u64) -> bool {
        self.within(at_ns, at_ns + 1) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spells_that_touch_become_one() {
        let mut spells = Spells::default();
        for (from_ns, to_ns) in [(10, 20), (40, 50), (20, 25), (1, 2), (30, 30), (24, 41)] {
            spells.put(from_ns, to_ns);
        }
        assert_eq!(spells.over, [(1, 2), (10, 50)]);
        spells.leave_open(Some(45));
        assert_eq!(spells.within(0, 60), 1 + 50);
        spells.leave_open(None);
        assert_eq!(spells.within(0, 60), 1 + 40);
    }

    proptest! {
        #[test]
        fn every_instant_counts_once(all in proptest::collection::vec((0_u64..100, 0_u64..100), 0..40)) {
            let mut spells = Spells::default();
            all.iter().for_each(|(from_ns, to_ns)| spells.put(*from_ns, *to_ns));
            let waited = |at: u64| all.iter().any(|(from_ns, to_ns)| (*from_ns..*to_ns).contains(&at));
            prop_assert_eq!(spells.within(0, 100), (0..100).filter(|at| waited(*at)).count() as u64);
            prop_assert!(spells.over.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
