//! A recording, read as the source that it was.

pub mod player;
pub mod rest;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::rest::Rest;
use super::{Source, SourceError, TableNews, Tick};
use crate::{
    process::names::Told,
    recording::{
        MOST_LISTED, Mark, Said,
        reader::{End, Reader},
    },
    sink::wall::Wall,
    tcp::{
        event::Event,
        listing::Listing,
        loss::{COUNTED, Losses},
        order::WINDOW_NS,
    },
};

/// Events that may wait until ticks have come to their times: a file with more is not one of ours.
const MOST_WAITING: usize = 4_000_000;

/// No event waits so long. A recorder that was stopped while it read may date some after their tick.
const MOST_WAIT_NS: u64 = 3_600_000_000_000;

/// Files whose damage is told one by one.
const MOST_TOLD: usize = 5;

/// News of the table that may wait to be heard: one is at each tick.
const MOST_NEWS: usize = 256;

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
    names: Told,
    /// The files before these are missing.
    rest: Option<Rest>,
    /// The times of events that ticks have not come to.
    waiting: Vec<u64>,
    wall: Wall,
    /// Nothing later is told.
    until: Option<Until>,
    /// All that is not later has been read.
    is_past: bool,
    /// What is wrong with which file.
    damage: Vec<String>,
}

