//! `sockwatch lab --list`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;

use super::{LABS, Lab, Run};
use crate::cli::Format;

#[derive(Serialize)]
struct List {
    labs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    lab: &'static str,
    summary: &'static str,
    /// What the user sees, told before the experiment.
    story: &'static str,
    /// Whether it needs root and eBPF.
    needs_root: bool,
}

impl From<&Lab> for Row {
    fn from(lab: &Lab) -> Self {
        Self {
            lab: lab.name,
            summary: lab.summary,
            story: lab.story,
            needs_root: match lab.run {
                Run::Here(_) => false,
                Run::Alone(_) | Run::Wired(_) => true,
            },
        }
    }
}

pub(super) fn run(format: Format) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match format {
        Format::Text => {
            let width = LABS.iter().map(|lab| lab.name.len()).max().unwrap_or(0);
            for lab in LABS {
                writeln!(out, "{:width$}  {}", lab.name, lab.summary)?;
            }
        }
        Format::Json => {
            let list = List { labs: LABS.iter().map(Row::from).collect() };
            writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
