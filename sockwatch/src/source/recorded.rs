//! A source that is recorded while it is read.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Source, SourceError, TableNews, Tick};
use crate::{
    process::names::{Named, Names},
    recording::writer::{Recorder, WriteError, Written},
    tcp::{
        event::{Event, EventKind},
        listing::Round,
    },
};

/// For so long nobody looks whether a number has got another process.
const FRESH: Duration = Duration::from_secs(1);

/// Processes that are remembered at once.
const MOST: usize = 10_000;

/// Holders of sockets that are noted in one batch: to look at a process takes some 50 microseconds.
const HOLDERS_AT_ONCE: usize = 32;

/// Reads a source, and records what it says.
pub struct Recorded<S> {
    source: S,
    recorder: Recorder,
    names: Names,
    /// When each process was looked at, and what was noted of it.
    noted: HashMap<u32, (Instant, Option<Named>)>,
    /// Files that were begun, and rows that were dropped, when that was begun.
    noted_in: (u32, u64),
    last_pid: u32,
    /// Processes that a listing named, to be noted, and when that was.
    holders: Vec<(u32, u64)>,
}

impl<S: Source> Recorded<S> {
    /// From now on all that the source says is recorded.
    pub fn new(source: S, recorder: Recorder) -> Self {
        let noted_in = (recorder.files(), recorder.unrecorded());
        Self {
            source,
            recorder,
            names: Names::default(),
            noted: HashMap::new(),
            noted_in,
            last_pid: 0,
            holders: Vec::new(),
        }
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
    pub fn finish(mut self) -> Result<(S, Written), WriteError> {
        self.note_holders(usize::MAX);
        Ok((self.source, self.recorder.finish()?))
    }

    fn record(&mut self, events: &[Event], tick: &Tick) -> Result<(), SourceError> {
        let noted_in = (self.recorder.files(), self.recorder.unrecorded());
        if noted_in != self.noted_in {
            // Another file names its processes itself, and what was dropped may have named some.
            self.noted_in = noted_in;
            self.noted.clear();
        }
        self.note_holders(HOLDERS_AT_ONCE);
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

    /// Keeps in mind who holds what was listed, unless there are still some of an earlier round.
    fn expect_holders(&mut self, round: &Round) {
        if self.holders.is_empty() {
            for listing in &round.listings {
                self.holders.extend(listing.holders.values().flatten().map(|holder| (holder.pid, listing.to_ns)));
            }
            self.holders.sort_unstable();
            self.holders.dedup_by_key(|(pid, _)| *pid);
        }
    }

    /// Notes so many of them.
    fn note_holders(&mut self, most: usize) {
        for _ in 0..most {
            let Some((pid, at_ns)) = self.holders.pop() else { break };
            self.note(pid, at_ns);
        }
    }

    /// Notes a process, unless that was done.
    fn note(&mut self, pid: u32, at_ns: u64) {
        if self.noted.get(&pid).is_some_and(|(looked, _)| looked.elapsed() < FRESH) {
            return;
        }
        if self.noted.len() >= MOST && !self.noted.contains_key(&pid) {
            self.noted.clear();
        }
        let (looked, noted) = self.noted.entry(pid).or_insert_with(|| (Instant::now(), None));
        *looked = Instant::now();
        // It may have got another name, or another place, since.
        if let Some(named) = self.names.named(pid, at_ns).filter(|named| noted.as_ref() != Some(*named)) {
            self.recorder.process(named);
            *noted = Some(named.clone());
        }
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
        if let TableNews::Listed(round) = &news {
            self.expect_holders(round);
        }
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

#[cfg(test)]
mod tests;
