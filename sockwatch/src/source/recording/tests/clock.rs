//! The time of day while something was recorded.

use super::*;
use crate::recording::writer::Recorder;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: u64 = 3600 * SECOND_NS;

/// Two files, of a machine whose clock is set forward by an hour after three seconds, and back by two after nine: the second file
/// begins after ten, and its first rows are older.
fn write(files: &[PathBuf; 2]) {
    let refused = fs::read_to_string(directory().join("refused.events")).unwrap();
    let refused = |cookie: u64, at_ns: u64| -> Vec<Event> {
        let events = refused.lines().map(|line| notation::parse(line).unwrap());
        events
            .map(|event| Event {
                at_ns: at_ns + event.at_ns,
                key: SocketKey { cookie, ..event.key },
                skaddr: cookie,
                ..event
            })
            .collect()
    };
    let start = |part: usize, started_ns, wall_offset_ns| {
        let recording = "2c5ea4c0-4067-4e99-8bad-9b1deb4d3b7d".into();
        let header = Header { started_ns, wall_offset_ns, recording, ..header() };
        let path = &files[part - 1];
        Recorder::start(header, Options { force: true, ..plain(path) }).unwrap()
    };
    let take = |recorder: &mut Recorder, cookie: u64, at_ns: u64| {
        let tick = Tick { now_ns: at_ns + SECOND_NS / 10, losses: Losses::default() };
        recorder.tell(&refused(cookie, at_ns), &tick).unwrap();
    };
    let first_ns = header().wall_offset_ns;
    let mut recorder = start(1, SECOND_NS, first_ns);
    take(&mut recorder, 1, 2 * SECOND_NS);
    recorder.clock(3 * SECOND_NS, first_ns + HOUR_NS);
    take(&mut recorder, 2, 4 * SECOND_NS);
    recorder.finish().unwrap();
    let mut recorder = start(2, 10 * SECOND_NS, first_ns - HOUR_NS);
    recorder.clock(9 * SECOND_NS, first_ns - HOUR_NS);
    take(&mut recorder, 3, 9 * SECOND_NS + SECOND_NS / 2);
    take(&mut recorder, 4, 11 * SECOND_NS);
    recorder.finish().unwrap();
    // A recorder's first file is always the first part.
    let mut bytes = fs::read(&files[1]).unwrap();
    let part = bytes.windows(6).position(|window| window == b"\x01\0\0\x001\0").unwrap();
    bytes[part + 4] = b'2';
    fs::write(&files[1], bytes).unwrap();
    assert_eq!(Reader::open(&files[1]).unwrap().header().part, 2);
}

/// They are kept for the tests of the commands.
fn kept() -> [PathBuf; 2] {
    ["clock-moves-0001.swr", "clock-moves-0002.swr"]
        .map(|name| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name))
}

fn open(files: &[PathBuf]) -> Recording {
    Recording::of(files.iter().map(|file| Reader::open(file).unwrap()).collect(), None).recording
}

fn hours_and_seconds(wall: &Wall, at_ns: u64) -> (i64, u64) {
    let unix_ns = wall.unix_ns(at_ns) - (header().wall_offset_ns - 2 * HOUR_NS);
    (i64::try_from(unix_ns / HOUR_NS).unwrap() - 2, unix_ns % HOUR_NS / SECOND_NS)
}

#[test]
fn each_event_is_placed_by_the_newest_pair_before_it() {
    if std::env::var_os("SOCKWATCH_RECORDINGS").is_some_and(|value| value == "record") {
        write(&kept());
    }
    let mut recording = open(&kept());
    let wall = recording.wall();
    let mut told = Vec::new();
    while let Some(batch) = recording.batch() {
        // As it is then: what is read later changes nothing.
        told.push(hours_and_seconds(&wall, batch.events[0].at_ns));
    }
    assert_eq!(told, [(0, 2), (1, 4), (-1, 9), (-1, 11)]);
    let later = open(&kept()[1..]);
    assert_eq!(hours_and_seconds(&later.wall(), 2 * SECOND_NS), (-1, 2), "by itself it knows no other");
}

#[test]
fn a_recording_ends_at_a_time_of_day() {
    let check = |after_ns: u64, expected_ns: u64| {
        let mut recording = open(&kept());
        recording.until(Until::Unix(header().wall_offset_ns + after_ns));
        let mut last_ns = 0;
        while let Some(batch) = recording.batch() {
            last_ns = batch.tick.now_ns;
        }
        assert_eq!(last_ns, expected_ns, "{after_ns}");
    };
    check(2 * SECOND_NS, 2 * SECOND_NS);
    check(HOUR_NS / 2, 3 * SECOND_NS);
    check(HOUR_NS + 4 * SECOND_NS, 4 * SECOND_NS);
    check(HOUR_NS + 20 * SECOND_NS, 11 * SECOND_NS + SECOND_NS / 10);
}

/// A clock that is set is noted with the next batch, not after a minute.
#[test]
fn a_move_is_recorded_at_once() {
    let scratch = Scratch::new("moves");
    let mut recorder = scratch.recorder();
    let really_ns = crate::monotonic::wall_offset_ns();
    recorder.clock(1, really_ns + 10);
    recorder.clock(2, really_ns + HOUR_NS);
    recorder.clock(3, really_ns + HOUR_NS + 10);
    let tick = Tick { now_ns: 4, losses: Losses::default() };
    recorder.take(&[opening(4)], &tick).unwrap();
    recorder.finish().unwrap();
    let mut said = Said::default();
    scratch.files().iter_mut().for_each(|file| while file.next(&mut said).unwrap() {});
    let clock = |mark: &Mark| if let Mark::Clock { at_ns, .. } = *mark { Some(at_ns) } else { None };
    let clocks: Vec<_> = said.marks.iter().filter_map(|(_, mark)| clock(mark)).collect();
    assert!(matches!(clocks[..], [2, back_ns] if back_ns > 4), "and that it is not so any more: {clocks:?}");
}
