//! Reading what the load and the contenders print.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Context, Result};

use super::load::Load;

/// The `key=value` words of a line; all others are ignored.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, String>);

impl Keys {
    pub(super) fn parse(line: &str) -> Self {
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.trim_end_matches([',', ';']).to_owned())).collect())
    }

    pub(super) fn number(&self, key: &str) -> Result<f64> {
        let value = self.0.get(key).with_context(|| format!("no `{key}=` where it was expected"))?;
        value.parse().with_context(|| format!("`{key}={value}` is not a number"))
    }

    pub(super) fn count(&self, key: &str) -> Result<u64> {
        let value = self.0.get(key).with_context(|| format!("no `{key}=` where it was expected"))?;
        value.parse().with_context(|| format!("`{key}={value}` is not a count"))
    }
}

/// What `cargo xtask load` printed.
pub(super) fn load(printed: &str) -> Result<Load> {
    let keys = Keys::parse(printed);
    Ok(Load {
        connections: keys.count("connections")?,
        listeners: keys.count("listeners")?,
        seconds: keys.number("seconds")?,
    })
}

/// The counters in sockwatch's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Records that the probes submitted.
    pub(super) events: u64,
    pub(super) connections: u64,
    pub(super) losses: Losses,
}

/// What did not reach the output, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// The kernel had no room for the record.
    pub(super) lost: u64,
    /// The kernel skipped the program because one was already running on that CPU.
    pub(super) missed: u64,
    /// The tool itself discarded the record.
    pub(super) dropped: u64,
}

/// Reads what `diagnose --format json` printed: its connections are those that were accepted.
pub(super) fn report(file: impl std::io::Read) -> Result<Summary> {
    let report: serde_json::Value =
        serde_json::from_reader(file).context("diagnose printed no report: run it by hand")?;
    let count = |value: &serde_json::Value| value.as_u64().context("the report has other fields than this expects");
    let listeners = report["listeners"].as_array().context("the report has no listeners")?;
    let accepted = listeners.iter().map(|listener| count(&listener["accepted"])).sum::<Result<u64>>()?;
    let losses = &report["losses"];
    Ok(Summary {
        events: count(&report["cost"]["events"])?,
        connections: accepted + count(&report["unattributed"])?,
        losses: Losses {
            lost: count(&losses["lost"])?,
            missed: count(&losses["missed"])?,
            dropped: count(&losses["dropped"])?,
        },
    })
}

/// Reads the last line that begins with `sockwatch: ` among what sockwatch printed on its standard error.
pub(super) fn summary<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> Result<Summary> {
    let line = lines.rev().find_map(|line| line.strip_prefix("sockwatch: "));
    let keys = Keys::parse(line.context("sockwatch ended without its summary line: run it by hand")?);
    Ok(Summary {
        events: keys.count("events")?,
        connections: keys.count("connections")?,
        losses: Losses { lost: keys.count("lost")?, missed: keys.count("missed")?, dropped: keys.count("dropped")? },
    })
}

/// What another tool's output holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Lines that name the port.
    pub(super) events: u64,
    /// Events that the tool says it lost.
    pub(super) lost: u64,
}

impl Lines {
    /// Reads a tool's whole output. Other traffic of the machine is told apart by the port.
    pub(super) fn read(output: impl BufRead, port: u16) -> Result<Self> {
        let port = port.to_string();
        let mut lines = Self::default();
        for line in output.split(b'\n') {
            let line = line.context("a contender's output cannot be read: is there room for it?")?;
            let line = String::from_utf8_lossy(&line);
            match lost(&line) {
                Some(count) => lines.lost += count,
                None => lines.events += u64::from(line.split_whitespace().any(|word| word == port)),
            }
        }
        Ok(lines)
    }
}

/// Packets that tcpdump captured, and that it says it lost: `12 packets captured`, `3 packets dropped by kernel`.
pub(super) fn packets<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Result<(u64, u64)> {
    let count = |words: &str| {
        let line = lines.clone().find_map(|line| line.strip_suffix(words)?.trim().split(' ').next());
        let line = line.with_context(|| format!("tcpdump did not say how many {words}"))?;
        line.parse().with_context(|| format!("`{line}` is not a count"))
    };
    Ok((count("captured")?, count("dropped by kernel")?))
}

/// The count in `lost 12 events on CPU #1` (libbpf-tools) and `Lost 12 events` (bpftrace).
pub(super) fn lost(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|word| word.eq_ignore_ascii_case("lost"))?;
    let count = words.next()?.parse().ok()?;
    words.next()?.starts_with("event").then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_summed_up() {
        let text = r#"{"listeners": [{"accepted": 3}, {"accepted": 4}], "unattributed": 1, "cost": {"events": 9},
            "losses": {"lost": 1, "missed": 2, "dropped": 3}}"#;
        let summary = report(text.as_bytes()).unwrap();
        assert_eq!((summary.connections, summary.events), (8, 9));
        assert_eq!(summary.losses, Losses { lost: 1, missed: 2, dropped: 3 });
        assert!(report(&b"{}"[..]).is_err());
    }

    #[test]
    fn a_load_is_read_back() {
        let expected = Load { connections: 60_000, listeners: 6, seconds: 1.5 };
        assert_eq!(load("connections=60000 listeners=6 seconds=1.500000\n").unwrap(), expected);
        assert!(load("connections=60000").unwrap_err().to_string().contains("listeners="));
    }

    #[test]
    fn the_last_summary_counts() {
        let lines = [
            "tracing 5 probes",
            "sockwatch: reconnecting",
            "sockwatch: events=10 bytes=960 connections=2 lost=1, missed=2 dropped=3",
        ];
        let expected = Summary { events: 10, connections: 2, losses: Losses { lost: 1, missed: 2, dropped: 3 } };
        assert_eq!(summary(lines.into_iter()).unwrap(), expected);
        assert!(summary(["tracing"].into_iter()).is_err());
    }

    #[test]
    fn lines_count_by_port_and_losses_by_word() {
        let output = "SKADDR LPORT\nffff 7919 127.0.0.1 1234\nffff 79190 0\nlost 12 events on CPU #1!\nLost 3 events\n";
        assert_eq!(Lines::read(output.as_bytes(), 7919).unwrap(), Lines { events: 1, lost: 15 });
    }

    #[test]
    fn packets_are_counted_as_said() {
        let said = [
            "tcpdump: listening on lo",
            "12 packets captured",
            "24 packets received by filter",
            "1 packet dropped by kernel",
        ];
        assert_eq!(packets(said.into_iter()).unwrap(), (12, 1));
        assert!(packets(["1 packet captured"].into_iter()).is_err());
    }

    #[test]
    fn a_process_named_lost_is_not_a_loss() {
        assert_eq!(lost("77 lost 127.0.0.1 7919"), None);
        assert_eq!(lost("lost 12 events"), Some(12));
    }
}
