//! The verdict table: which kind of `CLOSE` was it, and who ended the connection.
//!
//! Read at the transition to `CLOSE`; every row was measured on 6.18. The kernel shows neither `TIME_WAIT` nor an
//! orphan's `FIN_WAIT2` as a transition: both replace the socket by a minisock, and the socket goes to `CLOSE`.

use super::{
    event::CloseEvidence,
    state::TcpState::{self, CloseWait, Closing, FinWait2, LastAck, Listen, SynSent},
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
    /// This end sent a RST: unread data at close, linger 0, `TCP_LINGER2` < 0, or a disconnect.
    Aborted,
    /// connect() was answered with a RST.
    Refused,
    /// connect() was given up by its own process, or failed before it reached the wire.
    ConnectAborted,
    /// The other end did not answer.
    TimedOut(Timeout),
    /// ICMP said that the destination cannot be reached.
    Unreachable,
    /// An administrator destroyed it (`ss -K`).
    Destroyed,
    /// It was still in the accept queue when its listener was closed.
    ListenerClosed,
    /// A listener was closed.
    Stopped,
    /// It was no longer in the kernel's table: seen by polling, so how it ended is not known.
    Vanished,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Keepalive probes were not answered.
    Keepalive,
    /// `TCP_USER_TIMEOUT`.
    UserTimeout,
    /// Retransmissions were not acknowledged, or the SYN was not answered.
    Retransmission,
}

const EPIPE: u16 = 32;
const ECONNABORTED: u16 = 103;
const ECONNRESET: u16 = 104;
const ETIMEDOUT: u16 = 110;
const ECONNREFUSED: u16 = 111;
const EHOSTUNREACH: u16 = 113;

/// Applies the table to a transition from `old` to `CLOSE`. `was_queued` tells of a child that nobody accepted.
pub fn verdict(old: TcpState, evidence: &CloseEvidence, was_queued: bool) -> Ending {
    if old == Listen {
        return Ending::Stopped;
    }
    match evidence.error {
        0 => without_error(old, evidence, was_queued),
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

fn with_error(old: TcpState, error: u16, evidence: &CloseEvidence) -> Ending {
    match error {
        ECONNABORTED => Ending::Destroyed,
        ECONNREFUSED if old == SynSent => Ending::Refused,
        ECONNRESET => Ending::ResetByPeer,
        EPIPE if old == CloseWait => Ending::ResetByPeer,
        EHOSTUNREACH if old == SynSent && evidence.soft_error == 0 => Ending::Unreachable,
        ETIMEDOUT => Ending::TimedOut(timeout(evidence)),
        _ if evidence.soft_error != 0 => Ending::TimedOut(timeout(evidence)),
        _ => Ending::Aborted,
    }
}

fn timeout(evidence: &CloseEvidence) -> Timeout {
    if evidence.probes > 0 {
        Timeout::Keepalive
    } else if evidence.user_timeout_ms > 0 {
        Timeout::UserTimeout
    } else {
        Timeout::Retransmission
    }
}

fn without_error(old: TcpState, evidence: &CloseEvidence, was_queued: bool) -> Ending {
    match old {
        FinWait2 if evidence.done => Ending::LocalFin,
        FinWait2 if evidence.dead && evidence.linger2 >= 0 => Ending::Orphaned,
        Closing if evidence.done && evidence.all_acked => Ending::BothFin,
        LastAck => Ending::PeerFin,
        SynSent => Ending::ConnectAborted,
        _ if was_queued && !evidence.has_socket && !evidence.dead => Ending::ListenerClosed,
        _ => Ending::Aborted,
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
            Self::Stopped => "stopped",
            Self::Vanished => "vanished",
        }
    }

    /// The same in a few words.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::LocalFin => "this end closed first; TIME_WAIT is on this side",
            Self::PeerFin => "the remote end closed first; TIME_WAIT is on its side",
            Self::BothFin => "both ends closed at once; TIME_WAIT is on both sides",
            Self::Orphaned => "this end closed first and waits in FIN_WAIT2 without a process",
            Self::ResetByPeer => "reset by the remote end",
            Self::Aborted => "reset by this end",
            Self::Refused => "connection refused",
            Self::ConnectAborted => "connect given up before it was answered",
            Self::TimedOut(Timeout::Keepalive) => "keepalive probes were not answered",
            Self::TimedOut(Timeout::UserTimeout) => "TCP_USER_TIMEOUT ran out",
            Self::TimedOut(Timeout::Retransmission) => "retransmissions were not answered",
            Self::Unreachable => "destination unreachable",
            Self::Destroyed => "destroyed by an administrator",
            Self::ListenerClosed => "its listener was closed while it was in the accept queue",
            Self::Stopped => "listener closed",
            Self::Vanished => "no longer in the kernel's socket table",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::state::TcpState::{Established, FinWait1, SynRecv};

    fn check(old: TcpState, change: impl FnOnce(&mut CloseEvidence), expected: Ending) {
        let mut evidence = CloseEvidence::default();
        change(&mut evidence);
        assert_eq!(verdict(old, &evidence, false), expected);
    }

    #[test]
    fn fins_tell_who_closed_first() {
        check(FinWait2, |e| e.done = true, Ending::LocalFin);
        check(LastAck, |e| e.dead = true, Ending::PeerFin);
        check(Closing, |e| (e.done, e.all_acked) = (true, true), Ending::BothFin);
        check(Closing, |e| e.done = true, Ending::Aborted);
        check(FinWait2, |e| e.dead = true, Ending::Orphaned);
        check(FinWait2, |e| (e.dead, e.linger2) = (true, -1), Ending::Aborted);
    }

    #[test]
    fn errors_tell_resets_from_timeouts() {
        check(SynSent, |e| e.error = 111, Ending::Refused);
        check(Established, |e| e.error = 104, Ending::ResetByPeer);
        check(CloseWait, |e| e.error = 32, Ending::ResetByPeer);
        check(Established, |e| (e.error, e.probes) = (110, 9), Ending::TimedOut(Timeout::Keepalive));
        check(Established, |e| (e.error, e.user_timeout_ms) = (110, 500), Ending::TimedOut(Timeout::UserTimeout));
        check(FinWait1, |e| (e.error, e.retransmits) = (110, 15), Ending::TimedOut(Timeout::Retransmission));
        check(SynSent, |e| (e.error, e.soft_error) = (113, 113), Ending::TimedOut(Timeout::Retransmission));
        check(SynSent, |e| e.error = 113, Ending::Unreachable);
        check(Established, |e| e.error = 103, Ending::Destroyed);
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
        assert_eq!(verdict(SynRecv, &CloseEvidence::default(), true), Ending::ListenerClosed);
    }
}
