//! Servers that are not well: what is found first, and what it says.

use std::sync::Arc;

use super::*;
use crate::diagnosis::blame::{Frame, Stack, What};

/// Clients that come every `every_ms`, and are accepted one every `each_ms`.
fn queue(clients: u64, every_ms: f64, each_ms: f64) -> Story {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    let mut free_ms = 0.0_f64;
    for index in 0..clients {
        let at_ms = 10.0 + index as f64 * every_ms;
        story.arrive(at_ms, 10 + index, 1);
        free_ms = free_ms.max(at_ms) + each_ms;
        story.accept(free_ms, 10 + index, 1, "server");
    }
    story
}

#[test]
fn a_server_that_sleeps_before_each_accept() {
    let report = queue(5, 0.0, 200.0).check(1_500.0, &["slow-accept"]);
    let finding = &report.findings[0];
    says(finding, &["127.0.0.1:80 (server/215): 5 of 5 connections waited 100ms or more", "the longest 1.00s"]);
    says(finding, &["an accept came every 200ms (mean), the longest pause was 200ms", "the network: handshakes took"]);
    says(finding, &["accepted by server/215 5", "was not looked at", "the queue was never full"]);
    assert_eq!(finding.hurt, 5);
}

/// It was full, and the kernel has not been asked since: whether somebody was turned away is not known.
#[test]
fn a_full_queue_may_have_turned_clients_away() {
    let mut story = Story::new();
    story.listen(0.0, 1, 3, "server");
    for client in 10..14 {
        story.arrive(10.0, client, 1);
        story.accept(10.0 + (client - 9) as f64 * 300.0, client, 1, "server");
    }
    let report = story.check(2_000.0, &["slow-accept"]);
    assert!(report.findings[0].rules_out.iter().all(|line| !line.contains("backlog")), "{:?}", report.findings);
}

#[test]
fn slower_than_clients_come() {
    let report = queue(400, 1.0, 2.0).check(2_000.0, &["slow-accept"]);
    assert!(report.listeners[0].slow > 100, "{:?}", report.listeners[0].wait);
}

/// Most of the time it is quick, then it does something else for half a second.
#[test]
fn a_pause_now_and_then() {
    let mut story = Story::new();
    story.listen(0.0, 1, 1024, "server");
    for client in 10..1010 {
        let at_ms = client as f64 * 2.0;
        let until = (at_ms / 1000.0).floor() * 1000.0 + 500.0;
        story.arrive(at_ms, client, 1);
        story.accept(at_ms.max(until) + 0.1, client, 1, "server");
    }
    let report = story.check(3_000.0, &["slow-accept"]);
    says(&report.findings[0], &["the longest pause was 500ms"]);
}

/// Those who still wait count: no accept tells of them.
#[test]
fn who_still_waits_is_in_the_picture() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    story.arrive(100.0, 10, 1);
    story.accept(100.1, 10, 1, "server");
    story.arrive(500.0, 11, 1);
    story.arrive(500.0, 12, 1);
    let report = story.check(900.0, &["slow-accept"]);
    let listener = &report.listeners[0];
    assert_eq!((listener.slow, listener.still_waiting, listener.at_least), (2, 2, 2));
    assert_eq!(listener.wait.map(|wait| (wait.count, wait.max_ns)), Some((3, 400 * MS)));
    says(&report.findings[0], &["(2 of them so far, or at least)"]);
}

#[test]
fn no_accept_at_all() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    (10..14).for_each(|client| story.arrive(1_000.0, client, 1));
    let report = story.check(5_000.0, &["nobody-accepts"]);
    let words = ["4 connections wait in the accept queue, the oldest for 4.00s", "no accept during the run"];
    says(&report.findings[0], &words);
}

#[test]
fn a_server_that_stops_accepting() {
    let mut story = queue(100, 1.0, 0.1);
    story.arrive(2_000.0, 500, 1);
    let report = story.check(9_000.0, &["nobody-accepts"]);
    says(&report.findings[0], &["1 connection waits", "100 connections accepted before"]);
}

/// A queue that was there before the run: only the kernel's table tells of it.
#[test]
fn stuck_before_the_run() {
    let mut story = Story::new();
    let found = EventKind::Found {
        state: TcpState::Listen,
        expires_in_ns: None,
        queue: Some((3, 128)),
        holder: Some(task("server")),
        listener: None,
        occasion: crate::tcp::event::Occasion::Expected,
    };
    story.push(5.0, 1, found);
    story.drops(5.0, 1, (3, 128), 0, 4096);
    let report = story.check(3_000.0, &["nobody-accepts"]);
    says(&report.findings[0], &["server/215", "3 connections wait"]);
}

fn overflowing(limit: u32, drops: u32, somaxconn: u32) -> Story {
    let mut story = Story::new();
    story.listen(0.0, 1, limit, "server");
    for client in 10..11 + u64::from(limit) {
        story.arrive(100.0, client, 1);
        story.accept(105.0, client, 1, "server");
    }
    story.drops(1_000.0, 1, (0, limit), drops, somaxconn);
    story
}

