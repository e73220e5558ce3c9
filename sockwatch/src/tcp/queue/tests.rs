use super::*;

const MS: u64 = 1_000_000;

fn record(at_ms: u64, depth: u32) -> QueueRecord {
    QueueRecord {
        from_ns: at_ms * MS,
        to_ns: at_ms * MS,
        depth,
        limit: 128,
        drops: Some(7),
        somaxconn: Some(4096),
        namespace: NamespaceDrops::default(),
        follows: Follows::All,
    }
}

/// Compares with a record and takes its word, as a round does.
fn round(queue: &mut AcceptQueue, record: QueueRecord) -> Verdict {
    let verdict = queue.compare(&record, 3 * MS, 0);
    queue.end_round(0);
    queue.found(&record, verdict, 3 * MS);
    queue.expect_round();
    verdict
}

fn oldest_ms(queue: &AcceptQueue, now_ms: u64) -> Option<u64> {
    queue.figures(now_ms * MS).oldest.map(|age| age.ns() / MS)
}

#[test]
fn the_oldest_is_whoever_entered_first() {
    let mut queue = AcceptQueue::begun(Some(128));
    assert_eq!((queue.depth(), oldest_ms(&queue, 9)), (0, None));
    queue.enter(10 * MS, 1, Some(128));
    queue.enter(30 * MS, 2, Some(128));
    assert_eq!((queue.depth(), oldest_ms(&queue, 50)), (2, Some(40)));
    queue.enter(30 * MS, 2, Some(128));
    assert_eq!(queue.depth(), 2, "told twice");
    queue.accept(60 * MS, Some(10 * MS), 1, Arrival::Open);
    assert_eq!((queue.depth(), oldest_ms(&queue, 70)), (1, Some(40)));
    assert_eq!((queue.figures(70 * MS).totals.accepted, queue.figures(70 * MS).peak), (1, 2));
}

#[test]
fn a_client_that_leaves_keeps_its_place() {
    let mut queue = AcceptQueue::begun(Some(128));
    queue.enter(10 * MS, 1, Some(128));
    queue.leave(Leaving::Rst, 5 * MS);
    queue.leave(Leaving::Fin, 3 * MS);
    assert_eq!(queue.depth(), 1);
    queue.accept(60 * MS, Some(10 * MS), 1, Arrival::Dead);
    let Totals { left_by_fin, left_by_rst, longest_left_ns, dead_on_arrival, .. } = queue.figures(70 * MS).totals;
    assert_eq!((left_by_fin, left_by_rst, longest_left_ns, dead_on_arrival), (1, 1, 5 * MS, 1));
}

#[test]
fn it_is_told_once_a_second_when_it_changed() {
    let mut queue = AcceptQueue::begun(Some(128));
    assert_eq!(queue.news(0), None, "nothing happened");
    queue.enter(10 * MS, 1, Some(128));
    assert_eq!(queue.news(20 * MS).map(|figures| figures.depth), Some(1));
    queue.enter(30 * MS, 2, Some(128));
    queue.accept(40 * MS, Some(10 * MS), 1, Arrival::Open);
    assert_eq!(queue.news(1000 * MS), None, "not within a second");
    assert_eq!(queue.news(1020 * MS).map(|figures| (figures.depth, figures.peak)), Some((1, 2)));
    assert_eq!(queue.news(1900 * MS), None, "nothing changed, and its age not twice as much");
    assert_eq!(queue.news(2030 * MS).map(|figures| figures.depth), Some(1), "2 s instead of 0.99 s");
    assert_eq!(queue.news(3100 * MS), None);
    assert_eq!(queue.last_news(3100 * MS), None, "nothing changed");
}

