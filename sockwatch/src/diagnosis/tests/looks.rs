//! What two looks at the kernel's table prove, and what a healthy server has in it.

use super::*;
use crate::diagnosis::look::{Flow, Kept, Row, Timer, TimerKind};

const SECOND_MS: f64 = 1_000.0;

/// A client of the server at port 80, open, with nothing to do.
fn client(cookie: u64) -> Row {
    Row {
        key: SocketKey { netns: 1, cookie },
        inode: cookie as u32,
        local: Endpoint::v4([127, 0, 0, 1], 80),
        remote: Endpoint::v4([127, 0, 0, 1], 5000 + cookie as u16),
        state: TcpState::Established,
        kept: Kept::By(task("server")),
        unread_bytes: 0,
        unacked_bytes: 0,
        timer: None,
        flow: Some(Flow { received_bytes: 1000, last_received_ms: 50, last_ack_ms: 50, last_sent_ms: 50 }),
    }
}

/// The server.
fn server() -> Row {
    let remote = Endpoint::v4([0; 4], 0);
    Row { state: TcpState::Listen, remote, flow: None, ..client(1) }
}

/// One whose other end is the server: nobody listens at its own.
fn opened(row: Row) -> Row {
    Row { local: row.remote, remote: row.local, ..row }
}

fn timer(kind: TimerKind, attempts: u8) -> Option<Timer> {
    Some(Timer { kind, expires_ms: 100, attempts })
}

/// A run of ten seconds with these rows at its beginning and at its end.
fn looked(before: impl IntoIterator<Item = Row>, now: impl IntoIterator<Item = Row>) -> Story {
    let mut story = Story::new();
    let look = |at_ms: f64, rows: Vec<Row>| {
        let rows = rows.into_iter().chain([server()]).collect();
        Look { at_ns: BEGAN_NS + (at_ms * MS as f64) as u64, rows }
    };
    story.looks = vec![look(0.0, before.into_iter().collect()), look(10.0 * SECOND_MS, now.into_iter().collect())];
    story
}

#[track_caller]
fn check(before: impl IntoIterator<Item = Row>, now: impl IntoIterator<Item = Row>, expected: &[&str]) -> Report {
    looked(before, now).check(10.0 * SECOND_MS, expected)
}

/// Data that has lain unread for so long.
fn unread(cookie: u64, bytes: u32, lain_ms: u32) -> Row {
    let flow = Flow { received_bytes: 5000, last_received_ms: lain_ms, ..Flow::default() };
    Row { unread_bytes: bytes, flow: Some(flow), ..client(cookie) }
}

#[test]
fn a_process_that_does_not_read() {
    let rows = || (10..15).map(|cookie| unread(cookie, 800, 4_000));
    let report = check(rows(), rows(), &["slow-reader"]);
    let words =
        ["127.0.0.1:80: 5 connections are not read by server/215: 4,000 bytes", "the longest for 10.0s at least"];
    says(&report.findings[0], &words);
    says(&report.findings[0], &["0 were accepted and never read from", "only recv() is missing"]);
    assert_eq!(report.findings[0].hurt, 5);
}

/// They came during the run: how long their last byte has been here is proof enough.
#[test]
fn accepted_and_never_read_from() {
    let rows = (10..13).map(|cookie| unread(cookie, 5000, 2_500));
    let report = check([], rows, &["slow-reader"]);
    says(&report.findings[0], &["3 were accepted and never read from", "the longest for 2.50s"]);
}

/// More comes all the time, and nothing is read.
#[test]
fn unread_data_that_grows() {
    let before = (10..13).map(|cookie| unread(cookie, 1000, 10));
    let now = (10..13).map(|cookie| {
        let flow = Flow { received_bytes: 64_000, last_received_ms: 10, ..Flow::default() };
        Row { unread_bytes: 60_000, flow: Some(flow), ..client(cookie) }
    });
    let report = check(before, now, &["slow-reader"]);
    says(&report.findings[0], &["3 of these have more unread now"]);
}

/// A client of ours that does not take what it asked for.
#[test]
fn a_client_that_does_not_read() {
    let rows = || (10..14).map(|cookie| opened(unread(cookie, 200_000, 5_000)));
    let report = check(rows(), rows(), &["slow-reader"]);
    assert!(report.findings[0].sentence.starts_with("127.0.0.1 to "), "{:?}", report.findings);
}

#[test]
fn data_that_has_just_come() {
    check([], (10..30).map(|cookie| unread(cookie, 800, 3)), &[]);
}

