//! `sockwatch audit`: how far sockwatch can be trusted on this machine, under this load: what it believes, compared with
//! the kernel's own socket table at random instants.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use sockwatch::{
    kernel::check::kernel_release,
    kernel::session::{Telling, Threads},
    pipeline::{self, Limits, Totals},
    privilege::role::TRACE,
    sink::{
        Show, Why,
        json::Json,
        text::{Colour, Text},
    },
    source::reconcile::{Reconciler, Schedule, Scope},
};

use super::{
    filter,
    signals::Stop,
    start, tell,
    trace::{clock, start_line, summary},
    wants_colour,
};
use crate::cli::{AuditArgs, CollectArgs, Format, Reconcile, SourceName, Time};

/// The exit code for disagreement.
const FINDINGS: u8 = 1;

/// Only what the kernel's table and we disagree on.
const SHOW: Show =
    Show { transitions: false, connections: false, queues: false, disagreements: true, why: Why::Untold };

pub(crate) fn run(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    let resolved = filter::resolve(&args.filter)?;
    start::prepare();
    let totals = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let clock = clock(Time::Relative);
        let collect = CollectArgs {
            source: SourceName::Ebpf,
            latency: args.latency,
            reconcile: Reconcile::Off,
            buffer: args.buffer,
            ..CollectArgs::default()
        };
        let mut live = start::live(&collect, &resolved, Threads::Ignored, Telling::Events)
            .map_err(|error| start::refused(&error))?;
        if !live.tells_cookies() {
            bail!("without BTF the kernel does not tell which of its sockets is which: nothing can be compared");
        }
        let (schedule, sandbox) = (Schedule::AtRandom(args.interval), args.sandbox.wanted());
        live.reconcile(Reconciler::start(&resolved.filter, schedule, Scope::All, sandbox)?);
        start::warn(&live);
        tell(format_args!(
            "auditing for {} s, a listing every {} ms on average",
            args.duration.as_secs_f64(),
            args.interval.as_millis()
        ));
        start::confine_main(&TRACE, &live, sandbox);
        let limits = Limits { duration: Some(args.duration), connections: None };
        let totals = match args.format {
            Format::Text => {
                let colour = if wants_colour() { Colour::On } else { Colour::Off };
                let mut sink = Text::new(io::stdout(), SHOW, clock, colour);
                pipeline::run(&mut live, &mut sink, limits, stop.wait()).await?
            }
            Format::Json => {
                let kernel = kernel_release();
                let start = start_line(&clock, "ebpf", &kernel);
                let mut sink = Json::new(io::stdout(), SHOW, clock, start).context("cannot write the output")?;
                let totals = pipeline::run(&mut live, &mut sink, limits, stop.wait()).await?;
                sink.audit(&totals).context("cannot write the output")?;
                totals
            }
        };
        summary(&totals, live.bytes());
        anyhow::Ok(totals)
    })?;
    if args.format == Format::Text {
        report(&totals, args.duration)?;
    }
    if totals.agreement.compared == 0 {
        tell(format_args!("sockwatch: nothing was compared: no socket was there, or the time was too short"));
    }
    let agrees = totals.agreement.repaired() == 0;
    Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

fn report(totals: &Totals, duration: Duration) -> io::Result<()> {
    let agreement = &totals.agreement;
    let percent = |part: u64, whole: u64| if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 };
    let mut out = io::stdout();
    writeln!(
        out,
        "{} of {} socket records agree ({:.4} %), in {} listings at random instants of {} s",
        agreement.agreed,
        agreement.compared,
        // Never rounded up to 100.
        (percent(agreement.agreed, agreement.compared) * 1e4).floor() / 1e4,
        agreement.rounds,
        duration.as_secs_f64(),
    )?;
    writeln!(
        out,
        "disagreements: {} in another state, {} unknown to sockwatch, {} no longer in the kernel's table, {} depths of queues",
        agreement.differing, agreement.unknown, agreement.absent, agreement.depths
    )?;
    writeln!(out, "taken over from the first listings: {} sockets that were there before", agreement.adopted)?;
    if agreement.displaced != 0 {
        writeln!(
            out,
            "minisocks of which no event told what became, as when a SYN that a full accept queue drops takes one's place: {}",
            agreement.displaced
        )?;
    }
    if agreement.unlisted != 0 {
        writeln!(
            out,
            "not compared: {} listings of network namespaces that could not be entered, or that no process is in",
            agreement.unlisted
        )?;
    }
    Ok(())
}
