//! `sockwatch diagnose`: do connections wait in an accept queue, and why.

mod defer;
mod flame;
pub(crate) mod json;
pub(crate) mod ports;
mod recorded;
mod text;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::sys::resource::{UsageWho, getrusage};
use sockwatch::{
    diagnosis::{
        Diagnosis, Report,
        finding::{OF_EACH, OF_TABLE, OF_THREADS},
    },
    kernel::{
        check::kernel_release,
        gauge::{Gauge, Taken},
        session::{Telling, Threads},
    },
    monotonic::now_ns,
    pipeline::{self, Limits, Totals},
    privilege::{
        Sandbox,
        role::{DIAGNOSE, DIAGNOSE_DRAWING},
    },
    sink::Sink,
    source::{
        counters,
        live::Live,
        reconcile::{Reconciler, Schedule, Scope},
        table::Places,
        tallies::{Counting, Found},
        threads::{News, Watcher},
    },
    tcp::{
        connection::Role,
        filter::Filter,
        state::TcpState,
        update::{Happening, Subject, Update},
    },
};

use self::flame::FlameGraph;
pub(crate) use self::json::Report as Printed;
use super::{filter, signals::Stop, start, tell};
use crate::cli::{Aggregate, CollectArgs, DiagnoseArgs, Format, Reconcile, SourceName};

/// The exit code for findings.
const FINDINGS: u8 = 1;

/// What only the kernel counts, dropped SYNs, comes as often as this.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// From so many connections on they are counted in the kernel: to tell each costs more than a few percent then.
const MANY_PER_SECOND: u64 = 10_000;

/// What the kernel side counts is read so often.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// A progress line so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Updates are not later than that, and `--latency`.
pub(super) const SETTLED_NS: u64 = 200_000_000;

/// How it was measured.
#[derive(Clone, Debug)]
pub(super) struct Measuring {
    /// Bytes that came through the ring buffers, or from the recording.
    pub(super) bytes: u64,
    /// CPU time of this process while it measured.
    pub(super) cpu: Duration,
    /// What its kernel-side programs took; `None` where the kernel does not measure it.
    pub(super) probes: Option<Taken>,
    /// The kernel's release.
    pub(super) kernel: String,
    /// Whether threads were watched.
    pub(super) threads: bool,
    /// The machine that a recording is of; `None`: it is this one, and now.
    pub(super) recorded_on: Option<String>,
}

pub(crate) fn run(args: &DiagnoseArgs) -> anyhow::Result<ExitCode> {
    if !args.recording.is_empty() {
        let (report, measuring, damage) = recorded::diagnose(args)?;
        let told = tell_report(args, &report, &measuring, None)?;
        return match damage {
            Some(damage) => bail!("{damage}; all else was judged"),
            None => Ok(told),
        };
    }
    let resolved = filter::resolve(&args.filter)?;
    let flame_graph = args.flame_graph.as_deref().map(FlameGraph::at).transpose()?;
    start::prepare();
    let (report, measuring) = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let telling = telling(args.aggregate, &resolved.filter).await;
        let collect = CollectArgs {
            source: SourceName::Ebpf,
            latency: args.latency,
            reconcile: Reconcile::Off,
            buffer: args.buffer,
            probe: probes(args, telling),
            ..CollectArgs::default()
        };
        let threads = if args.no_blame { Threads::Ignored } else { Threads::Watched };
        let mut live = start::live(&collect, &resolved, threads, telling).map_err(|error| start::refused(&error))?;
        if !live.tells_cookies() {
            bail!("without BTF the kernel does not tell which connection is in which queue: nothing can be diagnosed");
        }
        let scope = match telling {
            Telling::Events => Scope::All,
            Telling::Tallies => Scope::Listeners,
        };
        let (schedule, sandbox) = (Schedule::Every(COMPARE_EVERY), args.sandbox.wanted());
        live.reconcile(Reconciler::start(&resolved.filter, schedule, scope, sandbox)?.looking());
        let counting = live.take_tallies().map(|tallies| Counting::start(tallies, &resolved.filter)).transpose()?;
        start::announce(&live);
        let watcher = watcher(&mut live, sandbox);
        // Later nobody may ask for it.
        let gauge = live.gauge();
        let role = if flame_graph.is_some() { &DIAGNOSE_DRAWING } else { &DIAGNOSE };
        start::confine_main(role, &live, sandbox);
        let cpu_before = cpu_time();
        let watches_threads = watcher.is_some();
        let mut watch = Watch::new(args, watcher, counting, gauge);
        let limits = Limits { duration: Some(args.duration), connections: None };
        let totals = pipeline::run(&mut live, &mut watch, limits, stop.wait()).await?;
        watch.clear();
        watch.count()?;
        let ended_ns = now_ns();
        watch.end(ended_ns);
        watch.diagnosis.look(live.take_looks());
        for (listener, pid, inode) in watch.diagnosis.slow_to_shake() {
            if let Some(seconds) = defer::seconds(pid, inode) {
                watch.diagnosis.defer(listener, seconds);
            }
        }
        let measuring = Measuring {
            bytes: live.bytes(),
            cpu: cpu_time().saturating_sub(cpu_before),
            probes: watch.gauge.take().map(|gauge| live.taken(gauge)),
            kernel: kernel_release(),
            threads: watches_threads,
            recorded_on: None,
        };
        if let lost @ 1.. = live.threads_lost()? {
            tell(format_args!(
                "sockwatch: warning: {lost} doings of threads were lost: their time is unknown, and what they read"
            ));
        }
        let settings = ports::settings(&watch.diagnosis.opens_in());
        anyhow::Ok((watch.diagnosis.report(ended_ns, &totals, &settings), measuring))
    })?;
    tell_report(args, &report, &measuring, flame_graph)
}

