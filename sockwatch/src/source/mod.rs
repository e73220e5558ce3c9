//! Where events come from. Each source reports events with kernel times and says what it lost; nothing else differs.

pub mod counters;
pub mod live;
pub mod poll;
pub mod reconcile;
pub mod recorded;
pub mod recording;
pub mod table;
pub mod tallies;
pub mod threads;

use crate::tcp::{event::Event, listing::Round, loss::Losses};

/// What a source says beside its events.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// `CLOCK_MONOTONIC` in nanoseconds, read before the events were taken: whatever happened earlier has been reported,
    /// up to the reordering between CPUs. A source that does not reorder adds the
    /// [window](crate::tcp::order::WINDOW_NS).
    pub now_ns: u64,
    /// What the source lost since it started.
    pub losses: Losses,
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The kernel refused to hand out events or listings.
    #[error("cannot read {what}")]
    Read {
        /// What was read.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        error: std::io::Error,
    },
    /// This source cannot do what was asked of it.
    #[error("{0}")]
    Unsupported(String),
    /// What is read can no longer be recorded.
    #[error(transparent)]
    Record(#[from] crate::recording::writer::WriteError),
    /// The kernel's socket listing makes no sense.
    #[error("the kernel's socket listing is malformed: {0}")]
    Listing(String),
}

/// What a source has to say of the kernel's socket table.
#[derive(Debug)]
pub enum TableNews {
    /// Nothing.
    Nothing,
    /// A round of listings is about to begin.
    Expected,
    /// A round is complete.
    Listed(Round),
}

/// A stream of events.
pub trait Source {
    /// Waits until there is something to say, at most about the source's latency, and appends new events in the order
    /// in which they were read. May append none.
    ///
    /// # Errors
    /// A [`SourceError`] ends the stream.
    fn next(&mut self, events: &mut Vec<Event>) -> impl Future<Output = Result<Tick, SourceError>>;

    /// What there is to say of the kernel's table. Asked after each batch.
    fn table(&mut self) -> TableNews {
        TableNews::Nothing
    }

    /// The run is about to end: whether [`Self::next`] will bring something that is worth waiting for, such as a last look at
    /// the kernel's table. Asked before each batch, until it is not.
    fn owes(&mut self) -> bool {
        false
    }

    /// Takes what is already there, without waiting: the last call before the end.
    ///
    /// # Errors
    /// As for [`Self::next`].
    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError>;
}
