//! A recording, read as the source that it was.

pub mod player;

use std::{
    collections::{HashSet, VecDeque},
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Source, SourceError, TableNews, Tick};
use crate::{
    process::names::Named,
    recording::{
        Mark, Said,
        reader::{End, Reader},
    },
    tcp::{
        event::Event,
        loss::{COUNTED, Losses},
        order::WINDOW_NS,
    },
};

/// What was said until a tick, and of the table after it.
struct Batch {
    events: Vec<Event>,
    tick: Tick,
    news: Vec<TableNews>,
}

/// Files of a recording, one after the other.
pub struct Recording {
    files: VecDeque<Reader>,
    /// What became of those that were read.
    read: Vec<Reader>,
    /// Of the batch that is being told, and how far it is told.
    said: Said,
    events_told: usize,
    marks_told: usize,
    losses: Losses,
    news: VecDeque<TableNews>,
    /// The batch that is told next: the last one is told by [`Source::drain`], as it was.
    ahead: Option<Batch>,
    last: Tick,
    /// Room for the events of the next batch.
    spare: Vec<Event>,
    /// How many times as fast as it was; `None`: at once.
    speed: Option<f64>,
    /// When which time was.
    began: Option<(Instant, u64)>,
    ended: Option<oneshot::Sender<()>>,
    listeners: Vec<Sender<Named>>,
    /// The files before these are missing: what the first listing of each namespace shows was there before. Namespaces listed.
    listed: Option<HashSet<u32>>,
    /// Nothing later is told.
    until_ns: Option<u64>,
    /// All that is not later has been read.
    is_past: bool,
    damage: Option<String>,
}

/// What goes with a recording.
pub struct Opened {
    /// The recording, as a source.
    pub recording: Recording,
    /// Resolves when all of it was told.
    pub ended: oneshot::Receiver<()>,
}

impl Recording {
    /// Reads these files, in this order.
    pub fn of(files: Vec<Reader>, speed: Option<f64>) -> Opened {
        let (ended, is_ended) = oneshot::channel();
        let is_rest = files.first().is_some_and(|file| file.header().part > 1);
        let recording = Self {
            files: files.into(),
            read: Vec::new(),
            said: Said::default(),
            events_told: 0,
            marks_told: 0,
            losses: Losses::default(),
            news: VecDeque::new(),
            ahead: None,
            last: Tick { now_ns: 0, losses: Losses::default() },
            spare: Vec::new(),
            speed,
            began: None,
            ended: Some(ended),
            listeners: Vec::new(),
            listed: is_rest.then(HashSet::new),
            until_ns: None,
            is_past: false,
            damage: None,
        };
        Opened { recording, ended: is_ended }
    }