/// It reads all the time; at both looks something had just come.
#[test]
fn a_reader_that_keeps_up() {
    let before = (10..30).map(|cookie| unread(cookie, 800, 3));
    let now = (10..30).map(|cookie| {
        let flow = Flow { received_bytes: 9_000_000, last_received_ms: 2, ..Flow::default() };
        Row { flow: Some(flow), ..unread(cookie, 800, 2) }
    });
    check(before, now, &[]);
}

/// A session ticket that a client reads with its next answer; and a server with two odd connections among a hundred.
#[test]
fn little_that_nobody_misses() {
    let rows = || (10..40).map(|cookie| opened(unread(cookie, 510, 60_000)));
    check(rows(), rows(), &[]);
    let rows = || (10..12).map(|cookie| unread(cookie, 5, 60_000)).chain((12..112).map(client));
    check(rows(), rows(), &[]);
}

/// Closed here, not taken there.
fn stuck(cookie: u64, kind: TimerKind, attempts: u8) -> Row {
    Row {
        state: TcpState::FinWait1,
        kept: Kept::Orphan,
        unacked_bytes: 10_000,
        timer: timer(kind, attempts),
        ..client(cookie)
    }
}

#[test]
fn windows_that_stay_closed() {
    let rows = || (10..14).map(|cookie| stuck(cookie, TimerKind::ZeroWindowProbe, 0));
    let report = check(rows(), rows(), &["stuck-fin-wait1"]);
    says(&report.findings[0], &["4 connections closed here cannot end, with 40,000 bytes not acknowledged"]);
    says(
        &report.findings[0],
        &["windows are closed", "4 have no process any more", "the retransmission timer would run"],
    );
}

#[test]
fn peers_that_are_silent_at_the_end() {
    let rows = |attempts| (10..13).map(move |cookie| stuck(cookie, TimerKind::Retransmit, attempts));
    let report = check(rows(1), rows(6), &["stuck-fin-wait1"]);
    says(&report.findings[0], &["their peers do not answer", "6 retransmissions without an answer"]);
}

/// Closed after the peer had, by shutdown(), some with a process.
#[test]
fn last_acks_that_do_not_come() {
    let rows = || {
        let row =
            |cookie| Row { state: TcpState::LastAck, unacked_bytes: 0, ..stuck(cookie, TimerKind::Retransmit, 4) };
        (10..13).map(row).chain([stuck(13, TimerKind::ZeroWindowProbe, 3)])
    };
    let report = check(rows(), rows(), &["stuck-fin-wait1"]);
    says(&report.findings[0], &["others do not answer", "3 probes without an answer"]);
}

#[test]
fn large_answers_that_move_on() {
    let before = (10..20).map(|cookie| stuck(cookie, TimerKind::Retransmit, 0));
    let now = (10..20).map(|cookie| Row { unacked_bytes: 4_000, ..stuck(cookie, TimerKind::Retransmit, 0) });
    check(before, now, &[]);
    check([], (10..20).map(|cookie| stuck(cookie, TimerKind::ZeroWindowProbe, 2)), &[]);
}

/// Some client always is gone.
#[test]
fn a_few_that_are_stuck_among_many() {
    let rows = || (10..13).map(|cookie| stuck(cookie, TimerKind::Retransmit, 5)).chain((13..400).map(client));
    check(rows(), rows(), &[]);
    let two = || (10..12).map(|cookie| stuck(cookie, TimerKind::Retransmit, 5));
    check(two(), two(), &[]);
}

/// Its peer is gone: data is out, and nothing comes back.
fn gone(cookie: u64, attempts: u8, silent_ms: u32) -> Row {
    let flow =
        Flow { received_bytes: 10, last_received_ms: silent_ms, last_ack_ms: silent_ms, last_sent_ms: silent_ms };
    Row { unacked_bytes: 300, timer: timer(TimerKind::Retransmit, attempts), flow: Some(flow), ..client(cookie) }
}

#[test]
fn peers_that_are_gone() {
    let report = check([], (10..14).map(|cookie| gone(cookie, 6, 25_000)), &["dead-peer"]);
    says(&report.findings[0], &["the peers of 4 open connections of server/215 give no sign, the longest for 25.0s"]);
    says(&report.findings[0], &["1,200 bytes not acknowledged, up to 6 retransmissions or probes", "TCP_USER_TIMEOUT"]);
}

#[test]
fn a_closed_window_whose_peer_is_gone() {
    let row = |cookie| Row { timer: timer(TimerKind::ZeroWindowProbe, 5), ..gone(cookie, 5, 12_000) };
    check((10..13).map(row), (10..13).map(row), &["dead-peer"]);
}

