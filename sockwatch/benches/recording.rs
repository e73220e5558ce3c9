//! How fast events are recorded and replayed, and how large they become. Everything comes from memory and goes to memory:
//! neither a kernel nor a disk takes part. Prints a line per figure, `NAME VALUE`; `cargo xtask bench` compares them with
//! targets.

#[allow(dead_code, reason = "some of it only the other benchmark needs")]
mod stream;

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use sockwatch::{
    pipeline::{self, Limits, Totals},
    privilege::Sandbox,
    recording::{
        Said,
        header::Header,
        reader::Reader,
        writer::{Options, Recorder, Rotation, Sync},
    },
    sink::Sink,
    source::{
        Tick,
        recording::{Opened, Recording},
    },
    tcp::{decode::decode, event::Event, loss::Losses, update::Update},
};

use stream::{RECORDS_PER_CONNECTION, Stream};

const CONNECTIONS: u64 = 300_000;
/// Connections in a portion that the reader takes at once: some 20 ms of them.
const PORTION: u64 = stream::CONNECTIONS_PER_SECOND / 50;
/// Events that may wait to be written: what is more would be dropped.
const AHEAD: u64 = 500_000;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds words of its own.
    let words: Vec<_> = std::env::args().skip_while(|word| word != "--make").collect();
    if let [_, path, bytes, ..] = words.as_slice() {
        return make(Path::new(path), bytes.parse()?);
    }
    let scratch = Scratch::new()?;
    let events = (CONNECTIONS * RECORDS_PER_CONNECTION) as f64;
    for level in [1, 3] {
        let path = scratch.0.join(format!("level-{level}.swr"));
        let (reading, all) = record(&path, level)?;
        println!("level_{level}_take_events_per_second {:.0}", events / reading.as_secs_f64());
        println!("level_{level}_events_per_cpu_second {:.0}", events / all.as_secs_f64());
        println!("level_{level}_bytes_per_event {:.2}", std::fs::metadata(&path)?.len() as f64 / events);
    }
    let path = scratch.0.join("level-1.swr");
    let took = decoding(&path, events as u64)?;
    println!("decode_events_per_second {:.0}", events / took.as_secs_f64());
    let took = replaying(&path, events as u64)?;
    println!("replay_events_per_second {:.0}", events / took.as_secs_f64());
    Ok(())
}

/// A recorder of nothing yet.
fn recorder(path: &Path, level: i32) -> Result<Recorder, Box<dyn Error>> {
    let options = Options {
        path: path.to_owned(),
        force: false,
        flush_every: Duration::from_secs(1),
        sync: Sync::Never,
        level,
        rotation: Rotation::default(),
        max_bytes: None,
        sandbox: Sandbox::Off,
    };
    Ok(Recorder::start(Header::default(), options)?)
}

/// What the reader takes at once, decoded; the vectors' room is used again.
fn portion(stream: &mut Stream, records: &mut Vec<Vec<u8>>, events: &mut Vec<Event>) -> Result<Tick, Box<dyn Error>> {
    records.clear();
    events.clear();
    stream.portion(PORTION, records);
    for record in records.iter() {
        decode(record, events)?;
    }
    Ok(Tick { now_ns: stream.now_ns, losses: Losses::default() })
}

/// Makes a recording of so many bytes, or a little more.
fn make(path: &Path, bytes: u64) -> Result<(), Box<dyn Error>> {
    let mut recorder = recorder(path, 1)?;
    let mut stream = Stream::default();
    let (mut records, mut events, mut taken) = (Vec::new(), Vec::<Event>::new(), 0);
    while recorder.written().bytes < bytes {
        let tick = portion(&mut stream, &mut records, &mut events)?;
        recorder.take(&events, &tick)?;
        taken += events.len() as u64;
        while taken > recorder.written().rows + AHEAD {
            std::thread::yield_now();
        }
    }
    assert_eq!(recorder.unrecorded(), 0, "nothing may be left out");
    recorder.finish()?;
    Ok(())
}

/// Records a stream. Returns what this thread used for it, and what all threads did.
fn record(path: &Path, level: i32) -> Result<(Duration, Duration), Box<dyn Error>> {
    let mut recorder = recorder(path, level)?;
    let mut stream = Stream::default();
    let (mut records, mut events) = (Vec::new(), Vec::<Event>::new());
    let (process, thread) = (ClockId::CLOCK_PROCESS_CPUTIME_ID, ClockId::CLOCK_THREAD_CPUTIME_ID);
    let (began, own) = (cpu_time(process), cpu_time(thread));
    let mut reading = Duration::ZERO;
    for _ in 0..CONNECTIONS / PORTION {
        let tick = portion(&mut stream, &mut records, &mut events)?;
        let before = cpu_time(thread);
        recorder.take(&events, &tick)?;
        reading += cpu_time(thread) - before;
    }
    assert_eq!(recorder.unrecorded(), 0, "all is to be measured");
    recorder.finish()?;
    let writing = (cpu_time(process) - began).saturating_sub(cpu_time(thread) - own);
    Ok((reading, reading + writing))
}

/// Reads all rows.
fn decoding(path: &Path, expected: u64) -> Result<Duration, Box<dyn Error>> {
    let mut reader = Reader::open(path)?;
    let (mut said, mut events) = (Said::default(), 0);
    let before = cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID);
    while reader.next(&mut said)? {
        events += said.events.len() as u64;
        said.clear();
    }
    let took = cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID) - before;
    assert_eq!(events, expected);
    Ok(took)
}

/// Does nothing with what it is told.
struct Nowhere;

impl Sink for Nowhere {
    fn update(&mut self, _update: &Update) -> std::io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads all rows and makes timelines of them.
fn replaying(path: &Path, expected: u64) -> Result<Duration, Box<dyn Error>> {
    let Opened { mut recording, ended } = Recording::of(vec![Reader::open(path)?], None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let stop = async {
        let _ = ended.await;
    };
    let totals = runtime.block_on(pipeline::run(&mut recording, &mut Nowhere, Limits::default(), stop))?;
    let took = cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID) - before;
    assert_eq!(totals.events, expected);
    Ok(took)
}

/// What has been used of a CPU: other load on the machine takes no part.
fn cpu_time(clock: ClockId) -> Duration {
    clock_gettime(clock).expect("Linux has it").into()
}

/// A directory in memory, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let path = parent.join(format!("sockwatch-bench-recording-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
