mod clock;
mod hostile;
mod several;

use std::{fs, path::PathBuf};

use super::*;
use crate::{
    pipeline::{self, Limits},
    privilege::Sandbox,
    process::names::{Named, Names},
    recording::{
        header::Header,
        writer::{Options, Recorder, Rotation, Sync},
    },
    sink::{
        Clock, Show, Why,
        json::{Json, Start, VERSION},
    },
    source::recorded::Recorded,
    tcp::{
        endpoint::Endpoint,
        event::SocketKey,
        listing::{Listing, Record, Round},
        notation,
        order::WINDOW_NS,
        state::TcpState,
    },
};

/// A source takes events in so often.
const LATENCY_NS: u64 = 20_000_000;

/// Tells events that were kept as text, and of an empty table now and then.
struct Lab {
    events: VecDeque<Event>,
    now_ns: u64,
    ticks: u64,
    ended: Option<oneshot::Sender<()>>,
}

impl Lab {
    fn of(text: &str) -> (Self, oneshot::Receiver<()>) {
        let (ended, is_ended) = oneshot::channel();
        let events = text.lines().map(|line| notation::parse(line).unwrap()).collect();
        (Self { events, now_ns: 0, ticks: 0, ended: Some(ended) }, is_ended)
    }

    fn take(&mut self, events: &mut Vec<Event>, until_ns: u64) {
        while let Some(event) = self.events.pop_front_if(|event| event.at_ns <= until_ns) {
            events.push(event);
        }
    }
}

impl Source for Lab {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        if self.events.len() < 3 {
            self.ended.take().unwrap().send(()).unwrap();
            std::future::pending::<()>().await;
        }
        self.now_ns += LATENCY_NS;
        self.ticks += 1;
        self.take(events, self.now_ns - WINDOW_NS / 2);
        Ok(Tick { now_ns: self.now_ns, losses: Losses { skipped: self.ticks / 10, ..Losses::default() } })
    }

    fn table(&mut self) -> TableNews {
        match self.ticks % 50 {
            10 => TableNews::Expected,
            11 => TableNews::Listed(Round {
                listings: vec![Listing {
                    netns: 1,
                    from_ns: self.now_ns - 2,
                    to_ns: self.now_ns - 1,
                    ..Listing::default()
                }],
                to_ns: self.now_ns,
                ..Round::default()
            }),
            _ => TableNews::Nothing,
        }
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        self.take(events, u64::MAX);
        Ok(Tick { now_ns: self.now_ns + LATENCY_NS, losses: Losses::default() })
    }
}

const SHOW: Show = Show { transitions: true, connections: true, queues: true, disagreements: true, why: Why::Told };

/// The lines that a source leads to.
fn lines(source: &mut impl Source, ended: oneshot::Receiver<()>) -> String {
    let start = Start {
        version: VERSION,
        sockwatch: "",
        kernel: "",
        source: "ebpf",
        clock: "monotonic",
        start_monotonic_ns: 0,
        wall_offset_ns: 0,
    };
    let mut out = Vec::new();
    let mut sink = Json::new(&mut out, SHOW, Clock::Monotonic, start).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = async { ended.await.unwrap() };
    let totals = runtime.block_on(pipeline::run(source, &mut sink, Limits::default(), stop)).unwrap();
    sink.end(&totals).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap()
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/labs")
}

/// Everything that any lab has ever shown is shown the same from its recording: the same lines, byte by byte.
#[test]
fn a_lab_replayed_is_a_lab_traced() {
    let path = std::env::temp_dir().join(format!("sockwatch-labs-{}.swr", std::process::id()));
    let (mut labs, mut told) = (0, 0);
    for file in fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "events") {
            continue;
        }
        let options = Options {
            path: path.clone(),
            force: true,
            flush_every: Duration::from_millis(100),
            sync: Sync::Never,
            level: 1,
            rotation: Rotation::default(),
            max_bytes: None,
            sandbox: Sandbox::Off,
        };
        let (lab, ended) = Lab::of(&fs::read_to_string(&file).unwrap());
        let mut recorded = Recorded::new(lab, Recorder::start(Header::default(), options).unwrap());
        let traced = lines(&mut recorded, ended);
        recorded.finish().unwrap();
        let Opened { mut recording, ended } = Recording::of(vec![Reader::open(&path).unwrap()], None);
        let replayed = lines(&mut recording, ended);
        told += traced.lines().count();
        assert_eq!(traced, replayed, "{}", file.display());
        assert_eq!(recording.damage(), None);
        assert!(recording.read().iter().all(|file| cut(file).is_none()));
        labs += 1;
    }
    fs::remove_file(path).unwrap();
    assert!(labs >= 40 && told > 600, "{labs} {told}");
}

