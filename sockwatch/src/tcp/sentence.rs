//! How a connection ended, in one sentence: who ended it and why, from the connection alone.
//!
//! Never more than the connection carries: an end whose part is not known is "this end", a process is named only where
//! a task was seen to do it.

use std::fmt::{self, Display};

use super::{
    close::{Ending, Timeout},
    connection::{Connection, Role},
    event::{CloseEvidence, Comm, Task},
    queue::Totals,
    state::TcpState,
};

const MS: u64 = 1_000_000;
/// `SHUTDOWN_MASK`: close() sets both before anything else, a disconnect neither.
const BOTH_WAYS: u8 = 3;

/// The sentence; `None` while nothing tells of an ending. `process` is what the closer's process is called, where that is
/// another name than its thread's.
pub fn sentence(connection: &Connection, process: Option<Comm>) -> Option<String> {
    if connection.was_dead_on_arrival() {
        return Some("dead on arrival: it had ended in the accept queue, before anything was seen of it".into());
    }
    let ending = connection.ending?;
    let told = Told::of(connection, process);
    let mut text = match ending {
        Ending::LocalFin => format!("{} closed first; 60 s TIME_WAIT on {}", told.actor, told.this.side),
        Ending::PeerFin => peer_fin(&told),
        Ending::BothFin => "both ends closed at once; TIME_WAIT on both sides".into(),
        Ending::Orphaned => {
            format!("{} closed first; {} has not closed: FIN_WAIT2 without a process", told.actor, told.other.name)
        }
        Ending::ResetByPeer => reset_by_peer(&told),
        Ending::Aborted => aborted(&told),
        Ending::Refused => refused(&told),
        Ending::ConnectAborted => given_up(&told),
        Ending::TimedOut(timeout) => timed_out(&told, timeout),
        Ending::Unreachable => unreachable(&told),
        Ending::Destroyed => format!("destroyed{} (ss -K, or a program like it)", told.by()),
        Ending::ListenerClosed => listener_closed(&told),
        Ending::Duplicate => {
            "another child of the same handshake was first, on another CPU: nobody ever had this one".into()
        }
        Ending::Stopped => stopped(&told),
        Ending::Vanished => "no longer in the kernel's socket table".into(),
    };
    text.push_str(&in_queue(&told, ending));
    Some(text)
}

/// One end, in words.
#[derive(Clone, Copy)]
struct End {
    name: &'static str,
    side: &'static str,
}

const CLIENT: End = End { name: "client", side: "the client's side" };
const SERVER: End = End { name: "server", side: "the server's side" };
const THIS: End = End { name: "this end", side: "this side" };
const OTHER: End = End { name: "the other end", side: "the other side" };

/// `nginx/1234`, or `main/1234 thread worker-1`.
#[derive(Clone, Copy)]
struct Closer {
    thread: Task,
    process: Option<Comm>,
}

impl Display for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some(process) => write!(f, "{process}/{} thread {}", self.thread.pid, self.thread.comm),
            None => write!(f, "{}", self.thread),
        }
    }
}

/// A connection, with the words that all sentences need.
struct Told<'a> {
    connection: &'a Connection,
    evidence: CloseEvidence,
    /// The state before `CLOSE`.
    last: TcpState,
    this: End,
    other: End,
    /// Who closed this end, where a task was seen to do it.
    closer: Option<Closer>,
    /// This end, with the process that closed it: `server nginx/1234`.
    actor: String,
}

impl<'a> Told<'a> {
    fn of(connection: &'a Connection, process: Option<Comm>) -> Self {
        let (this, other) = match connection.role {
            Role::Active => (CLIENT, SERVER),
            Role::Passive => (SERVER, CLIENT),
            Role::Listener | Role::Unknown => (THIS, OTHER),
        };
        let closer = connection.ownership.closer.map(|thread| Closer { thread, process });
        let actor = match (closer, connection.role) {
            (Some(closer), Role::Active | Role::Passive) => format!("{} {closer}", this.name),
            (Some(closer), Role::Listener | Role::Unknown) => format!("{} ({closer})", this.name),
            (None, _) => this.name.to_owned(),
        };
        let last = connection.spans.last().map_or(connection.state, |span| span.state);
        Self { connection, evidence: connection.evidence.unwrap_or_default(), last, this, other, closer, actor }
    }

    /// ` by nginx/1234`, or nothing.
    fn by(&self) -> String {
        self.closer.map(|closer| format!(" by {closer}")).unwrap_or_default()
    }

