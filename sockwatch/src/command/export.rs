//! `sockwatch export`: a recording for other programs.

use std::{
    fs,
    io::{self, BufWriter, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use sockwatch::{
    diagnosis::words::count,
    export::{
        Connections, Csv, Folded, Parquet, Partitions, Parts, Perfetto, Redacted, Redaction, There, document, schema,
        without_instance,
    },
    pipeline::{self, Limits, Totals},
    process::names::Names,
    recording::header::Header,
    sink::{
        Clock, Show, Sink, Why,
        json::{Json, Start, VERSION},
        selected::{Selected, Selection},
    },
    source::recording::{Opened, Recording},
};

use super::{
    pending::Pending,
    replay::{filter, open, warn},
    signals::Stop,
    start, tell,
};
use crate::cli::{ExportArgs, ExportFormat};

const BUFFER_BYTES: usize = 1 << 16;

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let format = format_of(args)?;
    let redaction = args.redact.as_deref().map(redaction).transpose()?;
    let files = open(&args.files)?;
    let mut header = files.header().clone();
    if let Some(redaction) = &redaction {
        redaction.header(&mut header);
    }
    let (first, last) = files.parts();
    let parts = Parts { recording: header.recording.clone(), first, last };
    let selection = filter(&args.filter)?;
    let Opened { mut recording, ended } = files.recording(None);
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let names = Names::told(recording.names());
    let names = if redaction.is_some() { names.showing(without_instance) } else { names };
    let mut export = Export { header, names, redaction, selection };
    let destination = Destination::of(args, format, &export.header, parts)?;
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let over = async {
            tokio::select! {
                () = stop.wait() => tell(format_args!("sockwatch: warning: stopped: what comes later is not exported")),
                _ = ended => {}
            }
        };
        let (told, totals) = match destination {
            Destination::Partitions(partitions) => export.partitions(partitions, &mut recording, over).await?,
            Destination::Output => {
                let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
                export.write(format, out, &mut recording, over).await?
            }
            Destination::File(file) => {
                let out = BufWriter::with_capacity(BUFFER_BYTES, file.file.try_clone()?);
                let written = export.write(format, out, &mut recording, over).await?;
                file.keep()?;
                written
            }
        };
        recording.read().iter().for_each(warn);
        let losses = &totals.losses;
        tell(format_args!(
            "sockwatch: {told} of {} events; lost={} missed={} dropped={}",
            totals.events,
            losses.lost(),
            losses.missed(),
            losses.dropped()
        ));
        if let Some(damage) = recording.damage() {
            bail!("{damage}; all else was exported");
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `sockwatch export-format`: the page that is committed as docs/export.md.
pub(crate) fn format() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{}", document::page())?;
    Ok(ExitCode::SUCCESS)
}

/// What to make of it.
fn format_of(args: &ExportArgs) -> anyhow::Result<ExportFormat> {
    if args.partition {
        ensure!(
            matches!(args.to, None | Some(ExportFormat::Parquet)),
            "--partition writes Parquet files: leave --to out"
        );
        return Ok(ExportFormat::Parquet);
    }
    if let Some(format) = args.to {
        return Ok(format);
    }
    let Some(path) = &args.output else {
        bail!("what shall it be? --to csv, jsonl, folded, parquet or perfetto; or -o FILE with such a name")
    };
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    Ok(match extension.as_deref() {
        Some("parquet") => ExportFormat::Parquet,
        Some("csv") => ExportFormat::Csv,
        Some("jsonl" | "ndjson") => ExportFormat::Jsonl,
        Some("pftrace" | "perfetto-trace") => ExportFormat::Perfetto,
        Some("folded") => ExportFormat::Folded,
        _ => bail!(
            "{}: its name does not tell the format (.parquet, .csv, .jsonl, .pftrace, .folded): say it with --to",
            path.display()
        ),
    })
}

/// The key, or a file with it: all its bytes, but for a line's end behind them.
pub(crate) fn redaction(word: &str) -> anyhow::Result<Redaction> {
    let key = match word.strip_prefix('@') {
        Some(path) => {
            let mut key = fs::read(path).with_context(|| format!("--redact: cannot read the key from {path}"))?;
            for end in *b"\n\r" {
                key.pop_if(|last| *last == end);
            }
            key
        }
        None => word.as_bytes().to_owned(),
    };
    ensure!(!key.is_empty(), "--redact: the key is empty, so that anybody could tell the addresses");
    Ok(Redaction::new(&key))
}

/// Where it goes.
enum Destination {
    Output,
    File(Pending),
    Partitions(Partitions),
}

impl Destination {
    fn of(args: &ExportArgs, format: ExportFormat, header: &Header, parts: Parts) -> anyhow::Result<Self> {
        let Some(path) = args.output.as_deref().filter(|path| *path != Path::new("-")) else {
            let binary = matches!(format, ExportFormat::Parquet | ExportFormat::Perfetto);
            ensure!(!(binary && io::stdout().is_terminal()), "this is not for a terminal: write it to a file with -o");
            return Ok(Self::Output);
        };
        if args.partition {
            let there = if args.force { There::Replaced } else { There::Kept };
            return Ok(Self::Partitions(Partitions::new(path.to_owned(), &header.host, parts, there, &schema())?));
        }
        Ok(Self::File(Pending::begin(path, args.force)?))
    }
}

/// What goes into every format.
struct Export {
    header: Header,
    names: Names,
    redaction: Option<Redaction>,
    selection: Selection,
}

impl Export {
    /// Writes it; returns what to say of it.
    async fn write(
        &mut self,
        format: ExportFormat,
        mut out: impl Write + Send,
        recording: &mut Recording,
        over: impl Future<Output = ()>,
    ) -> anyhow::Result<(String, Totals)> {
        let names = std::mem::take(&mut self.names);
        let header = self.header.clone();
        match format {
            ExportFormat::Csv => {
                let sink = Connections::new(Csv::new(out), &header, recording.wall(), names);
                let (sink, totals) = self.pour(recording, sink, over).await?;
                let (table, rows) = sink.finish()?;
                table.into_inner().flush().context("cannot write the output")?;
                Ok((count(rows, "row").to_string(), totals))
            }
            ExportFormat::Parquet => {
                let sink = Connections::new(Parquet::new(out, schema())?, &header, recording.wall(), names);
                let (sink, totals) = self.pour(recording, sink, over).await?;
                let (table, rows) = sink.finish()?;
                table.finish()?.flush().context("cannot write the output")?;
                Ok((count(rows, "row").to_string(), totals))
            }
            ExportFormat::Jsonl => {
                let clock = Clock::Wall(recording.wall());
                let start = Start {
                    version: VERSION,
                    sockwatch: env!("CARGO_PKG_VERSION"),
                    kernel: &header.kernel,
                    source: &header.source,
                    clock: clock.word(),
                    start_monotonic_ns: header.started_ns,
                    wall_offset_ns: header.wall_offset_ns,
                };
                let json = Json::new(&mut out, EVERYTHING, clock, start).context("cannot write the output")?;
                let json = json.naming(header.reset_reasons.clone()).knowing(names);
                let (mut json, totals) = self.pour(recording, json, over).await?;
                json.end(&totals).context("cannot write the output")?;
                drop(json);
                out.flush().context("cannot write the output")?;
                Ok((count(totals.connections, "finished connection").to_string(), totals))
            }
            ExportFormat::Perfetto => {
                let sink = Perfetto::new(out, &header, recording.wall(), names).context("cannot write the output")?;
                let (sink, totals) = self.pour(recording, sink, over).await?;
                let (_, slices) = sink.finish(&totals).context("cannot write the output")?;
                Ok((count(slices, "slice").to_string(), totals))
            }
            ExportFormat::Folded => {
                let (sink, totals) = self.pour(recording, Folded::default(), over).await?;
                sink.print(&mut out).and_then(|()| out.flush()).context("cannot write the output")?;
                Ok((count(totals.connections, "finished connection").to_string(), totals))
            }
        }
    }

    async fn partitions(
        &mut self,
        partitions: Partitions,
        recording: &mut Recording,
        over: impl Future<Output = ()>,
    ) -> anyhow::Result<(String, Totals)> {
        let names = std::mem::take(&mut self.names);
        let sink = Connections::new(partitions, &self.header.clone(), recording.wall(), names);
        let (sink, totals) = self.pour(recording, sink, over).await?;
        let (partitions, rows) = sink.finish()?;
        let files = partitions.finish()?;
        for file in &files {
            tell(format_args!("sockwatch: {}", file.display()));
        }
        Ok((format!("{} in {}", count(rows, "row"), count(files.len() as u64, "file")), totals))
    }

    /// Replays the recording into a sink.
    async fn pour<S: Sink>(
        &mut self,
        recording: &mut Recording,
        sink: S,
        over: impl Future<Output = ()>,
    ) -> anyhow::Result<(S, Totals)> {
        let sink = Redacted { sink, redaction: self.redaction.clone() };
        let mut selected = Selected { sink, selection: Some(std::mem::take(&mut self.selection)) };
        let totals = pipeline::run(recording, &mut selected, Limits::default(), over).await?;
        Ok((selected.sink.sink, totals))
    }
}

const EVERYTHING: Show =
    Show { transitions: true, connections: true, queues: true, disagreements: true, why: Why::Told };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn format(options: &str) -> Result<ExportFormat, String> {
        let line = ["sockwatch", "export", "web.swr"].into_iter().chain(options.split_whitespace());
        let Command::Export(args) = Cli::try_parse_from(line).unwrap().command else { panic!("no export") };
        format_of(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_or_a_word_tells_the_format() {
        assert_eq!(format("-o a.parquet"), Ok(ExportFormat::Parquet));
        assert_eq!(format("-o a.PFTRACE"), Ok(ExportFormat::Perfetto));
        assert_eq!(format("-o a.parquet --to csv"), Ok(ExportFormat::Csv));
        assert_eq!(format("-o lake --partition"), Ok(ExportFormat::Parquet));
        assert!(format("-o lake --partition --to csv").unwrap_err().contains("--partition"));
        assert!(format("-o a.txt").unwrap_err().contains("--to"));
        assert!(format("").unwrap_err().contains("--to"));
    }

    #[test]
    fn an_empty_key_hides_nothing() {
        assert!(redaction("").is_err());
        assert!(redaction("@/dev/null").is_err());
        assert!(redaction("key").is_ok());
    }
}
