//! The targets, and whether they are met.

/// What the targets are about; `None` was not measured.
#[derive(Default)]
pub(super) struct Numbers {
    pub(super) connections_ratio: Option<f64>,
    pub(super) json_ratio: Option<f64>,
    pub(super) recording_ratio: Option<f64>,
    pub(super) serving_ratio: Option<f64>,
    pub(super) bytes_per_event: Option<f64>,
    pub(super) aggregated_ratio: Option<f64>,
    pub(super) blaming_ratio: Option<f64>,
    pub(super) state_probe_ns: Option<f64>,
    pub(super) lost: Option<u64>,
    pub(super) tracked_per_second: Option<f64>,
    pub(super) replayed_per_second: Option<f64>,
    pub(super) frame_ms: Option<f64>,
    pub(super) memory_growth: Option<f64>,
    pub(super) live_socket_bytes: Option<f64>,
    pub(super) minisock_bytes: Option<f64>,
}

/// A target's bound.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

pub(super) fn print(numbers: &Numbers) {
    let lost = numbers.lost.map(|lost| lost as f64);
    println!("\nverdict");
    println!("{}", line("rate with --connections, of nothing's", numbers.connections_ratio, Bound::AtLeast(0.85)));
    println!("{}", line("rate with --format json, of nothing's", numbers.json_ratio, Bound::AtLeast(0.70)));
    println!("{}", line("rate with record, likewise", numbers.recording_ratio, Bound::AtLeast(0.90)));
    println!("{}", line("rate with serve, likewise", numbers.serving_ratio, Bound::AtLeast(0.95)));
    println!("{}", line("bytes per recorded event", numbers.bytes_per_event, Bound::AtMost(16.0)));
    println!("{}", line("rate with diagnose --aggregate, likewise", numbers.aggregated_ratio, Bound::AtLeast(0.97)));
    println!("{}", line("the same and who is to blame", numbers.blaming_ratio, Bound::AtLeast(0.85)));
    println!("{}", line("state probe over an empty one, ns", numbers.state_probe_ns, Bound::AtMost(200.0)));
    println!("{}", line("lost for want of room", lost, Bound::AtMost(0.0)));
    println!("{}", line("tracker on one core, events/s", numbers.tracked_per_second, Bound::AtLeast(2e6)));
    println!("{}", line("replay on one core, events/s", numbers.replayed_per_second, Bound::AtLeast(3e6)));
    println!("{}", line("memory for 1 GiB, of 128 MiB's", numbers.memory_growth, Bound::AtMost(1.25)));
    println!("{}", line("slowest frame of top, ms", numbers.frame_ms, Bound::AtMost(50.0)));
    println!("{}", line("bytes for a live socket", numbers.live_socket_bytes, Bound::AtMost(1024.0)));
    println!("{}", line("bytes for a minisock", numbers.minisock_bytes, Bound::AtMost(512.0)));
}

impl Bound {
    pub(super) fn is_met(self, number: f64) -> bool {
        match self {
            Self::AtLeast(limit) => number >= limit,
            Self::AtMost(limit) => number <= limit,
        }
    }
}

pub(super) fn line(name: &str, number: Option<f64>, bound: Bound) -> String {
    let (sign, limit) = match bound {
        Bound::AtLeast(limit) => (">=", limit),
        Bound::AtMost(limit) => ("<=", limit),
    };
    let outcome = match number {
        None => "not measured".to_owned(),
        Some(number) if bound.is_met(number) => format!("{} met", short(number)),
        Some(number) => format!("{} NOT met", short(number)),
    };
    format!("  {name:<40} {sign} {:<5} {outcome}", short(limit))
}

/// Ratios with three digits, counts with none.
fn short(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_absence_is_said() {
        assert!(line("a", Some(0.85), Bound::AtLeast(0.85)).ends_with("0.850 met"));
        assert!(line("a", Some(0.8499), Bound::AtLeast(0.85)).ends_with("0.850 NOT met"));
        assert!(line("a", Some(0.0), Bound::AtMost(0.0)).ends_with("0 met"));
        assert!(line("a", Some(1.0), Bound::AtMost(0.0)).ends_with("1 NOT met"));
        assert!(line("a", None, Bound::AtMost(0.0)).ends_with("not measured"));
    }
}
