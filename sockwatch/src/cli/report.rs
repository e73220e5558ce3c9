//! `sockwatch report`

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{FilterArgs, values::latency};

/// `sockwatch report`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch report web.swr                                 web.html, to be opened by any browser, now or later
  sockwatch report web.swr --port 8080 --open              of one port, and shown at once
  sockwatch report after.swr --compare before.swr          what has changed

The page is one file that fetches nothing. Whoever can read it knows who talked to whom, unless --redact hides the addresses.")]
pub(crate) struct ReportArgs {
    /// The recording; of a rotated one, its files in any order.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Write to this file (default: the recording's name with .html).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Show it in the browser.
    #[arg(long)]
    pub(crate) open: bool,
    /// Say what has changed since this recording.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) compare: Vec<PathBuf>,
    /// From which wait in an accept queue on a connection counts as slow.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = latency)]
    pub(crate) slow: Duration,
    /// Put a hash in the place of each address: the same for the same key, which @FILE reads from a file.
    #[arg(long, value_name = "KEY|@FILE")]
    pub(crate) redact: Option<String>,
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}
