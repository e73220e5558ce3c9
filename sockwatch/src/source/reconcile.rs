//! Listings of the kernel's socket table beside the stream of events: at the start, every now and then, and at once after a
//! loss, of every network namespace in which something happened. A thread of its own lists, so that nobody waits for it;
//! who compares is elsewhere.

mod lister;
mod look;
mod owners;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use self::lister::Lister;
use super::{SourceError, TableNews, Tick};
use crate::{
    diagnosis::look::Look,
    monotonic::now_ns,
    privilege::{self, Sandbox},
    tcp::{
        event::{Event, EventKind},
        filter::Filter,
        listing::Round,
        loss::Losses,
    },
};

/// Between the announcement of a round and its first listing: what ends from the announcement on is remembered, and the
/// comparison looks back a little.
const LEAD: Duration = Duration::from_millis(6);

/// After a round nothing is listed for so many times as long as it took: never more than about 2 % of a CPU.
const REST: u32 = 50;

/// After a loss the next round comes at once, but not more often than this.
const LOSS_INTERVAL: Duration = Duration::from_millis(250);

/// Processes that are remembered between two rounds.
const MOST_OWNERS: usize = 1 << 16;

/// When to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// So long after the last round, and at once after a loss.
    Every(Duration),
    /// At random instants, so far apart on average, and without rest: for an audit.
    AtRandom(Duration),
}

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that the filter lets in.
    All,
    /// Listeners only: their connections are not followed.
    Listeners,
}

/// Lists, and says what is there.
#[derive(Debug)]
pub struct Reconciler {
    schedule: Schedule,
    orders: Sender<Order>,
    rounds: Receiver<Report>,
    state: State,
    due: Instant,
    /// Namespaces seen, with the file of a thread that was in it, where one was named.
    namespaces: HashMap<u32, Option<PathBuf>>,
    last_netns: Option<u32>,
    /// Processes that opened or accepted since the last order.
    owners: HashSet<u32>,
    last_owner: u32,
    losses: u64,
    /// Something was lost since the last order.
    lost: bool,
    random: u64,
    looking: Looking,
    looks: Vec<Look>,
}

/// Whether the first round and the last one look closer at each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    /// They do not, and no round is the last one.
    Never,
    /// They do, and the last one was not asked for yet.
    Running,
    /// It was asked for.
    Ending,
    /// It is on its way.
    Last,
    /// It has been told.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resting,
    /// Announced at this time.
    Announced(Instant),
    Listing,
}

/// Where to list.
#[derive(Debug)]
struct Order {
    namespaces: HashMap<u32, Option<PathBuf>>,
    /// Processes that opened or accepted since the last order.
    owners: HashSet<u32>,
    closely: Closely,
}

/// How much is asked of each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closely {
    /// Its state.
    No,
    /// What lies in its queues, which timer runs, and the rest of `tcp_info`.
    Yes,
}

/// What came of it.
#[derive(Debug)]
struct Report {
    round: Round,
    took: Duration,
    look: Option<Look>,
}

