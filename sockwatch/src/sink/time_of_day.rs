//! Unix times as people read them, in UTC: recordings come from machines in any time zone.

use chrono::{DateTime, NaiveDateTime, NaiveTime, Timelike};

/// `2026-11-21 09:30:00.123`, from nanoseconds.
pub fn utc(unix_ns: u64) -> String {
    at(unix_ns).format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// `20261121T093000Z`, from nanoseconds: in files' names.
pub fn compact_utc(unix_ns: u64) -> String {
    at(unix_ns).format("%Y%m%dT%H%M%SZ").to_string()
}

/// A time as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// `2026-11-21 09:30:00.5`, in UTC, or RFC 3339 with a time zone: Unix time in nanoseconds.
    Unix(u64),
    /// `09:30:00.5`: nanoseconds since midnight, in UTC.
    OfDay(u64),
}

const DAY_NS: u64 = 86_400_000_000_000;

impl Written {
    /// `None` if it is no time.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(time) = NaiveTime::parse_from_str(text, "%H:%M:%S%.f") {
            let seconds = u64::from(time.num_seconds_from_midnight());
            return Some(Self::OfDay(seconds * 1_000_000_000 + u64::from(time.nanosecond())));
        }
        let unix = |time: DateTime<chrono::Utc>| time.timestamp_nanos_opt().and_then(|ns| u64::try_from(ns).ok());
        let zoned = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
        let naive = || NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|time| time.and_utc());
        unix(zoned.or_else(naive)?).map(Self::Unix)
    }

    /// As Unix time in nanoseconds: of a time of day, the first one that is not before `from_unix_ns`.
    pub fn first_from(self, from_unix_ns: u64) -> u64 {
        match self {
            Self::Unix(unix_ns) => unix_ns,
            Self::OfDay(of_day_ns) => {
                let midnight_ns = from_unix_ns - from_unix_ns % DAY_NS;
                let that_day_ns = midnight_ns.saturating_add(of_day_ns);
                if that_day_ns < from_unix_ns { that_day_ns.saturating_add(DAY_NS) } else { that_day_ns }
            }
        }
    }
}

fn at(unix_ns: u64) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp_nanos(unix_ns.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        let at_ns = 1_795_253_400_123_000_000;
        assert_eq!(utc(at_ns), "2026-11-21 09:30:00.123");
        assert_eq!(compact_utc(at_ns), "20261121T093000Z");
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
    }

    #[test]
    fn written_times_are_read() {
        let check = |text, expected| assert_eq!(Written::parse(text), expected, "{text}");
        check("2026-11-21 09:30:00.123", Some(Written::Unix(1_795_253_400_123_000_000)));
        check("2026-11-21T09:30:00.123Z", Some(Written::Unix(1_795_253_400_123_000_000)));
        check("2026-11-21T10:30:00.123+01:00", Some(Written::Unix(1_795_253_400_123_000_000)));
        check("00:00:01.5", Some(Written::OfDay(1_500_000_000)));
        for bad in ["", "9", "25:00:00", "2026-11-21", "yesterday", "1850-01-01 00:00:00"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_time_of_day_is_the_next_one() {
        let from_ns = 1_795_253_400_000_000_000;
        let check = |text, expected: &str| {
            assert_eq!(utc(Written::parse(text).unwrap().first_from(from_ns)), expected, "{text}");
        };
        check("09:30:00", "2026-11-21 09:30:00.000");
        check("23:59:59.9", "2026-11-21 23:59:59.900");
        check("00:00:01", "2026-11-22 00:00:01.000");
        check("2020-01-01 00:00:00", "2020-01-01 00:00:00.000");
    }
}
