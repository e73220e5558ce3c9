//! Text in, text out: events and listings, and what is said of minisocks and of disagreements.

use super::super::tests::event;
use super::*;
use crate::tcp::{endpoint::Endpoint, queue::NamespaceDrops, state::ALL};

const MS: u64 = 1_000_000;

fn ends(port: u16) -> (Endpoint, Endpoint) {
    (Endpoint::v4([127, 0, 0, 1], 80), Endpoint::v4([127, 0, 0, 1], port))
}

/// One record: `COOKIE STATE`, `COOKIE STATE tw MILLISECONDS` for a minisock, or the same with `COOKIE@PORT`; ` held` if it has an
/// inode; ` DEPTH/LIMIT` of a listener's queue.
fn record(text: &str, at_ns: u64) -> Record {
    let words: Vec<_> = text.split_whitespace().collect();
    let (cookie, port) = words[0].split_once('@').unwrap_or((words[0], "5000"));
    let expires_in_ns = words.get(3).filter(|_| words[2] == "tw").map(|millis| millis.parse::<u64>().unwrap() * MS);
    Record {
        key: SocketKey { netns: 1, cookie: cookie.parse().unwrap() },
        tuple: ends(port.parse().unwrap()),
        state: ALL.into_iter().find(|state| state.name() == words[1]).unwrap(),
        expires_in_ns,
        queue: words
            .last()
            .and_then(|word| word.split_once('/'))
            .map(|(depth, limit)| (depth.parse().unwrap(), limit.parse().unwrap())),
        from_ns: at_ns,
        to_ns: at_ns + MS,
        drops: None,
        inode: u32::from(words.last() == Some(&"held")),
        ours: true,
    }
}

/// A round of one listing, of records separated by commas, that begins then.
fn round(at_ns: u64, records: &str, first: bool, time_wait_overflows: u64) -> Round {
    let records = records.split(',').filter(|text| !text.trim().is_empty());
    let records = records.map(|text| record(text, at_ns)).collect();
    let dropped = NamespaceDrops { time_wait_overflows, ..NamespaceDrops::default() };
    let listing =
        Listing { netns: 1, from_ns: at_ns, to_ns: at_ns + MS, first, records, dropped, ..Listing::default() };
    Round { listings: vec![listing], to_ns: at_ns + MS, ..Round::default() }
}

/// Steps, separated by `;`: events as in the tracker's own tests, and `MILLISECONDS expect`, `MILLISECONDS first RECORD, ...`,
/// `MILLISECONDS round RECORD, ...`, the same with `full` where `TCPTimeWaitOverflow` had grown, `MILLISECONDS pass`.
fn check(steps: &str, expected: &[&str]) {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    let mut overflows = 0;
    for step in steps.split(';').map(str::trim) {
        let (at, rest) = step.split_once(' ').unwrap();
        let at_ns = at.parse::<u64>().unwrap() * MS;
        let (word, records) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "expect" => tracker.expect_round(),
            "pass" => tracker.expire(at_ns, &mut updates),
            "first" | "round" | "full" => {
                overflows += u64::from(word == "full");
                let round = round(at_ns, records, word == "first", overflows);
                for event in tracker.compare(&round) {
                    tracker.apply(&event, &mut updates);
                }
            }
            _ => tracker.apply(&event(step), &mut updates),
        }
    }
    let name = |state: &Option<TcpState>| state.map_or("nothing", TcpState::name);
    let mut said: Vec<_> = updates
        .iter()
        .filter_map(|update| {
            let what = match &update.happening {
                Happening::Disagreed { believed, found } => format!("{} is {}", name(believed), name(found)),
                Happening::QueueDisagreed { believed, found } => format!("queue {believed} is {found}"),
                Happening::MinisockEnded { state, lasted_ns, sampled_ns, end } => {
                    let about = if sampled_ns.is_some() { "~" } else { "" };
                    format!("{state} {} after {about}{} ms", end.word(), lasted_ns / MS)
                }
                Happening::Transition { old, new: TcpState::TimeWait, .. } => format!("{old}>TIME_WAIT"),
                Happening::Listed { state, .. } => format!("there is {state}"),
                Happening::Ended(connection) => {
                    let end = format!("end {}", connection.ending.map_or("-", Ending::word));
                    match connection.accept_queue.as_deref() {
                        None => end,
                        Some(queue) => {
                            let it = queue.totals;
                            let (half, dead) = (it.half_closed_on_arrival, it.dead_on_arrival);
                            let depth = queue.depth;
                            format!(
                                "{end} queue {depth} accepted {} dead {half}+{dead} unqueued {}",
                                it.accepted, it.unqueued
                            )
                        }
                    }
                }
                _ => return None,
            };
            Some(format!("{} {what}", update.subject.key.cookie))
        })
        .collect();
    let counts = tracker.agreement();
    said.push(format!("{} of {} agree", counts.agreed, counts.compared));
    assert_eq!(said, expected);
}

