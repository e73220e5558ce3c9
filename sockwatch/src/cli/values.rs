//! From the words of a command line to values.

use std::time::Duration;

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    if !(seconds > 0.0 && seconds < 1e9) {
        return Err("must be more than nothing and less than 30 years".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let nanoseconds = match &text[number.len()..] {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        _ => return Err("not a time with a unit: 500ms, 30s, 5m, 1h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "not a time with a unit: 500ms, 30s, 5m, 1h")?;
    Ok(number * nanoseconds / 1e9)
}

pub(super) fn latency(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    if !(0.001..=60.0).contains(&seconds) {
        return Err("must be between 1ms and 60s".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub(super) fn flush(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    if !(0.1..=600.0).contains(&seconds) {
        return Err("must be between 100ms and 10m".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub(super) fn speed(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a factor: 1, 10, 0.5")?;
    if !(0.001..=1e6).contains(&factor) {
        return Err("must be between 0.001 and 1000000".into());
    }
    Ok(factor)
}

/// How often to compare with the kernel's socket table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reconcile {
    /// So long after the last comparison.
    Every(Duration),
    /// Never.
    Off,
}

pub(super) fn reconcile(text: &str) -> Result<Reconcile, String> {
    if text == "off" {
        return Ok(Reconcile::Off);
    }
    let seconds = seconds(text).map_err(|error| format!("{error}, or off"))?;
    if !(0.05..=3600.0).contains(&seconds) {
        return Err("must be between 50ms and 1h".into());
    }
    Ok(Reconcile::Every(Duration::from_secs_f64(seconds)))
}

pub(super) fn pid(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("not a process id, which is a number (`pgrep {text}` may find it)"))
}

pub(super) fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = u32::try_from(bytes(text)?).map_err(|_| "must be a power of two between 64KiB and 1GiB")?;
    if !bytes.is_power_of_two() || !sockwatch::kernel::session::RING_BYTES.contains(&bytes) {
        return Err("must be a power of two between 64KiB and 1GiB".into());
    }
    Ok(bytes)
}

const SIZE: &str = "not a size: 512KiB, 8MiB, 1GB";

pub(super) fn size(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must be more than nothing".into()),
        bytes => Ok(bytes),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[number.len()..] {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "K" | "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return Err(SIZE.into()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| SIZE.into())
}

pub(super) fn choice(text: &str) -> Result<(String, String), String> {
    use sockwatch::kernel::probes::{Need, PROBES};
    let (probe, choice) = text.split_once('=').ok_or("write PROBE=ALTERNATIVE or PROBE=off")?;
    let Some(row) = PROBES.iter().find(|row| row.name == probe) else {
        let names: Vec<_> = PROBES.iter().map(|row| row.name).collect();
        return Err(format!("no probe {probe}: there are {}", names.join(", ")));
    };
    if choice == "off" && row.need == Need::Required {
        return Err(format!("nothing works without the {probe} probe"));
    }
    if choice != "off" && row.alternatives.iter().all(|alternative| alternative.name != choice) {
        let mut names: Vec<_> = row.alternatives.iter().map(|alternative| alternative.name).collect();
        names.dedup();
        return Err(format!("{probe} has no alternative {choice}: there are {} and off", names.join(", ")));
    }
    Ok((probe.to_owned(), choice.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "ms", "0s", "-1s", "1d", "infs", "1e99h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ring_sizes_are_powers_of_two() {
        assert_eq!(ring_bytes("8MiB"), Ok(8 << 20));
        for bad in ["3MiB", "1K", "8XB", "", "99999999G"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units_of_both_kinds() {
        assert_eq!((size("100MB"), size("100MiB"), size("7")), (Ok(100_000_000), Ok(100 << 20), Ok(7)));
        for bad in ["", "MB", "0", "1.5MB", "-1MB", "99999999999TB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
