//! Medians: one slow run must not move a result.

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(values[middle - 1], upper))
}

/// The smallest and the largest value; `None` of nothing.
pub(super) fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().fold(None, |range, value| {
        let (least, most) = range.unwrap_or((value, value));
        Some((least.min(value), most.max(value)))
    })
}

/// The order of turns in a round: everybody is first, second, ... equally often.
pub(super) fn rotated<T>(items: &[T], round: u32) -> impl Iterator<Item = &T> {
    let (before, from) = items.split_at(round as usize % items.len().max(1));
    from.iter().chain(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn ranges() {
        assert_eq!(range([]), None);
        assert_eq!(range([2.0, 1.0, 3.0]), Some((1.0, 3.0)));
    }

    #[test]
    fn turns_rotate() {
        let order = |round| rotated(&["a", "b", "c"], round).copied().collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
        assert_eq!(rotated::<u8>(&[], 1).count(), 0);
    }
}
