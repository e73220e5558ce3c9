//! What is attached: what became of each probe, and what the kernel side lost. Dropping it detaches.

mod starter;

use std::{collections::HashMap, fs, io, os::fd::AsRawFd, thread};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
    programs::Program as AyaProgram,
    util::nr_cpus,
};
use sockwatch_common::{COUNTERS, Counter, Filter as WireFilter};

use self::starter::Starter;
use super::{
    gauge::{self, Gauge, Taken},
    probes::{Alternative, EMPTY, PROBES, Part, Probe, Program},
    refusal::Refusal,
    tallies::Tallies,
    threads,
};
use crate::{
    privilege::{Calls, Confined, Role, confine},
    tcp::{loss::Losses, reset::ResetReasons},
};

/// The smallest and largest ring buffer.
pub const RING_BYTES: std::ops::RangeInclusive<u32> = 64 << 10..=1 << 30;

/// The ring buffers' total size unless the user says otherwise.
const TOTAL_RING_BYTES: u32 = 32 << 20;
/// The smallest share that a CPU gets of it.
const LEAST_RING_BYTES: u32 = 256 << 10;

/// The size of each CPU's ring buffer unless the user says otherwise.
pub fn default_ring_bytes() -> u32 {
    let cpus = nr_cpus().unwrap_or(1).max(1) as u32;
    (TOTAL_RING_BYTES / cpus.next_power_of_two()).max(LEAST_RING_BYTES)
}

/// What to do with a probe instead of trying its alternatives in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Do not attach it.
    Off,
    /// Take this alternative or none.
    Only(String),
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Told to the kernel side.
    pub filter: WireFilter,
    /// Size of each CPU's ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Departures from the table.
    pub choices: HashMap<String, Choice>,
    /// The benchmark's yardstick.
    pub yardstick: Yardstick,
    /// Whether threads can be watched.
    pub threads: Threads,
    /// How much is told of connections.
    pub telling: Telling,
}

/// What the kernel side tells of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Each event.
    Events,
    /// How many there were and how long they waited, by listener. Only listeners have events.
    Tallies,
}

/// Whether what watches threads is attached too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// No.
    Ignored,
    /// Yes, if the kernel lets it: those of the processes that are asked for.
    Watched,
}

/// Whether the program that does nothing is attached too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yardstick {
    /// No.
    Without,
    /// Yes: the benchmark compares the others to it.
    Attached,
}

/// What became of a probe.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The table's row.
    pub probe: &'static Probe,
    /// The alternative that was taken.
    pub taken: Option<&'static Alternative>,
    /// Those that were tried before, and why not.
    pub refused: Vec<(&'static str, Refusal)>,
}

/// Whether one alternative of a probe attaches here.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The table's row.
    pub probe: &'static Probe,
    /// The alternative's name.
    pub alternative: &'static str,
    /// Why not, if it does not.
    pub refused: Option<Refusal>,
}

/// Why tracing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused the object itself.
    #[error("the kernel refuses eBPF: {0}")]
    Object(Refusal),
    /// A required probe could not be attached.
    #[error("the {probe} probe cannot be attached: {reasons}")]
    Probe {
        /// Its name.
        probe: &'static str,
        /// Every alternative and why not.
        reasons: String,
    },
    /// A filter for network namespaces, which only BTF finds in a socket.
    #[error("the kernel has no BTF, and without it a socket's network namespace cannot be told")]
    Namespaces,
    /// The object and this program do not fit together.
    #[error("the eBPF object is not the one that this program was built with: {0}")]
    Mismatch(String),
}

impl From<MapError> for StartError {
    fn from(error: MapError) -> Self {
        Self::Mismatch(error.to_string())
    }
}

