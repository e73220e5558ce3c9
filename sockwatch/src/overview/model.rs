//! What is kept between two frames: measures of listeners, findings, and how many sockets were in each state over the last minutes.

use std::collections::{HashMap, HashSet, VecDeque};

use foldhash::fast::FixedState;

use super::recap::recap;
use crate::{
    diagnosis::{
        Diagnosis, Report,
        ports::Settings,
        waits::{Spread, Waits},
    },
    pipeline::Totals,
    sink::{Sight, selected::Selection, wall::Wall},
    tcp::{
        connection::Connection,
        event::SocketKey,
        state::{ALL, TcpState},
        update::{Happening, Update},
    },
};

/// So often is everything counted.
const SECOND_NS: u64 = 1_000_000_000;

/// Waits are those of this window and the one before.
const WINDOW_NS: u64 = 30 * SECOND_NS;

/// A namespace whose settings were not found is looked for again after so long.
const ASKED_AGAIN_NS: u64 = 60 * SECOND_NS;

/// Listeners whose waits are kept.
const MOST_LISTENERS: usize = 4096;

/// Seconds that are remembered.
pub const REMEMBERED: usize = 300;

const STATES: usize = ALL.len() + 1;

/// Where all of it comes from, in words for the first line.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `eBPF`, `polling`, or the recording's name.
    pub source: String,
    /// The machine's name.
    pub host: String,
    /// The time of day there.
    pub wall: Wall,
    /// The recording's beginning and end; `None` live.
    pub span_ns: Option<(u64, u64)>,
}

/// How many waits there were lately.
#[derive(Clone, Debug)]
struct Recent {
    since_ns: u64,
    waits: Waits,
    before: Option<Waits>,
}

impl Recent {
    fn new(at_ns: u64) -> Self {
        Self { since_ns: at_ns, waits: Waits::new(u64::MAX), before: None }
    }

    fn turn(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.since_ns);
        if passed_ns >= WINDOW_NS {
            let before = std::mem::replace(&mut self.waits, Waits::new(u64::MAX));
            self.before = (passed_ns < 2 * WINDOW_NS).then_some(before);
            self.since_ns = now_ns - passed_ns % WINDOW_NS;
        }
    }

    fn all(&self) -> Waits {
        let mut all = self.waits.clone();
        if let Some(before) = &self.before {
            all.merge(before);
        }
        all
    }
}

/// Counts of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Sockets by state's number, at its end.
    states: [u32; STATES],
    /// Events.
    pub events: u64,
    /// Connections that ended.
    pub ended: u64,
}

impl Second {
    /// Sockets in a state, at its end.
    pub fn sockets(&self, state: TcpState) -> u32 {
        self.states[state as usize]
    }
}

/// A connection that somebody looks at.
#[derive(Clone, Debug)]
struct Watched {
    key: SocketKey,
    incarnation: u32,
    /// How it ended.
    end: Option<Box<Connection>>,
}

/// All that is kept.
#[derive(Debug)]
pub struct Model {
    place: Place,
    began_ns: u64,
    diagnosis: Diagnosis,
    report: Option<Report>,
    settings: HashMap<u32, Settings>,
    /// Namespaces that were asked for, and when.
    asked: HashMap<u32, u64>,
    recent: HashMap<SocketKey, Recent, FixedState>,
    seconds: VecDeque<Second>,
    /// When the last of them ended.
    counted_ns: u64,
    events_before: u64,
    ended: u64,
    totals: Totals,
    watched: Option<Watched>,
}

impl Model {
    /// Begins then; a connection that waits for `slow_ns` in an accept queue is slow.
    pub fn new(place: Place, began_ns: u64, slow_ns: u64) -> Self {
        Self {
            place,
            began_ns,
            diagnosis: Diagnosis::new(began_ns, slow_ns),
            report: None,
            settings: HashMap::new(),
            asked: HashMap::new(),
            recent: HashMap::default(),
            seconds: VecDeque::new(),
            counted_ns: began_ns,
            events_before: 0,
            ended: 0,
            totals: Totals::default(),
            watched: None,
        }
    }

    /// Begins in the middle of a run, with what there is already and passes.
    pub fn amid(place: Place, sight: &Sight<'_>, selection: &mut Selection, totals: &Totals, slow_ns: u64) -> Self {
        let mut model = Self::new(place, sight.now_ns, slow_ns);
        (model.totals, model.events_before) = (*totals, totals.events);
        recap(sight, selection, &mut |update| model.take(update));
        model
    }

