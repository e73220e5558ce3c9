//! Text in, text out: a line of events, a line of what the tracker makes of them.

mod kernel;
mod model;
mod nameless;
mod properties;
mod queues;

use super::*;
use crate::tcp::{
    close::Ending,
    connection::{Connection, MAX_SPANS},
    event::{CloseEvidence, Comm, Incident, Occasion},
    listing::{Listing, Record, Round},
    state::ALL,
};

const MS: u64 = 1_000_000;

fn task(name: &str) -> Task {
    Task { pid: 10, tid: 11, comm: Comm::from(name) }
}

fn state(name: &str) -> TcpState {
    ALL.into_iter().find(|state| state.name() == name).unwrap()
}

/// One event: `MILLISECONDS COOKIE WHAT`, where WHAT is `A>B`, `accept`, `enqueue`, `destroy`, `rst`, `aborts` (sends a RST), `answers` (its minisock sends one),
/// `segment STATE` (one came for its minisock), `again A>B` (a relief's),
/// `listed STATE`, `gone`, `A>B by NAME`, `taken`, `closed A` without evidence, or `closed A ERRNO FLAGS` with the flags d(ead), f(in received)
/// and h(eld).
pub(super) fn event(text: &str) -> Event {
    let words: Vec<_> = text.split_whitespace().collect();
    let tuple = (Endpoint::v4([127, 0, 0, 1], 80), Endpoint::v4([127, 0, 0, 1], 5000));
    let (certainty, what) = match words[2..] {
        ["again", ref rest @ ..] => (Certainty::PerhapsRepeated, rest),
        ref rest => (Certainty::Once, rest),
    };
    let kind = match *what {
        ["accept"] => EventKind::Accept { by: task("worker"), fd: Some(7), listener: None },
        ["enqueue", ref listener @ ..] => {
            let synack = words[0].parse::<u64>().unwrap() * MS - MS;
            let listener = listener.first().map_or(1, |cookie| cookie.parse().unwrap());
            EventKind::Enqueue { listener: Some(listener), synack_at_ns: Some(synack), synack_retransmits: 0 }
        }
        ["destroy"] => EventKind::Destroy,
        ["rst"] => EventKind::Incident(Incident::ResetReceived),
        ["aborts"] => EventKind::Incident(Incident::ResetSent { reason: 8, minisock: false }),
        ["answers"] => EventKind::Incident(Incident::ResetSent { reason: 8, minisock: true }),
        ["segment", name] => EventKind::Incident(Incident::MinisockSegment { state: state(name) }),
        ["listed", name] => EventKind::Listed { state: state(name), queue: None, interval_ns: 100 * MS },
        ["gone"] => EventKind::Unlisted { interval_ns: 100 * MS },
        ["closed", old, errno, ref flags @ ..] => {
            let flags = flags.concat();
            let (dead, done) = (flags.contains('d'), flags.contains('f'));
            let (has_socket, error) = (flags.contains('h'), errno.parse().unwrap());
            let evidence = CloseEvidence { error, dead, done, has_socket, all_acked: true, ..CloseEvidence::default() };
            EventKind::Closing { old: state(old), current: task("closer"), evidence: Some(evidence) }
        }
        ["closed", old] => EventKind::Closing { old: state(old), current: task("closer"), evidence: None },
        ["taken"] => EventKind::Taken,
        [step, "by", name] => {
            let (old, new) = step.split_once('>').unwrap();
            EventKind::Transition { old: state(old), new: state(new), by: Some(task(name)) }
        }
        [step] => match step.split_once('>').unwrap() {
            ("CLOSE", new) => EventKind::Opening { new: state(new), by: task("opener"), limit: None },
            ("LISTEN", "SYN_RECV") => EventKind::Birth { queue: Some((2, 128)) },
            (old, new) => EventKind::Transition { old: state(old), new: state(new), by: None },
        },
        ref other => panic!("{other:?}"),
    };
    let key = SocketKey { netns: 1, cookie: words[1].parse().unwrap() };
    let at_ns = words[0].parse::<u64>().unwrap() * MS;
    Event { at_ns, key, skaddr: 0xffff_8880_0000_0000 | key.cookie, tuple: Some(tuple), kind, certainty }
}

