//! What holds whatever comes in: any events in any order, as after any loss, with any listings in between.

use std::collections::{HashMap, HashSet};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::super::{reconcile, *};
use crate::tcp::{
    connection::{Connection, MAX_SPANS},
    event::{CloseEvidence, Incident, Occasion, Place},
    listing::{Listing, Record, Round},
    minisock::SLACK,
    order::{Order, WINDOW_NS},
    state::ALL,
};

const LIMIT: usize = 4;
const MS: u64 = 1_000_000;

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    /// An event, so many nanoseconds ago.
    Event(Event, u64),
    /// Time passes, and all that is old enough is taken in.
    Pass(u64),
    ExpectRound,
    Compare(Round),
}

fn any_state() -> impl Strategy<Value = TcpState> {
    select(ALL.to_vec())
}

/// What is closed is in no table, and a transition to it is an event of its own.
fn any_open_state() -> impl Strategy<Value = TcpState> {
    select(ALL.into_iter().filter(|state| *state != TcpState::Close).collect::<Vec<_>>())
}

/// A state in the kernel's table, and the time that is left to a minisock.
fn any_listed() -> impl Strategy<Value = (TcpState, Option<u64>)> {
    let minisock = (select(vec![TcpState::FinWait2, TcpState::TimeWait]), (0..100 * MS).prop_map(Some));
    prop_oneof![(any_open_state(), Just(None)), minisock]
}

fn any_task() -> impl Strategy<Value = Task> {
    (0_u32..3).prop_map(|pid| Task { pid, tid: pid, comm: crate::tcp::event::Comm::default() })
}

fn any_tuple() -> impl Strategy<Value = (Endpoint, Endpoint)> {
    (0_u16..3, 0_u16..3)
        .prop_map(|(local, remote)| (Endpoint::v4([10, 0, 0, 1], local), Endpoint::v4([10, 0, 0, 2], remote)))
}

fn any_evidence() -> impl Strategy<Value = CloseEvidence> {
    let flags = any::<[bool; 4]>();
    (flags, select(vec![0, 32, 103, 104, 110, 111, 113]), 0_u8..4, select(vec![0, 20, 100_000])).prop_map(
        |([dead, done, all_acked, has_socket], error, shutdown, fin_timeout_ms)| CloseEvidence {
            dead,
            done,
            all_acked,
            has_socket,
            error,
            shutdown,
            fin_timeout_ms,
            ..CloseEvidence::default()
        },
    )
}

fn any_incident() -> impl Strategy<Value = Incident> {
    prop_oneof![
        any_task().prop_map(|by| Incident::AcceptFailed { by, errno: 24 }),
        any::<bool>().prop_map(|minisock| Incident::ResetSent { reason: 1, minisock }),
        select(vec![
            Incident::ResetReceived,
            Incident::Retransmit,
            Incident::SynAckRetransmit,
            Incident::ListenOverflow,
        ]),
        any_state().prop_map(|state| Incident::MinisockSegment { state }),
    ]
}

fn any_occasion() -> impl Strategy<Value = Occasion> {
    select(vec![Occasion::Expected, Occasion::Disagreement { interval_ns: MS }])
}

