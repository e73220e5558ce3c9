//! `sockwatch probes`: the probe table, for docs/kernel-support.md.

use std::{io::Write, process::ExitCode};

use serde::Serialize;
use sockwatch::kernel::probes::{Need, PROBES};

#[derive(Serialize)]
struct Row {
    probe: &'static str,
    tells: &'static str,
    /// What is lost without it; null: sockwatch does not run without it.
    without: Option<&'static str>,
    alternatives: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    alternative: &'static str,
    /// What it costs or cannot see.
    lost: Option<&'static str>,
}

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let rows: Vec<_> = PROBES
        .iter()
        .map(|probe| {
            let all = probe.alternatives.iter();
            let mut alternatives: Vec<_> =
                all.map(|row| Alternative { alternative: row.name, lost: row.lost }).collect();
            // Rows of one name are for different kernels; the first one's words count.
            alternatives.dedup_by_key(|row| row.alternative);
            let without = match probe.need {
                Need::Required => None,
                Need::Optional { without } => Some(without),
            };
            Row { probe: probe.name, tells: probe.tells, without, alternatives }
        })
        .collect();
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&rows)?)?;
    Ok(ExitCode::SUCCESS)
}