/// The same event without a cookie.
fn nameless(text: &str) -> Event {
    let mut event = event(text);
    event.key.cookie = 0;
    event
}

fn finished(connection: &Connection) -> String {
    let millis = |ns: Option<i64>| ns.map_or("?".into(), |ns| format!("{}ms", ns / MS.cast_signed()));
    let spans: Vec<_> = connection
        .spans
        .iter()
        .map(|span| format!("{} {}", span.state, millis(span.lasted_ns.map(u64::cast_signed))))
        .collect();
    let queued = connection.queued;
    let owner = connection.ownership.owner().map_or("nobody".into(), |owner| owner.comm.to_string());
    format!(
        "{} [{}] life {} wait {} shake {} owner {owner} end {}",
        connection.role.word(),
        spans.join(", "),
        millis(connection.lifetime_ns().map(u64::cast_signed)),
        millis(queued.and_then(|queued| queued.wait_ns())),
        millis(queued.and_then(|queued| queued.handshake_ns)),
        connection.ending.map_or("none", Ending::word),
    )
}

/// Feeds events, separated by `;`, and compares what is said of finished connections and of unexpected transitions.
fn check(events: &str, expected: &[&str]) {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    events.split(';').for_each(|text| tracker.apply(&event(text), &mut updates));
    let said: Vec<_> = updates
        .iter()
        .filter_map(|update| match &update.happening {
            Happening::Ended(connection) => Some(finished(connection)),
            Happening::Unexpected { believed, old } => Some(format!("unexpected: believed {believed}, was {old}")),
            _ => None,
        })
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn an_accepted_connection_has_its_queue_wait_and_handshake() {
    check(
        "1 5 LISTEN>SYN_RECV; 1 5 SYN_RECV>ESTABLISHED; 1 5 enqueue; 201 5 accept; 211 5 ESTABLISHED>CLOSE_WAIT;
         212 5 CLOSE_WAIT>LAST_ACK; 213 5 closed LAST_ACK 0 df; 213 5 destroy",
        &["passive [SYN_RECV 0ms, ESTABLISHED 210ms, CLOSE_WAIT 1ms, LAST_ACK 1ms] life 212ms wait 200ms shake 1ms \
           owner worker end peer-fin"],
    );
}

#[test]
fn a_client_that_closes_first_goes_to_time_wait() {
    check(
        "0 5 CLOSE>SYN_SENT; 3 5 SYN_SENT>ESTABLISHED; 4 5 ESTABLISHED>FIN_WAIT1; 5 5 FIN_WAIT1>FIN_WAIT2;
         6 5 closed FIN_WAIT2 0 df; 6 5 destroy",
        &["active [SYN_SENT 3ms, ESTABLISHED 1ms, FIN_WAIT1 1ms, FIN_WAIT2 1ms] life 6ms wait ? shake ? owner opener \
           end local-fin"],
    );
}

#[test]
fn a_refused_connect_is_given_up_by_nobody() {
    check(
        "0 5 CLOSE>SYN_SENT; 1 5 rst; 1 5 closed SYN_SENT 111; 2 5 destroy",
        &["active [SYN_SENT 1ms] life 1ms wait ? shake ? owner opener end refused"],
    );
}

/// Of two children of one handshake one goes at once; a child that its listener's end takes away has been in its queue.
#[test]
fn a_child_that_another_has_outrun_is_no_connection() {
    check(
        "1 5 LISTEN>SYN_RECV; 1 6 LISTEN>SYN_RECV; 1 6 closed SYN_RECV 0; 1 5 SYN_RECV>ESTABLISHED; 1 5 enqueue; 2 6 destroy;
         3 7 LISTEN>SYN_RECV; 3 7 enqueue; 4 7 closed SYN_RECV 0; 4 7 destroy",
        &[
            "passive [SYN_RECV 0ms] life 0ms wait ? shake ? owner nobody end duplicate",
            "passive [SYN_RECV 1ms] life 1ms wait ? shake 1ms owner nobody end unqueued",
        ],
    );
}

#[test]
fn a_reconnected_descriptor_begins_a_new_life() {
    check(
        "0 5 CLOSE>SYN_SENT; 1 5 closed SYN_SENT 111; 5 5 CLOSE>SYN_SENT; 8 5 closed SYN_SENT 110; 9 5 destroy",
        &[
            "active [SYN_SENT 1ms] life 1ms wait ? shake ? owner opener end refused",
            "active [SYN_SENT 3ms] life 3ms wait ? shake ? owner opener end timed-out",
        ],
    );
}

/// Data for an orphan: the kernel goes the way of an orphan in FIN_WAIT2, destroys the socket, and only then sends its RST.
#[test]
fn an_orphan_s_end_waits_for_the_reset_that_explains_it() {
    let orphan = "0 5 CLOSE>SYN_SENT; 3 5 SYN_SENT>ESTABLISHED; 4 5 ESTABLISHED>FIN_WAIT1; 5 5 FIN_WAIT1>FIN_WAIT2;
         6 5 closed FIN_WAIT2 0 d; 6 5 destroy";
    let (soon, late) = (("6 5 aborts", 0, "end aborted"), ("160 5 aborts", 1, "end orphaned"));
    let variants = [event, nameless].into_iter().flat_map(|read: fn(&str) -> Event| [(read, soon), (read, late)]);
    for (read, (after, minisocks, expected)) in variants {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        for text in orphan.split(';').chain([after]) {
            let event = read(text);
            tracker.expire(event.at_ns, &mut updates);
            tracker.apply(&event, &mut updates);
        }
        tracker.expire(300 * MS, &mut updates);
        let ended: Vec<_> = updates
            .iter()
            .filter_map(|update| match &update.happening {
                Happening::Ended(connection) => Some(finished(connection)),
                _ => None,
            })
            .collect();
        assert!(ended.len() == 1 && ended[0].ends_with(expected), "{ended:?}");
        assert_eq!(tracker.len(), minisocks, "its minisock");
    }
}

/// The kernel keeps some orphans as sockets, and their timer sends a RST first. One in SYN_SENT, to what a former connection with
/// these ends has left, is no reason to take an orphan for such a one.
#[test]
fn an_orphan_s_timer_resets_first() {
    let steps = |syn_sent: &str, fin_wait2: &str| {
        format!(
            "0 5 CLOSE>SYN_SENT; {syn_sent}3 5 SYN_SENT>ESTABLISHED; 4 5 ESTABLISHED>FIN_WAIT1; 5 5 FIN_WAIT1>FIN_WAIT2;
             {fin_wait2}1005 5 closed FIN_WAIT2 0 d; 1006 5 destroy; 1900 5 segment TIME_WAIT"
        )
    };
    let states = "active [SYN_SENT 3ms, ESTABLISHED 1ms, FIN_WAIT1 1ms, FIN_WAIT2 1000ms] life 1005ms wait ? shake ? owner opener";
    check(&steps("", "1005 5 aborts; "), &[&format!("{states} end timed-out")]);
    check(&steps("1 5 aborts; ", ""), &[&format!("{states} end orphaned")]);
}

#[test]
fn a_socket_from_before_is_adopted_and_says_what_it_does_not_know() {
    check(
        "5 5 ESTABLISHED>FIN_WAIT1; 6 5 FIN_WAIT1>FIN_WAIT2; 7 5 closed FIN_WAIT2 0 df; 7 5 destroy",
        &["unknown [ESTABLISHED ?, FIN_WAIT1 1ms, FIN_WAIT2 1ms] life ? wait ? shake ? owner nobody end local-fin"],
    );
}

#[test]
fn what_does_not_fit_is_said_and_followed() {
    check(
        "0 5 CLOSE>SYN_SENT; 3 5 FIN_WAIT1>FIN_WAIT2; 4 5 closed FIN_WAIT2 0 df; 5 5 destroy",
        &[
            "unexpected: believed SYN_SENT, was FIN_WAIT1",
            "active [SYN_SENT 3ms, FIN_WAIT2 1ms] life 4ms wait ? shake ? owner opener end local-fin",
        ],
    );
}

#[test]
fn a_relief_s_repetition_is_dropped_and_its_news_taken() {
    check(
        "0 5 CLOSE>SYN_SENT; 0 5 again CLOSE>SYN_SENT; 3 5 again SYN_SENT>ESTABLISHED; 4 5 ESTABLISHED>FIN_WAIT1;
         4 5 again SYN_SENT>ESTABLISHED; 6 5 again closed FIN_WAIT1 104; 6 5 destroy; 6 5 again destroy",
        &["active [SYN_SENT 3ms, ESTABLISHED 1ms, FIN_WAIT1 2ms] life 6ms wait ? shake ? owner opener end peer-rst"],
    );
}

#[test]
fn an_end_without_evidence_is_not_guessed() {
    check(
        "0 5 CLOSE>SYN_SENT; 1 5 rst; 1 5 closed SYN_SENT; 2 5 closed CLOSE; 2 5 destroy;
         3 6 CLOSE>SYN_SENT; 4 6 SYN_SENT>ESTABLISHED; 5 6 closed ESTABLISHED; 6 6 closed CLOSE; 6 6 destroy",
        &[
            "active [SYN_SENT 1ms, CLOSE 1ms] life 1ms wait ? shake ? owner opener end refused",
            "active [SYN_SENT 1ms, ESTABLISHED 1ms, CLOSE 1ms] life 2ms wait ? shake ? owner opener end none",
        ],
    );
}

#[test]
fn a_closed_socket_that_nobody_destroys_is_reported_after_a_while() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    ["0 5 CLOSE>SYN_SENT", "1 5 closed SYN_SENT 111"]
        .into_iter()
        .for_each(|text| tracker.apply(&event(text), &mut updates));
    let ended =
        |updates: &[Update]| updates.iter().filter(|update| matches!(update.happening, Happening::Ended(_))).count();
    tracker.expire(900 * MS, &mut updates);
    assert_eq!(ended(&updates), 0);
    tracker.expire(1100 * MS, &mut updates);
    tracker.apply(&event("2000 5 destroy"), &mut updates);
    assert_eq!(ended(&updates), 1, "once");
}