/// Prints the report. Returns the exit code.
fn tell_report(
    args: &DiagnoseArgs,
    report: &Report,
    measuring: &Measuring,
    flame_graph: Option<FlameGraph>,
) -> anyhow::Result<ExitCode> {
    match args.format {
        Format::Text => io::stdout().write_all(text::page(report, measuring, width()).as_bytes())?,
        Format::Json => json::print(report, measuring)?,
    }
    if let Some(flame_graph) = flame_graph {
        flame_graph.draw(report)?;
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

/// What `--format json` prints.
pub(super) fn as_json(report: &Report, measuring: &Measuring) -> anyhow::Result<serde_json::Value> {
    json::value(report, measuring)
}

/// Whether to tell connections one by one. To count them loses something, so that is done where many come.
async fn telling(aggregate: Aggregate, filter: &Filter) -> Telling {
    let many = match aggregate {
        Aggregate::Always => true,
        Aggregate::Never => false,
        Aggregate::Auto => connections_per_second(filter).await > MANY_PER_SECOND,
    };
    if many { Telling::Tallies } else { Telling::Events }
}

/// How many come to the namespaces that the filter asks for, at any port.
async fn connections_per_second(filter: &Filter) -> u64 {
    const WINDOW: Duration = Duration::from_millis(200);
    let mut places = Places::look().found;
    places.retain(|place| filter.netns.is_empty() || filter.netns.contains(&place.inode));
    let before: Vec<_> = places.iter().map(counters::passive_opens).collect();
    let began = Instant::now();
    tokio::time::sleep(WINDOW).await;
    // One that is gone meanwhile brings no more.
    let opened = |(place, before): (_, Option<u64>)| Some(counters::passive_opens(place)?.saturating_sub(before?));
    let opened: u64 = places.iter().zip(before).filter_map(opened).sum();
    (u128::from(opened) * 1000 / began.elapsed().as_millis().max(1)) as u64
}

/// Counting needs two of them, and those that tell what is rare.
fn probes(args: &DiagnoseArgs, telling: Telling) -> Vec<(String, String)> {
    let mut probes = args.probe.clone();
    if telling == Telling::Tallies {
        let idle = ["enqueue", "destroy", "reset", "drop"].map(|probe| (probe.to_owned(), "off".to_owned()));
        probes.extend(idle.into_iter().filter(|(idle, _)| !args.probe.iter().any(|(probe, _)| probe == idle)));
    }
    probes
}

/// What watches threads, if the kernel lets it; it says so if not.
fn watcher(live: &mut Live, sandbox: Sandbox) -> Option<Watcher> {
    let without = |why: &dyn std::fmt::Display| {
        tell(format_args!("sockwatch: warning: what keeps threads from accept() is not told: {why}"));
    };
    let threads = live.take_threads()?.map_err(|refusal| without(&refusal)).ok()?;
    if let Some(refusal) = threads.without_samples() {
        tell(format_args!("sockwatch: warning: what threads run is only told by where they lose their CPU: {refusal}"));
    }
    Watcher::start(threads, sandbox).map_err(|error| without(&error)).ok()
}

/// A terminal's width; a file has no end of a line.
fn width() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(usize::MAX, |(width, _)| width.0.into())
}

/// CPU time of this process.
pub(super) fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
        Duration::from_micros(micros.unsigned_abs())
    };
    micros(usage.user_time()) + micros(usage.system_time())
}

