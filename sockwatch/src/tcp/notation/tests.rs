use proptest::prelude::*;

use super::*;
use crate::tcp::arbitrary::any_event;

proptest! {
    #[test]
    fn what_is_printed_is_read(event in any_event()) {
        let text = line(&event);
        prop_assert!(!text.contains('\n'));
        prop_assert_eq!(parse(&text), Ok(event), "{}", text);
    }

    /// Same events, other names: the same text.
    #[test]
    fn normalising_twice_is_normalising_once(mut events in proptest::collection::vec(any_event(), 0..8)) {
        normalise(&mut events);
        let once = events.clone();
        normalise(&mut events);
        prop_assert_eq!(events, once);
    }
}

#[test]
fn a_line_reads_well() {
    let text = "1.000000250 1:3 @3 [::1]:8080 127.0.0.1:* accept by=my\\x20server/1/2 fd=9 listener=1 again";
    let event = parse(text).unwrap();
    assert_eq!(line(&event), text);
    assert_eq!(event.at_ns, 1_000_000_250);
    let EventKind::Accept { by, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!((by.comm.to_string(), by.pid, by.tid), ("my server".into(), 1, 2));
}

#[test]
fn nonsense_is_refused_by_name() {
    let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    check("1.0 1:3 @3 - -", "too short for an event");
    check("x 1:3 @3 - - destroy", "time cannot be \"x\"");
    check("1.0 13 @3 - - destroy", "key cannot be \"13\"");
    check("1.0 1:3 @3 - - vanish", "there is no event \"vanish\"");
    check("1.0 1:3 @3 - - opening new=LISTEN", "no field by");
    check("1.0 1:3 @3 - - birth queue=3", "queue cannot be \"3\"");
    check("1.0 1:3 @3 - - destroy at=once", "the event has no field \"at=once\"");
}

#[test]
fn names_are_numbered_in_the_order_of_appearance() {
    let mut events = [
        "5.0 4026531840:77 @ffff8880 - - opening new=LISTEN by=a/900/901",
        "6.0 4026531840:78 @ffff8990 - - enqueue listener=77 synack_at=4.5",
        "7.0 4026531840:78 @ffff8880 - - accept by=b/900/900 fd=9 listener=77",
        "8.0 4026531840:78 @ffff8880 - - closing old=LAST_ACK current=b/900/900",
        "8.5 4026531840:78 @ffff8880 - - closing old=CLOSE current=someone/77/77",
    ]
    .map(|text| parse(text).unwrap());
    normalise(&mut events);
    let lines: Vec<_> = events.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "0.500000000 1:1 @1 - - opening new=LISTEN by=a/1/2",
            "1.500000000 1:2 @2 - - enqueue listener=1 synack_at=0.000000000",
            "2.500000000 1:2 @1 - - accept by=b/1/1 fd=9 listener=1",
            "3.500000000 1:2 @1 - - closing old=LAST_ACK current=b/1/1",
            "4.000000000 1:2 @1 - - closing old=CLOSE current=bystander/0/0",
        ]
    );
}
