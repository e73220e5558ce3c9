//! `sockwatch trace`: transitions and finished connections as they happen.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use sockwatch::{
    monotonic::{now_ns, wall_offset_ns},
    pipeline::{self, Limits, Totals},
    process::names::Names,
    recording::{header::Header, writer::Recorder},
    sink::{
        Clock, Show, Why,
        json::{Json, Start, VERSION},
        selected::{Selected, Selection},
        text::{Colour, Text},
        wall::Wall,
    },
    source::{Source, recorded::Recorded},
    tcp::reset::ResetReasons,
};

use super::{
    filter, record,
    signals::Stop,
    start::{self, Started},
    tell, time_of_day, wants_colour,
};
use crate::cli::{Format, ShowArgs, Time, TraceArgs};

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let resolved = filter::resolve(&args.filter)?;
    refuse_to_overwrite(&args.show)?;
    start::prepare();
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let (started_ns, wall_offset_ns) = (now_ns(), wall_offset_ns());
        let clock = clock_of(args.show.time, started_ns, &time_of_day::follow()?);
        let mut source = start::source(&args.collect, &resolved)?;
        if args.show.queues && matches!(source, Started::Poll(_)) {
            bail!(
                "--queues: polling sees neither who enters an accept queue nor who leaves it, only how deep it is: \
                 `LISTEN queue 3/128` among --transitions"
            );
        }
        let header = Header { started_ns, wall_offset_ns, ..record::header(&source, &args.filter) };
        let origin = Origin::of(&header, Names::default());
        let limits = Limits { duration: args.show.duration, connections: args.show.count };
        let Some(path) = &args.record else {
            // Last: an error before leaves no empty file behind.
            let output = output(&args.show)?;
            source.announce(&args.collect);
            source.confine(args.collect.sandbox.wanted());
            let totals = show(&mut source, &args.show, clock, origin, limits, output, stop.wait()).await?;
            summary(&totals, source.bytes());
            return Ok(ExitCode::SUCCESS);
        };
        let recorder = Recorder::start(header, record::plain(path, args.collect.sandbox.wanted()))?;
        // Nothing is in it yet: no empty recording is left behind.
        let output = output(&args.show).inspect_err(|_| drop(fs::remove_file(path)))?;
        source.announce(&args.collect);
        source.confine(args.collect.sandbox.wanted());
        let mut recorded = Recorded::new(source, recorder);
        let shown = show(&mut recorded, &args.show, clock, origin, limits, output, stop.wait()).await;
        // Whatever happened to the output.
        let (source, written) = recorded.finish()?;
        let totals = shown?;
        summary(&totals, source.bytes());
        record::told(&written);
        Ok(ExitCode::SUCCESS)
    })
}

/// Fails if the output exists.
pub(crate) fn refuse_to_overwrite(args: &ShowArgs) -> anyhow::Result<()> {
    if let Some(path) = args.output.as_deref().filter(|path| path.exists()) {
        bail!("--output {}: it exists, and sockwatch overwrites nothing", path.display());
    }
    Ok(())
}

/// Where lines go, and whether it is a terminal.
pub(crate) fn output(args: &ShowArgs) -> anyhow::Result<Box<dyn Write>> {
    let Some(path) = &args.output else { return Ok(Box::new(io::stdout())) };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("cannot create --output {}", path.display()))?;
    Ok(Box::new(file))
}

/// The clock that times are shown on; relative times count from now.
pub(crate) fn clock(time: Time) -> Clock {
    clock_of(time, now_ns(), &Wall::of(wall_offset_ns()))
}

/// The same of what began at another time, or on another machine.
pub(crate) fn clock_of(time: Time, started_ns: u64, wall: &Wall) -> Clock {
    match time {
        Time::Relative => Clock::Relative { start_ns: started_ns },
        Time::Wall => Clock::Wall(wall.clone()),
        Time::Monotonic => Clock::Monotonic,
    }
}

/// Where updates come from, and what goes with them.
pub(crate) struct Origin {
    /// `ebpf` or `poll`.
    pub(crate) source: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// `CLOCK_MONOTONIC` when it began.
    pub(crate) started_ns: u64,
    /// The Unix time when that was 0.
    pub(crate) wall_offset_ns: u64,
    /// What the kernel's numbers of reasons for a RST mean.
    pub(crate) reasons: ResetReasons,
    /// What processes are called.
    pub(crate) names: Names,
    /// What is shown; everything where the kernel has filtered.
    pub(crate) selection: Option<Selection>,
}