/// A client that closed first, at 4 ms.
const WAITS: &str = "0 5 CLOSE>SYN_SENT; 1 5 SYN_SENT>ESTABLISHED; 2 5 ESTABLISHED>FIN_WAIT1; 3 5 FIN_WAIT1>FIN_WAIT2;
    4 5 closed FIN_WAIT2 0 df; 4 5 destroy";

#[test]
fn a_time_wait_expires() {
    let still = "100 round 5 TIME_WAIT tw 59904; 65000 pass";
    check(&format!("{WAITS}; {still}"), &["5 end local-fin", "1 of 1 agree"]);
    let over = "100 round 5 TIME_WAIT tw 59905; 66000 pass";
    check(&format!("{WAITS}; {over}"), &["5 end local-fin", "5 TIME_WAIT expired after ~60002 ms", "1 of 1 agree"]);
}

#[test]
fn a_new_connection_takes_its_place() {
    check(
        &format!("{WAITS}; 1000 6 LISTEN>SYN_RECV; 1001 round 6 SYN_RECV"),
        &["5 end local-fin", "5 TIME_WAIT reused after 996 ms", "1 of 1 agree"],
    );
    // The port of a connect() is not known yet; the table has it.
    check(
        &format!("{WAITS}; 1000 round 6 SYN_SENT"),
        &["5 end local-fin", "5 TIME_WAIT reused after ~997 ms", "6 nothing is SYN_SENT", "0 of 1 agree"],
    );
}

/// `EADDRNOTAVAIL`: it was a step of the socket, and nothing was sent.
#[test]
fn a_connect_that_fails_before_its_syn_takes_nothing() {
    let fails = "1000 6 CLOSE>SYN_SENT; 1000 6 closed SYN_SENT 0; 1000 6 destroy";
    check(
        &format!("{WAITS}; {fails}; 1001 round 5 TIME_WAIT tw 59000"),
        &["5 end local-fin", "6 end given-up", "1 of 1 agree"],
    );
    let opens = "1000 6 CLOSE>SYN_SENT; 1001 6 SYN_SENT>ESTABLISHED";
    check(
        &format!("{WAITS}; {opens}; 1002 round 6 ESTABLISHED"),
        &["5 end local-fin", "5 TIME_WAIT reused after 996 ms", "1 of 1 agree"],
    );
}

#[test]
fn a_minisock_that_is_gone_without_a_word_is_no_disagreement() {
    check(
        &format!("{WAITS}; 1000 round; 2000 round"),
        &["5 end local-fin", "5 TIME_WAIT gone after ~1997 ms", "0 of 0 agree"],
    );
}

#[test]
fn what_was_there_before_is_taken_over() {
    check(
        "10 first 5 ESTABLISHED, 6@5001 TIME_WAIT tw 3000, 7@5002 LISTEN; 100 round 5 ESTABLISHED, 6@5001 TIME_WAIT tw 2900, 7@5002 LISTEN",
        &["5 there is ESTABLISHED", "6 there is TIME_WAIT", "7 there is LISTEN", "3 of 3 agree"],
    );
}

#[test]
fn what_was_missed_is_corrected() {
    let open = "0 5 CLOSE>SYN_SENT; 1 5 SYN_SENT>ESTABLISHED";
    check(
        &format!("{open}; 100 round 5 CLOSE_WAIT; 200 round 5 CLOSE_WAIT"),
        &["5 ESTABLISHED is CLOSE_WAIT", "1 of 2 agree"],
    );
    check(&format!("{open}; 100 round; 200 round"), &["5 ESTABLISHED is nothing", "5 end vanished", "0 of 0 agree"]);
    check(
        &format!("{open}; 100 round 5 TIME_WAIT tw 59000; 200 round 5 TIME_WAIT tw 58900; 2000 pass"),
        &["5 ESTABLISHED is TIME_WAIT", "5 end local-fin", "1 of 2 agree"],
    );
    check("100 round 5 ESTABLISHED", &["5 nothing is ESTABLISHED", "0 of 1 agree"]);
}

