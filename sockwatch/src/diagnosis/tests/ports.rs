//! Clients that take local ports: what is foretold, and when nothing is.

use super::*;
use crate::diagnosis::ports::MOST_ROUTES;

const RANGE: Settings = Settings { first: 20_000, last: 20_999, reserved: 0, reuse: 2, timestamps: true };

/// How a connection ends.
#[derive(Clone, Copy)]
enum End {
    /// This end closes first.
    First,
    /// It does, and the other end has not closed when the process is gone.
    Orphaned,
    /// The other end does.
    Second,
    /// It does not.
    Open,
    /// The other end has, this one does not.
    Kept,
}

/// Connections to one destination, one each `every_ms`.
fn clients(count: u64, every_ms: f64, end: End, settings: Settings) -> Story {
    let mut story = Story::new();
    story.settings.insert(1, settings);
    (0..count).for_each(|index| connection(&mut story, 10.0 + index as f64 * every_ms, index, end));
    story
}

fn connection(story: &mut Story, at_ms: f64, index: u64, end: End) {
    connection_to(story, at_ms, index, [10, 0, 0, 2], end);
}

fn connection_to(story: &mut Story, at_ms: f64, index: u64, server: [u8; 4], end: End) {
    let by = task("proxy");
    let ends = (Endpoint::v4([10, 0, 0, 1], 20_000 + (index % 1000) as u16), Endpoint::v4(server, 80));
    let mut push = |after_ms: f64, kind| {
        let at_ns = BEGAN_NS + ((at_ms + after_ms) * MS as f64) as u64;
        let key = SocketKey { netns: 1, cookie: 100_000 + index };
        story.events.push(Event { at_ns, key, skaddr: index, tuple: Some(ends), kind, certainty: Certainty::Once });
    };
    let step = |old, new| EventKind::Transition { old, new, by: None };
    push(0.0, EventKind::Opening { new: TcpState::SynSent, by, limit: None });
    push(0.1, step(TcpState::SynSent, TcpState::Established));
    let steps: &[(TcpState, TcpState)] = match end {
        End::First | End::Orphaned => {
            &[(TcpState::Established, TcpState::FinWait1), (TcpState::FinWait1, TcpState::FinWait2)]
        }
        End::Second => &[(TcpState::Established, TcpState::CloseWait), (TcpState::CloseWait, TcpState::LastAck)],
        End::Open => return,
        End::Kept => return push(0.2, step(TcpState::Established, TcpState::CloseWait)),
    };
    steps.iter().for_each(|(old, new)| push(0.2, step(*old, *new)));
    let done = !matches!(end, End::Orphaned);
    let evidence =
        Some(CloseEvidence { done, dead: true, all_acked: true, fin_timeout_ms: 60_000, ..CloseEvidence::default() });
    push(0.3, EventKind::Closing { old: steps[1].1, current: by, evidence });
    push(0.4, EventKind::Destroy);
}

#[test]
fn a_rate_that_takes_all_ports() {
    // 50/s: 500 after 10 s, 1000 after 20 s.
    let report = clients(500, 20.0, End::First, RANGE).check(10_010.0, &["port-exhaustion"]);
    let ports = &report.ports[0];
    assert_eq!((ports.open, ports.time_wait, ports.tenths_per_second.abs_diff(500) < 5), (0, 500, true), "{ports:?}");
    assert!(ports.exhausted_in_ns.unwrap().abs_diff(10_000 * MS) < 100 * MS, "{ports:?}");
    says(&report.findings[0], &["10.0.0.1 to 10.0.0.2:80: 500 of 1,000 ports are taken", "proxy/212"]);
    says(&report.findings[0], &["3,000 ports at once, and 1,000 there are", "20000 20999", "tcp_tw_reuse=1"]);
    assert_eq!(report.findings[0].place.local.to_string(), "10.0.0.1:*");
}

/// 5/s that nobody closes: 300 of 1,000 after 60 s, the rest in 140 s, which is longer than any TIME_WAIT.
#[test]
fn connections_that_nobody_closes() {
    let report = clients(300, 200.0, End::Open, RANGE).check(60_010.0, &["port-exhaustion"]);
    let ports = &report.ports[0];
    assert!(ports.exhausted_in_ns.unwrap().abs_diff(140_000 * MS) < 3_000 * MS, "{ports:?}");
    says(&report.findings[0], &["4.9/s more are open", "close the connections that are done with"]);
}

/// Each has a port of its own, and all are one process's.
#[test]
fn a_pool_that_keeps_what_its_server_has_closed() {
    let report = clients(50, 20.0, End::Kept, RANGE).check(10_010.0, &["close-wait-leak"]);
    let words = ["proxy/212 keeps 50 connections at 10.0.0.1:* that their servers have closed", "list --pid 212"];
    says(&report.findings[0], &words);
}

/// More destinations than are followed, one after the other: those that are over make room.
#[test]
fn a_long_run_follows_the_latest() {
    let mut story = Story::new();
    story.settings.insert(1, RANGE);
    for index in 0..MOST_ROUTES as u64 + 10 {
        let [first, second] = u16::try_from(index).unwrap().to_be_bytes();
        connection_to(&mut story, index as f64, index, [10, 1, first, second], End::Second);
    }
    connection_to(&mut story, 20_000.0, 50_000, [10, 2, 0, 1], End::Open);
    let report = story.report(20_010.0);
    assert_eq!(report.ports.iter().map(|it| it.open).collect::<Vec<_>>(), [1], "{:?}", report.ports);
}

