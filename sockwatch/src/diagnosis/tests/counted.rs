//! Listeners whose connections are counted: the same findings as where each is told.

use super::*;
use crate::diagnosis::measure::counted::Waiting;

const LISTENER: SocketKey = SocketKey { netns: 1, cookie: 1 };

/// 20,000 accepted connections that waited for 10 µs each, a queue of 128, and what else was counted.
fn counted(now_ms: f64, drops: &[u32], counted: &Counted) -> Report {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for (second, drops) in drops.iter().enumerate() {
        story.drops((second as f64 + 1.0) * 1_000.0, 1, (0, 128), *drops, 4096);
    }
    let mut diagnosis = story.told(now_ms);
    let base = Counted {
        accepted: 20_000,
        waits: vec![(10_000, 20_000)],
        sum_ns: 20_000 * 10_000,
        longest_ns: 2 * MS,
        last_accept_ns: Some(at(now_ms)),
        ..counted.clone()
    };
    diagnosis.count(
        at(now_ms),
        LISTENER,
        &Counted { last_accept_ns: counted.last_accept_ns.or(base.last_accept_ns), ..base },
    );
    diagnosis.report(at(now_ms), &Totals::default(), &HashMap::new())
}

fn at(ms: f64) -> u64 {
    BEGAN_NS + (ms * MS as f64) as u64
}

fn names(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.name.word()).collect()
}

#[test]
fn all_is_well() {
    let report = counted(10_000.0, &[0], &Counted::default());
    assert_eq!(names(&report), [""; 0], "{:#?}", report.findings);
    assert_eq!(report.listeners[0].wait.map(|wait| wait.max_ns), Some(2 * MS));
}

/// Nobody looked while the queue was full: who came last found 128 before it.
#[test]
fn a_burst_between_two_looks() {
    let report = counted(10_000.0, &[0, 500, 500], &Counted { deepest: 129, ..Counted::default() });
    assert_eq!(names(&report), ["queue-too-small"], "{:#?}", report.findings);
    // Where it was never full, they were dropped for another reason.
    let report = counted(10_000.0, &[0, 500, 500], &Counted { deepest: 100, ..Counted::default() });
    assert_eq!(names(&report), [""; 0], "{:#?}", report.findings);
}

/// It accepted 20,000, and then nothing for five seconds.
#[test]
fn a_server_that_stops() {
    let waiting = (0..129).map(|id| Waiting {
        since_ns: at(5_000.0) + id,
        id,
        left_ns: None,
        by_fin: false,
        depth: id as u32 + 1,
    });
    let stopped = Counted { last_accept_ns: Some(at(5_000.0)), waiting: waiting.collect(), ..Counted::default() };
    let report = counted(10_000.0, &[0], &stopped);
    assert_eq!(names(&report), ["nobody-accepts"], "{:#?}", report.findings);
}

/// What the table said a second ago is older than the counts.
#[test]
fn who_was_listed_has_been_accepted_since() {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    story.drops(9_000.0, 1, (40, 128), 0, 4096);
    let mut diagnosis = story.told(9_500.0);
    let all = Counted { accepted: 3_000, waits: vec![(10_000, 3_000)], sum_ns: 30 * MS, ..Counted::default() };
    diagnosis.count(at(9_500.0), LISTENER, &all);
    let report = diagnosis.report(at(9_500.0), &Totals::default(), &HashMap::new());
    assert_eq!((names(&report).len(), report.listeners[0].still_waiting), (0, 0), "{:#?}", report.findings);
}
