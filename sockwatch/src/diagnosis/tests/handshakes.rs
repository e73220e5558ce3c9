//! Handshakes: those that the listener defers, SYNs that find no place, and workers that share a listener.

use super::*;
use crate::diagnosis::look::{Kept, Row, Timer, TimerKind};

/// Handshakes of so many milliseconds, one a second.
fn handshakes(ms: &[f64]) -> Story {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for (cookie, ms) in (10..).zip(ms) {
        let at_ms = 5_000.0 + cookie as f64 * 100.0;
        story.arrive_after(at_ms, cookie, 1, *ms, 0);
        story.accept(at_ms + 0.1, cookie, 1, "server");
    }
    story
}

const LISTENER: SocketKey = SocketKey { netns: 1, cookie: 1 };

#[test]
fn clients_that_are_silent_at_first() {
    let mut story = handshakes(&[1_500.0, 20.0, 2_500.0, 1_200.0]);
    story.diagnosis.defer(LISTENER, 5);
    let report = story.check(10_000.0, &["defer-accept"]);
    says(
        &report.findings[0],
        &["3 of 4 handshakes", "TCP_DEFER_ACCEPT of this listener is 5 s", "accept(): connections"],
    );
    assert_eq!(report.listeners[0].defers_s, Some(5));
}

#[test]
fn all_clients_are_silent_at_first() {
    let mut story = handshakes(&[1_100.0; 20]);
    story.diagnosis.defer(LISTENER, 1);
    says(&story.check(10_000.0, &["defer-accept"]).findings[0], &["20 of 20 handshakes"]);
}

/// Another SYN-ACK was needed.
#[test]
fn deferred_until_another_syn_ack() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for cookie in 10..13 {
        story.arrive_after(5_000.0, cookie, 1, 900.0, 1);
        story.accept(5_000.1, cookie, 1, "server");
    }
    story.diagnosis.defer(LISTENER, 30);
    story.check(10_000.0, &["defer-accept"]);
}

/// The option alone is no finding, and without it the network is.
#[test]
fn who_is_quick_or_does_not_defer() {
    let mut story = handshakes(&[20.0; 20]);
    story.diagnosis.defer(LISTENER, 5);
    story.check(10_000.0, &[]);
    handshakes(&[1_500.0; 5]).check(10_000.0, &["slow-handshake"]);
    let mut story = handshakes(&[1_500.0; 5]);
    story.diagnosis.defer(LISTENER, 0);
    story.check(10_000.0, &["slow-handshake"]);
}

/// Only a listener whose handshakes are slow is asked, and only through a process that holds it.
#[test]
fn who_is_asked_for_the_option() {
    let asked = |ms: f64, kept: Kept| {
        let mut story = handshakes(&[ms]);
        let local = Endpoint::v4([127, 0, 0, 1], 80);
        let remote = Endpoint::v4([0; 4], 0);
        let listener = Row { key: LISTENER, inode: 77, state: TcpState::Listen, kept, ..request(1, 0) };
        story.looks = vec![Look { at_ns: BEGAN_NS, rows: vec![Row { local, remote, ..listener }] }];
        let looks = std::mem::take(&mut story.looks);
        story.diagnosis.look(looks);
        story.told(10_000.0).slow_to_shake()
    };
    assert_eq!(asked(1_500.0, Kept::By(task("server"))), [(LISTENER, 215, 77)]);
    assert_eq!(asked(20.0, Kept::By(task("server"))), []);
    assert_eq!(asked(1_500.0, Kept::Unseen), []);
}

/// A handshake that is not finished.
fn request(cookie: u64, attempts: u8) -> Row {
    Row {
        key: SocketKey { netns: 1, cookie },
        inode: 0,
        local: Endpoint::v4([127, 0, 0, 1], 80),
        remote: Endpoint::v4([192, 0, 2, 1], 5000 + cookie as u16),
        state: TcpState::SynRecv,
        kept: Kept::Request,
        unread_bytes: 0,
        unacked_bytes: 0,
        timer: Some(Timer { kind: TimerKind::Retransmit, expires_ms: 500, attempts }),
        flow: None,
    }
}

/// What the namespace counted, with some requests at the end, and some clients that came through.
fn syns(counters: NamespaceDrops, requests: impl IntoIterator<Item = Row>, clients: u64) -> Story {
    let mut story = Story::new();
    story.listen(0.0, 1, 8, "server");
    for client in 10..10 + clients {
        story.arrive(client as f64, client, 1);
        story.accept(client as f64 + 0.1, client, 1, "server");
    }
    let at_ns = BEGAN_NS + 3_000 * MS;
    let record = QueueRecord {
        from_ns: at_ns,
        to_ns: at_ns,
        depth: 0,
        limit: 8,
        drops: Some(0),
        somaxconn: Some(4096),
        namespace: counters,
        follows: Follows::All,
    };
    story.push(3_000.0, 1, EventKind::QueueFound { record, verdict: Verdict::Agrees });
    story.looks = vec![Look { at_ns, rows: requests.into_iter().collect() }];
    story
}

