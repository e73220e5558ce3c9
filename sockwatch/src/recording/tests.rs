//! Rows to columns and back, and files that are not as they should be.

mod golden;

use std::{collections::HashMap, fs, path::PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::Metadata;
use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree};

use super::{
    batch::Batch,
    header::Header,
    reader::{End, Reader},
    rows::{Mark, Said},
    schema::{Cells, schema},
    table::Reading,
    writer::{Options, Recorder, Rotation, Sync, WriteError},
};
use crate::{
    privilege::Sandbox,
    process::{Process, cgroup::Workload, names::Named},
    source::{TableNews, Tick},
    tcp::{
        arbitrary::{any_event, any_record, any_round, told},
        event::{Comm, Event, EventKind, Incident, SocketKey, Task},
        listing::{Listing, Round},
        loss::Losses,
        queue::{Follows, NamespaceDrops},
    },
};

/// An event as it comes back; `None` if it is none that a source says.
fn comes_back(event: Event) -> Option<Event> {
    let kind = match event.kind {
        EventKind::Transition { old, new, by } => EventKind::Transition { old, new, by: by.map(told) },
        EventKind::Opening { new, by, limit } => EventKind::Opening { new, by: told(by), limit },
        EventKind::Closing { old, current, evidence } => EventKind::Closing { old, current: told(current), evidence },
        EventKind::Accept { by, fd, listener } => EventKind::Accept { by: told(by), fd, listener },
        EventKind::Incident(Incident::AcceptFailed { by, errno }) => {
            EventKind::Incident(Incident::AcceptFailed { by: told(by), errno })
        }
        EventKind::Found { .. }
        | EventKind::Held { .. }
        | EventKind::Taken
        | EventKind::QueueFound { .. }
        | EventKind::Lost { .. } => return None,
        kind => kind,
    };
    Some(Event { kind, ..event })
}

/// Into columns, and out of them.
fn there_and_back(fill: impl FnOnce(&mut Batch)) -> Said {
    let mut batch = Batch::default();
    fill(&mut batch);
    let batch = batch.finish(&schema(Metadata::new())).unwrap();
    let (mut reading, mut rows) = (Reading::default(), Said::default());
    reading.read(&Cells::of(&batch).unwrap(), batch.num_rows(), &mut rows).unwrap();
    assert_eq!(reading.not_understood, 0);
    rows
}

proptest! {
    #[test]
    fn events_come_back(events in vec(any_event(), 0..20)) {
        let rows = there_and_back(|batch| events.iter().for_each(|event| batch.event(event)));
        let expected: Vec<_> = events.into_iter().filter_map(comes_back).collect();
        prop_assert_eq!(rows, Said { events: expected, marks: vec![] });
    }

    #[test]
    fn rounds_come_back(rounds in vec(any_round(), 1..4)) {
        let rows = there_and_back(|batch| rounds.iter().for_each(|round| batch.round(round)));
        let marks = rounds.into_iter().map(|round| (0, Mark::Round(round))).collect();
        prop_assert_eq!(rows, Said { events: vec![], marks });
    }
}

#[test]
fn everything_else_comes_back() {
    let named = Named {
        started_ns: 5,
        process: Process {
            pid: 7,
            comm: "nginx".into(),
            command: Some("nginx:".into()),
            workload: Workload::of_path("/system.slice/nginx.service"),
        },
    };
    let (before, now) =
        (Losses { skipped: 1, ..Losses::default() }, Losses { skipped: 1, ring_full: 9, ..Losses::default() });
    let rows = there_and_back(|batch| {
        batch.lost_before(4, now);
        assert!(!batch.tells(), "what is known is nothing new");
        batch.process(&named);
        batch.losses(11, before, now);
        batch.tick(12);
        batch.clock(13, 14);
        batch.round_expected(15);
    });
    let expected = [
        Mark::LostBefore { index: 0, count: 9 },
        Mark::LostBefore { index: 3, count: 1 },
        Mark::Process(named),
        Mark::Loss { index: 0, count: 9 },
        Mark::Tick { now_ns: 12 },
        Mark::Clock { at_ns: 13, wall_offset_ns: 14 },
        Mark::RoundExpected,
    ];
    let marks = expected.into_iter().map(|mark| (0, mark)).collect();
    assert_eq!(rows, Said { events: vec![], marks });
}

/// A round of listings is said at once, however many sockets there are, and written in batches that a reader takes.
#[test]
fn a_large_round_comes_back() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let record = any_record().new_tree(&mut runner).unwrap().current();
    let listing = Listing { netns: 1, records: vec![record; 600_001], ..Listing::default() };
    let round = Round { listings: vec![listing], ..Round::default() };
    let scratch = Scratch::new("round");
    let mut recorder = Recorder::start(Header::default(), scratch.options()).unwrap();
    recorder.table(&TableNews::Listed(round.clone()));
    recorder.finish().unwrap();
    let mut reader = Reader::open(&scratch.options().path).unwrap();
    let (mut said, mut batches) = (Said::default(), 0);
    while reader.next(&mut said).unwrap() {
        batches += 1;
    }
    assert_eq!(batches, 4, "the header, which has no rows, and three");
    assert!(said.events.is_empty() && said.marks == [(0, Mark::Round(round))]);
}

