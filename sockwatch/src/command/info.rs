//! `sockwatch info`: what a recording holds.

use std::{
    collections::HashSet,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::bail;
use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    process::names::Named,
    recording::{
        Mark, Said, document,
        header::Header,
        reader::{End, Reader},
    },
    sink::{
        quantity::{Short, Size},
        time_of_day::utc,
        wall::{Move, Wall},
    },
    source::recording::{cut, damage, rest::Rest},
    tcp::loss::{COUNTED, Losses},
};

use super::replay::{open_all, say, warn_of_gaps};
use crate::cli::{Format, InfoArgs};

/// The version of the JSON. What is not known is absent, never null. A field may be added within a version; one that changes or goes
/// makes a new version.
const VERSION: u32 = 1;

/// Processes that are told apart: what further rows name is counted each time.
const MOST_PROCESSES: usize = 1_000_000;

/// Moves of the clock that are told one by one.
const MOST_MOVES: usize = 10;

/// What `sockwatch info --format json` prints: what the files of a recording hold.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Info {
    /// The format's version.
    version: u32,
    /// The version of the sockwatch that recorded it.
    sockwatch: String,
    /// The kernel's release.
    kernel: String,
    /// The machine's name.
    host: String,
    /// Where events came from: `ebpf` or `poll`.
    source: String,
    /// Each probe with the alternative that was taken: `state=btf accept=fexit`; empty when polling.
    probes: String,
    /// The filter's words; empty: all sockets.
    filter: String,
    /// In the order in which they were written.
    files: Vec<FileInfo>,
    /// Unix time of the beginning, in nanoseconds.
    first_unix_ns: u64,
    /// Unix time of the last batch of events, in nanoseconds; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_unix_ns: Option<u64>,
    /// How long that is on CLOCK_MONOTONIC, in nanoseconds.
    lasted_ns: u64,
    /// How far the wall clock moved against CLOCK_MONOTONIC meanwhile, in nanoseconds.
    clock_moved_ns: i64,
    /// Each of these moves: somebody set the clock, or the machine slept.
    clock_moves: Vec<ClockMove>,
    /// Events.
    events: u64,
    /// Comparisons with the kernel's socket table.
    rounds: u64,
    /// Processes that are named.
    processes: u64,
    /// The files' sizes together.
    bytes: u64,
    /// The same for each event; 0 without events.
    bytes_per_event: f64,
    /// Events that found the kernel's buffer full.
    lost: u64,
    /// Events that the kernel skipped.
    missed: u64,
    /// Events that sockwatch discarded.
    dropped: u64,
    /// Accepts of which nothing told the connection.
    accepts_unmatched: u64,
}

/// One file.
#[derive(Debug, Serialize, JsonSchema)]
struct FileInfo {
    /// Where it is.
    path: String,
    /// Its size, as far as it could be read.
    bytes: u64,
    /// Rows of its table: events, and what is said between them.
    rows: u64,
    /// Record batches.
    batches: u64,
    /// Whether it ends with its mark.
    complete: bool,
    /// How it ends if it does not: it is still written, or was cut.
    #[serde(skip)]
    cut: Option<&'static str>,
    /// From where on it makes no sense, and why; absent if it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
    /// Rows of kinds that this version does not know.
    not_understood: u64,
}

/// A move of the wall clock against CLOCK_MONOTONIC.
#[derive(Debug, Serialize, JsonSchema)]
struct ClockMove {
    /// CLOCK_MONOTONIC when it was noticed, in nanoseconds.
    at_monotonic_ns: u64,
    /// Unix time that it moved to, in nanoseconds.
    to_unix_ns: u64,
    /// By how much, in nanoseconds; negative: back.
    moved_ns: i64,
}

impl From<Move> for ClockMove {
    fn from(Move { at_ns, to_unix_ns, moved_ns }: Move) -> Self {
        Self { at_monotonic_ns: at_ns, to_unix_ns, moved_ns }
    }
}

