//! How long connections waited, over time: a count for each step and length.

use serde::Serialize;

use super::steps::{Step, Steps};

/// The shortest length that is told apart, in nanoseconds.
const SHORTEST_NS: u64 = 1_000;

/// Lengths in an octave.
const PER_OCTAVE: f64 = 4.0;

/// Octaves above the shortest: up to 18 minutes.
const OCTAVES: usize = 30;

const LENGTHS: usize = OCTAVES * PER_OCTAVE as usize + 1;

/// Counts by length.
#[derive(Clone, Debug)]
struct Counts(Box<[u32; LENGTHS]>, u64);

impl Default for Counts {
    fn default() -> Self {
        Self(Box::new([0; LENGTHS]), 0)
    }
}

impl Step for Counts {
    fn merge(&mut self, later: &Self) {
        for (count, later) in self.0.iter_mut().zip(later.0.iter()) {
            *count = count.saturating_add(*later);
        }
        self.1 = self.1.max(later.1);
    }

    fn following(&self) -> Self {
        Self::default()
    }
}

/// Waits in the making.
pub(super) struct Heat(Steps<Counts>);

/// Waits over time.
#[derive(Clone, Debug, Serialize)]
pub struct HeatMap {
    /// How long a step is, in nanoseconds.
    pub step_ns: u64,
    /// Where each length begins, in nanoseconds; the first one begins at nothing.
    pub lengths_ns: Vec<u64>,
    /// Step, length and count, of each count that is not 0.
    pub cells: Vec<(usize, usize, u32)>,
    /// By step, in nanoseconds; `None` where nobody came.
    pub p50_ns: Vec<Option<u64>>,
    /// The same of the slowest tenth.
    pub p90_ns: Vec<Option<u64>>,
    /// The same of the slowest hundredth.
    pub p99_ns: Vec<Option<u64>>,
    /// The longest.
    pub max_ns: Vec<Option<u64>>,
}

impl Heat {
    pub(super) fn new(began_ns: u64) -> Self {
        Self(Steps::new(began_ns))
    }

    pub(super) fn add(&mut self, at_ns: u64, wait_ns: u64) {
        let Counts(counts, longest_ns) = self.0.at(at_ns);
        let count = &mut counts[length(wait_ns)];
        *count = count.saturating_add(1);
        *longest_ns = wait_ns.max(*longest_ns);
    }

    pub(super) fn map(mut self, ended_ns: u64) -> HeatMap {
        self.0.at(ended_ns);
        let Steps { width_ns, steps, .. } = self.0;
        let cells = steps.iter().enumerate().flat_map(|(step, Counts(counts, _))| {
            counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .map(move |(length, count)| (step, length, *count))
        });
        let percentiles = |share: f64| steps.iter().map(|step| percentile(step, share)).collect();
        HeatMap {
            step_ns: width_ns,
            lengths_ns: (0..LENGTHS).map(begin_ns).collect(),
            cells: cells.collect(),
            p50_ns: percentiles(0.5),
            p90_ns: percentiles(0.9),
            p99_ns: percentiles(0.99),
            max_ns: steps.iter().map(|step| is_any(step).then_some(step.1)).collect(),
        }
    }
}

fn is_any(Counts(counts, _): &Counts) -> bool {
    counts.iter().any(|count| *count > 0)
}

/// The end of the length in which it is, but never more than the longest: right to within a fifth.
fn percentile(Counts(counts, longest_ns): &Counts, share: f64) -> Option<u64> {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let rank = (total as f64 * share).ceil().max(1.0) as u64;
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += u64::from(*count);
        seen >= rank
    })?;
    Some(begin_ns(found + 1).min(*longest_ns))
}

fn length(wait_ns: u64) -> usize {
    if wait_ns < SHORTEST_NS {
        return 0;
    }
    let octaves = (wait_ns as f64 / SHORTEST_NS as f64).log2();
    ((octaves * PER_OCTAVE) as usize + 1).min(LENGTHS - 1)
}

fn begin_ns(length: usize) -> u64 {
    match length {
        0 => 0,
        _ => (SHORTEST_NS as f64 * ((length - 1) as f64 / PER_OCTAVE).exp2()) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_its_length() {
        for wait_ns in [0, 1, 999, 1_000, 1_500, 12_345, 1_000_000, 3_600_000_000_000] {
            let its = length(wait_ns);
            assert!(begin_ns(its) <= wait_ns, "{wait_ns}");
            assert!(its == LENGTHS - 1 || begin_ns(its + 1) >= wait_ns, "{wait_ns}");
        }
    }

    #[test]
    fn percentiles_are_right_to_within_a_fifth() {
        let mut heat = Heat::new(0);
        (1..=1_000).for_each(|wait_us| heat.add(5, wait_us * 1_000));
        let map = heat.map(250_000_000);
        let near = |told: Option<u64>, right_ns: u64| {
            let told = told.unwrap();
            assert!(told >= right_ns && told <= right_ns * 6 / 5, "{told} {right_ns}");
        };
        near(map.p50_ns[0], 500_000);
        near(map.p90_ns[0], 900_000);
        near(map.p99_ns[0], 990_000);
        assert_eq!(map.max_ns, [Some(1_000_000), None, None], "nobody came later");
        assert_eq!(map.cells.iter().map(|(.., count)| *count).sum::<u32>(), 1_000);
    }
}