    /// What is known of how this end sent its FIN: a half-closed end may still have waited for an answer.
    fn how_closed(&self) -> &'static str {
        match self.connection.evidence {
            None => "had sent its FIN",
            Some(evidence) if evidence.dead => "had closed",
            Some(evidence) if evidence.shutdown == BOTH_WAYS => "had shut down both ways",
            Some(_) => "had sent its FIN (half-closed)",
        }
    }

    /// How long the connection has been in this state, where that was seen.
    fn lasted(&self, state: TcpState) -> Option<u64> {
        self.connection.spans.iter().rev().find(|span| span.state == state)?.lasted_ns
    }

    /// Birth to the other end's FIN or, if none came, to the end.
    fn until_left(&self) -> Option<u64> {
        let spans = &self.connection.spans;
        let left = spans.iter().position(|span| span.state == TcpState::CloseWait).unwrap_or(spans.len());
        spans[..left].iter().map(|span| span.lasted_ns).sum()
    }
}

fn peer_fin(told: &Told<'_>) -> String {
    let mut text = format!("{} closed first; TIME_WAIT on {}", told.other.name, told.other.side);
    if let Some(lasted_ns) = told.lasted(TcpState::CloseWait) {
        text.push_str(&format!("; {} closed {} later", told.actor, Spoken(lasted_ns)));
    }
    text
}

fn reset_by_peer(told: &Told<'_>) -> String {
    let when = match told.last {
        TcpState::CloseWait => format!(", which had closed before, while {} had not", told.this.name),
        TcpState::FinWait1 | TcpState::FinWait2 => format!(" after {} {}", told.actor, told.how_closed()),
        TcpState::Closing | TcpState::LastAck => " after both had sent their FIN".to_owned(),
        TcpState::Established if !told.evidence.all_acked && told.connection.evidence.is_some() => {
            format!("; not all that {} sent was acknowledged", told.this.name)
        }
        _ => String::new(),
    };
    format!("reset by {}{when}", told.other.name)
}

/// This end dropped the connection: by the fields of the socket, in the order in which `__tcp_close()` looks at them.
fn aborted(told: &Told<'_>) -> String {
    let Told { evidence, actor, last, .. } = told;
    let unread = told.connection.payload().map_or(0, |payload| payload.unread_bytes);
    if !evidence.has_socket {
        return orphan_aborted(told);
    }
    if matches!(last, TcpState::FinWait1 | TcpState::FinWait2) && evidence.error != 0 {
        return format!("reset: {} sent more after {actor} had shut down both ways", told.other.name);
    }
    if evidence.shutdown != BOTH_WAYS {
        return format!("reset: {actor} disconnected (connect to AF_UNSPEC)");
    }
    let reset = if matches!(last, TcpState::Closing | TcpState::LastAck) && unread == 0 { "dropped" } else { "reset" };
    if unread > 0 {
        let process = if told.connection.ownership.closer.is_some() { "" } else { " process" };
        let plural = if unread == 1 { "" } else { "s" };
        return format!("{reset}: {actor}{process} closed with {unread} unread byte{plural}");
    }
    if evidence.linger {
        return format!("{reset}: {actor} closed with SO_LINGER 0");
    }
    format!("{reset} by {actor}")
}

/// Nobody had the socket any more when this end dropped it.
fn orphan_aborted(told: &Told<'_>) -> String {
    let Told { evidence, actor, last, other, .. } = told;
    match last {
        TcpState::FinWait2 if evidence.linger2 < 0 => format!("reset: {actor} closed with TCP_LINGER2 below 0"),
        TcpState::FinWait1 | TcpState::FinWait2 => format!("reset: {} sent more after {actor} had closed", other.name),
        _ => format!("reset by {actor}, without a process"),
    }
}

fn refused(told: &Told<'_>) -> String {
    let remote = told.connection.remote;
    if told.connection.resets.received > 0 {
        format!("refused: nobody listened on {remote} (RST)")
    } else if told.evidence.soft_error != 0 {
        format!("refused: ICMP said that the port of {remote} is unreachable")
    } else {
        format!("refused by {remote}; no RST was seen: perhaps ICMP, port unreachable")
    }
}

