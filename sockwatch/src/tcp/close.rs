//! The verdict table: which kind of `CLOSE` was it, and who ended the connection.
//!
//! Read at the transition to `CLOSE`; every row was measured on 6.18. The kernel shows neither `TIME_WAIT` nor an
//! orphan's `FIN_WAIT2` as a transition: both replace the socket by a minisock, and the socket goes to `CLOSE`.

use super::{
    event::CloseEvidence,
    state::TcpState::{self, CloseWait, Closing, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent},
};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// This end sent its FIN first and went on to `TIME_WAIT` (60 s, a constant of the kernel).
    LocalFin,
    /// The remote end sent its FIN first: the wait is on its side.
    PeerFin,
    /// Both FINs crossed: `CLOSING`, then `TIME_WAIT` on both sides.
    BothFin,
    /// This end closed first and nobody owns the socket any more: `FIN_WAIT2` without a process, for `tcp_fin_timeout`.
    Orphaned,
    /// A RST came from the remote end.
    ResetByPeer,
    /// This end dropped the connection, mostly with a RST: unread data at close, linger 0, `TCP_LINGER2` < 0, data after
    /// close, or a disconnect.
    Aborted,
    /// connect() was answered with a RST, or with an ICMP port unreachable.
    Refused,
    /// connect() was given up by its own process, or failed before it reached the wire.
    ConnectAborted,
    /// The other end did not answer.
    TimedOut(Timeout),
    /// connect() was answered by ICMP: the destination cannot be reached.
    Unreachable,
    /// An administrator destroyed it (`ss -K`).
    Destroyed,
    /// It was still in the accept queue when its listener was closed.
    ListenerClosed,
    /// A second child of one handshake: segments of it came on two CPUs at once, and the other child was put into the table first
    /// (`inet_ehash_nolisten`). Nobody ever had anything to do with this one.
    Duplicate,
    /// A listener was closed.
    Stopped,
    /// It was no longer in the kernel's table: seen by polling, so how it ended is not known.
    Vanished,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The SYN was not answered.
    Syn,
    /// Keepalive probes were not answered.
    Keepalive,
    /// `TCP_USER_TIMEOUT`, which stands in for every other limit once a connection is open.
    UserTimeout,
    /// The other end's window stayed closed, and probes of it were not answered or nobody owns the socket.
    ZeroWindow,
    /// Retransmissions were not acknowledged.
    Retransmission,
    /// Nobody owned the socket, and the other end did not close.
    FinWait2,
}

const EPIPE: u16 = 32;
const ECONNABORTED: u16 = 103;
const ECONNRESET: u16 = 104;
const ETIMEDOUT: u16 = 110;
const ECONNREFUSED: u16 = 111;

/// `sk_shutdown`: nothing will be read any more.
const RCV_SHUTDOWN: u8 = 1;

/// What was seen of a connection before its `CLOSE`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    /// A child that perhaps nobody accepted.
    pub queued: bool,
    /// A child that was just born, and was not put into an accept queue.
    pub newborn: bool,
    /// This end has sent a RST in the state before: not one in `SYN_SENT`, to what a former connection left.
    pub reset_sent: bool,
}

/// Applies the table to a transition from `old` to `CLOSE`.
pub fn verdict(old: TcpState, evidence: &CloseEvidence, before: Before) -> Ending {
    if old == Listen {
        return Ending::Stopped;
    }
    // Before any error: with IP_RECVERR, or after a disconnect, `sk_err` may be an old one that nobody has read.
    if let Some(ending) = by_fins(old, evidence) {
        return ending;
    }
    match evidence.error {
        0 => without_error(old, evidence, before),
        error => with_error(old, error, evidence),
    }
}

/// What can be said of a transition from `old` to `CLOSE` without evidence: only what the state or a RST proves.
pub fn verdict_without_evidence(old: TcpState, reset_received: bool) -> Option<Ending> {
    match old {
        Listen => Some(Ending::Stopped),
        SynSent if reset_received => Some(Ending::Refused),
        _ if reset_received => Some(Ending::ResetByPeer),
        _ => None,
    }
}

/// Both FINs have come and were acknowledged: nothing but that leads to these.
fn by_fins(old: TcpState, evidence: &CloseEvidence) -> Option<Ending> {
    match old {
        FinWait2 if evidence.done => Some(Ending::LocalFin),
        Closing if evidence.all_acked => Some(Ending::BothFin),
        LastAck if evidence.all_acked => Some(Ending::PeerFin),
        _ => None,
    }
}

