//! Runs a lab: its steps on a thread of their own, traced, until all that they did was seen.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use anyhow::Context;
use sockwatch::{
    kernel::check::kernel_release,
    pipeline::{self, Limits, Totals},
    sink::{
        Clock, Show, Sink, Why,
        json::Json,
        text::{Colour, Text},
    },
    source::{Source, SourceError, Tick},
    tcp::{event::Event, notation, update::Update},
};
use tokio::sync::oneshot;

use super::{
    Lab, Run,
    netns::{Netns, plug_in},
    stage::Stage,
};
use crate::{
    cli::{CollectArgs, FilterArgs, Format, LabArgs, Reconcile, SourceName, Time},
    command::{
        filter::resolve,
        signals::Stop,
        start::{self, Started},
        trace::{clock, start_line, summary},
        wants_colour,
    },
};

/// The steps of a lab.
type Steps = fn(&mut Stage) -> anyhow::Result<String>;

/// Runs a lab in a network namespace of its own.
pub(super) fn run(lab: &'static Lab, args: &LabArgs, steps: Steps) -> anyhow::Result<ExitCode> {
    start::prepare();
    let near = Netns::enter_new()?;
    let far = match lab.run {
        Run::Here(_) | Run::Alone(_) => None,
        Run::Wired(_) => Some(Netns::new()?),
    };
    let mut netns = vec![near.inode()?.to_string()];
    if let Some(far) = &far {
        plug_in(far)?;
        netns.push(far.inode()?.to_string());
    }
    let resolved = resolve(&FilterArgs { netns, ..FilterArgs::default() })?;
    if args.format == Format::Text {
        writeln!(io::stdout(), "{}\n", lab.story)?;
    }
    let (learned, totals) = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let clock = clock(Time::Relative);
        let collect = collect(args, SourceName::Ebpf);
        let mut source = start::source(&collect, &resolved)?;
        source.announce(&collect);
        let (tap, updates) = mpsc::channel();
        let mut experiment = perform(steps, Stage::new(updates, args.format, far))?;
        let mut learned = None;
        let ended = async {
            tokio::select! {
                () = stop.wait() => {}
                result = &mut experiment => learned = Some(result),
            }
        };
        let totals = show(&mut source, args, clock, tap, ended).await?;
        summary(&totals, source.bytes());
        anyhow::Ok((learned, totals))
    })?;
    // Interrupted: a normal end.
    let Some(learned) = learned else { return Ok(ExitCode::SUCCESS) };
    let learned = learned.context("the experiment's thread is gone")?.with_context(|| format!("lab {}", lab.name))?;
    if args.format == Format::Text {
        writeln!(io::stdout(), "\n{learned}")?;
        if totals.losses.lost() + totals.losses.dropped() > 0 {
            writeln!(io::stdout(), "Events were lost: see the last line.")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the steps; the receiver gets what was to be learned once the trace has seen the end of every socket.
fn perform(steps: Steps, mut stage: Stage) -> anyhow::Result<oneshot::Receiver<anyhow::Result<String>>> {
    let (finish, finished) = oneshot::channel();
    let work = move || {
        let result = steps(&mut stage).and_then(|learned| stage.settle().map(|()| learned));
        // Nobody waits any more if the trace was interrupted.
        let _ = finish.send(result);
    };
    thread::Builder::new().name("lab".into()).spawn(work).context("cannot start a thread")?;
    Ok(finished)
}

/// How labs collect: soon, because their steps wait for it.
pub(super) fn collect(args: &LabArgs, source: SourceName) -> CollectArgs {
    CollectArgs {
        source,
        latency: Duration::from_millis(5),
        interval: Duration::from_millis(20),
        // What happens in a lab begins with it.
        reconcile: Reconcile::Off,
        probe: args.probe.clone(),
        ..CollectArgs::default()
    }
}

/// Shows a started source, and tells the experiment what was shown. Records events where that was asked for.
pub(super) async fn show(
    source: &mut Started,
    args: &LabArgs,
    clock: Clock,
    tap: Sender<Update>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Totals> {
    let show = Show { transitions: true, connections: true, queues: false, disagreements: true, why: Why::Told };
    let (name, reasons) = (source.name(), source.reset_reasons());
    let mut source = Recorded { source, events: args.record_events.as_ref().map(|_| Vec::new()) };
    let totals = match args.format {
        Format::Text => {
            let colour = if wants_colour() { Colour::On } else { Colour::Off };
            let mut sink = Tapped::new(Text::new(io::stdout(), show, clock, colour).naming(reasons), tap);
            pipeline::run(&mut source, &mut sink, Limits::default(), stop).await?
        }
        Format::Json => {
            let kernel = kernel_release();
            let start = start_line(&clock, name, &kernel);
            let sink = Json::new(io::stdout(), show, clock, start).context("cannot write the output")?;
            let mut sink = Tapped::new(sink.naming(reasons), tap);
            let totals = pipeline::run(&mut source, &mut sink, Limits::default(), stop).await?;
            sink.sink.end(&totals).context("cannot write the output")?;
            totals
        }
    };
    if let (Some(path), Some(mut events)) = (&args.record_events, source.events) {
        notation::normalise(&mut events);
        let lines: String = events.iter().map(|event| notation::line(event) + "\n").collect();
        std::fs::write(path, lines).with_context(|| format!("cannot write --record-events {}", path.display()))?;
    }
    Ok(totals)
}

/// A sink that tells the experiment what it has shown, once that is written.
struct Tapped<S> {
    sink: S,
    tap: Sender<Update>,
    untold: Vec<Update>,
}

impl<S: Sink> Tapped<S> {
    fn new(sink: S, tap: Sender<Update>) -> Self {
        Self { sink, tap, untold: Vec::new() }
    }
}

impl<S: Sink> Sink for Tapped<S> {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.untold.push(update.clone());
        self.sink.update(update)
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.sink.tick(totals)?;
        for update in self.untold.drain(..) {
            // An experiment that has ended, or failed, listens no more.
            let _ = self.tap.send(update);
        }
        Ok(())
    }
}

/// A source that keeps its events.
struct Recorded<'a> {
    source: &'a mut Started,
    events: Option<Vec<Event>>,
}

impl Recorded<'_> {
    fn keep(&mut self, events: &[Event]) {
        if let Some(kept) = &mut self.events {
            kept.extend(events);
        }
    }
}

impl Source for Recorded<'_> {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let before = events.len();
        let tick = self.source.next(events).await?;
        self.keep(&events[before..]);
        Ok(tick)
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        let before = events.len();
        let tick = self.source.drain(events)?;
        self.keep(&events[before..]);
        Ok(tick)
    }
}
