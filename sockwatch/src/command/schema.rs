//! JSON Schemas, as they are committed in docs/.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use schemars::JsonSchema;

/// Prints that of a type.
pub(crate) fn print<T: JsonSchema>() -> anyhow::Result<ExitCode> {
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&schemars::schema_for!(T))?)?;
    Ok(ExitCode::SUCCESS)
}