fn with_error(old: TcpState, error: u16, evidence: &CloseEvidence) -> Ending {
    match error {
        ECONNABORTED => Ending::Destroyed,
        ECONNRESET => Ending::ResetByPeer,
        EPIPE if old == CloseWait => Ending::ResetByPeer,
        ETIMEDOUT => Ending::TimedOut(timeout(old, evidence)),
        ECONNREFUSED if old == SynSent => Ending::Refused,
        // No matter whether the message ended it at once or was only remembered (a soft error) until the last SYN timed
        // out: the process sees its errno.
        _ if matches!(old, SynSent | SynRecv) => Ending::Unreachable,
        // `tcp_write_err()` reports a soft error in place of ETIMEDOUT.
        _ if error == evidence.soft_error => Ending::TimedOut(timeout(old, evidence)),
        _ => Ending::Aborted,
    }
}

fn timeout(old: TcpState, evidence: &CloseEvidence) -> Timeout {
    if matches!(old, SynSent | SynRecv) {
        Timeout::Syn
    } else if evidence.user_timeout_ms > 0 {
        Timeout::UserTimeout
    } else if evidence.probes > 0 && evidence.all_acked {
        // Keepalive only asks while nothing else is on the way.
        Timeout::Keepalive
    } else if evidence.retransmits > 0 || evidence.all_acked {
        Timeout::Retransmission
    } else {
        Timeout::ZeroWindow
    }
}

fn without_error(old: TcpState, evidence: &CloseEvidence, before: Before) -> Ending {
    match old {
        // The timer of one that stayed a socket: the FIN was acknowledged while close() was about to let go of it.
        FinWait2 if evidence.dead && evidence.linger2 >= 0 && before.reset_sent => Ending::TimedOut(Timeout::FinWait2),
        FinWait2 if evidence.dead && evidence.linger2 >= 0 => Ending::Orphaned,
        SynSent => Ending::ConnectAborted,
        SynRecv if before.newborn && !evidence.has_socket && !evidence.dead => Ending::Duplicate,
        _ if before.queued && !evidence.has_socket && !evidence.dead => Ending::ListenerClosed,
        _ => Ending::Aborted,
    }
}

/// What a RST that this end sent just after its `CLOSE` makes of the verdict: data came that nobody would read. The
/// kernel then goes the way of an orphan, or of a RST received (`tcp_reset()`), before it sends its own.
pub fn verdict_after_reset(ending: Ending, old: TcpState, evidence: &CloseEvidence) -> Ending {
    let shut = evidence.shutdown & RCV_SHUTDOWN != 0;
    match (ending, old) {
        (Ending::Orphaned, FinWait2) => Ending::Aborted,
        (Ending::ResetByPeer, FinWait1 | FinWait2) if shut => Ending::Aborted,
        (ending, _) => ending,
    }
}

/// Whether the current task made the transition to `CLOSE`; else it is whoever the softirq interrupted.
pub fn is_made_by_task(ending: Ending, evidence: Option<&CloseEvidence>) -> bool {
    match ending {
        Ending::ConnectAborted | Ending::Destroyed | Ending::ListenerClosed | Ending::Stopped => true,
        // An orphan's abort, by data or `TCP_LINGER2` < 0, comes with a segment.
        Ending::Aborted => evidence.is_some_and(|evidence| evidence.has_socket),
        Ending::LocalFin
        | Ending::PeerFin
        | Ending::BothFin
        | Ending::Orphaned
        | Ending::ResetByPeer
        | Ending::Refused
        | Ending::TimedOut(_)
        | Ending::Unreachable
        | Ending::Duplicate
        | Ending::Vanished => false,
    }
}

