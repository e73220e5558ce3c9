//! `sockwatch export`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::FilterArgs;

/// What to make of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A row per finished connection: DuckDB, polars, Spark.
    Parquet,
    /// The same rows as text: spreadsheets.
    Csv,
    /// Every line of `replay --format json --time wall`.
    Jsonl,
    /// A timeline for https://ui.perfetto.dev.
    Perfetto,
    /// Milliseconds in each state, by process: flame graphs.
    Folded,
}

/// `sockwatch export`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch export web.swr -o web.parquet                  a row per finished connection
  sockwatch export web.swr -o web.pftrace                  a timeline to look at: https://ui.perfetto.dev
  sockwatch export web.swr --to csv --port 8080 | head     on standard output
  sockwatch export web.swr -o web.csv --redact @key        addresses hashed with the key in the file
  sockwatch export web-*.swr -o lake --partition           lake/host=NAME/date=YYYY-MM-DD/….parquet

docs/export.md has the columns, and queries of such files.")]
pub(crate) struct ExportArgs {
    /// The recording; of a rotated one, its files in any order.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write to this file, whose name tells the format: .parquet, .csv, .jsonl, .pftrace, .folded (default: standard output).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What to make of it, if no file's name tells.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) to: Option<ExportFormat>,
    /// Replace the file if it exists; of --partition, all that the same files, or fewer, were exported to.
    #[arg(long)]
    pub(crate) force: bool,
    /// Write Parquet files to a directory per machine and day, below --output.
    #[arg(long, requires = "output")]
    pub(crate) partition: bool,
    /// Put a hash in the place of each address: the same for the same key, which @FILE reads from a file.
    #[arg(long, value_name = "KEY|@FILE")]
    pub(crate) redact: Option<String>,
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}