/// A recording of the first version of the format, kept as it was written then: it is read by every later version.
#[test]
fn old_recordings_are_read_as_they_were() {
    let old = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let (file, golden) = (old.join("format-1.0.swr"), old.join("format-1.0.jsonl"));
    if std::env::var_os("SOCKWATCH_RECORDINGS").is_some_and(|value| value == "record") {
        let options = Options { path: file.clone(), force: true, ..plain(&file) };
        let (lab, ended) = Lab::of(&fs::read_to_string(directory().join("slow-accept.events")).unwrap());
        let mut recorded = Recorded::new(lab, Recorder::start(header(), options).unwrap());
        fs::write(&golden, lines(&mut recorded, ended)).unwrap();
        recorded.finish().unwrap();
    }
    let reader = Reader::open(&file).unwrap();
    assert_eq!(*reader.header(), header());
    let Opened { mut recording, ended } = Recording::of(vec![reader], None);
    assert_eq!(lines(&mut recording, ended), fs::read_to_string(golden).unwrap());
    assert_eq!(recording.read()[0].not_understood(), 0);
}

fn plain(path: &std::path::Path) -> Options {
    Options {
        path: path.to_owned(),
        force: false,
        flush_every: Duration::from_secs(1),
        sync: Sync::Never,
        level: 1,
        rotation: Rotation::default(),
        max_bytes: None,
        sandbox: Sandbox::Off,
    }
}

fn header() -> Header {
    Header {
        sockwatch: "0.1.0".into(),
        kernel: "6.12.1".into(),
        host: "web-1".into(),
        boot: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".into(),
        source: "ebpf".into(),
        probes: "state=btf accept=fexit".into(),
        filter: "--port 8080".into(),
        started_ns: 1_000,
        wall_offset_ns: 1_795_253_400_000_000_000,
        recording: "6fa459ea-ee8a-3ca4-894e-db77e160355e".into(),
        part: 1,
        reset_reasons: [(2, "NO_SOCKET".to_owned())].into_iter().collect(),
    }
}

#[test]
fn names_come_with_the_events_that_they_are_of() {
    use crate::process::{Process, cgroup::Workload};
    let told = Told::default();
    let mut names = Names::told(told.clone());
    let named = |started_ns, comm: &str| Named {
        started_ns,
        process: Process { pid: 7, comm: comm.into(), command: None, workload: Workload::default() },
    };
    assert_eq!(names.of(7, u64::MAX - LATENCY_NS), None);
    told.tell(named(1_000_000_000, "nginx"));
    assert_eq!(names.of(7, 2_000_000_000).unwrap().comm, "nginx".into());
    assert_eq!(names.of(7, 0), None, "it had not started");
    assert_eq!(names.of(8, 2_000_000_000), None);
}

/// Tells of a table with one socket, in a round that is not the first.
struct Later {
    ticks: u64,
    ended: Option<oneshot::Sender<()>>,
}

impl Source for Later {
    async fn next(&mut self, _events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        if self.ticks == 5
            && let Some(ended) = self.ended.take()
        {
            ended.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        self.ticks += 1;
        Ok(Tick { now_ns: self.ticks * LATENCY_NS, losses: Losses::default() })
    }

    fn table(&mut self) -> TableNews {
        let (from_ns, to_ns) = (self.ticks * LATENCY_NS - 2, self.ticks * LATENCY_NS - 1);
        match self.ticks {
            1 => TableNews::Expected,
            2 => TableNews::Listed(Round {
                listings: vec![Listing {
                    netns: 1,
                    from_ns,
                    to_ns,
                    records: vec![Record {
                        key: SocketKey { netns: 1, cookie: 7 },
                        tuple: (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([10, 0, 0, 9], 5000)),
                        state: TcpState::Established,
                        expires_in_ns: None,
                        queue: None,
                        from_ns,
                        to_ns,
                        drops: None,
                        inode: 5,
                        ours: true,
                    }],
                    ..Listing::default()
                }],
                to_ns,
                ..Round::default()
            }),
            _ => TableNews::Nothing,
        }
    }

    fn drain(&mut self, _events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        Ok(Tick { now_ns: self.ticks * LATENCY_NS, losses: Losses::default() })
    }
}

/// Without the files before it, what a listing shows was there before: that is no disagreement.
#[test]
fn a_later_file_by_itself_takes_over_what_was_there() {
    let path = std::env::temp_dir().join(format!("sockwatch-later-{}.swr", std::process::id()));
    let (ended, is_ended) = oneshot::channel();
    let recorder = Recorder::start(header(), Options { force: true, ..plain(&path) }).unwrap();
    let mut recorded = Recorded::new(Later { ticks: 0, ended: Some(ended) }, recorder);
    lines(&mut recorded, is_ended);
    recorded.finish().unwrap();
    let replay = |is_rest: bool| {
        let Opened { mut recording, ended } = Recording::of(vec![Reader::open(&path).unwrap()], None);
        recording.rest = is_rest.then(Rest::default);
        lines(&mut recording, ended)
    };
    let (first, later) = (replay(false), replay(true));
    fs::remove_file(&path).unwrap();
    assert!(first.contains("\"type\":\"disagreement\"") && !first.contains("\"type\":\"listed\""), "{first}");
    assert!(later.contains("\"type\":\"listed\"") && !later.contains("\"type\":\"disagreement\""), "{later}");
}

/// A directory with recordings of the test's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockwatch-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Every batch of events goes into a file of its own.
    fn recorder(&self) -> Recorder {
        let rotation = Rotation { bytes: Some(1), ..Rotation::default() };
        let options = Options { rotation, flush_every: Duration::ZERO, ..plain(&self.0.join("web.swr")) };
        Recorder::start(header(), options).unwrap()
    }