/// One listing may skip a socket whose neighbour goes while it is written.
#[test]
fn a_single_absence_proves_nothing() {
    check(
        "0 5 CLOSE>SYN_SENT; 1 5 SYN_SENT>ESTABLISHED; 100 round; 200 round 5 ESTABLISHED; 300 round; 400 round 5 ESTABLISHED",
        &["2 of 2 agree"],
    );
}

#[test]
fn a_record_agrees_within_its_window_and_the_tolerance() {
    let open = "0 5 CLOSE>SYN_SENT; 1 5 SYN_SENT>ESTABLISHED; 50 5 ESTABLISHED>CLOSE_WAIT";
    check(&format!("{open}; 46 round 5 CLOSE_WAIT"), &["1 of 1 agree"]);
    // It was told before it was stored.
    check(&format!("{open}; 153 round 5 ESTABLISHED"), &["1 of 1 agree"]);
    check(&format!("{open}; 154 round 5 ESTABLISHED"), &["5 CLOSE_WAIT is ESTABLISHED", "0 of 1 agree"]);
}

#[test]
fn what_ends_while_a_round_is_under_way_is_remembered() {
    let life = "0 5 CLOSE>SYN_SENT; 1 5 SYN_SENT>ESTABLISHED; 5 expect; 20 5 closed ESTABLISHED 104; 20 5 destroy";
    check(&format!("{life}; 10 round 5 ESTABLISHED"), &["5 end peer-rst", "1 of 1 agree"]);
    check(
        &format!("{life}; 10 round 5 ESTABLISHED; 100 round 5 ESTABLISHED"),
        &["5 end peer-rst", "5 nothing is ESTABLISHED", "1 of 2 agree"],
    );
}

/// The same of one that we had to name ourselves.
#[test]
fn what_had_no_cookie_and_ends_is_remembered_by_its_ends() {
    let life = "0 0 CLOSE>SYN_SENT; 1 0 SYN_SENT>ESTABLISHED; 5 expect; 20 0 closed ESTABLISHED 104; 20 0 destroy";
    let end = format!("{} end peer-rst", NAMELESS + 1);
    check(&format!("{life}; 10 round 5 ESTABLISHED"), &[&end, "1 of 1 agree"]);
}

/// A request has its child's cookie, and is nobody's state yet.
#[test]
fn a_request_is_nothing_that_we_follow() {
    check("100 round 5 SYN_RECV; 200 round 5 SYN_RECV", &["0 of 0 agree"]);
    check(
        "0 5 LISTEN>SYN_RECV; 0 5 SYN_RECV>ESTABLISHED; 200 round 5 SYN_RECV; 300 round 5 ESTABLISHED",
        &["1 of 1 agree"],
    );
}

/// A child with an inode has been accepted, however: its listener's depth is right at once.
#[test]
fn a_child_that_is_held_waits_in_no_queue() {
    let child = "1 1 CLOSE>LISTEN; 1 5 LISTEN>SYN_RECV; 1 5 SYN_RECV>ESTABLISHED; 1 5 enqueue";
    let depth = |steps: &str| {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        child.split(';').for_each(|step| tracker.apply(&event(step.trim()), &mut updates));
        for text in steps.split(',') {
            let mut listener = record("1@5001 LISTEN", 100 * MS);
            listener.queue = Some((0, 128));
            let records = vec![listener, record(text.trim(), 100 * MS)];
            let listing = Listing { netns: 1, from_ns: 100 * MS, to_ns: 101 * MS, records, ..Listing::default() };
            let round = Round { listings: vec![listing], to_ns: 101 * MS, ..Round::default() };
            tracker.compare(&round).iter().for_each(|event| tracker.apply(event, &mut updates));
        }
        let queue = tracker.queues.values().next().unwrap().figures(200 * MS);
        (queue.depth, queue.totals.accepted, tracker.agreement().depths)
    };
    assert_eq!(depth("5 ESTABLISHED held"), (0, 1, 0));
    assert_eq!(depth("5 ESTABLISHED held, 5 ESTABLISHED held"), (0, 1, 0));
    assert_eq!(depth("5 ESTABLISHED"), (1, 0, 0), "the kernel's depth is believed when told twice");
}

