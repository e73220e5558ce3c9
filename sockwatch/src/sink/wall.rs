//! The time of day, as it went on while something was recorded: it moves against the events' clock when somebody sets it, and
//! while the machine sleeps.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use super::{quantity::Short, time_of_day::utc};

/// Two clocks cannot be read at once: what differs by less has not moved. The kernel slews both alike.
pub const NOTABLE_NS: u64 = 1_000_000;

/// Moves that are remembered. Of more, the oldest are taken back: a file may say what it likes.
const MOST: usize = 10_000;

/// From some time on, the Unix time when `CLOCK_MONOTONIC` was 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    from_ns: u64,
    offset_ns: u64,
}

/// Whether a clock shows the same for both.
fn is_same(one_ns: u64, other_ns: u64) -> bool {
    one_ns.abs_diff(other_ns) < NOTABLE_NS
}

/// A move of the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// `CLOCK_MONOTONIC` when it was noticed, in nanoseconds.
    pub at_ns: u64,
    /// The Unix time that it moved to, in nanoseconds.
    pub to_unix_ns: u64,
    /// By how many nanoseconds.
    pub moved_ns: i64,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, by) = (utc(self.to_unix_ns), Short(self.moved_ns));
        write!(f, "the time of day moved by {by} to {to} UTC")
    }
}

/// Tells the time of day. Whoever reads a recording tells it of moves; all clones know them.
#[derive(Clone, Debug)]
pub struct Wall(
    /// By time, and never empty.
    Arc<RwLock<Vec<Pair>>>,
);

/// 1970 began with `CLOCK_MONOTONIC`.
impl Default for Wall {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Wall {
    /// The Unix time when `CLOCK_MONOTONIC` was 0, as long as nothing else is told.
    pub fn of(offset_ns: u64) -> Self {
        Self(Arc::new(RwLock::new(vec![Pair { from_ns: 0, offset_ns }])))
    }

    /// From then on it is this one.
    pub fn tell(&self, at_ns: u64, offset_ns: u64) {
        let mut pairs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let next = pairs.partition_point(|pair| pair.from_ns <= at_ns);
        if next.checked_sub(1).is_some_and(|last| is_same(pairs[last].offset_ns, offset_ns)) {
            return;
        }
        // A file's header may tell before the rows that were waiting to be written when it was begun.
        match pairs.get_mut(next) {
            Some(later) if is_same(later.offset_ns, offset_ns) => later.from_ns = at_ns,
            Some(_) | None => pairs.insert(next, Pair { from_ns: at_ns, offset_ns }),
        }
        if pairs.len() > MOST {
            pairs.remove(0);
        }
    }

    /// The Unix time then, in nanoseconds.
    pub fn unix_ns(&self, at_ns: u64) -> u64 {
        at_ns.saturating_add(self.pair(at_ns).offset_ns)
    }

    /// When it was this Unix time, of those whose last move was before `near_ns`: not before that move.
    pub fn monotonic_ns(&self, unix_ns: u64, near_ns: u64) -> u64 {
        let Pair { from_ns, offset_ns } = self.pair(near_ns);
        unix_ns.saturating_sub(offset_ns).max(from_ns)
    }

    /// The moves, in their order.
    pub fn moves(&self) -> Vec<Move> {
        let pairs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let between = pairs.array_windows().map(|[before, after]| Move {
            at_ns: after.from_ns,
            to_unix_ns: after.from_ns.saturating_add(after.offset_ns),
            moved_ns: after.offset_ns.wrapping_sub(before.offset_ns).cast_signed(),
        });
        between.collect()
    }

    fn pair(&self, at_ns: u64) -> Pair {
        let pairs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let next = pairs.partition_point(|pair| pair.from_ns <= at_ns);
        pairs[next.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: u64 = 3_600_000_000_000;

    #[test]
    fn each_time_is_told_by_the_pair_before_it() {
        let wall = Wall::of(HOUR_NS);
        wall.tell(500, HOUR_NS + NOTABLE_NS - 1);
        assert_eq!(wall.moves(), [], "two clocks were not read at once");
        wall.tell(1_000, 3 * HOUR_NS);
        wall.tell(2_000, 2 * HOUR_NS);
        assert_eq!([0, 999, 1_000, 2_000].map(|at_ns| wall.unix_ns(at_ns) / HOUR_NS), [1, 1, 3, 2]);
        let moves: Vec<_> = wall.moves().iter().map(|it| (it.at_ns, it.moved_ns / HOUR_NS.cast_signed())).collect();
        assert_eq!(moves, [(1_000, 2), (2_000, -1)]);
        assert_eq!(wall.clone().unix_ns(1_000), wall.unix_ns(1_000));
    }

    /// The rows of a batch are older than the header of the file that was begun for it.
    #[test]
    fn what_is_told_later_may_be_earlier() {
        let wall = Wall::of(HOUR_NS);
        wall.tell(1_000, 3 * HOUR_NS);
        wall.tell(600, 3 * HOUR_NS);
        wall.tell(700, 3 * HOUR_NS);
        wall.tell(300, 2 * HOUR_NS);
        let moves: Vec<_> = wall.moves().iter().map(|it| it.at_ns).collect();
        assert_eq!(moves, [300, 600]);
    }

    /// 09:00 may come twice, or never.
    #[test]
    fn a_time_of_day_is_found() {
        let wall = Wall::of(HOUR_NS);
        wall.tell(1_000, 3 * HOUR_NS);
        assert_eq!(wall.monotonic_ns(HOUR_NS + 900, 900), 900);
        assert_eq!(wall.monotonic_ns(2 * HOUR_NS, 1_500), 1_000, "it was left out by the move");
        assert_eq!(wall.monotonic_ns(3 * HOUR_NS + 1_200, 1_500), 1_200);
    }

    #[test]
    fn no_file_makes_it_grow_for_ever() {
        let wall = Wall::of(0);
        (1..=2 * MOST as u64).for_each(|number| wall.tell(number * 10, (number % 2 + 1) * HOUR_NS));
        assert_eq!(wall.moves().len(), MOST - 1);
        assert!(wall.unix_ns(0) > 0);
    }
}