/// Where a recording is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// There, in nanoseconds of `CLOCK_MONOTONIC`.
    Monotonic(u64),
    /// When it was first this Unix time, in nanoseconds.
    Unix(u64),
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
        let wall = Wall::of(files.first().map_or(0, |file| file.header().wall_offset_ns));
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
            names: Told::default(),
            rest: is_rest.then(Rest::default),
            waiting: Vec::new(),
            wall,
            until: None,
            is_past: false,
            damage: Vec::new(),
        };
        Opened { recording, ended: is_ended }
    }

    /// Without some files that could not be read: says what is wrong with each.
    #[must_use]
    pub fn lacking(self, damage: Vec<String>) -> Self {
        Self { damage, ..self }
    }

    /// Ends it there.
    pub fn until(&mut self, until: Until) {
        self.until = Some(until);
    }

    /// The time of day, as it comes to what moves it.
    pub fn wall(&self) -> Wall {
        self.wall.clone()
    }

    /// The processes that it names, as it comes to them.
    pub fn names(&self) -> Told {
        self.names.clone()
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

    /// What is wrong with some of its files: nothing behind that was told of them, but all others were.
    pub fn damage(&self) -> Option<String> {
        damage(&self.damage)
    }

    /// Reads on. Returns whether there is more.
    fn read_on(&mut self) -> bool {
        self.said.clear();
        (self.events_told, self.marks_told) = (0, 0);
        let Some(reader) = self.files.front_mut() else { return false };
        if reader.batches() == 0 {
            self.wall.tell(reader.header().started_ns, reader.header().wall_offset_ns);
        }
        match reader.next(&mut self.said) {
            Ok(true) => {}
            Ok(false) => self.read.extend(self.files.pop_front()),
            Err(error) => {
                self.damage.push(format!("{}: {error}", reader.path().display()));
                self.read.extend(self.files.pop_front());
            }
        }
        true
    }

    /// Goes on with the next file: what this one said last cannot be from a recording.
    fn give_up(&mut self, what: String) {
        let file = self.files.front().or(self.read.last());
        let place = file.map(|file| format!("{}: damaged before byte {}: ", file.path().display(), file.bytes()));
        self.damage.push(format!("{}{what}", place.unwrap_or_default()));
        self.read.extend(self.files.pop_front());
        self.said.clear();
        (self.events_told, self.marks_told) = (0, 0);
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

    /// Whether the next thing is news of the kernel's table, or what may stand between a tick and those.
    fn is_news_next(&mut self) -> bool {
        while self.events_told == self.said.events.len() && self.marks_told == self.said.marks.len() {
            if !self.read_on() {
                return false;
            }
        }
        let next = self.said.marks.get(self.marks_told).filter(|(events, _)| *events == self.events_told);
        match next {
            Some((_, Mark::RoundExpected | Mark::Round(_))) => true,
            Some((_, Mark::Clock { .. } | Mark::Loss { .. } | Mark::LostBefore { .. })) => true,
            Some((_, Mark::Tick { .. } | Mark::Process(_))) | None => false,
        }
    }

    /// The next batch; `None` at the end.
    fn batch(&mut self) -> Option<Batch> {
        if self.is_past {
            return None;
        }
        let mut batch = self.whole_batch()?;
        let until_ns = self.until.map(|until| match until {
            Until::Monotonic(until_ns) => until_ns,
            Until::Unix(unix_ns) => self.wall.monotonic_ns(unix_ns, batch.tick.now_ns),
        });
        if let Some(until_ns) = until_ns.filter(|until_ns| batch.tick.now_ns > *until_ns) {
            // A clock that is set back shows the same again.
            self.until = Some(Until::Monotonic(until_ns));
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
        let losses = match &mut self.rest {
            Some(rest) => {
                rest.begin();
                rest.losses(self.losses)
            }
            None => self.losses,
        };
        self.check_times(&mut events, now_ns);
        while self.is_news_next() {
            // Nothing is before it.
            if let Some(mark) = self.mark(&mut events) {
                self.take(mark, &mut news);
            }
        }
        self.check_news(&mut news);
        Some(Batch { events, tick: Tick { now_ns, losses }, news })
    }

    /// Events are told soon after they happened: none may wait for ever, nor too many at once.
    fn check_times(&mut self, events: &mut Vec<Event>, now_ns: u64) {
        let (released_ns, most_ns) = (now_ns.saturating_sub(WINDOW_NS), now_ns.saturating_add(MOST_WAIT_NS));
        self.waiting.retain(|at_ns| *at_ns > released_ns);
        let mut last_ns = 0;
        let times = events.iter().map(|event| event.at_ns).inspect(|at_ns| last_ns = last_ns.max(*at_ns));
        self.waiting.extend(times.filter(|at_ns| *at_ns > released_ns));
        if last_ns > most_ns {
            events.retain(|event| event.at_ns <= most_ns);
            self.give_up("an event is dated more than an hour after the tick that follows it".into());
        } else if self.waiting.len() > MOST_WAITING {
            // The next file may do the same.
            events.retain(|event| event.at_ns <= released_ns);
            self.give_up(format!("more than {MOST_WAITING} events are dated after the ticks that follow them"));
        }
    }

    /// A round is heard before the next one is told: of a recording, never many wait.
    fn check_news(&mut self, news: &mut Vec<TableNews>) {
        if news.is_empty() {
            return;
        }
        let waiting = self.news.iter().chain(news.iter());
        let rows: usize = waiting.clone().map(rows).sum();
        if rows > MOST_LISTED || waiting.count() > MOST_NEWS {
            news.clear();
            self.give_up("too many listings of the kernel's table follow one another".into());
        }
    }

    fn take(&mut self, mark: Mark, news: &mut Vec<TableNews>) {
        match mark {
            Mark::Loss { index, count } => {
                if let Some((_, counted)) = COUNTED.get(index) {
                    *counted(&mut self.losses) = count;
                }
            }
            Mark::LostBefore { index, count } => {
                if let Some(rest) = &mut self.rest {
                    rest.lost_before(index, count);
                }
                self.take(Mark::Loss { index, count }, news);
            }
            Mark::Process(named) => self.names.tell(named),
            Mark::RoundExpected => news.push(TableNews::Expected),
            Mark::Round(mut round) => {
                if let Some(rest) = &mut self.rest {
                    rest.rebase(&mut round);
                }
                news.push(TableNews::Listed(round));
            }
            Mark::Clock { at_ns, wall_offset_ns } => self.wall.tell(at_ns, wall_offset_ns),
            Mark::Tick { .. } => {}
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

/// How many rows of listings there were of it.
fn rows(news: &TableNews) -> usize {
    let TableNews::Listed(round) = news else { return 0 };
    let of = |listing: &Listing| 1 + listing.records.len() + listing.holders.values().map(Vec::len).sum::<usize>();
    round.listings.iter().map(of).sum::<usize>() + round.gone.len()
}

/// What is wrong with some files, in a sentence; nothing if they are well.
pub fn damage(files: &[String]) -> Option<String> {
    let (told, more) = files.split_at(files.len().min(MOST_TOLD));
    let more = if more.is_empty() { String::new() } else { format!("; and {} more", more.len()) };
    (!told.is_empty()).then(|| told.join("; ") + &more)
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