fn given_up(told: &Told<'_>) -> String {
    if told.connection.evidence.is_some() && told.evidence.segments_out == 0 {
        return format!("connect to {} failed on this host before a SYN was sent", told.connection.remote);
    }
    let mut text = format!("{} gave up connecting", told.actor);
    if let Some(lasted_ns) = told.lasted(TcpState::SynSent) {
        text.push_str(&format!(" after {}", Spoken(lasted_ns)));
    }
    text.push_str(&format!("; {} unanswered", Count(told.evidence.segments_out.into(), "SYN")));
    text.push_str(&icmp(told.evidence.soft_error));
    text
}

fn timed_out(told: &Told<'_>, timeout: Timeout) -> String {
    let Told { evidence, other, .. } = told;
    let probes = Count(evidence.probes.into(), "probe");
    let retransmits = Retransmissions { timed: evidence.retransmits.into(), all: told.connection.retransmits.into() };
    let mut text = match timeout {
        Timeout::Syn => syn_unanswered(told),
        Timeout::Keepalive => {
            format!("{} did not answer {}", other.name, Count(evidence.probes.into(), "keepalive probe"))
        }
        Timeout::UserTimeout => {
            let limit = Spoken(u64::from(evidence.user_timeout_ms) * MS);
            let start = format!("{} did not answer within {limit} (TCP_USER_TIMEOUT)", other.name);
            if evidence.probes > 0 {
                format!("{start}; {probes} unanswered")
            } else {
                format!("{start}; {retransmits} unanswered")
            }
        }
        Timeout::ZeroWindow if evidence.probes > 0 => {
            format!("{} kept its window closed; {probes} unanswered", other.name)
        }
        Timeout::ZeroWindow => format!("{} kept its window closed", other.name),
        Timeout::Retransmission => format!("{} did not acknowledge; {retransmits} unanswered", other.name),
        Timeout::FinWait2 => orphan_timed_out(told),
    };
    if !matches!(timeout, Timeout::Syn | Timeout::FinWait2) && evidence.dead {
        text.push_str("; no process had it any more");
    }
    text.push_str(&icmp(evidence.soft_error));
    text
}

fn orphan_timed_out(told: &Told<'_>) -> String {
    let Told { actor, other, .. } = told;
    let lasted = told.lasted(TcpState::FinWait2).map(|lasted_ns| format!(" in {}", Spoken(lasted_ns)));
    let lasted = lasted.unwrap_or_default();
    format!("{actor} closed first; {} did not close{lasted}: reset, after FIN_WAIT2 without a process", other.name)
}

fn syn_unanswered(told: &Told<'_>) -> String {
    let mut text =
        format!("{} did not answer {}", told.connection.remote, Count(told.evidence.segments_out.into(), "SYN"));
    let Some(lasted_ns) = told.lasted(TcpState::SynSent) else { return text };
    text.push_str(&format!(" in {}", Spoken(lasted_ns)));
    let limit_ns = u64::from(told.evidence.user_timeout_ms) * MS;
    if limit_ns > 0 && lasted_ns >= limit_ns {
        text.push_str(&format!("; TCP_USER_TIMEOUT was {}", Spoken(limit_ns)));
    }
    text
}

fn unreachable(told: &Told<'_>) -> String {
    let (remote, syns) = (told.connection.remote, Count(told.evidence.segments_out.into(), "SYN"));
    format!("{remote} not reached: ICMP answered {syns} with {}", errno(told.evidence.error))
}

fn listener_closed(told: &Told<'_>) -> String {
    let queued_ns = told.connection.lifetime_ns().map(|life| format!(" in {}", Spoken(life))).unwrap_or_default();
    let mut text = format!("reset: its listener was closed{}; nobody had accepted it{queued_ns}", told.by());
    // Whether it had closed, or waited for an answer, is not known here.
    if told.connection.has_been(TcpState::CloseWait) {
        text.push_str("; client had sent its FIN");
        text.push_str(&told.until_left().map(|left| format!(" after {}", Spoken(left))).unwrap_or_default());
    }
    text
}

/// What the accept queue has to do with it.
fn in_queue(told: &Told<'_>, ending: Ending) -> String {
    let connection = told.connection;
    if let Ending::ListenerClosed | Ending::Duplicate = ending {
        return String::new();
    }
    let left_ns = told.until_left();
    let after = left_ns.map(|left| format!("after {} ", Spoken(left))).unwrap_or_default();
    if connection.is_queued() {
        return format!(", {after}in the accept queue; nobody accepted it");
    }
    let wait_ns = connection.queued.filter(|_| connection.role == Role::Passive).and_then(|queued| queued.wait_ns());
    let (Some(left_ns), Some(Ok(wait_ns))) = (left_ns, wait_ns.map(u64::try_from)) else { return String::new() };
    if connection.lifetime_ns().is_some_and(|life| wait_ns > life) {
        format!(", {after}in the accept queue; accepted after {}, dead on arrival", Spoken(wait_ns))
    } else if wait_ns > left_ns {
        format!("; accepted after {} in the accept queue, when client had sent its FIN", Spoken(wait_ns))
    } else {
        String::new()
    }
}