/// What waited before the trace waits like any other: accepted open, half closed or dead, or reset with its listener.
#[test]
fn a_queue_from_before_is_followed_to_its_end() {
    let first = "10 first 7@0 LISTEN 3/3, 5@5001 ESTABLISHED, 6@5002 CLOSE_WAIT; 20 6 accept; 30 8 accept";
    let there = ["7 there is LISTEN", "5 there is ESTABLISHED", "6 there is CLOSE_WAIT"];
    let closed = "200 7 closed LISTEN 0; 201 5 closed ESTABLISHED 0; 201 5 destroy; 202 7 destroy; 300 8 destroy";
    let dead = "7 end stopped queue 0 accepted 2 dead 1+1 unqueued 1";
    let not_yet = "7 end stopped queue 0 accepted 2 dead 1+0 unqueued 1";
    let known = "100 round 7@0 LISTEN 1/3, 5@5001 ESTABLISHED, 6@5002 CLOSE_WAIT held";
    let expected = [&there[..], &["8 end -", "5 end unqueued", dead, "3 of 3 agree"]].concat();
    check(&format!("{first}; {known}; {closed}"), &expected);
    let expected = [&there[..], &["5 end unqueued", not_yet, "8 end -", "0 of 0 agree"]].concat();
    check(&format!("{first}; {closed}"), &expected);
}

/// Of several listeners with one address nobody knows whose child it is; its end is plain all the same.
#[test]
fn a_child_of_one_of_several_listeners_goes_with_it() {
    check(
        "10 first 7@0 LISTEN 1/3, 9@1 LISTEN 0/3, 5@5001 ESTABLISHED; 20 5 closed ESTABLISHED 0; 20 5 destroy",
        &["7 there is LISTEN", "9 there is LISTEN", "5 there is ESTABLISHED", "5 end unqueued", "0 of 0 agree"],
    );
}

/// A disagreement that is counted is told.
#[test]
fn a_depth_that_the_kernel_contradicts_twice_is_told() {
    let waits =
        "1 7 CLOSE>LISTEN; 2 5 LISTEN>SYN_RECV; 2 5 SYN_RECV>ESTABLISHED; 2 5 enqueue 7; 3 5 closed ESTABLISHED 104";
    check(
        &format!("{waits}; 100 round 7@0 LISTEN 0/3; 200 round 7@0 LISTEN 0/3; 300 round 7@0 LISTEN 0/3"),
        &["7 queue 1 is 0", "3 of 3 agree"],
    );
}

/// Out of minisocks the kernel leaves nothing of what closes first: what one listing does not show was never there.
#[test]
fn above_the_limit_one_listing_proves_an_absence() {
    let gone = ["5 end local-fin", "5 TIME_WAIT gone after ~97 ms", "0 of 0 agree"];
    check(&format!("{WAITS}; 100 full"), &gone);
    check(&format!("{WAITS}; 100 round"), &["5 end local-fin", "0 of 0 agree"]);
}

/// There it makes one whenever another expires: a listing tells which, and until then none is shown.
#[test]
fn above_the_limit_listings_tell_which_there_are() {
    let waits = format!("0 full; {WAITS}");
    let gone = ["5 end local-fin", "5 TIME_WAIT gone after ~97 ms", "0 of 0 agree"];
    check(&format!("{waits}; 100 round; 70000 pass"), &gone);
    let there = ["5 end local-fin", "1 of 1 agree"];
    check(&format!("{waits}; 100 round 5 TIME_WAIT tw 59904"), &there);
    let skipped = format!("{waits}; 100 full; 200 round 5 TIME_WAIT tw 59804");
    check(&skipped, &["5 end local-fin", "5 TIME_WAIT gone after ~97 ms", "5 there is TIME_WAIT", "0 of 0 agree"]);
}

/// What is shown while the kernel may be out of them.
#[test]
fn what_may_not_have_been_made_is_not_shown() {
    let shown = |full: u64, records: &str| {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        tracker.compare(&round(0, "", false, full));
        WAITS.split(';').for_each(|step| tracker.apply(&event(step.trim()), &mut updates));
        let before = tracker.living(50 * MS).count();
        for event in tracker.compare(&round(100 * MS, records, false, full)) {
            tracker.apply(&event, &mut updates);
        }
        (before, tracker.living(150 * MS).count())
    };
    assert_eq!(shown(0, ""), (1, 1));
    assert_eq!(shown(7, ""), (0, 0));
    assert_eq!(shown(7, "5 TIME_WAIT tw 59904"), (0, 1));
}

/// Of one that was there before, the time that is left tells when `TIME_WAIT` began; of an orphan's it does not.
#[test]
fn when_a_minisock_from_before_began() {
    let began = |record: &str| {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        for event in tracker.compare(&round(100_000 * MS, record, true, 0)) {
            tracker.apply(&event, &mut updates);
        }
        tracker.living(100_500 * MS).next().unwrap().since_ns.unwrap() / MS
    };
    assert_eq!(began("5 TIME_WAIT tw 20000"), 60_001);
    assert_eq!(began("5 FIN_WAIT2 tw 20000"), 100_001);
}
