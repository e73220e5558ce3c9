//! `sockwatch trace`: transitions and finished connections as they happen.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use sockwatch::{
    kernel::check::kernel_release,
    monotonic::{now_ns, wall_offset_ns},
    pipeline::{self, Limits, Totals},
    sink::{
        Clock, Show,
        json::{Json, Start, VERSION},
        text::{Colour, Text},
    },
    source::{Source, live::Live},
};

use super::{filter, signals::Stop, start};
use crate::cli::{Format, ShowArgs, Time, TraceArgs};

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let filter = filter::resolve(&args.filter)?;
    let output = output(&args.show)?;
    start::prepare();
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let mut source = start::live(&args.collect, &filter).map_err(start::refused)?;
        let clock = clock(args.show.time);
        announce(&source);
        let totals = show(&mut source, &args.show, clock, output, stop).await?;
        summary(&totals, source.counted().bytes);
        Ok(ExitCode::SUCCESS)
    })
}

/// Where lines go, and whether it is a terminal.
fn output(args: &ShowArgs) -> anyhow::Result<Box<dyn Write>> {
    let Some(path) = &args.output else { return Ok(Box::new(io::stdout())) };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Box::new(file))
}

fn clock(time: Time) -> Clock {
    match time {
        Time::Relative => Clock::Relative { start_ns: now_ns() },
        Time::Wall => Clock::Wall { offset_ns: wall_offset_ns() },
        Time::Monotonic => Clock::Monotonic,
    }
}

/// Says on stderr that everything is attached, and what is not.
fn announce(source: &Live) {
    let taken: Vec<_> = source
        .outcomes()
        .iter()
        .filter_map(|outcome| Some(format!("{}={}", outcome.probe.name, outcome.taken?.name)))
        .collect();
    eprintln!("tracing {}", taken.join(" "));
}

async fn show<S: Source>(
    source: &mut S,
    args: &ShowArgs,
    clock: Clock,
    output: Box<dyn Write>,
    stop: Stop,
) -> anyhow::Result<Totals> {
    let both = args.transitions == args.connections;
    let show = Show { transitions: both || args.transitions, connections: both || args.connections };
    let limits = Limits { duration: args.duration, connections: args.count };
    match args.format {
        Format::Text => {
            let colour = if args.output.is_none() && wants_colour() { Colour::On } else { Colour::Off };
            let mut sink = Text::new(output, show, clock, colour);
            Ok(pipeline::run(source, &mut sink, limits, stop.wait()).await?)
        }
        Format::Json => {
            let kernel = kernel_release();
            let mut sink = Json::new(output, show, clock, start_line(clock, &kernel))?;
            let totals = pipeline::run(source, &mut sink, limits, stop.wait()).await?;
            sink.end(&totals)?;
            Ok(totals)
        }
    }
}

/// Colours on a terminal only, and not against <https://no-color.org>.
fn wants_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn start_line(clock: Clock, kernel: &str) -> Start<'_> {
    Start {
        version: VERSION,
        sockwatch: env!("CARGO_PKG_VERSION"),
        kernel,
        source: "ebpf",
        clock: match clock {
            Clock::Relative { .. } => "relative",
            Clock::Wall { .. } => "wall",
            Clock::Monotonic => "monotonic",
        },
        start_monotonic_ns: match clock {
            Clock::Relative { start_ns } => start_ns,
            Clock::Wall { .. } | Clock::Monotonic => now_ns(),
        },
        wall_offset_ns: wall_offset_ns(),
    }
}

/// The last line on stderr: what was seen and what was not.
fn summary(totals: &Totals, bytes: u64) {
    let losses = &totals.losses;
    eprintln!(
        "sockwatch: events={} bytes={bytes} connections={} lost={} missed={} dropped={} late={} unexpected={}",
        totals.events,
        totals.connections,
        losses.lost(),
        losses.missed,
        losses.dropped(),
        losses.late,
        losses.unexpected_transitions,
    );
}
