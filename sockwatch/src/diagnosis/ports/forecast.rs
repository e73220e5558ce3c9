//! When no port is left.

/// In how many nanoseconds `used` ports become all of `capacity`, if `rate` more are taken each nanosecond. Those that
/// `TIME_WAIT` keeps come back after `left_ns`, the soonest first; from `holds_ns` on as many come back as are taken. `None`: it
/// does not come to that.
pub(super) fn exhausted_in_ns(used: u64, capacity: u64, rate: f64, left_ns: &[u64], holds_ns: u64) -> Option<u64> {
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
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// `per_second` are taken, for `since` seconds: when are 1000 of them?
    #[track_caller]
    fn check(per_second: u64, since: u64, expected_s: Option<f64>) {
        let taken = per_second * since;
        let left: Vec<_> = (0..taken).map(|index| 60 * S - since * S + index * S / per_second).collect();
        let told = exhausted_in_ns(taken, 1000, per_second as f64 / 1e9, &left, 60 * S);
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
        assert_eq!(exhausted_in_ns(900, 1000, 50.0 / 1e9, &left, 60 * S), Some(20 * S));
        assert_eq!(exhausted_in_ns(900, 1000, 10.0 / 1e9, &left, 60 * S), None);
    }

    #[test]
    fn all_are_taken() {
        assert_eq!(exhausted_in_ns(10, 10, 0.0, &[], 60 * S), Some(0));
        assert_eq!(exhausted_in_ns(10, 10, 1.0, &[], 60 * S), Some(0));
        assert_eq!(exhausted_in_ns(9, 10, 0.0, &[], 60 * S), None);
    }
}
