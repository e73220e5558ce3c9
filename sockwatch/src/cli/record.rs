//! `sockwatch record`, `replay` and `info`

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use sockwatch::recording::writer::Sync;

use super::{
    CollectArgs, FilterArgs, Format, ShowArgs, duration,
    values::{flush, size, speed},
};

/// When written data is forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SyncWhen {
    /// When the kernel likes: a crash of the whole machine may cost the last half minute.
    Never,
    /// When a file is complete.
    End,
    /// After each batch: a crash of the whole machine costs as little as that of the process.
    Flush,
}

impl From<SyncWhen> for Sync {
    fn from(when: SyncWhen) -> Self {
        match when {
            SyncWhen::Never => Self::Never,
            SyncWhen::End => Self::End,
            SyncWhen::Flush => Self::Flush,
        }
    }
}

/// `sockwatch record`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch record -o web.swr --port 8080                  until Ctrl-C
  sockwatch record -o web.swr --duration 10m --max-size 1GB
  sockwatch record -o /var/log/sockwatch/web.swr --rotate-every 1h --keep 48     as a service: two days, a file per hour
  sockwatch replay web.swr --connections --why             what happened
  sockwatch info web.swr                                   what is in it

A recording is an Arrow IPC stream: pyarrow, polars and DuckDB open it as it is; docs/recording.md has its columns. After a
crash all but the last second of it can be read. Whoever can read it knows who talked to whom: it is made for its owner only.")]
pub(crate) struct RecordArgs {
    /// Write to this file. With rotation, files are called after it: web.swr becomes web-20261121T093000Z-0001.swr.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How to collect.
    #[command(flatten)]
    pub(crate) collect: CollectArgs,
    /// Stop after so long: 30s, 5m.
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Recording")]
    pub(crate) duration: Option<Duration>,
    /// Stop after so many bytes, over all files: 500MB, 2GiB.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Recording")]
    pub(crate) max_size: Option<u64>,
    /// Go on with another file when one has so many bytes.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Recording")]
    pub(crate) rotate_size: Option<u64>,
    /// Go on with another file after so long.
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Recording")]
    pub(crate) rotate_every: Option<Duration>,
    /// Keep the newest N files; older ones are deleted, those of earlier recordings to the same FILE, too.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Recording")]
    pub(crate) keep: Option<u32>,
    /// Keep so many bytes of the newest files; what the file that is being written grows to comes on top.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Recording")]
    pub(crate) keep_size: Option<u64>,
    /// How much is lost at most if sockwatch is killed.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = flush, help_heading = "Recording")]
    pub(crate) flush: Duration,
    /// When to force what is written to the disk.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = SyncWhen::End, help_heading = "Recording")]
    pub(crate) sync: SyncWhen,
    /// How hard to compress (zstd): 1 costs the machine least, 19 the disk.
    #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19), help_heading = "Recording")]
    pub(crate) compress: i32,
}

/// `sockwatch replay`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch replay web.swr                                 all of it, as trace would have shown it
  sockwatch replay web.swr --connections --why             a line and a sentence per finished connection
  sockwatch replay web-*.swr --port 8080 --format json     several files of one recording, one port
  sockwatch replay web.swr --speed 1                       as fast as it happened")]
pub(crate) struct ReplayArgs {
    /// The recording; of a rotated one, its files in any order.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// How many times as fast as it happened: 1, 10, 0.5 (default: at once).
    #[arg(long, value_name = "FACTOR", value_parser = speed)]
    pub(crate) speed: Option<f64>,
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How to show.
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `sockwatch info`
#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// The recording; of a rotated one, its files in any order. Of several recordings, each is told.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}
