//! Words that columns hold: each column has a fixed dictionary, so that a word costs less than a byte.

use std::sync::{Arc, OnceLock};

use arrow_array::{ArrayRef, StringArray};

use crate::tcp::{
    loss,
    queue::COUNTERS,
    state::{self, TcpState},
};

/// What a column of words may hold.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// All of them, in the dictionary's order: less than 128.
    fn all() -> &'static [Self];

    /// Its place among them.
    fn number(self) -> usize;

    /// As it is spelled.
    fn word(self) -> &'static str;

    /// The dictionary, always the same one.
    fn dictionary() -> &'static ArrayRef;
}

/// A dictionary of all words.
fn spell<W: Word>(cell: &'static OnceLock<ArrayRef>) -> &'static ArrayRef {
    cell.get_or_init(|| Arc::new(StringArray::from_iter_values(W::all().iter().map(|word| word.word()))))
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident => $word:literal,)+) => {
        /// What a row tells.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $($(#[doc = $doc])+ $kind,)+
        }

        /// Every kind of row, with what it tells.
        pub(super) const KINDS: &[(Kind, &str, &[&str])] = &[$((Kind::$kind, $word, &[$($doc),+]),)+];
    };
}

kinds! {
    /// A state transition.
    Transition => "transition",
    /// connect() or listen(), by its caller.
    Opening => "opening",
    /// A listener's child: `LISTEN` to `SYN_RECV`.
    Birth => "birth",
    /// A transition to `CLOSE`, with what tells why.
    Closing => "closing",
    /// A child's handshake and listener became known: it is in the accept queue.
    Enqueue => "enqueue",
    /// A task took a child out of the accept queue.
    Accept => "accept",
    /// The descriptor that accept() returned for it.
    AcceptReturn => "accept_return",
    /// The socket is gone.
    Destroy => "destroy",
    /// accept() failed at this listener.
    AcceptFailed => "accept_failed",
    /// A RST was sent.
    ResetSent => "reset_sent",
    /// A RST was received.
    ResetReceived => "reset_received",
    /// A segment was sent again.
    Retransmit => "retransmit",
    /// A listener's SYN-ACK was sent again, to the remote end.
    SynAckRetransmit => "synack_retransmit",
    /// A listener's full accept queue cost a packet.
    ListenOverflow => "listen_overflow",
    /// A segment came for a minisock, which is in `new` now.
    MinisockSegment => "minisock_segment",
    /// Polling: seen in a listing.
    Listed => "listed",
    /// Polling: no longer in the listing.
    Unlisted => "unlisted",
    /// All until `at_ns` has been told.
    Tick => "tick",
    /// A count of losses has grown: `what` is `count` now. With flag 2048 it had grown before: each batch begins so.
    Loss => "loss",
    /// `CLOCK_MONOTONIC` and, in `count`, the Unix time in nanoseconds when it was 0.
    Clock => "clock",
    /// The kernel's socket table is about to be listed.
    RoundExpected => "round_expected",
    /// The table of a network namespace: the `socket`, `holder` and `counter` rows that follow belong to it.
    Listing => "listing",
    /// A socket of the table.
    Socket => "socket",
    /// Who holds the sockets with this inode number.
    Holder => "holder",
    /// A counter of the namespace: `what` has grown by `count` since the recording began.
    Counter => "counter",
    /// A network namespace that is no more.
    NamespaceGone => "namespace_gone",
    /// The listings are complete; `count` namespaces could not be listed.
    Round => "round",
    /// What a process is called and where it belongs; it started at `at_ns`.
    Process => "process",
}

impl Word for Kind {
    fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Kind>> = OnceLock::new();
        ALL.get_or_init(|| KINDS.iter().map(|(kind, _, _)| *kind).collect())
    }

    fn number(self) -> usize {
        self as usize
    }

    fn word(self) -> &'static str {
        KINDS[self as usize].1
    }

    fn dictionary() -> &'static ArrayRef {
        static WORDS: OnceLock<ArrayRef> = OnceLock::new();
        spell::<Self>(&WORDS)
    }
}

impl Word for TcpState {
    fn all() -> &'static [Self] {
        &state::ALL
    }

    fn number(self) -> usize {
        usize::from(self as u8) - 1
    }

    fn word(self) -> &'static str {
        self.name()
    }

    fn dictionary() -> &'static ArrayRef {
        static WORDS: OnceLock<ArrayRef> = OnceLock::new();
        spell::<Self>(&WORDS)
    }
}

/// Something that is counted: the index of a loss, or behind them that of a namespace's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct What(pub(super) usize);

const WHATS: usize = loss::COUNTED.len() + COUNTERS.len();

impl What {
    /// A namespace's counter.
    pub(super) fn counter(index: usize) -> Self {
        Self(loss::COUNTED.len() + index)
    }

    /// The index of a namespace's counter, if it is one.
    pub(super) fn as_counter(self) -> Option<usize> {
        self.0.checked_sub(loss::COUNTED.len())
    }
}

impl Word for What {
    fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<What>> = OnceLock::new();
        ALL.get_or_init(|| (0..WHATS).map(What).collect())
    }

    fn number(self) -> usize {
        self.0
    }

    fn word(self) -> &'static str {
        match self.as_counter() {
            Some(index) => COUNTERS[index].0,
            None => loss::COUNTED[self.0].0,
        }
    }

    fn dictionary() -> &'static ArrayRef {
        static WORDS: OnceLock<ArrayRef> = OnceLock::new();
        spell::<Self>(&WORDS)
    }
}
