//! Durations and times as people read them, in few columns.

use std::fmt;

/// Nanoseconds in at most six columns, with a unit: `850ns`, `12.3us`, `1.20s`, `2m05s`, `26h03m`.
#[derive(Clone, Copy, Debug)]
pub struct Short(pub i64);

const UNITS: [(u64, &str); 4] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Column::default();
        write(&mut text, self.0)?;
        f.pad(text.as_str())
    }
}

fn write(f: &mut impl fmt::Write, nanoseconds: i64) -> fmt::Result {
    if nanoseconds < 0 {
        f.write_char('-')?;
    }
    let value = nanoseconds.unsigned_abs();
    let seconds = value / 1_000_000_000;
    if seconds >= 3600 {
        return write!(f, "{}h{:02}m", seconds / 3600, seconds / 60 % 60);
    }
    if seconds >= 100 {
        return write!(f, "{}m{:02}s", seconds / 60, seconds % 60);
    }
    let (size, unit) = UNITS.into_iter().find(|(size, _)| value >= *size).unwrap_or((1, "ns"));
    let (whole, thousandths) = (value / size, value % size * 1000 / size);
    match whole {
        _ if size == 1 => write!(f, "{whole}{unit}"),
        0..=9 => write!(f, "{whole}.{:02}{unit}", thousandths / 10),
        10..=99 => write!(f, "{whole}.{}{unit}", thousandths / 100),
        _ => write!(f, "{whole}{unit}"),
    }
}

/// Bytes with three digits and a unit: `850 B`, `1.23 MB`, `45.6 GB`.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        let Some((size, unit)) = units.into_iter().find(|(size, _)| self.0 >= *size) else {
            return write!(f, "{} B", self.0);
        };
        let value = self.0 as f64 / size as f64;
        let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        write!(f, "{value:.decimals$} {unit}")
    }
}

/// A small text on the stack: formatting one must not allocate, it happens for every event.
#[derive(Default)]
pub(crate) struct Column {
    bytes: [u8; 32],
    length: usize,
}

impl Column {
    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Write for Column {
    /// Takes what fits, up to a character's end.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - self.length;
        let taken = text.floor_char_boundary(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let check = |nanoseconds, expected| assert_eq!(Short(nanoseconds).to_string(), expected);
        check(0, "0ns");
        check(850, "850ns");
        check(1_000, "1.00us");
        check(12_345, "12.3us");
        check(999_999, "999us");
        check(1_204_000_000, "1.20s");
        check(99_900_000_000, "99.9s");
        check(125_000_000_000, "2m05s");
        check(93_780_000_000_000, "26h03m");
        check(-1_500, "-1.50us");
    }

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        let check = |bytes, expected| assert_eq!(Size(bytes).to_string(), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(1_234, "1.23 kB");
        check(45_600_000, "45.6 MB");
        check(999_400_000, "999 MB");
        check(7_000_000_000_000, "7.00 TB");
    }

    proptest! {
        #[test]
        fn six_columns_hold_four_days(nanoseconds in 0_i64..360_000_000_000_000) {
            prop_assert!(Short(nanoseconds).to_string().len() <= 6);
        }
    }
}
