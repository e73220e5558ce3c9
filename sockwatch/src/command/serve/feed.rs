//! From the loop that takes events in to the thread that answers clients.
//!
//! The loop owns the counts: an update takes no lock, and a slow client or a scrape cannot keep events waiting. Who
//! answers asks by message for a snapshot, plain figures that are copied between two batches; making text of them, the
//! greatest part of the work, is done on the other thread. So a scrape waits for the next batch, some `--latency` at
//! most, and one that gets no answer knows that the loop is stuck.

use std::{
    io, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sockwatch::{
    metrics::{Metrics, Program, Snapshot},
    pipeline::Totals,
    sink::{Sight, Sink, selected::Selection},
    source::{Source, SourceError, TableNews, Tick},
    tcp::{event::Event, update::Update},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    otlp::Outbox,
    view::{Question, View},
};
use crate::command::start::Started;

/// A snapshot is told to everybody who asks within this time: a look at all sockets takes time where there are many.
const FRESH_NS: u64 = 100_000_000;

/// If nobody asks, listeners that are gone make room for others all the same.
const UNASKED_NS: u64 = 60_000_000_000;

/// Programs' run times are read so often at most.
const PROGRAMS_NS: u64 = 1_000_000_000;

/// What the loop is asked for.
pub(super) enum Order {
    /// What was counted until now.
    Tell(oneshot::Sender<Arc<Snapshot>>),
    /// What somebody looks at.
    Look(Question),
    /// From now on other settings; it is told when they are in force.
    Change(Box<Change>, oneshot::Sender<()>),
}

/// Settings that can change while events are taken in.
pub(super) struct Change {
    /// What is counted and shown, of what the kernel side lets through.
    pub(super) selection: Selection,
    /// Listeners with series of their own.
    pub(super) max_listeners: usize,
    /// From which wait on a connection is slow.
    pub(super) slow_ns: u64,
}

/// Counts, and tells whoever asks.
pub(super) struct Feed {
    metrics: Metrics,
    view: View,
    selection: Selection,
    orders: mpsc::Receiver<Order>,
    last: Option<Arc<Snapshot>>,
    /// Where what has ended goes, if it is pushed.
    outbox: Option<Outbox>,
}

impl Feed {
    pub(super) fn new(metrics: Metrics, view: View, orders: mpsc::Receiver<Order>) -> Self {
        Self { metrics, view, selection: Selection::default(), orders, last: None, outbox: None }
    }

    /// Puts what has ended there, too.
    pub(super) fn sending(self, outbox: Option<Outbox>) -> Self {
        Self { outbox, ..self }
    }

    /// The figures at the end.
    pub(super) fn into_last(self) -> Option<Arc<Snapshot>> {
        self.last
    }

    fn snapshot(&mut self, sight: &Sight<'_>) -> Arc<Snapshot> {
        if let Some(last) = self.last.as_ref().filter(|last| sight.now_ns.saturating_sub(last.at_ns) < FRESH_NS) {
            return Arc::clone(last);
        }
        let snapshot = Arc::new(self.metrics.snapshot(sight, &mut self.selection));
        self.last = Some(Arc::clone(&snapshot));
        snapshot
    }
}

impl Sink for Feed {
    fn wants(&mut self, update: &Update) -> bool {
        self.selection.passes(update)
    }

    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.view.take(update);
        if let Some(outbox) = &mut self.outbox {
            outbox.update(update);
        }
        self.metrics.update(update)
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.view.count(totals);
        if let Some(outbox) = &mut self.outbox {
            outbox.hand_over();
        }
        self.metrics.tick(totals)
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        self.view.look(sight, &mut self.selection);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                // Who asked may have gone.
                Order::Tell(to) => drop(to.send(self.snapshot(sight))),
                Order::Look(question) => self.view.answer(sight, &mut self.selection, question),
                Order::Change(change, done) => {
                    let Change { selection, max_listeners, slow_ns } = *change;
                    self.view.set_slow(slow_ns);
                    if !selection.is_like(&self.selection) {
                        self.selection = selection;
                        self.view.forget();
                    }
                    self.metrics.limit(max_listeners);
                    self.last = None;
                    // Who asked may have gone.
                    let _ = done.send(());
                }
            }
        }
        if sight.is_last {
            self.last = Some(Arc::new(self.metrics.snapshot(sight, &mut self.selection)));
        }
        let last_ns = self.last.as_ref().map_or(0, |last| last.at_ns);
        if sight.now_ns.saturating_sub(last_ns) > UNASKED_NS {
            self.snapshot(sight);
        }
        Ok(())
    }
}

/// What is known of the source while the loop has it.
#[derive(Default)]
pub(super) struct Pulse {
    /// The time of the newest event, in nanoseconds of `CLOCK_MONOTONIC`.
    event_ns: AtomicU64,
    events: AtomicU64,
    read_bytes: AtomicU64,
    programs: Mutex<Vec<Program>>,
}

impl Pulse {
    pub(super) fn event_ns(&self) -> u64 {
        self.event_ns.load(Ordering::Relaxed)
    }

    /// Events that the source has told.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn programs(&self) -> Vec<Program> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A source whose pulse is felt.
pub(super) struct Felt {
    source: Started,
    pulse: Arc<Pulse>,
    programs_ns: u64,
}

impl Felt {
    pub(super) fn new(source: Started) -> (Self, Arc<Pulse>) {
        let pulse = Arc::new(Pulse::default());
        (Self { source, pulse: Arc::clone(&pulse), programs_ns: 0 }, pulse)
    }

    pub(super) fn source(&self) -> &Started {
        &self.source
    }

    fn feel(&mut self, events: &[Event], tick: &Tick) {
        self.pulse.events.fetch_add(events.len() as u64, Ordering::Relaxed);
        if let Some(newest_ns) = events.iter().map(|event| event.at_ns).max() {
            self.pulse.event_ns.fetch_max(newest_ns, Ordering::Relaxed);
        }
        self.pulse.read_bytes.store(self.source.bytes(), Ordering::Relaxed);
        if tick.now_ns.saturating_sub(self.programs_ns) >= PROGRAMS_NS {
            self.programs_ns = tick.now_ns;
            let programs = self.programs();
            let mut known = self.pulse.programs.lock().unwrap_or_else(PoisonError::into_inner);
            drop(mem::replace(&mut *known, programs));
        }
    }

    /// None unless the kernel counts.
    fn programs(&self) -> Vec<Program> {
        let Started::Live(live) = &self.source else { return Vec::new() };
        let runs = live.runs().into_iter();
        runs.map(|(name, runs, ns)| Program { name: name.to_owned(), runs, ns }).collect()
    }
}

impl Source for Felt {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let before = events.len();
        let tick = self.source.next(events).await?;
        self.feel(&events[before..], &tick);
        Ok(tick)
    }

    fn table(&mut self) -> TableNews {
        self.source.table()
    }

    fn owes(&mut self) -> bool {
        self.source.owes()
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let before = events.len();
        let tick = self.source.drain(events)?;
        self.feel(&events[before..], &tick);
        Ok(tick)
    }
}
