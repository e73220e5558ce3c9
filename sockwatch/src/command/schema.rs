//! `sockwatch schema`: the JSON Schema that is committed as docs/trace.schema.json.

use std::{io::Write, process::ExitCode};

use sockwatch::sink::json::Line;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let schema = schemars::schema_for!(Line);
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&schema)?)?;
    Ok(ExitCode::SUCCESS)
}