    /// All that is shown of it, to stay as it is: what it is measured from is left behind.
    pub fn still(&self) -> Self {
        Self {
            report: self.report.clone(),
            recent: self.recent.clone(),
            seconds: self.seconds.clone(),
            totals: self.totals,
            watched: self.watched.clone(),
            ..Self::new(self.place.clone(), self.began_ns, u64::MAX)
        }
    }

    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Takes an update in.
    pub fn take(&mut self, update: &Update) {
        self.diagnosis.take(update);
        let key = update.subject.key;
        match &update.happening {
            Happening::Accepted { listener: Some(cookie), wait_ns: Some(wait_ns), .. } => {
                let listener = SocketKey { cookie: *cookie, ..key };
                if self.recent.len() < MOST_LISTENERS || self.recent.contains_key(&listener) {
                    let recent = self.recent.entry(listener).or_insert_with(|| Recent::new(update.at_ns));
                    recent.turn(update.at_ns);
                    recent.waits.add(wait_ns.max(&0).unsigned_abs());
                }
            }
            Happening::Ended(connection) => {
                self.ended += 1;
                if let Some(watched) = &mut self.watched
                    && (watched.key, watched.incarnation) == (key, update.subject.incarnation)
                {
                    watched.end = Some(connection.clone());
                }
            }
            _ => {}
        }
    }

    /// Takes in what was counted.
    pub fn count(&mut self, totals: &Totals) {
        self.totals = *totals;
    }

    /// Where all of it comes from.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What was seen, and lost.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Of a recording: its beginning and its end.
    pub fn span_ns(&self) -> Option<(u64, u64)> {
        self.place.span_ns
    }

    /// A connection that waits for so long is slow from now on, and so are those that have.
    pub fn set_slow(&mut self, slow_ns: u64) {
        self.diagnosis.set_slow(slow_ns);
    }

    /// Network namespaces whose settings [`Self::settle`] wants. One that is not found is asked for once a minute only: to look for
    /// it means to look through all processes.
    pub fn opens_in(&mut self) -> HashSet<u32> {
        let now_ns = self.counted_ns;
        self.asked.retain(|_, asked_ns| now_ns.saturating_sub(*asked_ns) < ASKED_AGAIN_NS);
        let mut unknown = self.diagnosis.opens_in();
        unknown.retain(|netns| !self.settings.contains_key(netns) && !self.asked.contains_key(netns));
        self.asked.extend(unknown.iter().map(|netns| (*netns, now_ns)));
        unknown
    }

    /// Takes in what a namespace allows.
    pub fn settle(&mut self, netns: u32, settings: Settings) {
        self.settings.insert(netns, settings);
    }

    /// Once a second everything that passes is counted. Returns whether it was.
    pub fn look(&mut self, sight: &Sight<'_>, selection: &mut Selection) -> bool {
        let passed = sight.now_ns.saturating_sub(self.counted_ns) / SECOND_NS;
        if passed == 0 && self.report.is_some() {
            return false;
        }
        let mut second = Second::default();
        let passing = sight.tracker.living(sight.now_ns);
        for living in passing.filter(|living| selection.admits(&living.subject, sight.now_ns)) {
            second.states[living.state as usize] += 1;
        }
        second.events = (self.totals.events - self.events_before) / passed.max(1);
        second.ended = std::mem::take(&mut self.ended) / passed.max(1);
        self.events_before = self.totals.events;
        for _ in 0..passed.clamp(1, REMEMBERED as u64) {
            self.seconds.push_back(second);
        }
        while self.seconds.len() > REMEMBERED {
            self.seconds.pop_front();
        }
        self.counted_ns += passed * SECOND_NS;
        for recent in self.recent.values_mut() {
            recent.turn(sight.now_ns);
        }
        self.recent.retain(|_, recent| recent.waits.count() > 0 || recent.before.is_some());
        self.report = Some(self.diagnosis.report(sight.now_ns, &self.totals, &self.settings));
        true
    }

    /// Listeners, findings and ports, as of the last second; `None` before the first.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn report_mut(&mut self) -> Option<&mut Report> {
        self.report.as_mut()
    }

    /// The seconds that are remembered, the oldest first.
    pub fn seconds(&self) -> impl DoubleEndedIterator<Item = &Second> + ExactSizeIterator {
        self.seconds.iter()
    }

    /// The last of them.
    pub fn last(&self) -> Second {
        self.seconds.back().copied().unwrap_or_default()
    }

    /// How many were in a state, second by second.
    pub fn course(&self, state: TcpState) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
        self.seconds.iter().map(move |second| second.sockets(state).into())
    }

    /// Waits of the last 30 to 60 seconds.
    pub fn waits(&self, listener: SocketKey) -> Option<Waits> {
        self.recent.get(&listener).map(Recent::all)
    }

    /// The same in a few figures; `None` if there were none.
    pub fn spread(&self, listener: SocketKey) -> Option<Spread> {
        self.waits(listener)?.spread()
    }

    /// Somebody looks at a connection: its end is kept.
    pub fn watch(&mut self, key: SocketKey, incarnation: u32) {
        self.watched = Some(Watched { key, incarnation, end: None });
    }

    /// The connection that somebody looks at, and which of its lives.
    pub fn watched(&self) -> Option<(SocketKey, u32)> {
        self.watched.as_ref().map(|watched| (watched.key, watched.incarnation))
    }

    /// How the connection that is looked at ended.
    pub fn end_of_watched(&self) -> Option<&Connection> {
        self.watched.as_ref()?.end.as_deref()
    }
}
