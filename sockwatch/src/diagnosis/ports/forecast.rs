//! When no port is left.

/// Nobody knows what is after that.
const HORIZON_NS: f64 = 600e9;

/// Ports that are taken each nanosecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressure {
    /// All of them.
    pub(super) rate: f64,
    /// Those of them that stay with connections which are not closed.
    pub(super) leaks: f64,
}

/// In how many nanoseconds `used` ports become all of `capacity`. Those that `TIME_WAIT` keeps come back after `left_ns`, the
/// soonest first; from `holds_ns` on as many come back as are taken, but for those that stay. `None`: it does not come to that.
pub(super) fn exhausted_in_ns(
    used: u64,
    capacity: u64,
    Pressure { rate, leaks }: Pressure,
    left_ns: &[u64],
    holds_ns: u64,
) -> Option<u64> {
    if rate <= 0.0 {
        return (used >= capacity).then_some(0);
    }
    let (mut used, mut at_ns) = (used as f64, 0.0);
    for until_ns in left_ns.iter().map(|left_ns| (*left_ns).min(holds_ns)).chain([holds_ns]) {
        let full_ns = at_ns + (capacity as f64 - used).max(0.0) / rate;
        if full_ns <= until_ns as f64 {
            return Some(full_ns.round() as u64);
        }
        used += rate * (until_ns as f64 - at_ns) - 1.0;
        at_ns = until_ns as f64;
    }
    let full_ns = at_ns + (capacity as f64 - used) / leaks;
    (leaks > 0.0 && full_ns <= HORIZON_NS).then_some(full_ns.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// Nothing stays.
    fn rate(rate: f64) -> Pressure {
        Pressure { rate, leaks: 0.0 }
    }

    /// `per_second` are taken, for `since` seconds: when are 1000 of them?
    #[track_caller]
    fn check(per_second: u64, since: u64, expected_s: Option<f64>) {
        let taken = per_second * since;
        let left: Vec<_> = (0..taken).map(|index| 60 * S - since * S + index * S / per_second).collect();
        let told = exhausted_in_ns(taken, 1000, rate(per_second as f64 / 1e9), &left, 60 * S);
        match (told, expected_s) {
            (Some(ns), Some(expected)) => assert!((ns as f64 / 1e9 - expected).abs() < 0.1, "{ns} {expected}"),
            (told, expected) => assert_eq!((told, expected), (None, None)),
        }
    }

    #[test]
    fn a_rate_that_60_seconds_do_not_give_back() {
        check(100, 0, Some(10.0));
        check(100, 4, Some(6.0));
        check(20, 10, Some(40.0));
        check(17, 58, Some(0.8));
    }

    #[test]
    fn a_rate_that_comes_back_in_time() {
        check(16, 0, None);
        check(16, 59, None);
        check(1, 30, None);
    }

    /// Enough come back before the last one is taken.
    #[test]
    fn what_was_there_before_goes_first() {
        let left: Vec<_> = (0..900).map(|index| S + index).collect();
        assert_eq!(exhausted_in_ns(900, 1000, rate(50.0 / 1e9), &left, 60 * S), Some(20 * S));
        assert_eq!(exhausted_in_ns(900, 1000, rate(10.0 / 1e9), &left, 60 * S), None);
    }

    /// 300 of 1000 are open, five more each second stay open, and nothing else happens: it takes longer than any `TIME_WAIT`.
    #[test]
    fn connections_that_stay_open_take_ports_for_ever() {
        let leaks = |per_second: f64| Pressure { rate: per_second / 1e9, leaks: per_second / 1e9 };
        let told = exhausted_in_ns(300, 1000, leaks(5.0), &[], 60 * S).map(|ns| ns / S);
        assert_eq!(told, Some(140));
        assert_eq!(exhausted_in_ns(300, 1000, leaks(5.0), &[], S).map(|ns| ns / S), Some(140));
        assert_eq!(exhausted_in_ns(300, 1000, leaks(1.0), &[], 60 * S), None);
        // Of ten each second half stay; the others come back after a minute.
        let half = Pressure { rate: 10.0 / 1e9, leaks: 5.0 / 1e9 };
        assert_eq!(exhausted_in_ns(0, 1000, half, &[], 60 * S).map(|ns| ns / S), Some(140));
    }

    #[test]
    fn all_are_taken() {
        assert_eq!(exhausted_in_ns(10, 10, rate(0.0), &[], 60 * S), Some(0));
        assert_eq!(exhausted_in_ns(10, 10, rate(1.0), &[], 60 * S), Some(0));
        assert_eq!(exhausted_in_ns(9, 10, rate(0.0), &[], 60 * S), None);
    }
}
