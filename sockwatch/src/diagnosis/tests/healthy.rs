//! Servers that do well: nothing may be found.

use super::*;

#[test]
fn nothing_happened() {
    let report = Story::new().check(30_000.0, &[]);
    assert!(report.listeners.is_empty());
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    assert_eq!(story.check(30_000.0, &[]).accepted(), 0);
}

#[test]
fn a_busy_server() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..2010 {
        let at_ms = client as f64;
        story.arrive(at_ms, client, 1);
        story.accept(at_ms + 0.08, client, 1, "server");
    }
    let report = story.check(2_100.0, &[]);
    let listener = &report.listeners[0];
    assert_eq!((listener.arrived, listener.accepted, listener.still_waiting, listener.slow), (2000, 2000, 0, 0));
    let wait = listener.wait.unwrap();
    assert!(wait.p50_ns.abs_diff(80_000) <= 1_000 && wait.count == 2000, "{wait:?}");
    assert_eq!(listener.course.steps.iter().map(|step| step.accepted).sum::<u64>(), 2000);
}

/// The queue fills to its limit, nobody is turned away, and the last one has waited for 50 ms.
#[test]
fn a_burst_within_the_backlog() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..138 {
        story.arrive(1_000.0, client, 1);
        story.accept(1_000.0 + (client - 9) as f64 * 0.4, client, 1, "server");
    }
    story.drops(2_000.0, 1, (0, 128), 0, 4096);
    let report = story.check(2_100.0, &[]);
    assert_eq!((report.listeners[0].greatest, report.listeners[0].turned_away()), (128, 0));
}

/// One of a thousand waits long: that is no pattern.
#[test]
fn one_straggler() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..1010 {
        story.arrive(client as f64, client, 1);
        story.accept(client as f64 + if client == 500 { 300.0 } else { 0.1 }, client, 1, "server");
    }
    story.check(2_000.0, &[]);
}

/// One of fifty is two of a hundred, and still only one; unless it was very long.
#[test]
fn one_straggler_of_few() {
    let with_a_straggler_of = |ms: f64| {
        let mut story = Story::new();
        story.listen(0.0, 1, 128, "server");
        for client in 10..60 {
            let at_ms = client as f64 * 50.0;
            story.arrive(at_ms, client, 1);
            story.accept(at_ms + if client == 59 { ms } else { 0.1 }, client, 1, "server");
        }
        story
    };
    with_a_straggler_of(300.0).check(5_000.0, &[]);
    with_a_straggler_of(1_500.0).check(5_000.0, &["slow-accept"]);
}

/// Somebody has just come when the run ends.
#[test]
fn the_last_one_has_just_arrived() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    story.arrive(1_999.0, 10, 1);
    let report = story.check(2_000.0, &[]);
    assert_eq!((report.listeners[0].still_waiting, report.listeners[0].at_least), (1, 1));
}

/// They connect and close, often before they are accepted.
#[test]
fn health_checks_that_close_at_once() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..60 {
        let at_ms = client as f64 * 10.0;
        story.arrive(at_ms, client, 1);
        story.fin(at_ms + 0.02, client);
        story.accept(at_ms + 0.1, client, 1, "server");
        let by = Some(task("server"));
        let old = TcpState::CloseWait;
        story.push(at_ms + 0.2, client, EventKind::Transition { old, new: TcpState::LastAck, by });
    }
    let report = story.check(1_000.0, &[]);
    assert_eq!(report.listeners[0].left.by_fin, 50);
}

/// Far away, and now and then a SYN-ACK is lost: below one in twenty.
#[test]
fn far_clients() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..110 {
        let at_ms = 3_000.0 + client as f64;
        let (handshake_ms, again) = if client % 40 == 0 { (1_200.0, 1) } else { (250.0, 0) };
        story.arrive_after(at_ms, client, 1, handshake_ms, again);
        story.accept(at_ms + 0.1, client, 1, "server");
    }
    story.check(4_000.0, &[]);
}

/// Sockets that share an address, all of them emptied, one without any client.
#[test]
fn workers_in_balance() {
    let mut story = Story::new();
    let names = ["a-worker", "b-worker", "c-worker"];
    for (listener, name) in (1..).zip(names) {
        story.listen(0.0, listener, 128, name);
    }
    for client in 10..210 {
        let listener = 1 + client % 2;
        story.arrive(client as f64, client, listener);
        story.accept(client as f64 + 0.1, client, listener, names[listener as usize - 1]);
    }
    assert_eq!(story.check(1_000.0, &[]).listeners.len(), 3);
}

/// Two clients half-close and read on, for the whole run: they may.
#[test]
fn a_few_half_closed() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for client in 10..12 {
        story.arrive(1.0, client, 1);
        story.accept(1.1, client, 1, "server");
        story.fin(2.0, client);
    }
    story.check(10_000.0, &[]);
}

/// SYNs dropped for another reason than a full accept queue.
#[test]
fn drops_that_the_queue_did_not_make() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    story.arrive(10.0, 10, 1);
    story.accept(10.1, 10, 1, "server");
    story.drops(1_000.0, 1, (0, 128), 5, 128);
    story.check(2_000.0, &[]);
}

/// A server that is stopped while somebody waits: its queue goes with it.
#[test]
fn a_server_that_ends() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    story.arrive(10.0, 10, 1);
    let evidence = Some(CloseEvidence { dead: true, ..CloseEvidence::default() });
    let closing = |old| EventKind::Closing { old, current: task("server"), evidence };
    story.push(20.0, 1, closing(TcpState::Listen));
    story.push(20.1, 10, closing(TcpState::Established));
    story.push(20.2, 10, EventKind::Destroy);
    story.push(20.3, 1, EventKind::Destroy);
    let report = story.check(5_000.0, &[]);
    let listener = &report.listeners[0];
    assert_eq!((listener.still_waiting, listener.at_least, listener.left.by_rst), (0, 1, 0), "{listener:?}");
}
