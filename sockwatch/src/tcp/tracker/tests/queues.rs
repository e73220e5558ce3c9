//! Accept queues, as events fill and empty them.

use super::*;

/// What is said of a listener's queue: `queue DEPTH accepted A left F+R dead D unqueued U`.
fn queues(tracker: &mut Tracker, events: &str, now_ms: u64) -> Vec<String> {
    let mut updates = Vec::new();
    events.split(';').for_each(|text| tracker.apply(&event(text), &mut updates));
    tracker.expire(now_ms * MS, &mut updates);
    let queues = updates.iter().filter_map(|update| match &update.happening {
        Happening::Queue(figures) => Some((**figures, "")),
        Happening::Ended(connection) => connection.accept_queue.as_deref().map(|figures| (*figures, "end ")),
        _ => None,
    });
    let said = queues.map(|(figures, end)| {
        let it = figures.totals;
        format!(
            "{end}queue {} accepted {} left {}+{} dead {}+{} unqueued {}",
            figures.depth,
            it.accepted,
            it.left_by_fin,
            it.left_by_rst,
            it.half_closed_on_arrival,
            it.dead_on_arrival,
            it.unqueued
        )
    });
    said.collect()
}

const TWO_WAIT: &str = "1 1 CLOSE>LISTEN; 1 5 LISTEN>SYN_RECV; 1 5 SYN_RECV>ESTABLISHED; 1 5 enqueue;
                        2 6 LISTEN>SYN_RECV; 2 6 SYN_RECV>ESTABLISHED; 2 6 enqueue";

#[test]
fn a_queue_fills_and_empties() {
    let mut tracker = Tracker::default();
    let two = "queue 2 accepted 0 left 0+0 dead 0+0 unqueued 0";
    assert_eq!(queues(&mut tracker, TWO_WAIT, 3), [two]);
    assert!(queues(&mut tracker, "4 5 accept; 5 6 accept", 6).is_empty(), "once a second");
    let end = "10 1 closed LISTEN 0; 11 1 destroy";
    assert_eq!(queues(&mut tracker, end, 12), ["end queue 0 accepted 2 left 0+0 dead 0+0 unqueued 0"]);
}

#[test]
fn clients_that_leave_the_queue_are_counted_and_keep_their_places() {
    let mut tracker = Tracker::default();
    queues(&mut tracker, TWO_WAIT, 3);
    let left = "40 5 ESTABLISHED>CLOSE_WAIT; 50 6 closed ESTABLISHED 104";
    assert_eq!(queues(&mut tracker, left, 1100), ["queue 2 accepted 0 left 1+1 dead 0+0 unqueued 0"]);
    let accepted = "1200 5 accept; 1210 6 accept";
    assert_eq!(queues(&mut tracker, accepted, 2300), ["queue 0 accepted 2 left 1+1 dead 1+1 unqueued 0"]);
}

#[test]
fn children_go_with_their_listener() {
    let mut tracker = Tracker::default();
    queues(&mut tracker, TWO_WAIT, 3);
    let end = "10 1 closed LISTEN 0; 11 5 closed ESTABLISHED 0; 11 5 destroy; 12 6 closed ESTABLISHED 0; 12 6 destroy;
               13 1 destroy";
    assert_eq!(queues(&mut tracker, end, 20), ["end queue 0 accepted 0 left 0+0 dead 0+0 unqueued 2"]);
}

/// An acceptor that was looking already takes it before the enqueue is told.
#[test]
fn an_accept_before_the_enqueue_counts_once() {
    let mut tracker = Tracker::default();
    let events = "1 1 CLOSE>LISTEN; 1 5 LISTEN>SYN_RECV; 1 5 SYN_RECV>ESTABLISHED; 1 5 accept; 1 5 enqueue";
    assert_eq!(queues(&mut tracker, events, 3), ["queue 0 accepted 1 left 0+0 dead 0+0 unqueued 0"]);
}

/// io_uring and MPTCP accept without our seeing it; what only a holder can do tells.
#[test]
fn an_accept_that_nobody_saw_is_told_by_what_came_of_it() {
    let accepted = ["queue 1 accepted 1 left 0+0 dead 0+0 unqueued 0"];
    for proof in ["9 5 taken", "9 5 ESTABLISHED>FIN_WAIT1", "9 5 ESTABLISHED>CLOSE_WAIT; 9 5 CLOSE_WAIT>LAST_ACK"] {
        let mut tracker = Tracker::default();
        assert_eq!(queues(&mut tracker, &format!("{TWO_WAIT}; {proof}"), 10), accepted, "{proof}");
        assert_eq!(queues(&mut tracker, "11 5 accept", 2000), ["queue 1 accepted 1 left 0+0 dead 0+0 unqueued 0"]);
    }
    for proof in ["9 5 closed ESTABLISHED 104 h", "9 5 closed ESTABLISHED 110 d", "9 5 closed LAST_ACK 0 d"] {
        let mut tracker = Tracker::default();
        assert_eq!(queues(&mut tracker, &format!("{TWO_WAIT}; {proof}; 9 5 destroy"), 10), accepted, "{proof}");
    }
}

/// What io_uring holds and nobody closed is closed by a worker of the kernel.
#[test]
fn a_worker_of_the_kernel_closes_nothing_of_its_own() {
    let born = "1 5 LISTEN>SYN_RECV; 1 5 SYN_RECV>ESTABLISHED; 1 5 enqueue";
    for (closer, expected) in [("kworker/1:1", None), ("uring", Some("uring"))] {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        let close = format!(
            "{born}; 9 5 ESTABLISHED>FIN_WAIT1 by {closer}; 10 5 FIN_WAIT1>FIN_WAIT2; 11 5 closed FIN_WAIT2 0 df; 11 5 destroy"
        );
        close.split(';').for_each(|text| tracker.apply(&event(text), &mut updates));
        let Some(Update { happening: Happening::Ended(connection), .. }) = updates.last() else {
            panic!("{updates:?}")
        };
        assert_eq!(connection.ownership.closer.map(|task| task.comm.to_string()).as_deref(), expected);
        assert!(!connection.is_queued());
    }
}
