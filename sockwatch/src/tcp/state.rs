//! TCP states, as the kernel numbers and spells them (`include/net/tcp_states.h`).

use std::fmt;

/// A TCP state. RFC 9293 section 3.3.2 defines them; the kernel adds `NEW_SYN_RECV` (a request that has no socket
/// yet) and `BOUND_INACTIVE` (a bound socket, newer listings only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "RFC 9293 section 3.3.2 defines them")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    NewSynRecv = 12,
    BoundInactive = 13,
}

use TcpState::{
    BoundInactive, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv, SynRecv,
    SynSent, TimeWait,
};

/// Every state, in the kernel's order.
pub const ALL: [TcpState; 13] = [
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    BoundInactive,
];

impl TcpState {
    /// The kernel's name, without its `TCP_` prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Established => "ESTABLISHED",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            FinWait1 => "FIN_WAIT1",
            FinWait2 => "FIN_WAIT2",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            Listen => "LISTEN",
            Closing => "CLOSING",
            NewSynRecv => "NEW_SYN_RECV",
            BoundInactive => "BOUND_INACTIVE",
        }
    }

    /// The state that people mean, as the kernel or `ss` spells it: `CLOSE_WAIT`, `time-wait`, `estab`. Requests, which the kernel
    /// calls `NEW_SYN_RECV`, are listed as `SYN_RECV`.
    pub fn named(text: &str) -> Option<Self> {
        let key =
            |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
        let wanted = match key(text).as_str() {
            "ESTAB" => "ESTABLISHED".to_owned(),
            "LISTENING" => "LISTEN".to_owned(),
            "UNCONN" | "CLOSED" => "CLOSE".to_owned(),
            "BOUND" => key("BOUND_INACTIVE"),
            "NEWSYNRECV" => key("SYN_RECV"),
            other => other.strip_prefix("TCP").unwrap_or(other).to_owned(),
        };
        ALL.into_iter().find(|state| key(state.name()) == wanted)
    }

    /// Whether this end has closed its half: only somebody who holds the socket can.
    pub const fn has_sent_fin(self) -> bool {
        matches!(self, FinWait1 | FinWait2 | Closing | LastAck | TimeWait)
    }

    /// Whether the kernel's state machine can take this step (`tcp_set_state`, `inet_sk_state_store`).
    ///
    /// Steps to the same state are legal where close() follows a shutdown(): they mark the close.
    /// `LISTEN` to `SYN_RECV` is a child's birth, told by its cloned state.
    pub const fn can_become(self, new: Self) -> bool {
        match self {
            Close => matches!(new, SynSent | Listen | Close),
            Listen => matches!(new, SynRecv | Close),
            SynSent => matches!(new, Established | SynRecv | Close),
            SynRecv => matches!(new, Established | FinWait1 | CloseWait | Close),
            Established => matches!(new, FinWait1 | CloseWait | Close),
            FinWait1 => matches!(new, FinWait1 | FinWait2 | Closing | TimeWait | Close),
            FinWait2 => matches!(new, FinWait2 | TimeWait | Close),
            Closing => matches!(new, Closing | TimeWait | Close),
            CloseWait => matches!(new, LastAck | Close),
            LastAck => matches!(new, LastAck | Close),
            TimeWait => matches!(new, Close),
            NewSynRecv => matches!(new, SynRecv),
            BoundInactive => matches!(new, SynSent | Listen | Close),
        }
    }
}

impl TryFrom<u8> for TcpState {
    type Error = u8;

    /// The kernel's number; what is not one comes back as the error.
    fn try_from(number: u8) -> Result<Self, u8> {
        ALL.get(usize::from(number).wrapping_sub(1)).copied().ok_or(number)
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_others_are_refused() {
        for state in ALL {
            assert_eq!(TcpState::try_from(state as u8), Ok(state));
        }
        for number in [0, 14, 255] {
            assert_eq!(TcpState::try_from(number), Err(number));
        }
    }

    #[test]
    fn the_state_machine_is_rfc_9293_figure_5() {
        assert!(Listen.can_become(SynRecv) && SynRecv.can_become(Established));
        assert!(SynSent.can_become(SynRecv), "simultaneous open");
        assert!(FinWait1.can_become(Closing), "simultaneous close");
        assert!(FinWait1.can_become(FinWait1), "close() after shutdown()");
        assert!(!Close.can_become(Established) && !TimeWait.can_become(Established) && !Listen.can_become(SynSent));
    }
}