/// A directory of the test's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockwatch-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn options(&self) -> Options {
        Options {
            path: self.0.join("web.swr"),
            force: false,
            flush_every: std::time::Duration::from_millis(100),
            sync: Sync::Never,
            level: 1,
            rotation: Rotation::default(),
            max_bytes: None,
            sandbox: Sandbox::Off,
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn destroy(at_ns: u64) -> Event {
    Event {
        at_ns,
        key: SocketKey { netns: 1, cookie: at_ns },
        skaddr: 0,
        tuple: None,
        kind: EventKind::Destroy,
        certainty: crate::tcp::event::Certainty::Once,
    }
}

fn tick(now_ns: u64) -> Tick {
    Tick { now_ns, losses: Losses::default() }
}

/// Records so many batches of so many events.
fn record(options: Options, batches: u64, events: u64) -> Result<(), WriteError> {
    let mut recorder = Recorder::start(Header::default(), options)?;
    for batch in 0..batches {
        let events: Vec<_> = (0..events).map(|number| destroy(batch * events + number)).collect();
        recorder.take(&events, &tick((batch + 1) * events.len() as u64))?;
        recorder.table(&TableNews::Expected);
    }
    recorder.finish().map(|_| ())
}

/// Reads all of it: the events' times, and how it ends.
fn read(path: &std::path::Path) -> Result<(Vec<u64>, Option<End>), super::FormatError> {
    let mut reader = Reader::open(path)?;
    let mut said = Said::default();
    while reader.next(&mut said)? {}
    Ok((said.events.iter().map(|event| event.at_ns).collect(), reader.end()))
}

#[test]
fn a_file_is_its_owner_s_and_is_never_replaced_unasked() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("owner");
    record(scratch.options(), 1, 3).unwrap();
    let path = scratch.options().path;
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(matches!(record(scratch.options(), 1, 1), Err(WriteError::Exists(its)) if its == path));
    assert_eq!(read(&path).unwrap(), (vec![0, 1, 2], Some(End::Marked)));
    record(Options { force: true, ..scratch.options() }, 1, 1).unwrap();
    assert_eq!(read(&path).unwrap().0, [0]);
}

#[test]
fn a_recording_that_is_cut_anywhere_is_read_up_to_there() {
    let scratch = Scratch::new("cut");
    let path = scratch.options().path;
    let mut recorder = Recorder::start(Header::default(), scratch.options()).unwrap();
    // More than a batch: it is handed over at 65,536 rows.
    let events: Vec<_> = (0..70_000).map(destroy).collect();
    recorder.take(&events, &tick(70_000)).unwrap();
    recorder.finish().unwrap();
    let whole = fs::read(&path).unwrap();
    let (all, _) = read(&path).unwrap();
    assert_eq!(all.len(), events.len());
    let header = whole.len() - 1;
    for length in (0..whole.len()).rev().step_by(997).chain(0..9).chain(header - 9..=header) {
        fs::write(&path, &whole[..length]).unwrap();
        match read(&path) {
            Ok((times, end)) => {
                assert!(
                    all.starts_with(&times) && [0, 65_536, 70_000].contains(&times.len()),
                    "{length}: {}",
                    times.len()
                );
                assert_ne!(end, Some(End::Marked), "{length}");
            }
            Err(super::FormatError::Foreign(_)) => assert!(length < 20_000, "{length}"),
            Err(error) => panic!("{length}: {error}"),
        }
    }
}

#[test]
fn files_follow_one_another_and_the_oldest_go() {
    let scratch = Scratch::new("rotation");
    let rotation = Rotation { bytes: Some(1), keep_files: Some(3), ..Rotation::default() };
    let options = Options { rotation, ..scratch.options() };
    let mut recorder = Recorder::start(Header::default(), options).unwrap();
    let events: Vec<_> = (0..6 * 65_536).map(destroy).collect();
    recorder.take(&events, &tick(1)).unwrap();
    let written = recorder.finish().unwrap();
    assert_eq!((written.files, scratch.files().len()), (7, 3));
    assert_eq!(Some(&written.path), scratch.files().last());
    let mut times = Vec::new();
    for file in scratch.files() {
        let (its, end) = read(&file).unwrap();
        assert_eq!(end, Some(End::Marked));
        times.extend(its);
    }
    assert_eq!(times, (4 * 65_536..6 * 65_536).collect::<Vec<_>>(), "the newest, in the order of the files' names");
    let parts: Vec<_> = scratch.files().iter().map(|file| Reader::open(file).unwrap().header().part).collect();
    assert_eq!(parts, [5, 6, 7]);
}