    /// Ends it there, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn until(&mut self, until_ns: u64) {
        self.until_ns = Some(until_ns);
    }

    /// The processes that it names, as it comes to them.
    pub fn names(&mut self) -> Receiver<Named> {
        let (teller, listener) = mpsc::channel();
        self.listeners.push(teller);
        listener
    }

    /// The files that were read to their end.
    pub fn read(&self) -> &[Reader] {
        &self.read
    }

    /// Bytes that were read.
    pub fn bytes(&self) -> u64 {
        self.read.iter().chain(self.files.front()).map(Reader::bytes).sum()
    }

    /// Until when it was told, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn last_ns(&self) -> u64 {
        self.last.now_ns
    }

    /// What is wrong with the rest of it: nothing behind that was told.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Reads on. Returns whether there is more.
    fn read_on(&mut self) -> bool {
        self.said.clear();
        (self.events_told, self.marks_told) = (0, 0);
        let Some(reader) = self.files.front_mut() else { return false };
        match reader.next(&mut self.said) {
            Ok(true) => {}
            Ok(false) => self.read.extend(self.files.pop_front()),
            Err(error) => {
                self.damage = Some(format!("{}: {error}", reader.path().display()));
                self.files.clear();
            }
        }
        true
    }

    /// Appends the events before the next mark, and returns that; `None` at the end.
    fn mark(&mut self, events: &mut Vec<Event>) -> Option<Mark> {
        loop {
            let Self { said, events_told, marks_told, .. } = self;
            let marked = said.marks.get_mut(*marks_told);
            let until = marked.as_ref().map_or(said.events.len(), |(events, _)| *events);
            events.extend_from_slice(&said.events[*events_told..until]);
            *events_told = until;
            if let Some((_, mark)) = marked {
                *marks_told += 1;
                return Some(std::mem::replace(mark, Mark::RoundExpected));
            }
            if !self.read_on() {
                return None;
            }
        }
    }

    /// Whether the next thing is news of the kernel's table.
    fn is_news_next(&mut self) -> bool {
        while self.events_told == self.said.events.len() && self.marks_told == self.said.marks.len() {
            if !self.read_on() {
                return false;
            }
        }
        let next = self.said.marks.get(self.marks_told).filter(|(events, _)| *events == self.events_told);
        matches!(next, Some((_, Mark::RoundExpected | Mark::Round(_))))
    }

    /// The next batch; `None` at the end.
    fn batch(&mut self) -> Option<Batch> {
        if self.is_past {
            return None;
        }
        let mut batch = self.whole_batch()?;
        if let Some(until_ns) = self.until_ns.filter(|until_ns| batch.tick.now_ns > *until_ns) {
            // What another CPU told late may be in the batches that follow.
            self.is_past = batch.tick.now_ns > until_ns.saturating_add(WINDOW_NS);
            batch.events.retain(|event| event.at_ns <= until_ns);
            batch.tick.now_ns = until_ns;
            batch.news.clear();
        }
        Some(batch)
    }

    fn whole_batch(&mut self) -> Option<Batch> {
        let (mut events, mut news) = (std::mem::take(&mut self.spare), Vec::new());
        let now_ns = loop {
            match self.mark(&mut events) {
                Some(Mark::Tick { now_ns }) => break now_ns,
                Some(mark) => self.take(mark, &mut news),
                // It was cut before its tick, if there is anything.
                None => break events.iter().map(|event| event.at_ns).max()?,
            }
        };
        while self.is_news_next() {
            // Nothing is before it.
            if let Some(mark) = self.mark(&mut events) {
                self.take(mark, &mut news);
            }
        }
        Some(Batch { events, tick: Tick { now_ns, losses: self.losses }, news })
    }

    fn take(&mut self, mark: Mark, news: &mut Vec<TableNews>) {
        match mark {
            Mark::Loss { index, count } => {
                if let Some((_, counted)) = COUNTED.get(index) {
                    *counted(&mut self.losses) = count;
                }
            }
            Mark::Process(named) => {
                // Who does not want to know any more is not told.
                self.listeners.retain(|listener| listener.send(named.clone()).is_ok());
            }
            Mark::RoundExpected => news.push(TableNews::Expected),
            Mark::Round(mut round) => {
                if let Some(listed) = &mut self.listed {
                    round.listings.iter_mut().for_each(|listing| listing.first |= listed.insert(listing.netns));
                }
                news.push(TableNews::Listed(round));
            }
            Mark::Clock { .. } | Mark::Tick { .. } => {}
        }
    }

    /// Waits until it is time, if times count.
    async fn wait(&mut self, now_ns: u64) {
        let Some(speed) = self.speed else { return };
        let (began, from_ns) = *self.began.get_or_insert((Instant::now(), now_ns));
        let passed = Duration::from_nanos(now_ns.saturating_sub(from_ns)).as_secs_f64() / speed;
        if let Ok(passed) = Duration::try_from_secs_f64(passed) {
            tokio::time::sleep_until((began + passed).into()).await;
        }
    }
}

/// What there is to say of a file that does not end as it should; nothing if it does.
pub fn cut(reader: &Reader) -> Option<&'static str> {
    match reader.end()? {
        End::Marked => None,
        End::Unmarked => Some("has no end mark: it is still being written, or its writer was stopped at once"),
        End::Cut => Some("is cut within a batch: its writer was stopped at once, or it was not copied to its end"),
    }
}

impl Source for Recording {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        if self.ahead.is_none() && self.ended.is_some() {
            self.ahead = self.batch();
        }
        if let Some(ahead) = &self.ahead {
            let now_ns = ahead.tick.now_ns;
            self.wait(now_ns).await;
        }
        let following = if self.ended.is_some() { self.batch() } else { None };
        if let Some(following) = following
            && let Some(batch) = self.ahead.replace(following)
        {
            let Batch { events: mut told, tick, news } = batch;
            events.append(&mut told);
            self.spare = told;
            self.news.extend(news);
            self.last = tick;
            return Ok(tick);
        }
        if let Some(ended) = self.ended.take() {
            // Whoever does not listen ends by itself.
            let _ = ended.send(());
        }
        std::future::pending().await
    }

    fn table(&mut self) -> TableNews {
        self.news.pop_front().unwrap_or(TableNews::Nothing)
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        if let Some(batch) = self.ahead.take() {
            events.extend(batch.events);
            self.last = batch.tick;
        }
        Ok(self.last)
    }
}

#[cfg(test)]
mod tests;