#[test]
fn a_burst_that_does_not_fit() {
    let report = overflowing(5, 14, 4096).check(2_000.0, &["queue-too-small"]);
    let finding = &report.findings[0];
    says(
        finding,
        &["overflowed at 5, and 14 SYNs or ACKs were dropped", "a backlog of 32 would have held", "1 s, 3 s, 7 s"],
    );
    assert_eq!(finding.hurt, 14);
    let report = overflowing(128, 300, 4096).check(2_000.0, &["queue-too-small"]);
    says(&report.findings[0], &["overflowed at 128", "a backlog of 512"]);
}

/// The queue is so short that nobody in it waits for long; but it is always full.
#[test]
fn clients_come_faster_than_they_are_accepted() {
    // Two come every 4 ms.
    let overloaded = |each_ms: f64| {
        let mut story = Story::new();
        story.listen(0.0, 1, 1, "server");
        for client in 10..2_010 {
            let (at_ms, place) = ((client / 2 * 4) as f64, (client % 2 + 1) as f64);
            story.arrive(at_ms, client, 1);
            story.accept(at_ms + place * each_ms, client, 1, "server");
        }
        (1..5).for_each(|second| story.drops(f64::from(second) * 1_000.0, 1, (1, 1), second * 500, 4096));
        story
    };
    let report = overloaded(2.0).check(4_100.0, &["queue-too-small"]);
    says(&report.findings[0], &["faster than they are accepted", "in 4 seconds", "does not keep up"]);
    assert!(report.findings[0].fix[0].starts_with("accept in more threads"), "{:?}", report.findings);
    // Idle for half of the time: bursts.
    let report = overloaded(0.5).check(4_100.0, &["queue-too-small"]);
    says(&report.findings[0], &["would have held", "accept() that is too slow: those"]);
}

#[test]
fn last_acks_that_are_dropped() {
    let mut story = queue(3, 1.0, 0.1);
    (0..8).for_each(|index| story.incident(50.0 + f64::from(index), 1, Incident::ListenOverflow));
    // Seven are connected late, one of them is not yet.
    for (client, retransmits) in (100..).zip([1, 1, 1, 2, 3, 4]) {
        let late_ms = f64::from((1 << retransmits) - 1) * 1_000.0;
        story.arrive_after(50.0 + late_ms, client, 1, late_ms, retransmits);
        story.accept(50.1 + late_ms, client, 1, "server");
    }
    story.incident(1_050.0, 1, Incident::SynAckRetransmit);
    let report = story.check(17_000.0, &["queue-too-small"]);
    assert_eq!(report.listeners[0].turned_away(), 8);
    says(
        &report.findings[0],
        &["3 by 1 s, 1 by 3 s, 2 by 7 s or more", "1 client, as far as is known, believes it is"],
    );
}

#[test]
fn a_limit_that_somaxconn_cut() {
    let report = overflowing(16, 20, 16).check(2_000.0, &["somaxconn"]);
    says(&report.findings[0], &["overflowed at 16, which is all that net.core.somaxconn allows", "somaxconn=64"]);
}

/// It overflows because it is not emptied: that is said once.
#[test]
fn an_overflow_that_slow_accept_explains() {
    let mut story = Story::new();
    story.listen(0.0, 1, 3, "server");
    for client in 10..14 {
        story.arrive(10.0, client, 1);
        story.accept(10.0 + (client - 9) as f64 * 300.0, client, 1, "server");
    }
    story.drops(1_000.0, 1, (1, 3), 9, 4096);
    let report = story.check(2_000.0, &["slow-accept"]);
    says(&report.findings[0], &["9 SYNs or ACKs were dropped because the queue was full"]);
    assert_eq!(report.findings[0].hurt, 13);
}

#[test]
fn no_descriptor_left() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    story.arrive(10.0, 10, 1);
    (0..50).for_each(|index| story.fail(10.0 + f64::from(index) * 10.0, 1, "server", 24));
    let report = story.check(5_000.0, &["descriptor-limit"]);
    says(&report.findings[0], &["accept() failed 50 times", "EMFILE", "/proc/215/fd", "LimitNOFILE"]);
    let mut story = queue(3, 1.0, 0.1);
    story.fail(10.0, 1, "server", 23);
    says(&story.check(5_000.0, &["descriptor-limit"]).findings[0], &["ENFILE", "fs.file-max"]);
}

/// ECONNABORTED is no lack of descriptors.
#[test]
fn another_error_of_accept() {
    let mut story = queue(3, 1.0, 0.1);
    story.fail(10.0, 1, "server", 103);
    story.check(5_000.0, &[]);
}

#[test]
fn a_stuck_worker() {
    let mut story = Story::new();
    let names = ["a-worker", "b-worker", "c-worker", "d-worker"];
    for (listener, name) in (1..).zip(names) {
        story.listen(0.0, listener, 128, name);
    }
    for client in 10..210 {
        let listener = 1 + client % 4;
        story.arrive(client as f64, client, listener);
        if listener != 2 {
            story.accept(client as f64 + 0.1, client, listener, names[listener as usize - 1]);
        }
    }
    let report = story.check(5_000.0, &["worker-skew"]);
    says(&report.findings[0], &["1 of 4 sockets", "150 connections waited nowhere else", "socket 2 (b-worker/198)"]);
    assert_eq!(report.findings[0].hurt, 50);
}