/// By a clock that was ahead once, or on a disk that was full.
#[test]
fn what_other_files_are_called_costs_this_recording_none() {
    let scratch = Scratch::new("stamps");
    let rotation = Rotation { bytes: Some(1), keep_files: Some(3), ..Rotation::default() };
    let options = Options { rotation, ..scratch.options() };
    let stem = options.path.with_extension("").to_string_lossy().into_owned();
    for (number, content) in [(1, "x"), (2, "x"), (3, "x"), (4, "")] {
        fs::write(format!("{stem}-20990101T000000Z-{number:04}.swr"), content).unwrap();
    }
    record(options, 2, 70_000).unwrap();
    let parts: Vec<_> = scratch.files().iter().map(|file| Reader::open(file).unwrap().header().part).collect();
    assert_eq!(parts, [1, 2, 3]);
}

#[test]
fn what_is_no_file_is_never_replaced() {
    let scratch = Scratch::new("special");
    let path = scratch.options().path;
    for force in [false, true] {
        fs::create_dir_all(&path).unwrap();
        let told = record(Options { force, ..scratch.options() }, 1, 1);
        assert!(matches!(told, Err(WriteError::NoFile(its)) if its == path));
        let device = record(Options { path: "/dev/null".into(), force, ..scratch.options() }, 1, 1);
        assert!(matches!(device, Err(WriteError::NoFile(_))));
    }
    fs::remove_dir(&path).unwrap();
}

#[test]
fn foreign_files_are_told_apart() {
    let scratch = Scratch::new("foreign");
    let path = scratch.options().path;
    let check = |bytes: &[u8], expected: &str| {
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(b"", "it ends before it has begun");
    check(b"\xd4\xc3\xb2\xa1 a packet capture", "not a recording");
    check(b"{\"event\":\"start\"}\n", "not a recording");
    let mut stream = Vec::new();
    let empty = RecordBatch::new_empty(schema(Metadata::new()));
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut stream, &empty.schema()).unwrap();
    writer.finish().unwrap();
    drop(writer);
    check(&stream, "without its metadata");
    assert!(matches!(read(&scratch.0), Err(super::FormatError::Foreign(_) | super::FormatError::Read(_))));
    let newer = HashMap::from([("sockwatch.format".to_owned(), "2.0".to_owned())]);
    let mut stream = Vec::new();
    arrow_ipc::writer::StreamWriter::try_new(&mut stream, &schema(newer.into())).unwrap().finish().unwrap();
    check(&stream, "format 2.0 is newer");
}

/// A small recording with a bit of everything.
fn sample() -> Vec<u8> {
    let scratch = Scratch::new(&format!("sample-{:?}", std::thread::current().id()).replace(['(', ')'], ""));
    let mut recorder = Recorder::start(Header::default(), scratch.options()).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = vec(any_event(), 50..51).new_tree(&mut runner).unwrap().current();
    let round = any_round().new_tree(&mut runner).unwrap().current();
    recorder.take(&events, &tick(1)).unwrap();
    recorder.table(&TableNews::Listed(round));
    recorder.take(&events, &tick(2)).unwrap();
    recorder.finish().unwrap();
    fs::read(scratch.options().path).unwrap()
}

/// What comes of bytes: rows, or an error.
fn read_bytes(bytes: &[u8]) -> Result<Said, super::FormatError> {
    let mut frames = super::frames::Frames::new(bytes);
    let Some(schema) = frames.schema()? else { return Ok(Said::default()) };
    Header::of_metadata(schema.metadata())?;
    let (mut reading, mut rows) = (Reading::default(), Said::default());
    while let Some(batch) = frames.batch()? {
        if let Ok(cells) = Cells::of(&batch) {
            let _ = reading.read(&cells, batch.num_rows(), &mut rows);
        }
    }
    Ok(rows)
}

mod hostile {
    use std::sync::LazyLock;

    use super::*;

    static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(sample);

    proptest! {
        /// Nothing that a file may hold makes the reader panic, or take more memory than a batch may.
        #[test]
        fn no_bytes_do_harm(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
            let mut bytes = SAMPLE.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_bytes(&bytes);
        }

        #[test]
        fn no_random_bytes_do_harm(mut bytes in vec(any::<u8>(), 0..400), begins in any::<bool>()) {
            if begins {
                bytes.splice(0..0, [0xff, 0xff, 0xff, 0xff]);
            }
            let _ = read_bytes(&bytes);
        }

        #[test]
        fn no_length_does_harm(at in any::<prop::sample::Index>(), length in select(vec![u64::MAX, 1 << 62, 1 << 40, 1 << 31, 0])) {
            let mut bytes = SAMPLE.clone();
            let at = at.index(bytes.len() - 8) / 8 * 8;
            bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
            let _ = read_bytes(&bytes);
        }
    }
}
