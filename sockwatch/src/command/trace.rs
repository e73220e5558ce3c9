//! `sockwatch trace`: transitions and finished connections as they happen.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use sockwatch::{
    kernel::check::kernel_release,
    monotonic::{now_ns, wall_offset_ns},
    pipeline::{self, Limits, Totals},
    process::names::Names,
    sink::{
        Clock, Show, Why,
        json::{Json, Start, VERSION},
        text::{Colour, Text},
    },
};

use super::{
    filter,
    signals::Stop,
    start::{self, Started},
    tell, wants_colour,
};
use crate::cli::{Format, ShowArgs, Time, TraceArgs};

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let resolved = filter::resolve(&args.filter)?;
    if let Some(path) = args.show.output.as_deref().filter(|path| path.exists()) {
        bail!("--output {}: it exists, and sockwatch overwrites nothing", path.display());
    }
    start::prepare();
    start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let clock = clock(args.show.time);
        let mut source = start::source(&args.collect, &resolved)?;
        if args.show.queues && matches!(source, Started::Poll(_)) {
            bail!(
                "--queues: polling sees neither who enters an accept queue nor who leaves it, only how deep it is: \
                 `LISTEN queue 3/128` among --transitions"
            );
        }
        // Last: an error before leaves no empty file behind.
        let output = output(&args.show)?;
        let totals = show(&mut source, &args.show, clock, output, stop.wait()).await?;
        summary(&totals, source.bytes());
        Ok(ExitCode::SUCCESS)
    })
}

/// Where lines go, and whether it is a terminal.
fn output(args: &ShowArgs) -> anyhow::Result<Box<dyn Write>> {
    let Some(path) = &args.output else { return Ok(Box::new(io::stdout())) };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("cannot create --output {}", path.display()))?;
    Ok(Box::new(file))
}

/// The clock that times are shown on; relative times count from now.
pub(crate) fn clock(time: Time) -> Clock {
    match time {
        Time::Relative => Clock::Relative { start_ns: now_ns() },
        Time::Wall => Clock::Wall { offset_ns: wall_offset_ns() },
        Time::Monotonic => Clock::Monotonic,
    }
}

/// Runs a started source into the sink that was asked for.
async fn show(
    source: &mut Started,
    args: &ShowArgs,
    clock: Clock,
    output: Box<dyn Write>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Totals> {
    let show = what(args);
    let reasons = source.reset_reasons();
    let limits = Limits { duration: args.duration, connections: args.count };
    match args.format {
        Format::Text => {
            let colour = if args.output.is_none() && wants_colour() { Colour::On } else { Colour::Off };
            let mut sink = Text::new(output, show, clock, colour).naming(reasons).knowing(Names::default());
            Ok(pipeline::run(source, &mut sink, limits, stop).await?)
        }
        Format::Json => {
            let kernel = kernel_release();
            let start = start_line(clock, source.name(), &kernel);
            let sink = Json::new(output, show, clock, start).context("cannot write the output")?;
            let mut sink = sink.naming(reasons).knowing(Names::default());
            let totals = pipeline::run(source, &mut sink, limits, stop).await?;
            sink.end(&totals).context("cannot write the output")?;
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
pub(crate) fn start_line<'a>(clock: Clock, source: &'a str, kernel: &'a str) -> Start<'a> {
    Start {
        version: VERSION,
        sockwatch: env!("CARGO_PKG_VERSION"),
        kernel,
        source,
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