/// Attaches and detaches every alternative of every probe, one after the other.
///
/// # Errors
/// A [`StartError`] if the kernel refuses eBPF altogether.
pub fn survey(options: &Options) -> Result<Vec<Tried>, StartError> {
    let mut starter = Starter::load(options)?;
    let _rings = starter.make_rings()?;
    let mut tried: Vec<Tried> = Vec::new();
    for probe in PROBES {
        for alternative in probe.alternatives {
            let refused = starter.try_alone(alternative).err();
            match tried.last_mut().filter(|last| last.probe.name == probe.name && last.alternative == alternative.name)
            {
                // Rows of one name are for different kernels: one of them is enough, and says why if none is.
                Some(last) if last.refused.is_none() || refused == Some(Refusal::NotNeeded) => {}
                Some(last) => last.refused = refused,
                None => tried.push(Tried { probe, alternative: alternative.name, refused }),
            }
        }
    }
    Ok(tried)
}

/// Attached programs. Dropping it detaches them.
pub struct Session {
    ebpf: Ebpf,
    counted: PerCpuArray<MapData, [u64; COUNTERS]>,
    members: aya::maps::HashMap<MapData, u64, u8>,
    #[cfg(feature = "probe-log")]
    log: Option<super::log::ProbeLog>,
    attached: Vec<Program>,
    /// Those that watch threads: what they miss is no event's loss.
    aside: Vec<Program>,
    outcomes: Vec<Outcome>,
    threads: Option<Result<threads::Threads, Refusal>>,
    tallies: Option<Tallies>,
    tells_cookies: bool,
    reset_reasons: ResetReasons,
}

impl Session {
    /// Loads the object and attaches the probes; hands out the ring buffer of each CPU.
    ///
    /// # Errors
    /// A [`StartError`] if the kernel refuses eBPF altogether, or every alternative of a required probe.
    pub fn start(options: &Options) -> Result<(Self, Vec<RingBuf<MapData>>), StartError> {
        let mut starter = Starter::load(options)?;
        let rings = starter.make_rings()?;
        for probe in PROBES {
            starter.attach_probe(probe)?;
            starter.set_accept_exits()?;
        }
        if options.yardstick == Yardstick::Attached {
            starter.attach(&EMPTY).map_err(StartError::Object)?;
        }
        let threads = (options.threads == Threads::Watched).then(|| starter.watch_threads());
        let (session, rings) = starter.finish(rings)?;
        Ok((Self { threads, ..session }, rings))
    }

    /// What connections are counted in, once; `None` if they are told one by one.
    pub fn take_tallies(&mut self) -> Option<Tallies> {
        self.tallies.take()
    }

    /// What watches threads, once; `None` if it was not asked for.
    pub fn take_threads(&mut self) -> Option<Result<threads::Threads, Refusal>> {
        self.threads.take()
    }

    /// What threads did, and was lost: records, and threads that the table had no room for.
    ///
    /// # Errors
    /// If the kernel does not let the counters be read.
    pub fn threads_lost(&self) -> io::Result<u64> {
        let per_cpu = self.counted.get(&0, 0).map_err(io::Error::other)?;
        let lost = [Counter::ThreadsLost, Counter::ThreadsFull];
        Ok(per_cpu.iter().flat_map(|counts| lost.map(|counter| counts[counter as usize])).sum())
    }

    /// What became of each probe, in the table's order.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Whether sockets are told apart by cookie. Without BTF only by address, which no listing tells.
    pub fn tells_cookies(&self) -> bool {
        self.tells_cookies
    }

    /// Whether the kernel lets the calling thread read maps, with the capabilities that it has now.
    pub fn may_read(&self) -> bool {
        !threads::is_refused(self.counted.get(&0, 0).err())
    }

    /// What a thread of this role could still do here: one is confined, and asked.
    pub fn confined(&self, role: &Role) -> Option<Confined> {
        let counted = &self.counted;
        let works = || !role.calls.contains(&Calls::Maps) || !threads::is_refused(counted.get(&0, 0).err());
        thread::scope(|scope| scope.spawn(|| confine(role, &[], works)).join().ok())
    }