#[test]
fn listings_show_what_lies_between_them() {
    check(
        "0 5 listed ESTABLISHED; 100 5 listed CLOSE_WAIT; 200 5 gone",
        &["unknown [ESTABLISHED 100ms, CLOSE_WAIT 100ms] life 200ms wait ? shake ? owner nobody end vanished"],
    );
}

#[test]
fn a_closed_socket_that_moves_again_lives_another_life() {
    check(
        "0 5 CLOSE>SYN_SENT; 1 5 closed SYN_SENT 111; 5 5 SYN_SENT>ESTABLISHED; 9 5 closed ESTABLISHED 104; 9 5 destroy",
        &[
            "unexpected: believed CLOSE, was SYN_SENT",
            "active [SYN_SENT 1ms] life 1ms wait ? shake ? owner opener end refused",
            "active [SYN_SENT ?, ESTABLISHED 4ms] life ? wait ? shake ? owner nobody end peer-rst",
        ],
    );
}

#[test]
fn what_comes_too_late_is_told_and_not_followed() {
    check(
        "0 5 CLOSE>SYN_SENT; 3 5 SYN_SENT>ESTABLISHED; 7 5 FIN_WAIT1>FIN_WAIT2; 5 5 ESTABLISHED>FIN_WAIT1;
         9 5 closed FIN_WAIT2 0 df; 9 5 destroy",
        &[
            "unexpected: believed ESTABLISHED, was FIN_WAIT1",
            "unexpected: believed FIN_WAIT2, was ESTABLISHED",
            "active [SYN_SENT 3ms, ESTABLISHED 4ms, FIN_WAIT2 2ms] life 9ms wait ? shake ? owner opener end local-fin",
        ],
    );
}

