//! `sockwatch record`: what a source says, to a file.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::ensure;
use sockwatch::{
    kernel::check::kernel_release,
    monotonic::{now_ns, wall_offset_ns},
    privilege::Sandbox,
    recording::{
        header::Header,
        writer::{Options, Recorder, Rotation, Sync, Written},
    },
    sink::quantity::Size,
    source::{Source, recorded::Recorded},
    tcp::loss::Losses,
};

use super::{
    filter,
    signals::Stop,
    start::{self, Started},
    tell,
};
use crate::cli::{FilterArgs, RecordArgs};

/// A progress line so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let resolved = filter::resolve(&args.filter)?;
    let options = options(args)?;
    start::prepare();
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let source = start::source(&args.collect, &resolved)?;
        let recorder = Recorder::start(header(&source, &args.filter), options)?;
        source.announce(&args.collect);
        source.confine(args.collect.sandbox.wanted());
        let mut recorded = Recorded::new(source, recorder);
        let recording = record(&mut recorded, args.duration, stop.wait()).await;
        let unrecorded = recorded.unrecorded();
        let (_, written) = recorded.finish()?;
        let (events, losses) = recording?;
        let losses = Losses { unrecorded, ..losses };
        told(&written);
        tell(format_args!(
            "sockwatch: events={events} bytes={} files={} lost={} missed={} unmatched={} dropped={}",
            written.bytes,
            written.files,
            losses.lost(),
            losses.missed(),
            losses.accepts_unmatched,
            losses.dropped(),
        ));
        Ok(ExitCode::SUCCESS)
    })
}

/// How to write a file that nothing was said of but its name.
pub(crate) fn plain(path: &Path, sandbox: Sandbox) -> Options {
    Options {
        path: path.to_owned(),
        force: false,
        flush_every: Duration::from_secs(1),
        sync: Sync::End,
        level: 1,
        rotation: Rotation::default(),
        max_bytes: None,
        sandbox,
    }
}

fn options(args: &RecordArgs) -> anyhow::Result<Options> {
    let rotation = Rotation {
        bytes: args.rotate_size,
        every: args.rotate_every,
        keep_files: args.keep.map(|files| files as usize),
        keep_bytes: args.keep_size,
    };
    let keeps = rotation.keep_files.is_some() || rotation.keep_bytes.is_some();
    ensure!(
        rotation.rotates() || !keeps,
        "--keep and --keep-size choose between files: say when to go on with another one, by --rotate-size or --rotate-every"
    );
    Ok(Options {
        force: args.force,
        flush_every: args.flush,
        sync: args.sync.into(),
        level: args.compress,
        rotation,
        max_bytes: args.max_size,
        ..plain(&args.output, args.collect.sandbox.wanted())
    })
}

/// What is told of the whole recording.
pub(crate) fn header(source: &Started, filter: &FilterArgs) -> Header {
    let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    Header {
        sockwatch: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel_release(),
        host: line("/proc/sys/kernel/hostname"),
        boot: line("/proc/sys/kernel/random/boot_id"),
        source: source.name().to_owned(),
        probes: source.probes(),
        filter: filter.words(),
        started_ns: now_ns(),
        wall_offset_ns: wall_offset_ns(),
        recording: line("/proc/sys/kernel/random/uuid"),
        part: 1,
        reset_reasons: source.reset_reasons(),
    }
}

/// Says on stderr what was written.
pub(crate) fn told(written: &Written) {
    let full = if written.full { ": as much as --max-size allows" } else { "" };
    let path = written.path.display();
    match written.files {
        1 => tell(format_args!("recorded {} in {path}{full}", Size(written.bytes))),
        files => tell(format_args!("recorded {} in {files} files, the last is {path}{full}", Size(written.bytes))),
    }
}

/// Records until `stop` resolves, the time is over or no more may be written. Returns how many events there were.
async fn record(
    source: &mut Recorded<Started>,
    duration: Option<Duration>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<(u64, Losses)> {
    let deadline = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(stop, deadline);
    let (mut events, mut progress) = (Vec::new(), Progress::begin());
    loop {
        let tick = tokio::select! {
            biased;
            () = &mut stop => break,
            () = &mut deadline => break,
            tick = source.next(&mut events) => tick?,
        };
        source.table();
        progress.events += events.len() as u64;
        events.clear();
        progress.tell(source, &tick.losses);
        if source.written().full {
            break;
        }
    }
    let tick = source.drain(&mut events)?;
    progress.events += events.len() as u64;
    progress.clear();
    Ok((progress.events, tick.losses))
}

/// How far it is, on a terminal.
struct Progress {
    events: u64,
    began: Instant,
    told: Option<(Instant, u64)>,
    is_terminal: bool,
}

impl Progress {
    fn begin() -> Self {
        Self { events: 0, began: Instant::now(), told: None, is_terminal: io::stderr().is_terminal() }
    }

    fn tell(&mut self, source: &Recorded<Started>, losses: &Losses) {
        let (at, before) = self.told.unwrap_or((self.began, 0));
        if !self.is_terminal || at.elapsed() < PROGRESS_EVERY {
            return;
        }
        let rate = (self.events - before) as f64 / at.elapsed().as_secs_f64();
        self.told = Some((Instant::now(), self.events));
        let (written, unrecorded) = (source.written(), source.unrecorded());
        let lost = losses.lost() + losses.missed() + losses.dropped() + unrecorded;
        // If nobody can read it, there is nobody to tell.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{} s: {rate:.0} events/s, {} events, {} in {}, lost {lost} (Ctrl-C ends it)",
            self.began.elapsed().as_secs(),
            self.events,
            Size(written.bytes),
            written.path.display(),
        );
    }

    /// Takes the progress line away.
    fn clear(&self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