fn any_kind() -> impl Strategy<Value = EventKind> {
    let queue = || option::of((0_u32..3, 0_u32..3));
    prop_oneof![
        4 => (any_state(), any_open_state(), option::of(any_task())).prop_map(|(old, new, by)| EventKind::Transition { old, new, by }),
        2 => (select(vec![TcpState::SynSent, TcpState::Listen]), any_task())
            .prop_map(|(new, by)| EventKind::Opening { new, by, limit: None }),
        2 => queue().prop_map(|queue| EventKind::Birth { queue }),
        4 => (any_state(), any_task(), option::of(any_evidence()))
            .prop_map(|(old, current, evidence)| EventKind::Closing { old, current, evidence }),
        1 => option::of(0_u64..4).prop_map(|listener| EventKind::Enqueue { listener, synack_at_ns: Some(1), synack_retransmits: 0 }),
        2 => any_task().prop_map(|by| EventKind::Accept { by, fd: None, listener: None }),
        1 => Just(EventKind::AcceptReturn { fd: 3 }),
        2 => Just(EventKind::Destroy),
        1 => Just(EventKind::Taken),
        2 => any_incident().prop_map(EventKind::Incident),
        1 => (any_open_state(), queue()).prop_map(|(state, queue)| EventKind::Listed { state, queue, interval_ns: MS }),
        1 => Just(EventKind::Unlisted { interval_ns: MS }),
        1 => (any_listed(), any_occasion()).prop_map(|((state, expires_in_ns), occasion)| {
            EventKind::Found { state, expires_in_ns, queue: None, holder: None, listener: None, occasion }
        }),
        1 => (option::of(select(vec![Place::Free, Place::Taken])), any_occasion())
            .prop_map(|(minisock, occasion)| EventKind::Lost { minisock, occasion }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let certainty = select(vec![Certainty::Once, Certainty::Once, Certainty::PerhapsRepeated]);
    (0_u64..7, 0_u64..9, option::weighted(0.9, any_tuple()), any_kind(), certainty).prop_map(
        |(cookie, skaddr, tuple, kind, certainty)| {
            let key = SocketKey { netns: 1, cookie };
            Event { at_ns: 0, key, skaddr, tuple, kind, certainty }
        },
    )
}

fn any_round() -> impl Strategy<Value = Round> {
    let record = (1_u64..7, any_tuple(), any_listed(), any::<bool>());
    let record = record.prop_map(|(cookie, tuple, (state, expires_in_ns), ours)| Record {
        key: SocketKey { netns: 1, cookie },
        tuple,
        state,
        expires_in_ns,
        queue: None,
        from_ns: 0,
        to_ns: 0,
        drops: None,
        inode: 0,
        ours,
    });
    (vec(record, 0..6), any::<bool>(), any::<bool>()).prop_map(|(records, first, gone)| Round {
        listings: vec![Listing { netns: 1, from_ns: 0, to_ns: 0, first, records, ..Listing::default() }],
        gone: if gone { vec![1] } else { vec![] },
        unlisted: 0,
        to_ns: 0,
    })
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (any_event(), 0_u64..2 * WINDOW_NS).prop_map(|(event, ago_ns)| Step::Event(event, ago_ns)),
        4 => select(vec![1000, MS, 20 * MS, 1500 * MS, 70_000 * MS]).prop_map(Step::Pass),
        1 => Just(Step::ExpectRound),
        1 => any_round().prop_map(Step::Compare),
    ];
    vec(step, 0..200)
}

/// Which life of which socket.
type Life = (SocketKey, u32);

fn life(connection: &Connection) -> Life {
    (connection.key, connection.incarnation)
}

/// The tracker and what it has said.
struct Witness {
    order: Order,
    tracker: Tracker,
    now_ns: u64,
    events: u64,
    /// What was believed of each socket, as told.
    told: HashMap<Life, TcpState>,
    ended: HashSet<Life>,
    /// Whose next transition need not fit: that was told.
    excused: HashSet<Life>,
    unexpected: u64,
}

impl Witness {
    fn new() -> Self {
        Self {
            order: Order::default(),
            tracker: Tracker::with_limit(LIMIT),
            now_ns: 1000 * MS,
            events: 0,
            told: HashMap::new(),
            ended: HashSet::new(),
            excused: HashSet::new(),
            unexpected: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Event(event, ago_ns) => {
                // No two events of a socket have the same time.
                self.events += 1;
                self.now_ns += 1;
                let at_ns = (self.now_ns - ago_ns) / 1000 * 1000 + self.events % 1000;
                self.order.push(Event { at_ns, ..event });
            }
            Step::Pass(for_ns) => {
                self.now_ns += for_ns;
                let mut due = Vec::new();
                self.order.release(self.now_ns, |event| due.push(*event));
                for event in due {
                    self.watch(|tracker, updates| tracker.apply(&event, updates));
                }
                let now_ns = self.now_ns;
                self.watch(|tracker, updates| tracker.expire(now_ns, updates));
            }
            Step::ExpectRound => self.tracker.expect_round(),
            Step::Compare(mut round) => {
                let listing = &mut round.listings[0];
                (listing.from_ns, listing.to_ns) = (self.now_ns - 10 * MS, self.now_ns - 5 * MS);
                for record in &mut listing.records {
                    (record.from_ns, record.to_ns) = (listing.from_ns, listing.to_ns);
                }
                round.to_ns = listing.to_ns;
                for event in self.tracker.compare(&round) {
                    self.watch(|tracker, updates| tracker.apply(&event, updates));
                }
            }
        }
    }

    /// Lets the tracker do something, and looks at what it says and what became of it.
    fn watch(&mut self, act: impl FnOnce(&mut Tracker, &mut Vec<Update>)) {
        let before: HashMap<_, _> =
            self.tracker.sockets.iter().map(|(key, tracked)| (*key, life(&tracked.connection))).collect();
        let (len, full, evicted) = (self.tracker.len(), self.tracker.full(), self.tracker.evicted());
        let mut updates = Vec::new();
        act(&mut self.tracker, &mut updates);
        updates.iter().for_each(|update| self.listen(update));
        assert_eq!(self.unexpected, self.tracker.unexpected(), "each is told and counted");
        for (key, life_before) in before {
            let lives = self.tracker.sockets.get(&key).is_some_and(|it| life(&it.connection) == life_before);
            assert!(lives || self.ended.contains(&life_before), "{life_before:?} went without a word: {updates:?}");
        }
        if self.tracker.full() > full && self.tracker.unnamed.len() < LIMIT {
            let told = |tracked: &Tracked| matches!(tracked.stage, Stage::Told(_));
            assert!(
                !self.tracker.sockets.values().any(told) && self.tracker.minisocks.is_empty(),
                "{:?}",
                self.tracker
            );
        }
        // One event may bring two that waited for its name.
        assert!(self.tracker.evicted() == evicted || len + 2 >= LIMIT, "only for want of room");
        // Who is forgotten may come back, and count from 0 again.
        self.ended.retain(|(key, _)| self.tracker.sockets.contains_key(key));
        self.check_bounds();
        self.tracker.sockets.values().for_each(|tracked| check_sum(&tracked.connection));
    }

    fn listen(&mut self, update: &Update) {
        let key = (update.subject.key, update.subject.incarnation);
        match &update.happening {
            // Perhaps its minisock's.
            Happening::Transition { old: TcpState::FinWait2, new: TcpState::TimeWait, .. } => {
                self.told.remove(&key);
            }
            // A birth, perhaps told late.
            Happening::Transition { old: TcpState::Close | TcpState::Listen, .. } => {
                self.excused.remove(&key);
                self.told.remove(&key);
            }
            Happening::Transition { new, sampled_ns: Some(_), .. } => {
                self.told.insert(key, *new);
            }
            Happening::Transition { old, new, sampled_ns: None, .. } => {
                let fits = old.can_become(*new) && self.told.get(&key).is_none_or(|told| told == old);
                assert!(self.excused.remove(&key) || fits, "{update:?}");
                self.told.insert(key, *new);
            }
            Happening::Unexpected { .. } => {
                self.unexpected += 1;
                self.excused.insert(key);
            }
            Happening::Ended(connection) => {
                assert!(self.ended.insert(life(connection)), "told twice: {connection:?}");
                check_sum(connection);
                self.told.remove(&key);
            }
            Happening::Listed { .. } | Happening::Disagreed { .. } => {
                self.told.remove(&key);
            }
            Happening::Enqueued { .. }
            | Happening::Accepted { .. }
            | Happening::AcceptFailed { .. }
            | Happening::ResetSent { .. }
            | Happening::ResetReceived
            | Happening::Retransmitted { .. }
            | Happening::SynAckRetransmitted { .. }
            | Happening::ListenOverflow
            | Happening::MinisockSegment
            | Happening::Queue(_)
            | Happening::QueueDisagreed { .. }
            | Happening::Inherited { .. }
            | Happening::MinisockEnded { .. } => {}
        }
    }

    fn check_bounds(&self) {
        let tracker = &self.tracker;
        let places = 2 * LIMIT + SLACK + 1;
        assert!(tracker.len() <= LIMIT, "{tracker:?}");
        assert!(tracker.unnamed.len() <= LIMIT, "{tracker:?}");
        assert!(tracker.by_address.len() <= places, "{tracker:?}");
        for queue in [&tracker.settling, &tracker.departing, &tracker.finished] {
            assert!(queue.len() <= places, "{tracker:?}");
        }
        assert!(tracker.minisocks.places() <= places, "{tracker:?}");
        assert!(tracker.history.as_ref().is_none_or(|history| history.len() <= LIMIT * reconcile::STAYS_PER_SOCKET));
    }
}

/// The states of a socket whose birth was seen leave no gap, and what has ended lasted as long as its states did.
fn check_sum(connection: &Connection) {
    assert!(connection.spans.len() <= MAX_SPANS);
    if !connection.birth_seen {
        return;
    }
    let sum: u64 = connection.spans.iter().map(|span| span.lasted_ns.unwrap()).sum();
    assert_eq!(Some(connection.first_seen_ns + sum), connection.state_since_ns, "{connection:?}");
    let closed: u64 = (connection.spans.iter().rev())
        .take_while(|span| span.state == TcpState::Close)
        .map(|span| span.lasted_ns.unwrap())
        .sum();
    if let Some(lifetime_ns) = connection.lifetime_ns() {
        assert_eq!(lifetime_ns, sum - closed, "{connection:?}");
    }
}

proptest! {
    #[test]
    fn any_events_and_listings_keep_bounds_and_sums(steps in any_steps()) {
        let mut witness = Witness::new();
        for step in steps {
            witness.take(step);
        }
        witness.take(Step::Pass(200_000 * MS));
        let tracker = &witness.tracker;
        prop_assert!(tracker.settling.len() + tracker.departing.len() == 0, "{:?}", tracker);
        prop_assert!(tracker.minisocks.is_empty(), "{:?}", tracker);
    }
}
