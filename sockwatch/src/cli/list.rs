//! The words of `sockwatch list`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use sockwatch::{
    sink::time_of_day::Written,
    tcp::state::{self, TcpState},
};

use super::{FilterArgs, Format, values::duration};

/// An instant of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// So long after its beginning.
    After(Duration),
    /// A time of its machine's clock.
    Written(Written),
}

/// `sockwatch list`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch list                                   all sockets of this network namespace
  sockwatch list --netns all                       of every namespace: all containers
  sockwatch list --port 8080 --state LISTEN        who listens, and who waits in the accept queue
  sockwatch list --state CLOSE_WAIT --long         connections that a process forgets to close
  sockwatch list --pid 1234 --format json | jq .   for other programs: docs/list.schema.json
  sockwatch list --recording web.swr --at 09:30:05.2   what there was then, by a recording: `info` tells its times

Columns:
  QUEUE    of a listener waiting/limit, else unread/unacknowledged payload (no SYN, no FIN)
  TIMER    until: rto retransmit, zwp zero-window probe, ka keepalive probe, tw a minisock's end
  AGE      how long in this state, at least: the kernel notes no such time (`trace` does)
  PROCESS  who holds it, +N others; or the listener's process, where nobody has it yet:
           queued     in the accept queue
           request    its handshake is not finished
           or nobody:
           orphan     closed by its process; the kernel finishes the connection
           minisock   the remains: TIME_WAIT, or an orphan's FIN_WAIT2
           unseen     in no process's descriptors: the kernel's own, io_uring's, on its way
           hidden     perhaps in those of processes that you may not look at (root may)

A recording knows events, not the kernel's table: AGE is exact where it saw the state begin, PROCESS is who had the socket last,
unread bytes and most timers are in none. What was there before it began and is not in its listings is missing.

Sorted by local port, listeners first. `sockwatch explain STATE` tells more of each state.")]
pub(crate) struct ListArgs {
    /// Which sockets.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Show sockets in these states, as the kernel or `ss` spells them: CLOSE_WAIT, time-wait, estab.
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    pub(crate) state: Vec<TcpState>,
    /// Show below each socket all that is known of it: unit, container, holders, round-trip time, idle time.
    #[arg(long)]
    pub(crate) long: bool,
    /// List what a recording knows instead (`sockwatch record`); of a rotated one, all of its files.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) recording: Vec<PathBuf>,
    /// When: 30s after its beginning, 09:30:05.2 or 2026-11-21 09:30:05.2 in UTC, or RFC 3339 with a time zone (default: its end).
    #[arg(long, value_name = "TIME", requires = "recording", value_parser = at)]
    pub(crate) at: Option<At>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

fn at(text: &str) -> Result<At, String> {
    let since = || (text == "0s").then_some(Duration::ZERO).or_else(|| duration(text).ok()).map(At::After);
    Written::parse(text).map(At::Written).or_else(since).ok_or_else(|| {
        "not a time: 30s (after the beginning), 09:30:05.2, 2026-11-21 09:30:05.2 (UTC) or 2026-11-21T10:30:05+01:00".into()
    })
}

fn state(text: &str) -> Result<TcpState, String> {
    TcpState::named(text).ok_or_else(|| {
        let names: Vec<_> = state::ALL.iter().map(|state| state.name()).collect();
        format!("no such state: there are {}", names.join(", "))
    })
}
