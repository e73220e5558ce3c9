//! `sockwatch info`: what a recording holds.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::bail;
use serde::Serialize;
use sockwatch::{
    recording::{
        Mark, Said, document,
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

/// What the files of a recording hold.
#[derive(Debug, Default, Serialize)]
struct Info {
    /// Who recorded it.
    sockwatch: String,
    kernel: String,
    host: String,
    source: String,
    probes: String,
    filter: String,
    files: Vec<FileInfo>,
    /// Unix times of the first and the last tick, in nanoseconds.
    first_unix_ns: Option<u64>,
    last_unix_ns: Option<u64>,
    /// How far the wall clock moved against CLOCK_MONOTONIC meanwhile, in nanoseconds.
    clock_moved_ns: i64,
    events: u64,
    /// Comparisons with the kernel's socket table.
    rounds: u64,
    processes: u64,
    bytes: u64,
    bytes_per_event: f64,
    lost: u64,
    missed: u64,
    dropped: u64,
    accepts_unmatched: u64,
}

/// One file.
#[derive(Debug, Serialize)]
struct FileInfo {
    path: String,
    bytes: u64,
    rows: u64,
    batches: u64,
    /// Whether it ends with its mark.
    complete: bool,
    /// Rows of kinds that this version does not know.
    not_understood: u64,
}

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let mut info = Info::default();
    let (mut cuts, mut damage) = (Vec::new(), None);
    let mut losses = Losses::default();
    for mut file in open(&args.files)? {
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
    /// Reads a file.
    fn add(&mut self, file: &mut Reader, losses: &mut Losses) -> Result<(), sockwatch::recording::FormatError> {
        let header = file.header().clone();
        let mut wall_offset_ns = header.wall_offset_ns;
        self.first_unix_ns.get_or_insert(header.started_ns.saturating_add(wall_offset_ns));
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
        (self.sockwatch, self.kernel, self.host) = (header.sockwatch, header.kernel, header.host);
        (self.source, self.probes, self.filter) = (header.source, header.probes, header.filter);
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
        if let (Some(first), Some(last)) = (self.first_unix_ns, self.last_unix_ns) {
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
