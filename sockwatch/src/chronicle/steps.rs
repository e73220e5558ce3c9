//! Time in steps of the same width. When there are too many, pairs of them become one.

/// The width to begin with, in nanoseconds.
const WIDTH_NS: u64 = 100_000_000;

/// Steps at most.
const MOST: usize = 360;

/// What a step holds.
pub(super) trait Step: Clone + Default {
    /// Takes in the step that follows.
    fn merge(&mut self, later: &Self);

    /// What a step holds in which nothing happens after this one.
    fn following(&self) -> Self;
}

/// All steps since the beginning.
#[derive(Clone, Debug)]
pub(super) struct Steps<S> {
    began_ns: u64,
    pub(super) width_ns: u64,
    pub(super) steps: Vec<S>,
}

impl<S: Step> Steps<S> {
    pub(super) fn new(began_ns: u64) -> Self {
        Self { began_ns, width_ns: WIDTH_NS, steps: Vec::new() }
    }

    /// The step of an instant. What was before the beginning is in the first.
    pub(super) fn at(&mut self, at_ns: u64) -> &mut S {
        let since_ns = at_ns.saturating_sub(self.began_ns);
        while since_ns / self.width_ns >= MOST as u64 {
            self.halve();
        }
        let index = (since_ns / self.width_ns) as usize;
        while self.steps.len() <= index {
            let next = self.steps.last().map(S::following).unwrap_or_default();
            self.steps.push(next);
        }
        &mut self.steps[index]
    }

    fn halve(&mut self) {
        let pairs = self.steps.chunks(2).map(|pair| {
            let mut merged = pair[0].clone();
            if let Some(later) = pair.get(1) {
                merged.merge(later);
            }
            merged
        });
        self.steps = pairs.collect();
        self.width_ns *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Count(u64);

    impl Step for Count {
        fn merge(&mut self, later: &Self) {
            self.0 += later.0;
        }

        fn following(&self) -> Self {
            Self(0)
        }
    }

    #[test]
    fn steps_get_wider_and_lose_nothing() {
        let mut steps = Steps::<Count>::new(1_000);
        for at in 0..100_000 {
            steps.at(1_000 + at * 10_000_000).0 += 1;
        }
        assert!(steps.steps.len() <= MOST && steps.steps.len() > MOST / 4, "{}", steps.steps.len());
        assert_eq!(steps.steps.iter().map(|count| count.0).sum::<u64>(), 100_000);
        let width = steps.width_ns / 10_000_000;
        assert_eq!(steps.steps[0].0, width);
        steps.at(0).0 += 1;
        assert_eq!(steps.steps[0].0, width + 1, "before the beginning");
    }
}