    fn files(&self) -> Vec<Reader> {
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| Reader::open(file).unwrap()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn opening(at_ns: u64) -> Event {
    let line = "0.000000000 1:1 @1 127.0.0.1:* 127.0.0.1:80 opening new=SYN_SENT by=clients/1/2";
    Event { at_ns, ..notation::parse(line).unwrap() }
}

/// The times of the events of each batch, and what is wrong with it.
fn play(files: Vec<Reader>) -> (Vec<Vec<u64>>, Option<String>) {
    let Opened { mut recording, .. } = Recording::of(files, None);
    let mut batches = Vec::new();
    while let Some(batch) = recording.batch() {
        batches.push(batch.events.iter().map(|event| event.at_ns).collect());
        recording.news.extend(batch.news);
    }
    (batches, recording.damage())
}

/// A later file by itself counts what was lost in it, and in the files behind it.
#[test]
fn what_was_lost_before_a_later_file_is_not_its_loss() {
    let scratch = Scratch::new("lost");
    let mut recorder = scratch.recorder();
    for (now_ns, ring_full) in [(1, 3), (2, 3), (3, 5), (4, 5)] {
        let tick = Tick { now_ns, losses: Losses { ring_full, ..Losses::default() } };
        recorder.take(&[opening(now_ns)], &tick).unwrap();
    }
    recorder.finish().unwrap();
    let check = |from: usize, expected: &[u64]| {
        let Opened { mut recording, .. } = Recording::of(scratch.files().split_off(from), None);
        let lost: Vec<_> = std::iter::from_fn(|| Some(recording.batch()?.tick.losses.ring_full)).collect();
        assert_eq!(lost, expected, "from {from}");
    };
    check(0, &[3, 3, 5, 5]);
    check(1, &[0, 2, 2]);
    check(2, &[2, 2]);
    check(3, &[0]);
}

#[test]
fn an_event_from_far_in_the_future_is_damage() {
    let scratch = Scratch::new("future");
    let mut recorder = scratch.recorder();
    let tick = |now_ns| Tick { now_ns, losses: Losses::default() };
    recorder.take(&[opening(1), opening(2 + MOST_WAIT_NS)], &tick(2)).unwrap();
    recorder.take(&[opening(3), opening(5 + MOST_WAIT_NS)], &tick(4)).unwrap();
    recorder.take(&[opening(5)], &tick(6)).unwrap();
    recorder.finish().unwrap();
    let (told, damage) = play(scratch.files());
    assert_eq!(told, [vec![1, 2 + MOST_WAIT_NS], vec![3], vec![5]], "the other files are told");
    assert!(damage.as_ref().is_some_and(|it| it.contains("more than an hour after the tick")), "{damage:?}");
}

#[test]
fn events_that_no_tick_comes_to_are_damage() {
    let Opened { mut recording, .. } = Recording::of(Vec::new(), None);
    recording.waiting = vec![WINDOW_NS; MOST_WAITING - 1];
    recording.check_times(&mut vec![opening(2)], WINDOW_NS + 1);
    assert_eq!(recording.damage(), None);
    recording.check_times(&mut vec![opening(3)], WINDOW_NS + 1);
    let damage = recording.damage();
    assert!(damage.as_ref().is_some_and(|it| it.starts_with("more than 4000000 events")), "{damage:?}");
}

#[test]
fn a_table_that_is_told_of_without_end_is_damage() {
    let scratch = Scratch::new("news");
    let mut recorder = scratch.recorder();
    let tick = |now_ns| Tick { now_ns, losses: Losses::default() };
    recorder.take(&[opening(1)], &tick(1)).unwrap();
    (0..=MOST_NEWS).for_each(|_| recorder.table(&TableNews::Expected));
    recorder.take(&[opening(2)], &tick(2)).unwrap();
    recorder.finish().unwrap();
    let (told, damage) = play(scratch.files());
    assert_eq!(told, [[1]]);
    assert!(damage.as_ref().is_some_and(|it| it.contains("too many listings")), "{damage:?}");
}

/// What stands between a tick and news of the table leaves those where they were.
#[test]
fn news_are_told_with_the_tick_before_them() {
    let scratch = Scratch::new("between");
    let mut recorder = scratch.recorder();
    for now_ns in 1..4 {
        let tick = Tick { now_ns, losses: Losses { ring_full: now_ns, ..Losses::default() } };
        recorder.take(&[opening(now_ns)], &tick).unwrap();
        recorder.table(&TableNews::Expected);
    }
    recorder.finish().unwrap();
    let Opened { mut recording, .. } = Recording::of(scratch.files(), None);
    let batches: Vec<_> = std::iter::from_fn(|| recording.batch()).collect();
    let told = |batch: &Batch| (batch.tick.losses.ring_full, batch.news.len());
    assert_eq!(batches.iter().map(told).collect::<Vec<_>>(), [(1, 1), (2, 1), (3, 1)]);
}