/// Idle ones are only mentioned.
#[test]
fn idle_connections_are_evidence_only() {
    let idle = |cookie| Row {
        flow: Some(Flow { received_bytes: 10, last_received_ms: 90_000, last_ack_ms: 90_000, last_sent_ms: 90_000 }),
        ..client(cookie)
    };
    check((10..60).map(idle), (10..60).map(idle), &[]);
    let rows = || (10..60).map(idle).chain((60..63).map(|cookie| gone(cookie, 7, 30_000)));
    let report = check(rows(), rows(), &["dead-peer"]);
    says(&report.findings[0], &["50 more are idle for 60.0s and longer without keepalive"]);
}

#[test]
fn a_moment_s_loss() {
    check([], (10..30).map(|cookie| gone(cookie, 2, 900)), &[]);
    check([], (10..12).map(|cookie| gone(cookie, 6, 30_000)), &[]);
    // Keepalive is on, and will end them by itself.
    let asked = |cookie| Row { timer: timer(TimerKind::KeepAlive, 5), unacked_bytes: 0, ..gone(cookie, 5, 30_000) };
    check([], (10..30).map(asked), &[]);
    // The window is closed, and the peer answers.
    let answers = |cookie| Row { timer: timer(TimerKind::ZeroWindowProbe, 0), ..gone(cookie, 0, 200) };
    check((10..30).map(answers), (10..30).map(answers), &[]);
}

/// The server's end of connections that it closed first at so many milliseconds, and whose clients do not close.
fn orphans(cookies: std::ops::Range<u64>, closed_ms: f64) -> Story {
    let mut story = looked([], cookies.clone().map(waits_for_fin));
    story.listen(0.0, 1, 128, "server");
    for cookie in cookies {
        story.arrive(10.0, cookie, 1);
        story.accept(10.1, cookie, 1, "server");
        story.close_first(closed_ms, cookie, "server");
    }
    story
}

fn waits_for_fin(cookie: u64) -> Row {
    Row { state: TcpState::FinWait2, kept: Kept::Minisock, inode: 0, flow: None, ..client(cookie) }
}

#[test]
fn clients_that_do_not_close() {
    let report = orphans(10..40, 1_000.0).check(10.0 * SECOND_MS, &["orphan-fin-wait2"]);
    let finding = &report.findings[0];
    says(finding, &["127.0.0.1:80: 30 connections closed here wait for a FIN", "the oldest for 8.99s at least"]);
    says(finding, &["30 connections ended during the run: these are 100 % of them", "127.0.0.1 30"]);
    assert_eq!(finding.hurt, 30);
}

/// Some do, most do not.
#[test]
fn clients_of_which_a_third_does_not_close() {
    let mut story = orphans(10..25, 4_000.0);
    for cookie in 100..130 {
        story.arrive(20.0, cookie, 1);
        story.accept(20.1, cookie, 1, "server");
        story.fin(30.0, cookie);
        story.close_second(30.1, cookie, "server");
    }
    says(&story.check(10.0 * SECOND_MS, &["orphan-fin-wait2"]).findings[0], &["these are 33 % of them"]);
}

/// More than there were before.
#[test]
fn orphans_that_grow() {
    let mut story = orphans(10..30, 2_000.0);
    story.looks[0].rows.extend((500..540).map(waits_for_fin));
    story.looks[1].rows.extend((500..540).map(waits_for_fin));
    says(&story.check(10.0 * SECOND_MS, &["orphan-fin-wait2"]).findings[0], &["60 connections", "20 of them came"]);
}

/// They were closed before the first look, and after the run had begun.
#[test]
fn orphans_that_the_first_look_has_seen() {
    let mut story = orphans(10..30, 100.0);
    story.looks[0].rows.extend((10..30).map(waits_for_fin));
    says(&story.check(10.0 * SECOND_MS, &["orphan-fin-wait2"]).findings[0], &["20 of them came during the run"]);
}

/// They close after a round trip; at each look some are on their way.
#[test]
fn clients_that_close_soon() {
    orphans(10..60, 9_900.0).check(10.0 * SECOND_MS, &[]);
}

#[test]
fn a_few_orphans_among_many() {
    orphans(10..19, 1_000.0).check(10.0 * SECOND_MS, &[]);
    // What is left of something that was before the run.
    let rows = || (10..60).map(waits_for_fin);
    check(rows(), rows(), &[]);
}
