//! `sockwatch info`: what a recording holds.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    recording::{
        Mark, Said, document,
        header::Header,
        reader::{End, Reader},
    },
    sink::{
        quantity::{Short, Size},
        time_of_day::utc,
    },
    source::recording::cut,
    tcp::loss::{COUNTED, Losses},
};

use super::replay::open;
use crate::cli::{Format, InfoArgs};

/// The version of the JSON. What is not known is absent, never null. A field may be added within a version; one that changes or goes
/// makes a new version.
const VERSION: u32 = 1;

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
    /// How far the wall clock moved against CLOCK_MONOTONIC meanwhile, in nanoseconds.
    clock_moved_ns: i64,
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
    /// Rows of kinds that this version does not know.
    not_understood: u64,
}

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let files = open(&args.files)?;
    let mut info = Info::of(files.first().context("no file")?.header());
    let (mut cuts, mut damage) = (Vec::new(), None);
    let mut losses = Losses::default();
    for mut file in files {
        let read = info.add(&mut file, &mut losses);
        cuts.extend(cut(&file).map(|what| format!("{} {what}", file.path().display())));
        if let Err(error) = read {
            damage = Some(format!("{}: {error}", file.path().display()));
            break;
        }
    }
    info.bytes_per_event = if info.events == 0 { 0.0 } else { info.bytes as f64 / info.events as f64 };
    (info.lost, info.missed, info.dropped) = (losses.lost(), losses.missed(), losses.dropped());
    info.accepts_unmatched = losses.accepts_unmatched;
    let mut out = io::stdout();
    match args.format {
        Format::Text => info.print(&mut out, &cuts)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&info)?)?,
    }
    match damage {
        Some(damage) => bail!("{damage}; the figures are of what is before that"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// `sockwatch recording-format`: the page that is committed as docs/recording.md.
pub(crate) fn format() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{}", document::page())?;
    Ok(ExitCode::SUCCESS)
}

impl Info {
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
            clock_moved_ns: 0,
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
    fn add(&mut self, file: &mut Reader, losses: &mut Losses) -> Result<(), sockwatch::recording::FormatError> {
        let mut wall_offset_ns = file.header().wall_offset_ns;
        let mut said = Said::default();
        let read = loop {
            match file.next(&mut said) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
            self.events += said.events.len() as u64;
            for (_, mark) in &said.marks {
                match *mark {
                    Mark::Tick { now_ns } => self.last_unix_ns = Some(now_ns.saturating_add(wall_offset_ns)),
                    Mark::Loss { index, count } => {
                        if let Some((_, counted)) = COUNTED.get(index) {
                            *counted(losses) = count;
                        }
                    }
                    Mark::Clock { wall_offset_ns: now, .. } => {
                        self.clock_moved_ns += now.wrapping_sub(wall_offset_ns).cast_signed();
                        wall_offset_ns = now;
                    }
                    Mark::RoundExpected => {}
                    Mark::Round(_) => self.rounds += 1,
                    Mark::Process(_) => self.processes += 1,
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
            not_understood: file.not_understood(),
        });
        self.bytes += file.bytes();
        read
    }

    fn print(&self, out: &mut impl Write, cuts: &[String]) -> io::Result<()> {
        let loss = self.lost + self.missed + self.dropped;
        match loss {
            0 => writeln!(out, "nothing was lost")?,
            _ => writeln!(
                out,
                "NOT COMPLETE: lost {}, missed {}, dropped {} (`sockwatch explain lost`)",
                self.lost, self.missed, self.dropped
            )?,
        }
        for cut in cuts {
            writeln!(out, "{cut}")?;
        }
        writeln!(out)?;
        if let (first, Some(last)) = (self.first_unix_ns, self.last_unix_ns) {
            let lasted = Short(last.saturating_sub(first).cast_signed());
            writeln!(out, "time      {} to {} UTC ({lasted})", utc(first), utc(last))?;
        }
        let moved = self.clock_moved_ns;
        if moved.unsigned_abs() >= 1_000_000 {
            writeln!(out, "clock     the time of day moved by {} against the events' clock", Short(moved))?;
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
