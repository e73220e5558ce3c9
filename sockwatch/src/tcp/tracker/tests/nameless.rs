//! Events without a cookie: their socket's name comes later, or never.

use super::*;

#[test]
fn a_child_born_without_a_cookie_waits_for_it() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    tracker.apply(&nameless("0 5 LISTEN>SYN_RECV"), &mut updates);
    tracker.apply(&event("1 5 SYN_RECV>ESTABLISHED"), &mut updates);
    assert_eq!(
        updates.iter().map(|update| (update.at_ns, update.subject.key.cookie)).collect::<Vec<_>>(),
        [(0, 5), (MS, 5)]
    );
}

/// A kprobe cannot ask for a cookie: the enqueue waits with the birth, or for the name that a held back birth has by then.
#[test]
fn an_enqueue_without_a_cookie_waits_for_it() {
    for birth in [nameless("0 5 LISTEN>SYN_RECV"), event("0 5 LISTEN>SYN_RECV")] {
        let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
        [birth, nameless("1 5 enqueue"), event("2 5 SYN_RECV>ESTABLISHED")]
            .iter()
            .for_each(|event| tracker.apply(event, &mut updates));
        let seen: Vec<_> = updates.iter().map(|update| (update.at_ns / MS, update.subject.key.cookie)).collect();
        assert_eq!(seen, [(0, 5), (1, 5), (2, 5)]);
    }
}

#[test]
fn a_socket_without_a_cookie_keeps_one_identity() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    ["0 5 LISTEN>SYN_RECV", "1 5 SYN_RECV>ESTABLISHED"]
        .into_iter()
        .for_each(|text| tracker.apply(&nameless(text), &mut updates));
    ["2 5 closed ESTABLISHED 104", "3 5 destroy"]
        .into_iter()
        .for_each(|text| tracker.apply(&event(text), &mut updates));
    assert!(updates.iter().all(|update| update.subject.key.cookie == NAMELESS | 1), "{updates:?}");
    assert!(tracker.is_empty());
    ["4 5 LISTEN>SYN_RECV", "5 5 SYN_RECV>ESTABLISHED"]
        .into_iter()
        .for_each(|text| tracker.apply(&nameless(text), &mut updates));
    assert_eq!(updates.last().unwrap().subject.key.cookie, NAMELESS | 2, "its address is another socket's now");
}

#[test]
fn a_relief_s_repetition_of_a_nameless_birth_is_dropped() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    [nameless("0 5 LISTEN>SYN_RECV"), nameless("0 5 again LISTEN>SYN_RECV"), event("1 5 SYN_RECV>ESTABLISHED")]
        .iter()
        .for_each(|event| tracker.apply(event, &mut updates));
    assert_eq!((tracker.len(), tracker.repeated()), (1, 1));
}

#[test]
fn another_socket_at_its_address_ends_a_nameless_one() {
    let (mut tracker, mut updates) = (Tracker::default(), Vec::new());
    ["0 5 CLOSE>SYN_SENT", "1 5 SYN_SENT>ESTABLISHED", "8 5 CLOSE>SYN_SENT", "9 5 destroy"]
        .into_iter()
        .for_each(|text| tracker.apply(&nameless(text), &mut updates));
    assert!(tracker.is_empty());
}

/// Nothing names them any more: the events behind were lost.
#[test]
fn events_without_a_name_do_not_pile_up() {
    let (mut tracker, mut updates) = (Tracker::with_limit(10), Vec::new());
    for skaddr in 1..=1000 {
        let mut return_event = nameless("0 5 destroy");
        return_event.kind = EventKind::AcceptReturn { fd: 3 };
        for event in [nameless("0 5 LISTEN>SYN_RECV"), return_event] {
            tracker.apply(
                &Event { skaddr: skaddr * 2 + u64::from(event.kind == return_event.kind), ..event },
                &mut updates,
            );
        }
    }
    assert!(tracker.by_address.len() < 100 && tracker.unnamed.len() <= 10);
    assert_eq!(tracker.full(), 990, "the oldest were forgotten");
}