/// A filter held its first events back until its port was known, or its acceptor.
#[test]
fn a_listing_may_be_faster_than_a_birth() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    let mut found = event("4 5 destroy");
    let occasion = Occasion::Disagreement { interval_ns: MS };
    let state = TcpState::Established;
    found.kind = EventKind::Found { state, expires_in_ns: None, queue: None, holder: None, listener: None, occasion };
    tracker.apply(&found, &mut updates);
    ["1 5 CLOSE>SYN_SENT", "3 5 SYN_SENT>ESTABLISHED", "9 5 closed ESTABLISHED 104", "9 5 destroy"]
        .into_iter()
        .for_each(|text| tracker.apply(&event(text), &mut updates));
    let Some(Update { happening: Happening::Ended(connection), .. }) = updates.last() else { panic!("{updates:?}") };
    assert_eq!(
        finished(connection),
        "active [SYN_SENT 2ms, ESTABLISHED 6ms] life 8ms wait ? shake ? owner opener end peer-rst"
    );
    assert_eq!((connection.incarnation, tracker.unexpected()), (0, 0));
}

/// A state that was seen after the listing is true, whatever was missing before.
#[test]
fn a_listing_does_not_undo_what_was_seen_since() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    ["0 5 LISTEN>SYN_RECV", "1 5 SYN_RECV>ESTABLISHED", "9 5 CLOSE_WAIT>LAST_ACK"]
        .into_iter()
        .for_each(|text| tracker.apply(&event(text), &mut updates));
    let mut found = event("5 5 destroy");
    let occasion = Occasion::Disagreement { interval_ns: MS };
    let state = TcpState::CloseWait;
    found.kind = EventKind::Found { state, expires_in_ns: None, queue: None, holder: None, listener: None, occasion };
    tracker.apply(&found, &mut updates);
    tracker.apply(&event("10 5 closed LAST_ACK 0 df"), &mut updates);
    assert_eq!(tracker.unexpected(), 1, "only CLOSE_WAIT itself is missing");
}

