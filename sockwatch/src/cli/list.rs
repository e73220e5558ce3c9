//! The words of `sockwatch list`.

use clap::Args;
use sockwatch::tcp::state::{self, TcpState};

use super::{FilterArgs, Format};

/// `sockwatch list`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sockwatch list                                   all sockets of this network namespace
  sockwatch list --netns all                       of every namespace: all containers
  sockwatch list --port 8080 --state LISTEN        who listens, and who waits in the accept queue
  sockwatch list --state CLOSE_WAIT --long         connections that a process forgets to close
  sockwatch list --pid 1234 --format json | jq .   for other programs: docs/list.schema.json

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
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// A state in any spelling. Requests, which the kernel calls NEW_SYN_RECV, are listed as SYN_RECV.
fn state(text: &str) -> Result<TcpState, String> {
    let key = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let wanted = match key(text).as_str() {
        "ESTAB" => "ESTABLISHED".to_owned(),
        "LISTENING" => "LISTEN".to_owned(),
        "UNCONN" | "CLOSED" => "CLOSE".to_owned(),
        "BOUND" => key("BOUND_INACTIVE"),
        "NEWSYNRECV" => key("SYN_RECV"),
        other => other.strip_prefix("TCP").unwrap_or(other).to_owned(),
    };
    let found = state::ALL.into_iter().find(|state| key(state.name()) == wanted);
    found.ok_or_else(|| {
        let names: Vec<_> = state::ALL.iter().map(|state| state.name()).collect();
        format!("no such state: there are {}", names.join(", "))
    })
}
