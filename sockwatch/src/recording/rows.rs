//! What a source says: events, and marks between them.

use crate::{
    process::names::Named,
    tcp::{event::Event, listing::Round},
};

/// What a source said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// What happened.
    pub events: Vec<Event>,
    /// What else it said, each after so many of the events.
    pub marks: Vec<(usize, Mark)>,
}

impl Said {
    /// Forgets it.
    pub fn clear(&mut self) {
        self.events.clear();
        self.marks.clear();
    }
}

/// What a source says beside its events.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// A batch of events was complete: whatever happened until then has been told.
    Tick {
        /// `CLOCK_MONOTONIC` in nanoseconds.
        now_ns: u64,
    },
    /// A count of losses has grown.
    Loss {
        /// Which: an index into [`COUNTED`](crate::tcp::loss::COUNTED).
        index: usize,
        /// What it is now.
        count: u64,
    },
    /// To what a count of losses had grown before: each batch begins with those that are not 0.
    LostBefore {
        /// Which, as in [`Self::Loss`].
        index: usize,
        /// What it was.
        count: u64,
    },
    /// What time of day it was.
    Clock {
        /// `CLOCK_MONOTONIC` in nanoseconds.
        at_ns: u64,
        /// The Unix time when that was 0.
        wall_offset_ns: u64,
    },
    /// A round of listings was about to begin.
    RoundExpected,
    /// A round of listings was complete.
    Round(Round),
    /// A process that has to do with a socket.
    Process(Named),
}
