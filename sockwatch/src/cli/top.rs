//! `sockwatch top`

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    CollectArgs, FilterArgs,
    values::{duration, speed},
};

/// `sockwatch top`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch top                              everything on this machine
  sockwatch top --port 8080                  one server: only its sockets are told by the kernel, which costs least
  sockwatch top --find CLOSE_WAIT            begin with the connections that somebody forgets to close
  sockwatch top --recording web.swr          play a recording: Space pauses, the arrows wind it

`?` shows the keys. Listeners come first: who waits in which accept queue, since when, and how fast they are taken; then
connections, sockets by state over time with the local ports that are taken, and what is wrong (`sockwatch diagnose` proves more
of it). What was lost stands in the first line, always.")]
pub(crate) struct TopArgs {
    /// Play a recording instead (`sockwatch record`); of a rotated one, all of its files.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["source", "probe", "buffer"])]
    pub(crate) recording: Vec<PathBuf>,
    /// Of a recording: how many times as fast as it was.
    #[arg(long, value_name = "FACTOR", requires = "recording", default_value = "1", value_parser = speed)]
    pub(crate) speed: f64,
    /// Begin with this filter of connections, as it would be typed: 8080, --addr 10.0.0.0/8, CLOSE_WAIT, nginx.
    #[arg(long, value_name = "WORDS")]
    pub(crate) find: Option<String>,
    /// From which wait in the accept queue on a connection counts as slow.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub(crate) slow: Duration,
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How to collect.
    #[command(flatten)]
    pub(crate) collect: CollectArgs,
}
