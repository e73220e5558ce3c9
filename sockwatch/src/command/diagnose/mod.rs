//! `sockwatch diagnose`: do connections wait in an accept queue, and why.

mod defer;
mod json;
mod ports;
mod text;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::sys::resource::{UsageWho, getrusage};
use sockwatch::{
    diagnosis::{Diagnosis, Report},
    kernel::session::Threads,
    monotonic::now_ns,
    pipeline::{self, Limits, Totals},
    sink::Sink,
    source::{
        live::Live,
        reconcile::{Reconciler, Schedule},
        threads::{News, Watcher},
    },
    tcp::update::Update,
};

use super::{filter, signals::Stop, start, tell};
use crate::cli::{CollectArgs, DiagnoseArgs, Format, Reconcile, SourceName};

/// The exit code for findings.
const FINDINGS: u8 = 1;

/// What only the kernel counts, dropped SYNs, comes as often as this.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// A progress line so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Updates are not later than that.
const SETTLED_NS: u64 = 200_000_000;

/// What measuring cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Bytes that came through the ring buffers.
    bytes: u64,
    /// CPU time of this process while it measured.
    cpu: Duration,
}

pub(crate) fn run(args: &DiagnoseArgs) -> anyhow::Result<ExitCode> {
    let resolved = filter::resolve(&args.filter)?;
    start::prepare();
    let (report, cost) = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let collect = CollectArgs {
            source: SourceName::Ebpf,
            latency: args.latency,
            reconcile: Reconcile::Off,
            buffer: args.buffer,
            probe: args.probe.clone(),
            ..CollectArgs::default()
        };
        let threads = if args.no_blame { Threads::Ignored } else { Threads::Watched };
        let mut live = start::live(&collect, &resolved, threads).map_err(|error| start::refused(&error))?;
        if !live.tells_cookies() {
            bail!("without BTF the kernel does not tell which connection is in which queue: nothing can be diagnosed");
        }
        live.reconcile(Reconciler::start(&resolved.filter, Schedule::Every(COMPARE_EVERY))?.looking());
        start::announce(&live);
        let watcher = watcher(&mut live);
        let cpu_before = cpu_time();
        let slow_ns = u64::try_from(args.slow.as_nanos()).unwrap_or(u64::MAX);
        let mut watch = Watch::new(Diagnosis::new(now_ns(), slow_ns), watcher, args.duration);
        let limits = Limits { duration: Some(args.duration), connections: None };
        let totals = pipeline::run(&mut live, &mut watch, limits, stop.wait()).await?;
        watch.clear();
        let ended_ns = now_ns();
        watch.end(ended_ns);
        watch.diagnosis.look(live.take_looks());
        for (listener, pid, inode) in watch.diagnosis.slow_to_shake() {
            if let Some(seconds) = defer::seconds(pid, inode) {
                watch.diagnosis.defer(listener, seconds);
            }
        }
        let cost = Cost { bytes: live.bytes(), cpu: cpu_time().saturating_sub(cpu_before) };
        if let lost @ 1.. = live.threads_lost()? {
            tell(format_args!("sockwatch: warning: {lost} doings of threads were lost: their time is unknown"));
        }
        let settings = ports::settings(&watch.diagnosis.opens_in());
        anyhow::Ok((watch.diagnosis.report(ended_ns, &totals, &settings), cost))
    })?;
    match args.format {
        Format::Text => io::stdout().write_all(text::page(&report, cost, width()).as_bytes())?,
        Format::Json => json::print(&report, cost)?,
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

/// `sockwatch diagnose-schema`: the JSON Schema that is committed as docs/diagnose.schema.json.
pub(crate) fn schema() -> anyhow::Result<ExitCode> {
    json::schema()?;
    Ok(ExitCode::SUCCESS)
}

/// What watches threads, if the kernel lets it; it says so if not.
fn watcher(live: &mut Live) -> Option<Watcher> {
    let without = |why: &dyn std::fmt::Display| {
        tell(format_args!("sockwatch: warning: what keeps threads from accept() is not told: {why}"));
    };
    let threads = live.take_threads()?.map_err(|refusal| without(&refusal)).ok()?;
    if let Some(refusal) = threads.without_samples() {
        tell(format_args!("sockwatch: warning: what threads run is only told by where they lose their CPU: {refusal}"));
    }
    Watcher::start(threads).map_err(|error| without(&error)).ok()
}

/// A terminal's width; a file has no end of a line.
fn width() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(usize::MAX, |(width, _)| width.0.into())
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
        Duration::from_micros(micros.unsigned_abs())
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

/// Feeds the diagnosis, and says on a terminal how far it is.
struct Watch {
    diagnosis: Diagnosis,
    watcher: Option<Watcher>,
    began: Instant,
    duration: Duration,
    told: Option<Instant>,
    is_terminal: bool,
}

impl Watch {
    fn new(diagnosis: Diagnosis, watcher: Option<Watcher>, duration: Duration) -> Self {
        Self {
            diagnosis,
            watcher,
            began: Instant::now(),
            duration,
            told: None,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Names new suspects, and hears what was seen of the others.
    fn look_at_threads(&mut self) {
        let Some(watcher) = &self.watcher else { return };
        self.diagnosis.suspects().into_iter().for_each(|suspect| watcher.watch(suspect));
        for news in watcher.news() {
            match news {
                News::Holds { pid, listener } => self.diagnosis.hold(pid, listener),
                News::Deed(deed) => self.diagnosis.deed(deed),
            }
        }
    }

    /// Hears the rest.
    fn end(&mut self, now_ns: u64) {
        if let Some(watcher) = &mut self.watcher {
            watcher.end();
        }
        self.look_at_threads();
        self.diagnosis.end(now_ns);
    }

    fn progress(&mut self) {
        if !self.is_terminal || self.told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let (accepted, waiting) = self.diagnosis.progress();
        let (at, of) = (self.began.elapsed().as_secs(), self.duration.as_secs_f64());
        // If nobody can read it, there is nobody to tell.
        let _ =
            write!(io::stderr(), "\r\x1b[K{at} of {of} s: {accepted} accepted, {waiting} waiting (Ctrl-C ends it now)");
    }

    /// Takes the progress line away.
    fn clear(&self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Sink for Watch {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.diagnosis.take(update);
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        self.look_at_threads();
        self.diagnosis.settle(now_ns().saturating_sub(SETTLED_NS));
        self.progress();
        Ok(())
    }
}

/// The first sentence of every report: what was lost comes first, since all else stands on it.
fn verdict(report: &Report) -> String {
    use sockwatch::diagnosis::words::{count, time};
    let mut said = String::new();
    let lost = report.losses.lost() + report.losses.missed() + report.losses.dropped();
    if lost > 0 {
        said = format!("{} not seen, so counts may be too low; ", count(lost, "event"));
    }
    if let Some(worst) = report.findings.first() {
        return format!("{said}{}: {}", worst.name.word(), worst.sentence);
    }
    let waits = report.listeners.iter().max_by_key(|listener| listener.waits()).and_then(|it| Some((it, it.wait?)));
    match waits {
        _ if report.listeners.is_empty() => format!("{said}nothing to judge: no listener was seen"),
        None => {
            format!("{said}nothing to judge: nobody connected to {}", count(report.listeners.len() as u64, "listener"))
        }
        Some((busiest, wait)) => {
            let of = match report.listeners.len() {
                1 => format!("at {}", busiest.local),
                listeners => format!("at {}, the busiest of {listeners} listeners,", busiest.local),
            };
            format!(
                "{said}healthy: {} {of} waited {} for accept() at the median, {} at p99.9, {} at most",
                count(wait.count, "connection"),
                time(wait.p50_ns),
                time(wait.p999_ns),
                time(wait.max_ns)
            )
        }
    }
}