impl Reconciler {
    /// Starts the thread, which confines itself if it is to. The first round begins at once: with every namespace that can be
    /// found, unless the filter names some.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(filter: &Filter, schedule: Schedule, scope: Scope, sandbox: Sandbox) -> Result<Self, SourceError> {
        let (orders, todo) = mpsc::channel();
        let (done, rounds) = mpsc::channel();
        let mut lister = Lister::new(filter.clone(), scope);
        let work = move || {
            if sandbox == Sandbox::On {
                // What a kernel cannot do is no reason not to go on: `doctor` says it.
                privilege::confine(&privilege::role::RECONCILE, &[], || true);
            }
            for order in todo {
                if done.send(lister.work(&order)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("reconcile".into())
            .spawn(work)
            .map_err(|error| SourceError::Read { what: "the socket table: no thread could be started", error })?;
        let namespaces = filter.netns.iter().map(|netns| (*netns, None)).collect();
        Ok(Self {
            schedule,
            orders,
            rounds,
            state: State::Resting,
            due: Instant::now(),
            namespaces,
            last_netns: None,
            owners: HashSet::new(),
            last_owner: 0,
            losses: 0,
            lost: false,
            random: now_ns() | 1,
            looking: Looking::Never,
            looks: Vec::new(),
        })
    }

    /// Lets the first round look closer at each socket, and one more before the end, which [`Self::owes`] asks for.
    #[must_use]
    pub fn looking(self) -> Self {
        Self { looking: Looking::Running, ..self }
    }

    /// What was seen so: at the beginning and at the end, as far as there was time.
    pub fn take_looks(&mut self) -> Vec<Look> {
        std::mem::take(&mut self.looks)
    }

    /// The run is about to end: whether a last round is still to come. It is asked for by the first call.
    pub fn owes(&mut self) -> bool {
        if self.looking == Looking::Running {
            self.looking = Looking::Ending;
            self.due = Instant::now();
        }
        matches!(self.looking, Looking::Ending | Looking::Last)
    }

    /// How closely the round looks that begins now.
    fn begin_looking(&mut self) -> Closely {
        match self.looking {
            Looking::Running if self.looks.is_empty() => Closely::Yes,
            Looking::Ending => {
                self.looking = Looking::Last;
                Closely::Yes
            }
            Looking::Never | Looking::Running | Looking::Last | Looking::Over => Closely::No,
        }
    }

    /// A round is over; nothing comes after the last one.
    fn end_looking(&mut self, look: Option<Look>) {
        self.looks.extend(look);
        if self.looking == Looking::Last {
            self.looking = Looking::Over;
        }
    }

    /// Looks at new events: where they happened, and whether some were lost.
    pub fn observe(&mut self, events: &[Event], tick: &Tick) {
        for event in events {
            self.observe_owner(event.kind);
            let netns = event.key.netns;
            if self.last_netns != Some(netns) && netns != 0 {
                self.last_netns = Some(netns);
                let place = self.namespaces.entry(netns).or_default();
                if let EventKind::Opening { by, .. } = event.kind {
                    *place = Some(format!("/proc/{}/task/{}/ns/net", by.pid, by.tid).into());
                }
            }
        }
        let losses = count(&tick.losses);
        if losses != self.losses {
            self.losses = losses;
            self.lost = true;
            self.due = self.due.min(Instant::now() + LOSS_INTERVAL);
        }
    }

    /// Notes who owns sockets: those processes are looked at first.
    fn observe_owner(&mut self, kind: EventKind) {
        if let EventKind::Opening { by, .. } | EventKind::Accept { by, .. } = kind
            && by.pid != self.last_owner
            && self.owners.len() < MOST_OWNERS
        {
            self.last_owner = by.pid;
            self.owners.insert(by.pid);
        }
    }

    /// What there is to say now. Called after each batch of events.
    pub fn news(&mut self) -> TableNews {
        match self.state {
            State::Resting if self.looking == Looking::Over => TableNews::Nothing,
            State::Resting if self.due <= Instant::now() => {
                self.state = State::Announced(Instant::now());
                TableNews::Expected
            }
            State::Announced(at) if at.elapsed() >= LEAD => {
                self.state = State::Listing;
                self.lost = false;
                // A thread that is gone never answers, and nothing more is compared.
                let owners = std::mem::take(&mut self.owners);
                let closely = self.begin_looking();
                let _ = self.orders.send(Order { namespaces: self.namespaces.clone(), owners, closely });
                self.last_owner = 0;
                TableNews::Nothing
            }
            State::Listing => match self.rounds.try_recv() {
                Ok(report) => {
                    self.state = State::Resting;
                    self.end_looking(report.look);
                    let rest = if self.looking == Looking::Ending {
                        Duration::ZERO
                    } else if self.lost {
                        LOSS_INTERVAL
                    } else {
                        self.rest(report.took)
                    };
                    self.due = Instant::now() + rest;
                    for netns in &report.round.gone {
                        self.namespaces.remove(netns);
                    }
                    TableNews::Listed(report.round)
                }
                Err(TryRecvError::Empty) => TableNews::Nothing,
                Err(TryRecvError::Disconnected) => {
                    // Nobody lists any more.
                    self.looking = Looking::Over;
                    TableNews::Nothing
                }
            },
            State::Resting | State::Announced(_) => TableNews::Nothing,
        }
    }

    fn rest(&mut self, took: Duration) -> Duration {
        match self.schedule {
            Schedule::Every(interval) => interval.max(took * REST),
            Schedule::AtRandom(mean) => {
                // Marsaglia's xorshift: only to fall on no rhythm of the traced programs.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                mean * u32::try_from(self.random % 2000).unwrap_or(0) / 1000
            }
        }
    }
}

/// Whatever may have cost an event.
fn count(losses: &Losses) -> u64 {
    losses.lost() + losses.missed() + losses.dropped() + losses.late
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks until there is a round, as a run does.
    fn next_round(reconciler: &mut Reconciler) -> Round {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(60), "no round comes");
            if let TableNews::Listed(round) = reconciler.news() {
                return round;
            }
            thread::yield_now();
        }
    }

    /// A round with details at the beginning, one at the end, which comes at once, and none after it.
    #[test]
    fn the_first_round_and_the_last_look_closer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let filter = Filter {
            netns: vec![crate::source::table::own_netns().unwrap()],
            local_ports: vec![port.to_string().parse().unwrap()],
            ..Filter::default()
        };
        let every = Schedule::Every(Duration::from_secs(3600));
        let mut reconciler = Reconciler::start(&filter, every, Scope::All, Sandbox::On).unwrap().looking();
        next_round(&mut reconciler);
        assert!(reconciler.owes());
        assert_eq!(next_round(&mut reconciler).listings.len(), 1);
        assert!(!reconciler.owes());
        assert!(matches!(reconciler.news(), TableNews::Nothing));
        let looks = reconciler.take_looks();
        assert!(looks.len() == 2 && looks[0].at_ns < looks[1].at_ns);
        let [row] = looks[1].rows[..] else { panic!("{looks:?}") };
        let held = crate::diagnosis::look::Kept::By(crate::tcp::event::Task {
            pid: std::process::id(),
            tid: std::process::id(),
            comm: crate::process::thread_name(std::process::id(), std::process::id()).unwrap(),
        });
        assert_eq!((row.local.port, row.kept), (port, held));
    }

    /// Nobody waits for a round that was not asked for.
    #[test]
    fn without_looks_nothing_is_owed() {
        let mut reconciler =
            Reconciler::start(&Filter::default(), Schedule::Every(Duration::ZERO), Scope::All, Sandbox::Off).unwrap();
        assert!(!reconciler.owes());
        assert!(reconciler.take_looks().is_empty());
    }
}