#[test]
fn states_without_end_do_not_need_memory_without_end() {
    let steps = (0..1000).map(|at| format!("{at} 5 FIN_WAIT1>FIN_WAIT1"));
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    ["0 5 CLOSE>SYN_SENT".into(), "0 5 ESTABLISHED>FIN_WAIT1".into()]
        .into_iter()
        .chain(steps)
        .chain(["1000 5 closed FIN_WAIT1 104".into(), "1000 5 destroy".into()])
        .for_each(|text| tracker.apply(&event(&text), &mut updates));
    let Some(Update { happening: Happening::Ended(connection), .. }) = updates.last() else { panic!("{updates:?}") };
    assert_eq!(connection.spans.len(), MAX_SPANS);
    assert_eq!(connection.spans.iter().filter_map(|span| span.lasted_ns).sum::<u64>(), 1000 * MS);
}

/// What died in an accept queue, and was never seen to leave it.
#[test]
fn a_dead_child_in_a_queue_makes_room_and_is_told_then() {
    let (mut tracker, mut updates) = (Tracker::with_limit(1), Vec::new());
    ["0 5 LISTEN>SYN_RECV", "1 5 closed SYN_RECV 104"]
        .into_iter()
        .for_each(|text| tracker.apply(&event(text), &mut updates));
    tracker.expire(5000 * MS, &mut updates);
    tracker.apply(&event("5001 6 CLOSE>SYN_SENT"), &mut updates);
    let ended = updates.iter().filter(|update| matches!(update.happening, Happening::Ended(_))).count();
    assert_eq!((tracker.len(), tracker.full(), tracker.evicted(), ended), (1, 0, 1, 1));
}

