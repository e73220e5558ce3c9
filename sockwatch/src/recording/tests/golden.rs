//! A file of the first version of the format with every kind of row, kept as it was written then.

use std::collections::BTreeSet;

use super::*;
use crate::{
    recording::words::{KINDS, Kind, Word},
    tcp::notation,
};

/// The first event of each kind, and everything else that a recording may hold.
fn write(path: &std::path::Path) {
    let options = Options { path: path.to_owned(), force: true, ..Scratch::new("every-row").options() };
    let options = Options { flush_every: std::time::Duration::ZERO, ..options };
    let header = Header { host: "web-1".into(), recording: "every-row".into(), part: 1, ..Header::default() };
    let mut recorder = Recorder::start(header, options).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut any_event = || any_event().new_tree(&mut runner).unwrap().current();
    let mut events: Vec<Event> = Vec::new();
    let kinds_of_events = 17;
    while events.len() < kinds_of_events {
        let event = any_event();
        let is_new = events.iter().all(|other| Kind::of(&other.kind) != Kind::of(&event.kind));
        if is_new && Kind::of(&event.kind).is_some() {
            events.push(Event { at_ns: event.at_ns % 1_000_000_000, ..event });
        }
    }
    let holder = Task { pid: 7, tid: 7, comm: Comm::from("nginx") };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let listing = Listing {
        netns: 1,
        from_ns: 1,
        to_ns: 2,
        first: true,
        records: vec![any_record().new_tree(&mut runner).unwrap().current()],
        holders: HashMap::from([(5, vec![holder])]),
        dropped: NamespaceDrops { overflows: 3, ..NamespaceDrops::default() },
        somaxconn: Some(4096),
        follows: Follows::All,
    };
    recorder.process(&Named {
        started_ns: 5,
        process: Process {
            pid: 7,
            comm: "nginx".into(),
            command: Some("nginx:".into()),
            workload: Workload::of_path("/system.slice/nginx.service"),
        },
    });
    let tick = |now_ns| Tick { now_ns, losses: Losses { ring_full: 9, ..Losses::default() } };
    recorder.clock(1, 1_795_253_400_000_000_000);
    recorder.tell(&events, &tick(1_000_000_000)).unwrap();
    recorder.table(&TableNews::Expected);
    recorder.table(&TableNews::Listed(Round { listings: vec![listing], gone: vec![2], unlisted: 1, to_ns: 3 }));
    recorder.tell(&events[..1], &tick(2_000_000_000)).unwrap();
    recorder.finish().unwrap();
}

/// Which row a mark was made of, if it was one only.
fn kind_of(mark: &Mark) -> &'static [Kind] {
    match mark {
        Mark::Tick { .. } => &[Kind::Tick],
        Mark::Loss { .. } | Mark::LostBefore { .. } => &[Kind::Loss],
        Mark::Clock { .. } => &[Kind::Clock],
        Mark::RoundExpected => &[Kind::RoundExpected],
        Mark::Round(round) => {
            let [listing] = &round.listings[..] else { panic!("one listing") };
            assert!(listing.records.len() == 1 && listing.holders.len() == 1 && listing.dropped.overflows == 3);
            assert_eq!(round.gone, [2]);
            &[Kind::Listing, Kind::Socket, Kind::Holder, Kind::Counter, Kind::NamespaceGone, Kind::Round]
        }
        Mark::Process(_) => &[Kind::Process],
    }
}

#[test]
fn every_kind_of_row_is_read_as_it_was() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let (file, golden) = (directory.join("every-row-1.0.swr"), directory.join("every-row-1.0.txt"));
    let is_new = std::env::var_os("SOCKWATCH_RECORDINGS").is_some_and(|value| value == "record");
    if is_new {
        write(&file);
    }
    let mut reader = Reader::open(&file).unwrap();
    let (mut said, mut kinds, mut text) = (Said::default(), BTreeSet::new(), String::new());
    while reader.next(&mut said).unwrap() {}
    for event in &said.events {
        kinds.extend(Kind::of(&event.kind).map(Kind::word));
        text += &format!("{}\n", notation::line(event));
    }
    for (events, mark) in &said.marks {
        kinds.extend(kind_of(mark).iter().map(|kind| kind.word()));
        text += &format!("{events}: {mark:?}\n");
    }
    if is_new {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(golden).unwrap());
    assert_eq!((reader.not_understood(), reader.end()), (0, Some(End::Marked)));
    let all: BTreeSet<_> = KINDS.iter().map(|(_, word, _)| *word).collect();
    assert_eq!(kinds, all, "a new kind of row needs another file, beside this one");
}