#[test]
fn a_flood_that_cookies_answer() {
    let counters = NamespaceDrops { cookies: 900, cookies_sent: 900, cookies_received: 3, ..NamespaceDrops::default() };
    let report = syns(counters, (10..18).map(|cookie| request(cookie, 2)), 3).check(4_000.0, &["syn-flood"]);
    let finding = &report.findings[0];
    says(finding, &["900 SYNs found too many requests waiting, and hardly anybody answers", "8 requests wait now"]);
    says(
        finding,
        &["900 cookies sent in all, 3 came back", "of these 8 were sent another SYN-ACK", "8 may (the backlog)"],
    );
}

#[test]
fn a_flood_without_cookies() {
    let counters = NamespaceDrops { requests_full: 50, ..NamespaceDrops::default() };
    let report = syns(counters, (10..20).map(|cookie| request(cookie, 1)), 0).check(4_000.0, &["syn-flood"]);
    says(&report.findings[0], &["hardly anybody answers", "50 were dropped", "tcp_syncookies=1"]);
}

#[test]
fn a_burst_of_honest_clients() {
    let counters = NamespaceDrops { cookies: 40, cookies_sent: 40, cookies_received: 39, ..NamespaceDrops::default() };
    let report = syns(counters, [], 60).check(4_000.0, &["syn-flood"]);
    says(&report.findings[0], &["an honest burst, and a backlog that is too small", "listen() with a longer backlog"]);
    let counters = NamespaceDrops { requests_full: 10, ..NamespaceDrops::default() };
    says(&syns(counters, [], 60).check(4_000.0, &["syn-flood"]).findings[0], &["an honest burst"]);
}

/// It fills the accept queue, and therefore that of the requests: one reason, one finding.
#[test]
fn a_burst_that_fills_both_queues() {
    let full = NamespaceDrops { overflows: 31, drops: 31, cookies: 32, cookies_sent: 32, ..NamespaceDrops::default() };
    let burst = |cookies_received| {
        let mut story = syns(NamespaceDrops { cookies_received, ..full }, [request(10, 1)], 19);
        (0..31).for_each(|index| story.incident(100.0 + f64::from(index), 1, Incident::ListenOverflow));
        story
    };
    burst(32).check(4_000.0, &["queue-too-small"]);
    burst(1).check(4_000.0, &["syn-flood", "queue-too-small"]);
}

#[test]
fn what_does_not_show() {
    let counters = NamespaceDrops { cookies: 40, cookies_sent: 40, cookies_received: 10, ..NamespaceDrops::default() };
    says(&syns(counters, [request(10, 1)], 5).check(4_000.0, &["syn-flood"]).findings[0], &["does not show"]);
}

/// Its namespace counts a flood, and this listener has nothing of it: it is at one that nobody looks at.
#[test]
fn a_flood_somewhere_else() {
    let counters = NamespaceDrops { cookies: 900, cookies_sent: 900, cookies_received: 3, ..NamespaceDrops::default() };
    syns(counters, [], 5).check(4_000.0, &[]);
    let burst = NamespaceDrops { cookies_received: 900, ..counters };
    syns(burst, [], 5).check(4_000.0, &[]);
}

/// Cookies for everybody (`tcp_syncookies=2`), a few SYNs too many, or requests that are on their way.
#[test]
fn healthy_handshakes() {
    let always = NamespaceDrops { cookies_sent: 500, cookies_received: 500, ..NamespaceDrops::default() };
    syns(always, [], 50).check(4_000.0, &[]);
    let few = NamespaceDrops { cookies: 4, cookies_sent: 4, ..NamespaceDrops::default() };
    syns(few, (10..14).map(|cookie| request(cookie, 0)), 50).check(4_000.0, &[]);
    syns(NamespaceDrops::default(), (10..200).map(|cookie| request(cookie, 1)), 50).check(4_000.0, &[]);
}

/// Workers of one listener: each accepts so many, every connection after so many milliseconds.
fn prefork(shares: &[(&str, u64)], wait_ms: f64) -> Story {
    let mut story = Story::new();
    story.listen(0.0, 1, 1024, "master");
    let mut client = 10;
    for (name, accepts) in shares {
        for _ in 0..*accepts {
            let at_ms = client as f64 * 10.0;
            story.arrive(at_ms, client, 1);
            story.accept(at_ms + wait_ms, client, 1, name);
            client += 1;
        }
    }
    story
}

#[test]
fn one_of_several_workers_does_it_all() {
    let report = prefork(&[("a-worker", 60), ("b-worker", 1), ("c-worker", 0)], 300.0).check(3_000.0, &["worker-skew"]);
    says(&report.findings[0], &["1 of 2 processes that accept from this socket", "a-worker/197: 60 accepted"]);
    prefork(&[("a-worker", 90), ("b-worker", 90), ("c-worker", 2)], 200.0).check(9_000.0, &["worker-skew"]);
    prefork(&[("a-worker", 200), ("b-worker", 3), ("c-worker", 2)], 150.0).check(9_000.0, &["worker-skew"]);
}

/// Nobody waits: that one worker is woken most often is as it should be. Or all of them are slow.
#[test]
fn workers_that_may_be_uneven() {
    prefork(&[("a-worker", 60), ("b-worker", 1)], 0.1).check(3_000.0, &[]);
    prefork(&[("a-worker", 30), ("b-worker", 25)], 300.0).check(3_000.0, &["slow-accept"]);
    prefork(&[("a-worker", 9), ("b-worker", 0)], 300.0).check(3_000.0, &["slow-accept"]);
}