/// Its listing was written before the FIN came, and is compared after it.
#[test]
fn a_listing_does_not_shorten_a_time_wait_that_began_since() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    ["0 5 CLOSE>SYN_SENT", "3 5 SYN_SENT>ESTABLISHED", "4 5 ESTABLISHED>FIN_WAIT1", "5 5 FIN_WAIT1>FIN_WAIT2"]
        .into_iter()
        .chain(["6 5 closed FIN_WAIT2 0 d", "9 5 destroy"])
        .for_each(|text| tracker.apply(&event(text), &mut updates));
    tracker.expire(20 * MS, &mut updates);
    let mut fin = event("31 5 rst");
    fin.kind = EventKind::Incident(Incident::MinisockSegment { state: TcpState::TimeWait });
    tracker.apply(&fin, &mut updates);
    let record = Record {
        key: fin.key,
        tuple: fin.tuple.unwrap(),
        state: TcpState::FinWait2,
        expires_in_ns: Some(2000 * MS),
        queue: None,
        from_ns: 30 * MS,
        to_ns: 30 * MS,
        drops: None,
        inode: 0,
        ours: true,
    };
    let listing = Listing {
        netns: 1,
        from_ns: 30 * MS,
        to_ns: 30 * MS,
        first: false,
        records: vec![record],
        ..Listing::default()
    };
    let round = Round { listings: vec![listing], to_ns: 30 * MS, ..Round::default() };
    assert_eq!(tracker.compare(&round), [], "it was in FIN_WAIT2 then");
    tracker.expire(50_000 * MS, &mut updates);
    assert_eq!(tracker.len(), 1, "60 s from the FIN on");
}

/// Data for a minisock: it answers with a RST, which ends it, and only then the segment is told.
#[test]
fn a_segment_that_a_reset_has_answered_is_no_stranger_s() {
    let orphan = "0 5 CLOSE>SYN_SENT; 3 5 SYN_SENT>ESTABLISHED; 4 5 ESTABLISHED>FIN_WAIT1; 5 5 FIN_WAIT1>FIN_WAIT2;
         6 5 closed FIN_WAIT2 0 d; 60 5 destroy; 160 5 answers";
    let after = |segments: &str| {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        orphan.split(';').for_each(|text| tracker.apply(&event(text), &mut updates));
        let told = updates.len();
        segments.split(';').for_each(|text| tracker.apply(&event(text), &mut updates));
        (updates.len() - told, tracker.minisocks.len())
    };
    assert_eq!(after("160 5 segment FIN_WAIT2"), (0, 0));
    assert_eq!(after("160 5 segment CLOSE; 161 5 segment TIME_WAIT"), (1, 1), "another minisock");
    assert_eq!(after("2000 5 segment TIME_WAIT"), (1, 1), "much later");
}

/// Who closes it held it, though no listing came in between to tell.
#[test]
fn who_closes_what_another_accepted_is_its_heir() {
    let owner = |closer: &str, pid| {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        let born = "1 5 LISTEN>SYN_RECV; 1 5 SYN_RECV>ESTABLISHED; 1 5 enqueue; 2 5 accept";
        born.split(';').for_each(|text| tracker.apply(&event(text), &mut updates));
        let by = Task { pid, ..task(closer) };
        let mut close = event("9 5 ESTABLISHED>FIN_WAIT1");
        close.kind = EventKind::Transition { old: TcpState::Established, new: TcpState::FinWait1, by: Some(by) };
        tracker.apply(&close, &mut updates);
        let inherited = updates.iter().any(|update| matches!(update.happening, Happening::Inherited { .. }));
        (updates.last().unwrap().subject.owner.unwrap().comm.to_string(), inherited)
    };
    assert_eq!(owner("heir", 20), ("heir".to_owned(), true));
    assert_eq!(owner("thread", 10), ("worker".to_owned(), false));
    assert_eq!(owner("kworker/0:1", 20), ("worker".to_owned(), false));
}
