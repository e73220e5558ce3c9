//! A source that is recorded while it is read.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Source, SourceError, TableNews, Tick};
use crate::{
    process::names::Names,
    recording::writer::{Recorder, WriteError, Written},
    tcp::event::{Event, EventKind},
};

/// For so long nobody looks whether a number has got another process.
const FRESH: Duration = Duration::from_secs(1);

/// Processes that are remembered at once.
const MOST: usize = 10_000;

/// Reads a source, and records what it says.
pub struct Recorded<S> {
    source: S,
    recorder: Recorder,
    names: Names,
    /// When each process was looked at, and since when it is the one that was noted.
    noted: HashMap<u32, (Instant, Option<u64>)>,
    last_pid: u32,
}

impl<S: Source> Recorded<S> {
    /// From now on all that the source says is recorded.
    pub fn new(source: S, recorder: Recorder) -> Self {
        Self { source, recorder, names: Names::default(), noted: HashMap::new(), last_pid: 0 }
    }

    /// The source itself.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// How far the writing is.
    pub fn written(&self) -> Written {
        self.recorder.written()
    }

    /// Rows that were dropped because the disk is too slow.
    pub fn unrecorded(&self) -> u64 {
        self.recorder.unrecorded()
    }

    /// Writes what is left and ends the recording.
    ///
    /// # Errors
    /// If something could not be written.
    pub fn finish(self) -> Result<(S, Written), WriteError> {
        Ok((self.source, self.recorder.finish()?))
    }

    fn record(&mut self, events: &[Event], tick: &Tick) -> Result<(), SourceError> {
        for event in events {
            if let EventKind::Opening { by, .. } | EventKind::Accept { by, .. } = event.kind
                && by.pid != self.last_pid
            {
                self.last_pid = by.pid;
                self.note(by.pid, event.at_ns);
            }
        }
        // Once a second at most, for the one that all events come from.
        self.last_pid = 0;
        Ok(self.recorder.take(events, tick)?)
    }

    /// Notes a process, unless that was done.
    fn note(&mut self, pid: u32, at_ns: u64) {
        let before = match self.noted.get(&pid) {
            Some((looked, _)) if looked.elapsed() < FRESH => return,
            Some((_, started_ns)) => *started_ns,
            None => None,
        };
        let named = self.names.named(pid, at_ns);
        let started_ns = named.map(|named| named.started_ns);
        if let Some(named) = named.filter(|named| Some(named.started_ns) != before) {
            self.recorder.process(named);
        }
        if self.noted.len() >= MOST {
            self.noted.clear();
        }
        self.noted.insert(pid, (Instant::now(), started_ns.or(before)));
    }
}

impl<S: Source> Source for Recorded<S> {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let before = events.len();
        let tick = self.source.next(events).await?;
        self.record(&events[before..], &tick)?;
        Ok(tick)
    }

    fn table(&mut self) -> TableNews {
        let news = self.source.table();
        self.recorder.table(&news);
        news
    }

    fn owes(&mut self) -> bool {
        self.source.owes()
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let before = events.len();
        let tick = self.source.drain(events)?;
        self.record(&events[before..], &tick)?;
        Ok(tick)
    }
}