/// The first word of the kernel says how many were there before; then they are accepted, one by one.
#[test]
fn whoever_was_there_before_is_counted() {
    let mut queue = AcceptQueue::default();
    assert_eq!(round(&mut queue, record(10, 3)), Verdict::Agrees);
    assert_eq!(queue.figures(20 * MS).oldest, Some(Age::AtLeast(10 * MS)));
    assert_eq!(queue.figures(20 * MS).totals.drops, Some(0), "what was dropped before is not ours");
    queue.enter(30 * MS, 1, Some(128));
    assert_eq!(queue.depth(), 4);
    for _ in 0..3 {
        queue.accept(40 * MS, None, 9, Arrival::Open);
    }
    assert_eq!((queue.depth(), oldest_ms(&queue, 40)), (1, Some(10)));
    assert_eq!(round(&mut queue, record(50, 1)), Verdict::Agrees);
}

/// Within the window a queue may have had several depths: any of them agrees.
#[test]
fn a_depth_that_it_had_meanwhile_agrees() {
    let mut queue = AcceptQueue::begun(Some(128));
    queue.expect_round();
    queue.enter(10 * MS, 1, Some(128));
    queue.enter(20 * MS, 2, Some(128));
    queue.enter(90 * MS, 3, Some(128));
    for depth in [1, 2] {
        assert_eq!(queue.compare(&record(20, depth), 3 * MS, 0), Verdict::Agrees, "{depth}");
    }
    for depth in [0, 3] {
        assert_eq!(queue.compare(&record(20, depth), 3 * MS, 0), Verdict::Doubtful, "{depth}");
        queue.compare(&record(20, 1), 3 * MS, 0);
    }
    assert_eq!(round(&mut queue, record(20, 2)), Verdict::Agrees);
    assert_eq!(queue.depth(), 3);
}

#[test]
fn only_the_second_contradiction_corrects() {
    let mut queue = AcceptQueue::begun(Some(128));
    queue.enter(10 * MS, 1, Some(128));
    queue.enter(20 * MS, 2, Some(128));
    assert_eq!((round(&mut queue, record(100, 1)), queue.depth()), (Verdict::Doubtful, 2));
    assert_eq!((round(&mut queue, record(200, 1)), queue.depth()), (Verdict::Differs, 1));
    assert_eq!(oldest_ms(&queue, 220), Some(200), "the oldest was accepted without our seeing it");
    assert_eq!((round(&mut queue, record(300, 1)), queue.depth()), (Verdict::Agrees, 1));
    assert_eq!((round(&mut queue, record(400, 4)), queue.depth()), (Verdict::Doubtful, 1));
    assert_eq!((round(&mut queue, record(500, 4)), queue.depth()), (Verdict::Differs, 4));
}

/// With a process filter connections are told when they are accepted: the kernel alone knows the depth.
#[test]
fn of_some_connections_the_kernel_s_word_is_taken_at_once() {
    let mut queue = AcceptQueue::begun(Some(128));
    let word = QueueRecord { follows: Follows::Some, ..record(100, 5) };
    assert_eq!((round(&mut queue, word), queue.depth()), (Verdict::Agrees, 5));
    let word = QueueRecord { follows: Follows::Some, ..record(200, 0) };
    assert_eq!((round(&mut queue, word), queue.depth()), (Verdict::Agrees, 0));
}

#[test]
fn limits_and_drops_are_the_kernel_s() {
    let mut queue = AcceptQueue::begun(Some(128));
    assert_eq!(queue.figures(0).totals.is_somaxconn, None, "nobody has looked");
    round(&mut queue, QueueRecord { drops: Some(0), ..record(100, 0) });
    assert_eq!(queue.news(100 * MS), None, "that nothing was dropped is no news");
    assert_eq!(queue.figures(0).totals.is_somaxconn, Some(false));
    round(&mut queue, QueueRecord { limit: 4096, ..record(200, 0) });
    let Totals { limit, is_somaxconn, drops, .. } = queue.news(200 * MS).unwrap().totals;
    assert_eq!((limit, is_somaxconn, drops), (Some(4096), Some(true), Some(7)));
    assert!(!queue.figures(0).is_full());
}
