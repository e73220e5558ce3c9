//! Where updates go.

pub mod json;
pub mod quantity;
pub mod selected;
pub mod text;
pub mod time_of_day;
pub mod wall;

use std::io;

use self::wall::Wall;
use crate::{
    pipeline::Totals,
    tcp::{tracker::Tracker, update::Update},
};

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Show {
    /// Transitions and everything else that happens to a socket.
    pub transitions: bool,
    /// Finished connections.
    pub connections: bool,
    /// How accept queues are, once a second.
    pub queues: bool,
    /// Where the kernel's table and we disagree.
    pub disagreements: bool,
    /// Whether text says below each finished connection who ended it.
    pub why: Why,
}

/// Whether an ending is told in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Below each finished connection.
    Told,
    /// Only the word.
    Untold,
}

/// What an event's time is counted from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Since the trace began.
    Relative {
        /// `CLOCK_MONOTONIC` then, in nanoseconds.
        start_ns: u64,
    },
    /// Unix time.
    Wall(Wall),
    /// `CLOCK_MONOTONIC`: since boot, without suspends.
    Monotonic,
}

impl Clock {
    /// Its word in JSON.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Relative { .. } => "relative",
            Self::Wall(_) => "wall",
            Self::Monotonic => "monotonic",
        }
    }

    /// An event's time on this clock, in nanoseconds. What happened before the trace began is negative.
    pub fn at(&self, at_ns: u64) -> i64 {
        match self {
            Self::Relative { start_ns } => at_ns.cast_signed().wrapping_sub(start_ns.cast_signed()),
            Self::Wall(wall) => wall.unix_ns(at_ns).cast_signed(),
            Self::Monotonic => at_ns.cast_signed(),
        }
    }
}

/// What there is after a batch.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub now_ns: u64,
    /// All sockets.
    pub tracker: &'a Tracker,
    /// Nothing comes after it.
    pub is_last: bool,
}

/// Shows updates.
pub trait Sink {
    /// Whether an update is any of its business: what is not does not count.
    fn wants(&mut self, _update: &Update) -> bool {
        true
    }

    /// One update. May be buffered until the tick.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn update(&mut self, update: &Update) -> io::Result<()>;

    /// The batch is over: everything is written out.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn tick(&mut self, totals: &Totals) -> io::Result<()>;

    /// What there is now, after each batch: for who shows sockets as they are.
    ///
    /// # Errors
    /// If the output cannot be written.
    fn look(&mut self, _sight: &Sight<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// One that is used again.
impl<S: Sink> Sink for &mut S {
    fn wants(&mut self, update: &Update) -> bool {
        (**self).wants(update)
    }

    fn update(&mut self, update: &Update) -> io::Result<()> {
        (**self).update(update)
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        (**self).tick(totals)
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        (**self).look(sight)
    }
}