/// All of them are slow: no skew.
#[test]
fn workers_that_are_all_slow() {
    let mut story = Story::new();
    (1..3).for_each(|listener| story.listen(0.0, listener, 128, "worker"));
    for client in 10..30 {
        story.arrive(client as f64, client, 1 + client % 2);
        story.accept(client as f64 + 400.0, client, 1 + client % 2, "worker");
    }
    story.check(1_000.0, &["slow-accept", "slow-accept"]);
}

#[test]
fn a_network_that_loses_syn_acks() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..30 {
        let at_ms = 4_000.0 + client as f64;
        let (handshake_ms, again) = if client % 3 == 0 { (1_030.0, 1) } else { (30.0, 0) };
        story.arrive_after(at_ms, client, 1, handshake_ms, again);
        story.accept(at_ms + 0.1, client, 1, "server");
    }
    let report = story.check(6_000.0, &["slow-handshake"]);
    says(&report.findings[0], &["6 of 20 handshakes", "not accept()", "TCP_DEFER_ACCEPT"]);
}

#[test]
fn clients_with_a_timeout() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..20 {
        let at_ms = client as f64 * 10.0;
        story.arrive(at_ms, client, 1);
        if client % 2 == 0 {
            story.fin(at_ms + 500.0, client)
        } else {
            story.rst(at_ms + 505.0, client)
        }
        story.accept(3_000.0 + client as f64, client, 1, "server");
        if client % 2 == 0 {
            let by = Some(task("server"));
            let old = TcpState::CloseWait;
            story.push(3_100.0, client, EventKind::Transition { old, new: TcpState::LastAck, by });
        }
    }
    let report = story.check(4_000.0, &["slow-accept", "clients-leave"]);
    says(&report.findings[1], &["10 clients leave before accept()", "5 left by FIN, 5 by RST", "timeout: about 5"]);
}

#[test]
fn a_process_that_never_closes() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..20 {
        story.arrive(client as f64, client, 1);
        story.accept(client as f64 + 0.1, client, 1, "server");
        story.fin(100.0 + client as f64, client);
    }
    let report = story.check(10_000.0, &["close-wait-leak"]);
    says(
        &report.findings[0],
        &[
            "server/215 keeps 10 connections at 127.0.0.1:80",
            "half of all for 9.88s or more",
            "10 of them came during the run: 120 more a minute",
        ],
    );
}

/// Closed by the client in the queue, accepted, and then kept: the FIN's time counts.
#[test]
fn left_in_the_queue_and_then_kept() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..15 {
        story.arrive(10.0, client, 1);
        story.fin(10.1, client);
        story.accept(10.2, client, 1, "server");
    }
    let report = story.check(10_000.0, &["close-wait-leak"]);
    assert_eq!(report.findings[0].hurt, 5);
}

#[test]
fn closed_by_clients_in_the_queue() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..14 {
        story.arrive(10.0, client, 1);
        story.fin(300.0, client);
    }
    let expected = ["nobody-accepts", "clients-leave", "close-wait-unaccepted"];
    let report = story.check(5_000.0, &expected);
    says(&report.findings[2], &["4 connections in CLOSE_WAIT without a process", "4 of 4 places"]);
}

/// Its only thread was stopped where it was: what it was in then has no part in it.
#[test]
fn a_server_that_is_stopped() {
    let server = task("server");
    let listener = SocketKey { netns: 1, cookie: 1 };
    let report = |kernel: &str| {
        let mut story = Story::new();
        story.listen(0.0, 1, 128, "server");
        story.arrive(10.0, 10, 1);
        story.accept(10.1, 10, 1, "server");
        (11..15).for_each(|client| story.arrive(100.0, client, 1));
        let mut diagnosis = story.told(3_000.0);
        let user = vec![Frame { name: "guilty".into(), module: Some("server".into()) }];
        let sleeps = Some(Arc::new(Stack { kernel: vec![kernel.into()], user }));
        diagnosis.hold(server.pid, listener);
        let what = What::Found { at_ns: BEGAN_NS + 50 * MS, comm: server.comm, sleeps };
        diagnosis.deed(Deed { pid: server.pid, tid: server.tid, what });
        let now_ns = BEGAN_NS + 3_000 * MS;
        diagnosis.end(now_ns);
        diagnosis.report(now_ns, &Totals::default(), &HashMap::new())
    };
    let stopped = report("do_signal_stop");
    assert_eq!(stopped.findings.iter().map(|it| it.name.word()).collect::<Vec<_>>(), ["nobody-accepts"]);
    says(&stopped.findings[0], &["server/215 is stopped: it can do nothing", "kill -CONT 215", "4 connections wait"]);
    assert_eq!(report("do_nanosleep").findings[0].name.word(), "acceptor-blocked");
}