impl Origin {
    /// Where a recording came from, or would come from.
    pub(crate) fn of(header: &Header, names: Names) -> Self {
        Self {
            source: header.source.clone(),
            kernel: header.kernel.clone(),
            started_ns: header.started_ns,
            wall_offset_ns: header.wall_offset_ns,
            reasons: header.reset_reasons.clone(),
            names,
            selection: None,
        }
    }
}

/// Runs a source into the sink that was asked for.
pub(crate) async fn show(
    source: &mut impl Source,
    args: &ShowArgs,
    clock: Clock,
    origin: Origin,
    limits: Limits,
    output: Box<dyn Write>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Totals> {
    let show = what(args);
    let Origin { reasons, names, selection, .. } = origin;
    match args.format {
        Format::Text => {
            let colour = if args.output.is_none() && wants_colour() { Colour::On } else { Colour::Off };
            let sink = Text::new(output, show, clock, colour).naming(reasons).knowing(names);
            Ok(pipeline::run(source, &mut Selected { sink, selection }, limits, stop).await?)
        }
        Format::Json => {
            let start = Start {
                version: VERSION,
                sockwatch: env!("CARGO_PKG_VERSION"),
                kernel: &origin.kernel,
                source: &origin.source,
                clock: clock.word(),
                start_monotonic_ns: origin.started_ns,
                wall_offset_ns: origin.wall_offset_ns,
            };
            let sink = Json::new(output, show, clock, start).context("cannot write the output")?;
            let sink = sink.naming(reasons).knowing(names);
            let mut selected = Selected { sink, selection };
            let totals = pipeline::run(source, &mut selected, limits, stop).await?;
            selected.sink.end(&totals).context("cannot write the output")?;
            Ok(totals)
        }
    }
}

/// What was asked for. A sentence stands below its connection, so who asks for sentences asks for connections.
fn what(args: &ShowArgs) -> Show {
    let all = !args.transitions && !args.connections && !args.queues;
    Show {
        transitions: all || args.transitions,
        connections: all || args.connections || args.why,
        queues: args.queues || all && args.format == Format::Json,
        disagreements: true,
        why: if args.why { Why::Told } else { Why::Untold },
    }
}

/// The first line in JSON.
pub(crate) fn start_line<'a>(clock: &Clock, source: &'a str, kernel: &'a str) -> Start<'a> {
    Start {
        version: VERSION,
        sockwatch: env!("CARGO_PKG_VERSION"),
        kernel,
        source,
        clock: clock.word(),
        start_monotonic_ns: match clock {
            Clock::Relative { start_ns } => *start_ns,
            Clock::Wall(_) | Clock::Monotonic => now_ns(),
        },
        wall_offset_ns: wall_offset_ns(),
    }
}

/// The last line on stderr: what was seen and what was not.
pub(crate) fn summary(totals: &Totals, bytes: u64) {
    let losses = &totals.losses;
    tell(format_args!(
        "sockwatch: events={} bytes={bytes} connections={} lost={} missed={} unmatched={} dropped={} late={} unexpected={} repaired={}",
        totals.events,
        totals.connections,
        losses.lost(),
        losses.missed(),
        losses.accepts_unmatched,
        losses.dropped(),
        losses.late,
        losses.unexpected_transitions,
        losses.repaired,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    /// What a command line shows: t(ransitions), c(onnections), q(ueues), w(hy).
    #[track_caller]
    fn check(options: &str, expected: &str) {
        let line = ["sockwatch", "trace"].into_iter().chain(options.split_whitespace());
        let Command::Trace(args) = Cli::try_parse_from(line).unwrap().command else { panic!("no trace") };
        let Show { transitions, connections, queues, why, disagreements: _ } = what(&args.show);
        let shown = [(transitions, 't'), (connections, 'c'), (queues, 'q'), (why == Why::Told, 'w')];
        let shown: String = shown.iter().filter(|(shown, _)| *shown).map(|(_, letter)| letter).collect();
        assert_eq!(shown, expected, "{options}");
    }

    #[test]
    fn what_is_asked_for_is_shown() {
        check("", "tc");
        check("--format json", "tcq");
        check("--transitions", "t");
        check("--connections", "c");
        check("--queues", "q");
        check("--why", "tcw");
        check("--queues --why", "cqw");
        check("--transitions --why", "tcw");
        check("--connections --why", "cw");
    }
}
