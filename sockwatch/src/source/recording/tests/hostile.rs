//! Rows that are well-formed and make no sense, through everything that is made of a recording.

use std::{collections::HashMap, io};

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    chronicle::Chronicle,
    diagnosis::Diagnosis,
    export::{Connections, Csv, Folded, Parquet, Perfetto, schema},
    pipeline::Totals,
    process::{Process, cgroup::Workload},
    sink::{
        Sight, Sink,
        text::{Colour, Text},
        wall::Wall,
    },
    tcp::{
        arbitrary::{any_event, any_round},
        update::Update,
    },
};

/// What one batch says.
#[derive(Clone, Debug)]
struct Step {
    events: Vec<Event>,
    now_ns: u64,
    lost: u64,
    clock: Option<(u64, u64)>,
    round: Option<Round>,
    process: Option<(u64, u32)>,
}

/// Any times, or such that follow one another.
fn any_step() -> impl Strategy<Value = Step> {
    let said = (vec(any_event(), 0..30), any::<bool>(), any::<u64>(), any::<u64>());
    let marks = (option::of(any::<(u64, u64)>()), option::of(any_round()), option::of(any::<(u64, u32)>()));
    (said, marks).prop_map(|((mut events, is_timely, now_ns, lost), (clock, round, process))| {
        if is_timely {
            // The larger the time, the later: a reader gives up what is an hour late.
            events.iter_mut().for_each(|event| event.at_ns %= now_ns.max(1));
        }
        Step { events, now_ns, lost, clock, round, process }
    })
}

/// Everything that a recording can be made into.
struct All {
    text: Text<Vec<u8>>,
    json: Json<Vec<u8>>,
    csv: Connections<Csv<Vec<u8>>>,
    parquet: Connections<Parquet<Vec<u8>>>,
    perfetto: Perfetto<Vec<u8>>,
    folded: Folded,
    diagnosis: Diagnosis,
    chronicle: Chronicle,
    names: Names,
    wall: Wall,
    last_ns: u64,
    listed: usize,
}

impl All {
    fn of(header: &Header, recording: &Recording) -> Self {
        let (wall, names) = (recording.wall(), || Names::told(recording.names()));
        let start = Start {
            version: VERSION,
            sockwatch: "",
            kernel: "",
            source: "ebpf",
            clock: "wall",
            start_monotonic_ns: 0,
            wall_offset_ns: 0,
        };
        let clock = || Clock::Wall(wall.clone());
        let show = Show { why: Why::Told, ..SHOW };
        Self {
            text: Text::new(Vec::new(), show, clock(), Colour::On).knowing(names()),
            json: Json::new(Vec::new(), show, clock(), start).unwrap().knowing(names()),
            csv: Connections::new(Csv::new(Vec::new()), header, wall.clone(), names()),
            parquet: Connections::new(Parquet::new(Vec::new(), schema()).unwrap(), header, wall.clone(), names()),
            perfetto: Perfetto::new(Vec::new(), header, wall.clone(), names()).unwrap(),
            folded: Folded::default(),
            diagnosis: Diagnosis::new(header.started_ns, 1_000_000),
            chronicle: Chronicle::new(header.started_ns),
            names: names(),
            last_ns: header.started_ns,
            wall,
            listed: 0,
        }
    }

    /// The ends of all; how much there is.
    fn end(mut self, ended_ns: u64, totals: &Totals) -> usize {
        self.json.end(totals).unwrap();
        self.csv.finish().unwrap();
        self.parquet.finish().unwrap().0.finish().unwrap();
        let (perfetto, _) = self.perfetto.finish(totals).unwrap();
        let mut folded = Vec::new();
        self.folded.print(&mut folded).unwrap();
        self.diagnosis.end(ended_ns);
        let report = self.diagnosis.report(ended_ns, totals, &HashMap::new());
        let course = serde_json::to_vec(&self.chronicle.course(ended_ns)).unwrap();
        let moves: usize = self.wall.moves().iter().map(|moved| moved.to_string().len()).sum();
        let sizes = [perfetto.len(), folded.len(), course.len(), format!("{report:?}").len(), moves, self.listed];
        sizes.iter().sum()
    }
}

impl Sink for All {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        let Self { text, json, csv, parquet, perfetto, folded, .. } = self;
        let sinks: [&mut dyn FnMut() -> io::Result<()>; 6] = [
            &mut || text.update(update),
            &mut || json.update(update),
            &mut || csv.update(update),
            &mut || parquet.update(update),
            &mut || perfetto.update(update),
            &mut || folded.update(update),
        ];
        for sink in sinks {
            sink()?;
        }
        self.last_ns = self.last_ns.max(update.at_ns);
        self.diagnosis.take(update);
        let names = &mut self.names;
        self.chronicle.take(update, &mut |task, at_ns| names.of_thread(task, at_ns));
        Ok(())
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.text.tick(totals)?;
        self.json.tick(totals)?;
        self.diagnosis.settle(self.last_ns);
        Ok(())
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        // As `list --at` does.
        self.listed = sight.tracker.living(sight.now_ns).map(|living| format!("{:?}", living.subject).len()).sum();
        Ok(())
    }
}

/// Writes them, reads them, and makes all of them that there is. Returns how much that is.
fn run(path: &std::path::Path, header: &Header, steps: &[Step], until: Option<Until>) -> usize {
    let options = Options { path: path.to_owned(), force: true, flush_every: Duration::ZERO, ..plain(path) };
    let mut recorder = Recorder::start(header.clone(), options).unwrap();
    for step in steps {
        if let Some((at_ns, offset_ns)) = step.clock {
            recorder.clock(at_ns, offset_ns);
        }
        if let Some((started_ns, pid)) = step.process {
            let process = Process { pid, comm: "x".into(), command: None, workload: Workload::default() };
            recorder.process(&Named { started_ns, process });
        }
        let losses = Losses { ring_full: step.lost, ..Losses::default() };
        recorder.tell(&step.events, &Tick { now_ns: step.now_ns, losses }).unwrap();
        if let Some(round) = &step.round {
            recorder.table(&TableNews::Expected);
            recorder.table(&TableNews::Listed(round.clone()));
        }
    }
    recorder.finish().unwrap();
    let Opened { mut recording, ended } = Recording::of(vec![Reader::open(path).unwrap()], None);
    if let Some(until) = until {
        recording.until(until);
    }
    let mut all = All::of(header, &recording);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = async { ended.await.unwrap() };
    let totals = runtime.block_on(pipeline::run(&mut recording, &mut all, Limits::default(), stop)).unwrap();
    all.end(recording.last_ns().max(header.started_ns), &totals)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// No panic, and no more than a few megabytes of some hundred rows, however far apart their times are.
    #[test]
    fn no_rows_do_harm(
        steps in vec(any_step(), 1..8),
        is_timely in any::<bool>(),
        (started_ns, wall_offset_ns) in any::<(u64, u64)>(),
        until in option::of(prop_oneof![any::<u64>().prop_map(Until::Monotonic), any::<u64>().prop_map(Until::Unix)]),
    ) {
        let mut steps = steps;
        if is_timely {
            steps.sort_by_key(|step| step.now_ns);
        }
        let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
        let scratch = Scratch::new(&format!("hostile-{thread}"));
        let header = Header { started_ns, wall_offset_ns, ..header() };
        let made = run(&scratch.0.join("hostile.swr"), &header, &steps, until);
        prop_assert!(made < 50_000_000, "{} bytes", made);
    }
}
