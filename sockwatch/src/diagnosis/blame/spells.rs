//! When somebody waited.

/// Spells that are kept; of more, the later are not known.
const MOST: usize = 1 << 20;

/// The times during which an accept queue was not empty, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spells {
    over: Vec<(u64, u64)>,
    since_ns: Option<u64>,
}

impl Spells {
    /// Somebody waits since then, or nobody waits any more.
    pub fn mark(&mut self, at_ns: u64, waits_since_ns: Option<u64>) {
        match (self.since_ns, waits_since_ns) {
            (None, Some(since_ns)) if self.over.len() < MOST => {
                let ended_ns = self.over.last().map_or(0, |(_, to_ns)| *to_ns);
                self.since_ns = Some(since_ns.max(ended_ns));
            }
            (Some(since_ns), None) => {
                if at_ns > since_ns {
                    self.over.push((since_ns, at_ns));
                }
                self.since_ns = None;
            }
            (None, Some(_) | None) | (Some(_), Some(_)) => {}
        }
    }

    /// How much of a time somebody waited.
    pub fn within(&self, from_ns: u64, to_ns: u64) -> u64 {
        let first = self.over.partition_point(|(_, end_ns)| *end_ns <= from_ns);
        let common = |begin_ns: u64, end_ns: u64| end_ns.min(to_ns).saturating_sub(begin_ns.max(from_ns));
        let over = self.over[first..].iter().take_while(|(begin_ns, _)| *begin_ns < to_ns);
        let over_ns: u64 = over.map(|(begin_ns, end_ns)| common(*begin_ns, *end_ns)).sum();
        over_ns + self.since_ns.map_or(0, |since_ns| common(since_ns, u64::MAX))
    }

    /// Whether somebody waited then.
    pub fn covers(&self, at_ns: u64) -> bool {
        self.within(at_ns, at_ns + 1) > 0
    }

    /// Whether somebody ever waited.
    pub fn any(&self) -> bool {
        self.since_ns.is_some() || !self.over.is_empty()
    }
}