impl Ending {
    /// One word of at most nine letters, for a column; the JSON value too.
    pub const fn word(self) -> &'static str {
        match self {
            Self::LocalFin => "local-fin",
            Self::PeerFin => "peer-fin",
            Self::BothFin => "both-fin",
            Self::Orphaned => "orphaned",
            Self::ResetByPeer => "peer-rst",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
            Self::ConnectAborted => "given-up",
            Self::TimedOut(_) => "timed-out",
            Self::Unreachable => "unreached",
            Self::Destroyed => "destroyed",
            Self::ListenerClosed => "unqueued",
            Self::Duplicate => "duplicate",
            Self::Stopped => "stopped",
            Self::Vanished => "vanished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::state::TcpState::Established;

    fn check(old: TcpState, change: impl FnOnce(&mut CloseEvidence), expected: Ending) {
        let mut evidence = CloseEvidence::default();
        change(&mut evidence);
        assert_eq!(verdict(old, &evidence, Before::default()), expected);
    }

    #[test]
    fn fins_tell_who_closed_first() {
        check(FinWait2, |e| e.done = true, Ending::LocalFin);
        check(LastAck, |e| (e.dead, e.all_acked) = (true, true), Ending::PeerFin);
        check(LastAck, |e| (e.has_socket, e.unread_bytes) = (true, 3), Ending::Aborted);
        check(Closing, |e| (e.done, e.all_acked) = (true, true), Ending::BothFin);
        check(Closing, |e| e.done = true, Ending::Aborted);
        check(FinWait2, |e| e.dead = true, Ending::Orphaned);
        check(FinWait2, |e| (e.dead, e.linger2) = (true, -1), Ending::Aborted);
    }

    /// With `IP_RECVERR`, or after a disconnect and a new connect(), `sk_err` is set and means nothing.
    #[test]
    fn fins_count_more_than_an_error_that_nobody_read() {
        check(FinWait2, |e| (e.done, e.error) = (true, 113), Ending::LocalFin);
        check(LastAck, |e| (e.all_acked, e.error) = (true, 104), Ending::PeerFin);
        check(Established, |e| (e.has_socket, e.error) = (true, 113), Ending::Aborted);
    }

    #[test]
    fn errors_tell_resets_from_timeouts() {
        let timed_out = |timeout| Ending::TimedOut(timeout);
        check(SynSent, |e| e.error = 111, Ending::Refused);
        check(Established, |e| e.error = 104, Ending::ResetByPeer);
        check(CloseWait, |e| e.error = 32, Ending::ResetByPeer);
        check(Established, |e| (e.error, e.probes, e.all_acked) = (110, 9, true), timed_out(Timeout::Keepalive));
        check(Established, |e| (e.error, e.probes) = (110, 9), timed_out(Timeout::ZeroWindow));
        check(Established, |e| (e.error, e.user_timeout_ms) = (110, 500), timed_out(Timeout::UserTimeout));
        check(FinWait1, |e| (e.error, e.retransmits) = (110, 15), timed_out(Timeout::Retransmission));
        check(FinWait1, |e| (e.error, e.dead) = (110, true), timed_out(Timeout::ZeroWindow));
        check(
            Established,
            |e| (e.error, e.soft_error, e.retransmits) = (113, 113, 15),
            timed_out(Timeout::Retransmission),
        );
        check(SynSent, |e| (e.error, e.user_timeout_ms) = (110, 500), timed_out(Timeout::Syn));
        check(Established, |e| e.error = 103, Ending::Destroyed);
    }

    #[test]
    fn icmp_ends_a_connect_at_once_or_later() {
        check(SynSent, |e| e.error = 113, Ending::Unreachable);
        check(SynSent, |e| (e.error, e.soft_error) = (113, 113), Ending::Unreachable);
        check(SynSent, |e| e.error = 101, Ending::Unreachable);
        check(SynSent, |e| (e.error, e.soft_error) = (13, 101), Ending::Unreachable);
    }

    #[test]
    fn without_evidence_nothing_is_guessed() {
        assert_eq!(verdict_without_evidence(Listen, false), Some(Ending::Stopped));
        assert_eq!(verdict_without_evidence(SynSent, true), Some(Ending::Refused));
        assert_eq!(verdict_without_evidence(CloseWait, true), Some(Ending::ResetByPeer));
        assert_eq!(verdict_without_evidence(SynSent, false), None, "given up, timed out or unreachable");
        assert_eq!(verdict_without_evidence(FinWait2, false), None, "TIME_WAIT, an orphan or an abort");
    }

    #[test]
    fn local_ends_without_an_error() {
        check(Listen, |_| (), Ending::Stopped);
        check(SynSent, |e| e.shutdown = 3, Ending::ConnectAborted);
        check(Established, |e| (e.dead, e.unread_bytes) = (true, 5), Ending::Aborted);
        let queued = Before { queued: true, ..Before::default() };
        assert_eq!(verdict(SynRecv, &CloseEvidence::default(), queued), Ending::ListenerClosed);
        let newborn = Before { newborn: true, ..queued };
        assert_eq!(verdict(SynRecv, &CloseEvidence::default(), newborn), Ending::Duplicate);
        assert_eq!(verdict(Established, &CloseEvidence::default(), newborn), Ending::ListenerClosed);
    }

    /// `tcp_keepalive_timer()` sends its RST before `CLOSE`; data after close() is answered after it.
    #[test]
    fn a_reset_before_tells_of_an_orphan_that_waited_as_a_socket() {
        let orphan = CloseEvidence { dead: true, ..CloseEvidence::default() };
        let before = Before { reset_sent: true, ..Before::default() };
        assert_eq!(verdict(FinWait2, &orphan, before), Ending::TimedOut(Timeout::FinWait2));
        assert_eq!(verdict(FinWait2, &CloseEvidence { linger2: -1, ..orphan }, before), Ending::Aborted);
    }

    #[test]
    fn a_reset_that_follows_tells_of_data_after_the_close() {
        let check = |ending, old, shutdown, expected| {
            let evidence = CloseEvidence { shutdown, ..CloseEvidence::default() };
            assert_eq!(verdict_after_reset(ending, old, &evidence), expected);
        };
        check(Ending::Orphaned, FinWait2, 3, Ending::Aborted);
        check(Ending::ResetByPeer, FinWait2, 3, Ending::Aborted);
        check(Ending::ResetByPeer, FinWait2, 2, Ending::ResetByPeer);
        check(Ending::ResetByPeer, Established, 0, Ending::ResetByPeer);
    }
}
