//! How much room the same traffic takes in other forms.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Bench;

/// What a recording is exported to, and what it is called.
const EXPORTS: &[(&str, &str)] = &[
    ("jsonl", "export to JSON lines"),
    ("csv", "export to CSV, a row each end"),
    ("parquet", "export to Parquet, likewise"),
];

/// The bytes of each export of a recording.
pub(super) fn exported(bench: &Bench, recording: &Path) -> Result<Vec<(&'static str, u64)>> {
    let size = |(format, name): &(&str, &'static str)| {
        let output = bench.scratch.0.join("exported").with_extension(format);
        let mut export = Command::new(&bench.sockwatch);
        export.args(["export", "--force", "--output"]).arg(&output).arg(recording).stderr(Stdio::null());
        if !export.status().context("cannot be started")?.success() {
            bail!("a recording cannot be exported to {format}: run it by hand");
        }
        let bytes = output.metadata().with_context(|| format!("{} is gone", output.display()))?.len();
        std::fs::remove_file(&output).with_context(|| format!("cannot remove {}", output.display()))?;
        Ok((*name, bytes))
    };
    EXPORTS.iter().map(size).collect()
}

/// First packets of handshakes in a capture, as tcpdump reads it itself.
pub(super) fn first_syns(capture: &Path) -> Result<u64> {
    let mut reading = Command::new("tcpdump");
    reading.args(["-n", "-t", "-q", "-r"]).arg(capture).arg("tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn");
    let read = reading.stderr(Stdio::null()).output().context("tcpdump cannot be started")?;
    Ok(read.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
}