/// What goes on from file to file.
struct Known {
    started_ns: u64,
    wall: Wall,
    losses: Losses,
    /// The first files are missing.
    rest: Option<Rest>,
    /// Processes by number and start: each file names its own.
    named: HashSet<(u32, u64)>,
}

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let (recordings, mut damaged) = open_all(&args.files, &say)?;
    let mut out = io::stdout();
    for (index, files) in recordings.into_iter().enumerate() {
        warn_of_gaps(&files, &say)?;
        let info = Info::read(files);
        damaged.extend(info.files.iter().filter_map(|file| Some(format!("{}: {}", file.path, file.damage.as_ref()?))));
        match args.format {
            Format::Text => {
                if index > 0 {
                    writeln!(out)?;
                }
                info.print(&mut out)?;
            }
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&info)?)?,
        }
    }
    match damage(&damaged) {
        Some(damage) => bail!("{damage}; the figures are of all else"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// `sockwatch recording-format`: the page that is committed as docs/recording.md.
pub(crate) fn format() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{}", document::page())?;
    Ok(ExitCode::SUCCESS)
}

impl Info {
    /// Of the files of a recording.
    fn read(files: Vec<Reader>) -> Self {
        let header = files.first().expect("a recording has a file").header();
        let mut known = Known {
            started_ns: header.started_ns,
            wall: Wall::of(header.wall_offset_ns),
            losses: Losses::default(),
            rest: (header.part > 1).then(Rest::default),
            named: HashSet::new(),
        };
        let mut info = Self::of(header);
        for mut file in files {
            info.add(&mut file, &mut known);
        }
        info.bytes_per_event = if info.events == 0 { 0.0 } else { info.bytes as f64 / info.events as f64 };
        let Known { wall, losses, rest, .. } = known;
        let moves = wall.moves();
        info.clock_moved_ns = moves.iter().map(|it| it.moved_ns).fold(0, i64::wrapping_add);
        info.clock_moves = moves.into_iter().map(ClockMove::from).collect();
        let losses = rest.map_or(losses, |rest| rest.losses(losses));
        (info.lost, info.missed, info.dropped) = (losses.lost(), losses.missed(), losses.dropped());
        info.accepts_unmatched = losses.accepts_unmatched;
        info
    }

    /// Nothing is read yet.
    fn of(header: &Header) -> Self {
        Self {
            version: VERSION,
            sockwatch: header.sockwatch.clone(),
            kernel: header.kernel.clone(),
            host: header.host.clone(),
            source: header.source.clone(),
            probes: header.probes.clone(),
            filter: header.filter.clone(),
            files: Vec::new(),
            first_unix_ns: header.started_ns.saturating_add(header.wall_offset_ns),
            last_unix_ns: None,
            lasted_ns: 0,
            clock_moved_ns: 0,
            clock_moves: Vec::new(),
            events: 0,
            rounds: 0,
            processes: 0,
            bytes: 0,
            bytes_per_event: 0.0,
            lost: 0,
            missed: 0,
            dropped: 0,
            accepts_unmatched: 0,
        }
    }

    /// Reads a file.
    fn add(&mut self, file: &mut Reader, known: &mut Known) {
        let Known { started_ns, wall, losses, rest, named } = known;
        wall.tell(file.header().started_ns, file.header().wall_offset_ns);
        let mut said = Said::default();
        let damage = loop {
            match file.next(&mut said) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error.to_string()),
            }
            self.events += said.events.len() as u64;
            for (_, mark) in &said.marks {
                match mark {
                    &Mark::Tick { now_ns } => {
                        self.last_unix_ns = Some(wall.unix_ns(now_ns));
                        self.lasted_ns = now_ns.saturating_sub(*started_ns);
                        rest.iter_mut().for_each(Rest::begin);
                    }
                    &Mark::Loss { index, count } | &Mark::LostBefore { index, count } => {
                        if let Some((_, counted)) = COUNTED.get(index) {
                            *counted(losses) = count;
                        }
                        if let (Mark::LostBefore { .. }, Some(rest)) = (mark, rest.as_mut()) {
                            rest.lost_before(index, count);
                        }
                    }
                    &Mark::Clock { at_ns, wall_offset_ns } => wall.tell(at_ns, wall_offset_ns),
                    Mark::RoundExpected => {}
                    Mark::Round(_) => self.rounds += 1,
                    Mark::Process(Named { started_ns, process }) => {
                        let is_new = named.len() >= MOST_PROCESSES || named.insert((process.pid, *started_ns));
                        self.processes += u64::from(is_new);
                    }
                }
            }
            said.clear();
        };
        self.files.push(FileInfo {
            path: file.path().display().to_string(),
            bytes: file.bytes(),
            rows: file.rows(),
            batches: file.batches(),
            complete: file.end() == Some(End::Marked),
            cut: cut(file),
            damage,
            not_understood: file.not_understood(),
        });
        self.bytes += file.bytes();
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let loss = self.lost + self.missed + self.dropped;
        match loss {
            0 if self.files.iter().any(|file| file.damage.is_some()) => writeln!(out, "NOT COMPLETE: damaged")?,
            0 => writeln!(out, "nothing was lost")?,
            _ => writeln!(
                out,
                "NOT COMPLETE: lost {}, missed {}, dropped {} (`sockwatch explain lost`)",
                self.lost, self.missed, self.dropped
            )?,
        }
        for FileInfo { path, cut, damage, .. } in &self.files {
            if let Some(what) = damage.as_deref().or(*cut) {
                writeln!(out, "{path} {what}")?;
            }
        }
        writeln!(out)?;
        if let (first, Some(last)) = (self.first_unix_ns, self.last_unix_ns) {
            let lasted = Short(self.lasted_ns.cast_signed());
            writeln!(out, "time      {} to {} UTC ({lasted})", utc(first), utc(last))?;
        }
        for moved in self.clock_moves.iter().take(MOST_MOVES) {
            let (by, to) = (Short(moved.moved_ns), utc(moved.to_unix_ns));
            writeln!(out, "clock     the time of day moved by {by} to {to} UTC")?;
        }
        if let more @ 1.. = self.clock_moves.len().saturating_sub(MOST_MOVES) {
            writeln!(out, "clock     it moved {more} times more, by {} in all", Short(self.clock_moved_ns))?;
        }
        writeln!(out, "machine   {}, Linux {}", self.host, self.kernel)?;
        writeln!(out, "recorded  by sockwatch {}, {}", self.sockwatch, self.source)?;
        if !self.probes.is_empty() {
            writeln!(out, "probes    {}", self.probes)?;
        }
        let filter = if self.filter.is_empty() { "none: all sockets" } else { &self.filter };
        writeln!(out, "filter    {filter}")?;
        writeln!(
            out,
            "holds     {} events, {} processes, {} comparisons with the kernel's socket table",
            self.events, self.processes, self.rounds
        )?;
        writeln!(out, "size      {} in all, {:.1} bytes per event", Size(self.bytes), self.bytes_per_event)?;
        for file in &self.files {
            let end = if file.complete { "" } else { ", no end mark" };
            writeln!(
                out,
                "file      {}: {}, {} rows in {} batches{end}",
                file.path,
                Size(file.bytes),
                file.rows,
                file.batches
            )?;
            if file.not_understood > 0 {
                writeln!(out, "          {} rows are not understood by this version", file.not_understood)?;
            }
        }
        Ok(())
    }
}