/// What went through a listener's queue, as far as it says more than that it closed.
fn stopped(told: &Told<'_>) -> String {
    let mut text = format!("listener closed{}", told.by());
    let Some(totals) = told.connection.accept_queue.as_ref().map(|queue| queue.totals) else { return text };
    let Totals { accepted, left_by_fin, left_by_rst, longest_left_ns, unqueued, dead_on_arrival, .. } = totals;
    let left = left_by_fin + left_by_rst;
    if accepted > 0 {
        text.push_str(&format!("; {} accepted", Count(accepted, "connection")));
    }
    if dead_on_arrival > 0 {
        text.push_str(&format!(", {dead_on_arrival} of them dead on arrival"));
    }
    if left > 0 {
        text.push_str(&format!("; {} left its queue", Count(left, "client")));
        if longest_left_ns > 0 {
            text.push_str(&format!(" after {} at most", Spoken(longest_left_ns)));
        }
    }
    if unqueued > 0 {
        text.push_str(&format!("; {} reset in its queue", Count(unqueued, "connection")));
    }
    text.push_str(&dropped(totals.drops.map_or(0, u64::from), totals.overflows));
    text
}

/// Who did not get into a listener's queue. The kernel's count has the last ACKs in it, too, as of the last look at it.
fn dropped(drops: u64, last_acks: u64) -> String {
    let packets = Count(drops, "packet");
    match last_acks {
        0 if drops == 0 => String::new(),
        0 => format!("; {packets} dropped (SYNs or last ACKs)"),
        _ if drops > last_acks => {
            format!("; {packets} dropped, {last_acks} of them last ACKs that found its queue full")
        }
        _ => format!("; {} found its queue full", Count(last_acks, "last ACK")),
    }
}

/// What ICMP had said before.
fn icmp(soft_error: u16) -> String {
    if soft_error == 0 { String::new() } else { format!("; ICMP had said {}", errno(soft_error)) }
}

/// What `icmp_err_convert` and `icmpv6_err_convert()` make of ICMP messages.
fn errno(number: u16) -> String {
    let name = match number {
        13 => "administratively prohibited (EACCES)",
        64 => "host isolated (ENONET)",
        71 => "parameter problem (EPROTO)",
        90 => "packet too big (EMSGSIZE)",
        92 => "protocol unreachable (ENOPROTOOPT)",
        95 => "source route failed (EOPNOTSUPP)",
        101 => "network unreachable (ENETUNREACH)",
        111 => "port unreachable (ECONNREFUSED)",
        112 => "host unknown (EHOSTDOWN)",
        113 => "host unreachable (EHOSTUNREACH)",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

/// `1 SYN`, `7 SYNs`.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64, pub &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

/// `3 retransmissions`. The kernel counts those by timer that nothing has answered, and no tail loss probes
/// (`icsk_retransmits`); how many of all others were answered nobody knows.
struct Retransmissions {
    timed: u64,
    all: u64,
}

impl Display for Retransmissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.timed < self.all {
            write!(f, "at least {} of ", self.timed)?;
        }
        write!(f, "{}", Count(self.all.max(self.timed), "retransmission"))
    }
}

/// A duration in nanoseconds, to two or three digits: `65 us`, `3.2 s`, `2 min 5 s`.
struct Spoken(u64);

impl Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1_000_000_000, "s"), (MS, "ms"), (1_000, "us")];
        let seconds = self.0 / UNITS[0].0;
        if seconds >= 100 {
            return write!(f, "{} min {} s", seconds / 60, seconds % 60);
        }
        let Some((size, unit)) = UNITS.into_iter().find(|(size, _)| self.0 >= *size) else {
            return write!(f, "{} ns", self.0);
        };
        match (self.0 / size, self.0 % size * 10 / size) {
            (whole, tenths) if whole < 10 && tenths > 0 => write!(f, "{whole}.{tenths} {unit}"),
            (whole, _) => write!(f, "{whole} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests;