    /// What this kernel's numbers of reasons for a RST mean.
    pub fn reset_reasons(&self) -> &ResetReasons {
        &self.reset_reasons
    }

    /// Lets sockets pass the process filter that were there before: whose owner no event will tell.
    ///
    /// # Errors
    /// If there are more than the kernel side can remember.
    pub fn remember(&mut self, cookies: &[u64]) -> io::Result<()> {
        cookies.iter().try_for_each(|cookie| self.members.insert(cookie, 1, 0)).map_err(io::Error::other)
    }

    /// Prints what the probes have logged.
    #[cfg(feature = "probe-log")]
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// What the kernel side has lost, summed over CPUs: its counters, and the programs' recursion misses.
    ///
    /// # Errors
    /// If the kernel does not let the counters be read.
    pub fn losses(&self) -> io::Result<Losses> {
        let per_cpu = self.counted.get(&0, 0).map_err(io::Error::other)?;
        let sum = |counter: Counter| per_cpu.iter().map(|counts| counts[counter as usize]).sum();
        Ok(Losses {
            ring_full: sum(Counter::RingFull),
            members_full: sum(Counter::MembersFull),
            skipped: self.skipped(),
            relieved: sum(Counter::Relieved),
            accepts_unmatched: sum(Counter::AcceptsUnmatched),
            // Counted, but its wait was not measured; or its acceptor is not known.
            waiting_room_full: sum(Counter::WaitingRoomFull) + sum(Counter::QueuedFull) + sum(Counter::AcceptorsFull),
            ..Losses::default()
        })
    }

    /// Runs that the kernel skipped because they would have interrupted another run of the same program on that CPU.
    fn skipped(&self) -> u64 {
        let first = self.attached.iter().filter(|program| program.part == Part::First && program.name != EMPTY.name);
        let programs = first.filter_map(|program| self.ebpf.program(program.name));
        // 5.12 and later.
        let misses = programs.filter_map(|program| counted(program, ["recursion_misses", ""]).ok());
        misses.map(|[misses, _]| misses).sum()
    }

    /// How often each program has run, and for how many nanoseconds; none unless the kernel counts it
    /// (`kernel.bpf_stats_enabled`).
    pub fn runs(&self) -> Vec<(&'static str, u64, u64)> {
        if gauge::is_always_on() { self.counted_runs(&self.attached) } else { Vec::new() }
    }

    fn counted_runs(&self, programs: &[Program]) -> Vec<(&'static str, u64, u64)> {
        let runs = programs.iter().filter_map(|Program { name, .. }| {
            let [runs, ns] = counted(self.ebpf.program(name)?, ["run_cnt", "run_time_ns"]).ok()?;
            (runs > 0).then_some((*name, runs, ns))
        });
        runs.collect()
    }

    /// Measures for a while what the programs take, if the kernel lets it.
    pub fn gauge(&self) -> Option<Gauge> {
        Gauge::start(self.all_runs())
    }

    /// What they took then.
    pub fn taken(&self, gauge: Gauge) -> Taken {
        gauge.taken(self.all_runs())
    }

    fn all_runs(&self) -> (u64, u64) {
        let all = [&self.attached, &self.aside].into_iter().flat_map(|programs| self.counted_runs(programs));
        all.fold((0, 0), |(runs, ns), (_, more_runs, more_ns)| (runs + more_runs, ns + more_ns))
    }
}

/// What the kernel counts of a program (`bpf_prog_info`), as its descriptor's `fdinfo` shows it; 0 where it does not.
fn counted(program: &AyaProgram, names: [&str; 2]) -> io::Result<[u64; 2]> {
    let fd = program.fd().map_err(io::Error::other)?;
    let path = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(fd).as_raw_fd());
    let text = fs::read_to_string(path)?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(names.map(|name| value(name).and_then(|value| value.trim().parse().ok()).unwrap_or(0)))
}
