//! A recording, read as the source that it was.

use std::{
    collections::VecDeque,
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Source, SourceError, TableNews, Tick};
use crate::{
    process::names::Named,
    recording::{
        Row,
        reader::{End, Reader},
    },
    tcp::{
        event::Event,
        loss::{COUNTED, Losses},
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
    /// Of the batch that is being told, and the next one to tell.
    rows: Vec<Row>,
    at: usize,
    losses: Losses,
    news: VecDeque<TableNews>,
    /// News that came before a tick.
    untold: Vec<TableNews>,
    /// The batch that is told next: the last one is told by [`Source::drain`], as it was.
    ahead: Option<Batch>,
    last: Tick,
    /// How many times as fast as it was; `None`: at once.
    speed: Option<f64>,
    /// When which time was.
    began: Option<(Instant, u64)>,
    ended: Option<oneshot::Sender<()>>,
    listeners: Vec<Sender<Named>>,
    /// Nothing later is told.
    until_ns: Option<u64>,
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
        let recording = Self {
            files: files.into(),
            read: Vec::new(),
            rows: Vec::new(),
            at: 0,
            losses: Losses::default(),
            news: VecDeque::new(),
            untold: Vec::new(),
            ahead: None,
            last: Tick { now_ns: 0, losses: Losses::default() },
            speed,
            began: None,
            ended: Some(ended),
            listeners: Vec::new(),
            until_ns: None,
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

    /// What is wrong with the rest of it: nothing behind that was told.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The next row; `None` at the end. The caller counts [`Self::at`] on.
    fn peek(&mut self) -> Option<&mut Row> {
        while self.at == self.rows.len() {
            self.rows.clear();
            self.at = 0;
            let reader = self.files.front_mut()?;
            match reader.next(&mut self.rows) {
                Ok(true) => {}
                Ok(false) => self.read.extend(self.files.pop_front()),
                Err(error) => {
                    self.damage = Some(format!("{}: {error}", reader.path().display()));
                    self.files.clear();
                }
            }
        }
        self.rows.get_mut(self.at)
    }

    /// The next batch; `None` at the end.
    fn batch(&mut self) -> Option<Batch> {
        let batch = self.whole_batch()?;
        let is_late = self.until_ns.is_some_and(|until_ns| batch.tick.now_ns > until_ns);
        (!is_late).then_some(batch)
    }

    fn whole_batch(&mut self) -> Option<Batch> {
        let mut events = Vec::new();
        let now_ns = loop {
            let Some(row) = self.peek() else {
                // It was cut before its tick, if there is anything.
                break events.iter().map(|event: &Event| event.at_ns).max()?;
            };
            match row {
                Row::Event(event) => events.push(*event),
                Row::Tick { now_ns } => {
                    let now_ns = *now_ns;
                    self.at += 1;
                    break now_ns;
                }
                other => {
                    let other = std::mem::replace(other, Row::Tick { now_ns: 0 });
                    self.take(other);
                }
            }
            self.at += 1;
        };
        let mut news = std::mem::take(&mut self.untold);
        while let Some(row) = self.peek() {
            match row {
                Row::RoundExpected => news.push(TableNews::Expected),
                Row::Round(round) => news.push(TableNews::Listed(std::mem::take(round))),
                _of_the_next_batch => break,
            }
            self.at += 1;
        }
        Some(Batch { events, tick: Tick { now_ns, losses: self.losses }, news })
    }

    /// A row that is neither an event nor a tick.
    fn take(&mut self, row: Row) {
        match row {
            Row::Loss { index, count } => {
                if let Some((_, counted)) = COUNTED.get(index) {
                    *counted(&mut self.losses) = count;
                }
            }
            Row::Process(named) => {
                // Who does not want to know any more is not told.
                self.listeners.retain(|listener| listener.send(named.clone()).is_ok());
            }
            Row::RoundExpected => self.untold.push(TableNews::Expected),
            Row::Round(round) => self.untold.push(TableNews::Listed(round)),
            Row::Clock { .. } | Row::Event(_) | Row::Tick { .. } => {}
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
            events.extend(batch.events);
            self.news.extend(batch.news);
            self.last = batch.tick;
            return Ok(batch.tick);
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
