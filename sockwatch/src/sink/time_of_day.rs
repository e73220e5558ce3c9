//! Unix times as people read them, in UTC: recordings come from machines in any time zone.

use chrono::DateTime;

/// `2026-11-21 09:30:00.123`, from nanoseconds.
pub fn utc(unix_ns: u64) -> String {
    at(unix_ns).format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// `20261121T093000Z`, from nanoseconds: in files' names.
pub fn compact_utc(unix_ns: u64) -> String {
    at(unix_ns).format("%Y%m%dT%H%M%SZ").to_string()
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
}
