//! A recording that somebody plays: it stands still, goes on as fast as is wanted, and is wound on. It never ends by itself, and
//! ticks while nothing happens, so that whoever shows it can go on listening to keys.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    super::{Source, SourceError, TableNews, Tick},
    Batch, Recording,
};
use crate::tcp::event::Event;

/// Between two ticks while nothing happens.
const FRAME: Duration = Duration::from_millis(40);

/// How it is played: whoever shows it decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Play {
    /// It stands still.
    pub paused: bool,
    /// How many times as fast as it was.
    pub speed: f64,
    /// To go there at once, in nanoseconds of `CLOCK_MONOTONIC`; never back.
    pub target_ns: Option<u64>,
    /// Where it is.
    pub at_ns: u64,
    /// All of it was told.
    pub is_over: bool,
}

/// Plays a recording.
pub struct Player {
    recording: Recording,
    play: Rc<Cell<Play>>,
    ahead: Option<Batch>,
    last: Tick,
    looked: Instant,
}

impl Player {
    /// Begins where `play` says.
    pub fn new(recording: Recording, play: Rc<Cell<Play>>) -> Self {
        let last = recording.last;
        Self { recording, play, ahead: None, last, looked: Instant::now() }
    }

    /// The recording.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Goes on with the time.
    fn pass(&mut self) -> Play {
        let passed = self.looked.elapsed();
        self.looked += passed;
        let mut play = self.play.get();
        if let Some(target_ns) = play.target_ns.take() {
            play.at_ns = play.at_ns.max(target_ns);
        } else if !play.paused && !play.is_over {
            play.at_ns = play.at_ns.saturating_add((passed.as_nanos() as f64 * play.speed) as u64);
        }
        if self.ahead.is_none() {
            play.is_over = true;
            play.at_ns = play.at_ns.min(self.last.now_ns);
        }
        self.play.set(play);
        play
    }
}

impl Source for Player {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        if self.ahead.is_none() && !self.play.get().is_over {
            self.ahead = self.recording.batch();
        }
        let play = self.pass();
        let Some(batch) = self.ahead.take_if(|batch| batch.tick.now_ns <= play.at_ns) else {
            tokio::time::sleep(FRAME).await;
            return Ok(self.last);
        };
        let Batch { events: mut told, tick, news } = batch;
        events.append(&mut told);
        self.recording.spare = told;
        self.recording.news.extend(news);
        self.last = tick;
        Ok(tick)
    }

    fn table(&mut self) -> TableNews {
        self.recording.table()
    }

    fn drain(&mut self, _events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        Ok(self.last)
    }
}
