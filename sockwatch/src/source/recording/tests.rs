use std::{fs, path::PathBuf};

use super::*;
use crate::{
    pipeline::{self, Limits},
    privilege::Sandbox,
    process::names::Names,
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
    let (teller, told) = mpsc::channel();
    let mut names = Names::told(told);
    let named = |started_ns, comm: &str| Named {
        started_ns,
        process: Process { pid: 7, comm: comm.into(), command: None, workload: Workload::default() },
    };
    assert_eq!(names.of(7, u64::MAX - LATENCY_NS), None);
    teller.send(named(1_000_000_000, "nginx")).unwrap();
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
        recording.listed = is_rest.then(HashSet::new);
        lines(&mut recording, ended)
    };
    let (first, later) = (replay(false), replay(true));
    fs::remove_file(&path).unwrap();
    assert!(first.contains("\"type\":\"disagreement\"") && !first.contains("\"type\":\"listed\""), "{first}");
    assert!(later.contains("\"type\":\"listed\"") && !later.contains("\"type\":\"disagreement\""), "{later}");
}