/// A time as the diagnosis counts it.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Feeds the diagnosis, and says on a terminal how far it is.
struct Watch {
    diagnosis: Diagnosis,
    watcher: Option<Watcher>,
    counting: Option<Counting>,
    gauge: Option<Gauge>,
    counted: Instant,
    began: Instant,
    duration: Duration,
    /// Updates are not later than that.
    settled_ns: u64,
    told: Option<Instant>,
    is_terminal: bool,
}

impl Watch {
    fn new(args: &DiagnoseArgs, watcher: Option<Watcher>, counting: Option<Counting>, gauge: Option<Gauge>) -> Self {
        let mut diagnosis = Diagnosis::new(now_ns(), nanoseconds(args.slow));
        if watcher.as_ref().is_some_and(Watcher::tells_reads) {
            diagnosis.begin_reads();
        }
        Self {
            diagnosis,
            watcher,
            counting,
            gauge,
            counted: Instant::now(),
            began: Instant::now(),
            duration: args.duration,
            settled_ns: SETTLED_NS + nanoseconds(args.latency),
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
                News::Read { at_ns, connection } => self.diagnosis.read(at_ns, connection),
                News::Limited { pid, limit } => self.diagnosis.limit(pid, limit),
            }
        }
    }

    /// Reads what the kernel side has counted. Returns up to when everything is known.
    fn count(&mut self) -> io::Result<Option<u64>> {
        let Some(counting) = &mut self.counting else { return Ok(None) };
        self.counted = Instant::now();
        let added = counting.read()?;
        let at_ns = now_ns();
        added.listeners.iter().for_each(|(listener, counted)| self.diagnosis.count(at_ns, *listener, counted));
        self.diagnosis.count_unattributed(added.unattributed);
        Ok(Some(at_ns))
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
        let Subject { key, role, local, .. } = update.subject;
        if let Some(counting) = &mut self.counting
            && role == Role::Listener
        {
            let found = match &update.happening {
                Happening::Transition { old: TcpState::Listen, .. } | Happening::Ended(_) => {
                    counting.close(key);
                    None
                }
                Happening::Transition { new: TcpState::Listen, .. } => Some(Found::Began { at_ns: update.at_ns }),
                Happening::Listed { .. } => Some(Found::There),
                Happening::AcceptFailed { .. } | Happening::Disagreed { found: Some(TcpState::Listen), .. } => {
                    Some(Found::Met)
                }
                // Its queue may be told after it has closed.
                _ => None,
            };
            // The connections to those for which there is no room are told as nobody's.
            let _is_followed = found.map(|found| counting.follow(key, local, found)).transpose()?;
        }
        self.diagnosis.take(update);
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        self.look_at_threads();
        if self.counting.is_none() {
            self.diagnosis.settle(now_ns().saturating_sub(self.settled_ns));
        } else if self.counted.elapsed() >= COUNT_EVERY
            && let Some(until_ns) = self.count()?
        {
            self.diagnosis.settle(until_ns);
        }
        if let Some(gauge) = &mut self.gauge {
            gauge.tick();
        }
        self.progress();
        Ok(())
    }
}

/// Findings that could not be made here.
fn not_looked_for(report: &Report, measuring: &Measuring) -> Vec<&'static str> {
    let of_each = OF_EACH.iter().filter(|_| report.is_counted);
    let of_table = OF_TABLE.iter().filter(|_| measuring.recorded_on.is_some());
    let of_threads = OF_THREADS.iter().filter(|_| !measuring.threads);
    of_each.chain(of_table).chain(of_threads).map(|name| name.word()).collect()
}

/// The verdict in a word.
pub(crate) fn word(report: &Report) -> &'static str {
    let nothing = report.listeners.iter().all(|listener| listener.waits() == 0);
    match report.findings.is_empty() {
        false => "findings",
        true if nothing => "nothing-seen",
        true => "healthy",
    }
}

/// The first sentence of every report: what was lost comes first, since all else stands on it.
pub(crate) fn verdict(report: &Report) -> String {
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