/// What the other end has not closed yet keeps its port as `TIME_WAIT` does.
#[test]
fn orphans_keep_ports() {
    let report = clients(500, 20.0, End::Orphaned, RANGE).check(10_010.0, &["port-exhaustion"]);
    assert_eq!((report.ports[0].open, report.ports[0].time_wait), (0, 500), "{:?}", report.ports);
}

/// 50/s for 60 s are 3,000 of 4,000, as it was before: what was in `TIME_WAIT` then does not begin again.
#[test]
fn a_rate_that_was_there_before() {
    let settings = Settings { last: 23_999, ..RANGE };
    let mut story = clients(500, 20.0, End::First, settings);
    for index in 0..3000 {
        let ends = (Endpoint::v4([10, 0, 0, 1], 20_500 + index as u16), Endpoint::v4([10, 0, 0, 2], 80));
        let kind = EventKind::Found {
            state: TcpState::TimeWait,
            expires_in_ns: Some((index + 1) * 20 * MS),
            queue: None,
            holder: None,
            listener: None,
            occasion: Occasion::Expected,
        };
        let key = SocketKey { netns: 1, cookie: 200_000 + index };
        let (at_ns, tuple) = (BEGAN_NS + MS, Some(ends));
        story.events.push(Event { at_ns, key, skaddr: 0, tuple, kind, certainty: Certainty::Once });
    }
    let report = story.check(10_010.0, &[]);
    assert!(report.ports[0].time_wait.abs_diff(3000) < 5, "{:?}", report.ports);
}

/// Connections that nobody closes take them, too.
#[test]
fn connections_that_pile_up() {
    let report = clients(800, 10.0, End::Open, RANGE).check(8_010.0, &["port-exhaustion"]);
    says(&report.findings[0], &["800 connections open, 0 in TIME_WAIT"]);
    assert!(report.ports[0].exhausted_in_ns.unwrap().abs_diff(2_000 * MS) < 100 * MS, "{:?}", report.ports);
}

/// The narrower the range, the sooner.
#[test]
fn reserved_ports_do_not_count() {
    let settings = Settings { reserved: 401, ..RANGE };
    let report = clients(500, 20.0, End::First, settings).check(10_010.0, &["port-exhaustion"]);
    assert!(report.ports[0].exhausted_in_ns.unwrap().abs_diff(1_980 * MS) < 100 * MS, "{:?}", report.ports);
}

#[test]
fn none_is_left() {
    let mut story = clients(1000, 5.0, End::First, RANGE);
    for index in 0..20 {
        let ends = (Endpoint::v4([10, 0, 0, 1], 0), Endpoint::v4([10, 0, 0, 2], 80));
        let at_ns = BEGAN_NS + (5_100 + index * 10) * MS;
        let key = SocketKey { netns: 1, cookie: 900_000 + index };
        let mut push = |kind| {
            story.events.push(Event {
                at_ns,
                key,
                skaddr: 90_000 + index,
                tuple: Some(ends),
                kind,
                certainty: Certainty::Once,
            })
        };
        push(EventKind::Opening { new: TcpState::SynSent, by: task("proxy"), limit: None });
        let evidence = Some(CloseEvidence { has_socket: true, ..CloseEvidence::default() });
        push(EventKind::Closing { old: TcpState::SynSent, current: task("proxy"), evidence });
        push(EventKind::Destroy);
    }
    let report = story.check(5_500.0, &["port-exhaustion"]);
    says(&report.findings[0], &["connect() failed 20 times before a SYN was sent, with 1,000 of 1,000 ports taken"]);
    assert_eq!(report.findings[0].hurt, 20);
}

/// 10/s for 60 s are 600 of 1000.
#[test]
fn a_rate_that_comes_back_in_time() {
    let report = clients(500, 100.0, End::First, RANGE).check(50_010.0, &[]);
    assert_eq!((report.ports[0].time_wait, report.ports[0].exhausted_in_ns), (500, None));
}

/// The other end closes first, and keeps nothing here.
#[test]
fn connections_that_the_server_closes() {
    let report = clients(900, 5.0, End::Second, RANGE).check(5_000.0, &[]);
    assert!(report.ports.is_empty(), "{:?}", report.ports);
}

/// Half of them, at once, and then no more.
#[test]
fn a_burst_that_has_ended() {
    clients(500, 2.0, End::First, RANGE).check(5_000.0, &[]);
}

/// A short burst at a rate that could not go on.
#[test]
fn a_burst_of_a_few() {
    clients(200, 1.0, End::First, RANGE).check(210.0, &[]);
}

/// `tcp_tw_reuse` gives them back after a second.
#[test]
fn ports_that_are_reused() {
    let report = clients(500, 20.0, End::First, Settings { reuse: 1, ..RANGE }).check(10_010.0, &[]);
    assert!(report.ports[0].time_wait <= 51, "{:?}", report.ports);
    clients(500, 20.0, End::First, Settings { reuse: 1, timestamps: false, ..RANGE })
        .check(10_010.0, &["port-exhaustion"]);
}

/// A server's clients have ports of their own.
#[test]
fn a_server_takes_none() {
    let mut story = Story::new();
    story.settings.insert(1, Settings { first: 1024, last: 1033, ..RANGE });
    story.listen(0.0, 1, 128, "server");
    for client in 10..110 {
        story.arrive(client as f64, client, 1);
        story.accept(client as f64 + 0.1, client, 1, "server");
    }
    assert!(story.check(1_000.0, &[]).ports.is_empty());
}

/// Nothing is said of a range that is not known.
#[test]
fn a_namespace_that_is_gone() {
    let mut story = clients(900, 5.0, End::First, RANGE);
    story.settings.clear();
    story.check(5_000.0, &[]);
}
