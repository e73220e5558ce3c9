//! `sockwatch doctor`: what this machine allows, each probe with the alternative taken and what is lost, and a self-test
//! with a real connection.

mod privileges;

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use sockwatch::{
    kernel::{
        btf::{Btf, VMLINUX},
        check,
        layout::Layout,
        refusal::Refusal,
        session::{self, Options, Outcome, Telling, Threads, Tried, Yardstick, default_ring_bytes},
        tracefs::{self, Tracefs},
    },
    source::{Source, live::Live},
    tcp::{
        event::Event,
        filter::{Filter, Ports},
        order::Order,
        tracker::Tracker,
        update::{Happening, Update},
    },
};

use self::privileges::ThreadReport;
use super::{filter::to_wire, start::runtime};
use crate::cli::{DoctorArgs, Format};

/// How long the self-test waits for its connection.
const SELF_TEST: Duration = Duration::from_secs(10);

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Reduced,
    Unusable,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Reduced => "reduced",
            Self::Unusable => "UNUSABLE",
        })
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// One probe of the report.
#[derive(Debug, Serialize)]
struct ProbeReport {
    name: &'static str,
    status: Status,
    tells: &'static str,
    taken: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<String>,
    refused: Vec<RefusedReport>,
}

/// An alternative that was not taken.
#[derive(Debug, Serialize)]
struct RefusedReport {
    alternative: &'static str,
    reason: String,
}

/// Whether an alternative attaches, tried on its own.
#[derive(Debug, Serialize)]
struct AlternativeReport {
    probe: &'static str,
    alternative: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// The whole report.
#[derive(Debug, Serialize)]
struct Report {
    verdict: Status,
    checks: Vec<Check>,
    probes: Vec<ProbeReport>,
    /// What each thread of a live run keeps.
    threads: Vec<ThreadReport>,
    /// With `--all`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alternatives: Vec<AlternativeReport>,
    /// With `--all`: what the probes would read, and what this kernel does not have or describe. It reads as 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    absent_fields: Option<Vec<&'static str>>,
}

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let report = examine(args)?;
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => print(&report, &mut out)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(match report.verdict {
        Status::Ok => ExitCode::SUCCESS,
        Status::Reduced => ExitCode::from(1),
        Status::Unusable => ExitCode::from(2),
    })
}

fn examine(args: &DoctorArgs) -> anyhow::Result<Report> {
    let tracefs = tracefs::ensure();
    let mut checks = vec![kernel(), btf(), tracefs_check(tracefs)];
    checks.extend(privileges::capabilities());
    checks.extend([lockdown(), security_modules()]);
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback for the self-test")?;
    let port = listener.local_addr()?.port();
    let filter = Filter { ports: vec![Ports(port..=port)], ..Filter::default() };
    let options = Options {
        filter: to_wire(&filter),
        ring_bytes: default_ring_bytes(),
        choices: HashMap::new(),
        yardstick: Yardstick::Without,
        telling: Telling::Events,
        threads: Threads::Ignored,
    };
    let (mut probes, mut threads) = (Vec::new(), Vec::new());
    runtime()?.block_on(async {
        match Live::start(&options, Duration::from_millis(20)) {
            Ok(mut live) => {
                checks.push(ok("ring buffers", format!("{} KiB for each CPU", options.ring_bytes >> 10)));
                probes = live.outcomes().iter().map(probe_report).collect();
                checks.push(self_test(&mut live, &listener).await);
                threads = privileges::threads(&live);
                checks.extend(privileges::sandbox(&threads));
            }
            Err(error) => {
                let fix = "run as root, or see `sockwatch trace --source ebpf` for what to grant".to_owned();
                checks.push(Check { name: "eBPF", status: Status::Unusable, found: error.to_string(), fix: Some(fix) });
            }
        }
    });
    // Not while the self-test's own probes are attached: each alternative stands alone.
    let tried = if args.all { session::survey(&options).unwrap_or_default() } else { Vec::new() };
    let worst = checks.iter().map(|check| check.status).chain(probes.iter().map(|probe| probe.status)).max();
    let alternatives = tried.into_iter().map(alternative_report).collect();
    let absent_fields = args.all.then(|| Layout::resolve(Btf::of_running_kernel().ok().as_ref()).absent);
    Ok(Report { verdict: worst.unwrap_or(Status::Ok), checks, probes, threads, alternatives, absent_fields })
}

fn ok(name: &'static str, found: String) -> Check {
    Check { name, status: Status::Ok, found, fix: None }
}

fn kernel() -> Check {
    ok("kernel", format!("{} {}", check::kernel_release(), std::env::consts::ARCH))
}

fn btf() -> Check {
    match Btf::of_running_kernel() {
        Ok(_) => ok("BTF", VMLINUX.into()),
        Err(error) => Check {
            name: "BTF",
            status: Status::Reduced,
            found: format!("{error}"),
            fix: Some("use a kernel built with CONFIG_DEBUG_INFO_BTF=y".into()),
        },
    }
}

fn tracefs_check(tracefs: Tracefs) -> Check {
    match tracefs {
        Tracefs::Mounted(path) => ok("tracefs", path.into()),
        Tracefs::MountedPrivately(path) => ok("tracefs", format!("not mounted; mounted on {path} for sockwatch alone")),
        Tracefs::Missing(reason) => Check {
            name: "tracefs",
            status: Status::Reduced,
            found: format!("not mounted, and sockwatch may not mount it: {reason}"),
            fix: Some("mount -t tracefs tracefs /sys/kernel/tracing".into()),
        },
    }
}

fn lockdown() -> Check {
    match check::lockdown() {
        None => ok("lockdown", "none".into()),
        Some(mode) if mode == "confidentiality" => Check {
            name: "lockdown",
            status: Status::Unusable,
            found: mode,
            fix: Some("confidentiality mode forbids eBPF to read kernel memory: boot with lockdown=integrity".into()),
        },
        Some(mode) => ok("lockdown", mode),
    }
}

fn security_modules() -> Check {
    let modules = check::security_modules();
    let found = if modules.is_empty() { "not shown (securityfs is not mounted)".into() } else { modules.join(" ") };
    ok("security modules", found)
}

fn probe_report(outcome: &Outcome) -> ProbeReport {
    let taken = outcome.taken.map(|taken| taken.name);
    // A refused row of the name that was taken all the same would only confuse.
    let relevant = |refused: &&(&'static str, Refusal)| refused.1 != Refusal::NotNeeded && Some(refused.0) != taken;
    let refused: Vec<_> = outcome
        .refused
        .iter()
        .filter(relevant)
        .map(|(alternative, refusal)| RefusedReport { alternative, reason: refusal.to_string() })
        .collect();
    // A row that does not apply on this machine is no loss.
    let not_needed = outcome.taken.is_none() && refused.is_empty();
    let lost = match outcome.taken {
        Some(taken) => taken.lost.filter(|_| !refused.is_empty() || outcome.probe.alternatives.len() == 1),
        None if not_needed => None,
        None => match outcome.probe.need {
            sockwatch::kernel::probes::Need::Optional { without } => Some(without),
            sockwatch::kernel::probes::Need::Required => Some("everything"),
        },
    };
    let status =
        if lost.is_some() || (!refused.is_empty() && outcome.taken.is_none()) { Status::Reduced } else { Status::Ok };
    ProbeReport {
        name: outcome.probe.name,
        status,
        tells: outcome.probe.tells,
        taken,
        lost: lost.map(str::to_owned),
        refused,
    }
}

fn alternative_report(tried: Tried) -> AlternativeReport {
    let refused = tried.refused.map(|refusal| refusal.to_string());
    AlternativeReport { probe: tried.probe.name, alternative: tried.alternative, refused }
}

/// What a connection of our own looked like.
#[derive(Debug, Default)]
struct Seen {
    transitions: u32,
    accepts: u32,
    wait_ns: Option<i64>,
    ended: u32,
}

/// Connects, accepts and closes on loopback, and waits until the probes have told all of it.
async fn self_test(live: &mut Live, listener: &TcpListener) -> Check {
    let seen = match connect_and_close(listener) {
        Ok(()) => tokio::time::timeout(SELF_TEST, watch(live)).await,
        Err(error) => {
            return Check {
                name: "self-test",
                status: Status::Unusable,
                found: format!("no connection on loopback: {error}"),
                fix: Some("ip link set lo up".into()),
            };
        }
    };
    match seen {
        Ok(Ok(seen)) => {
            let wait = seen.wait_ns.map_or("no queue wait".into(), |wait| {
                format!("queue wait {}", sockwatch::sink::quantity::Short(wait))
            });
            let found = format!(
                "a real connection: {} transitions, {} accept, {wait}, {} ends",
                seen.transitions, seen.accepts, seen.ended
            );
            ok("self-test", found)
        }
        Ok(Err(error)) => Check { name: "self-test", status: Status::Unusable, found: error.to_string(), fix: None },
        Err(_) => Check {
            name: "self-test",
            status: Status::Unusable,
            found: "a real connection on loopback was not seen within ten seconds".into(),
            fix: Some("another probe may be missing: see the list".into()),
        },
    }
}

fn connect_and_close(listener: &TcpListener) -> io::Result<()> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    drop(client);
    drop(accepted);
    Ok(())
}

async fn watch(live: &mut Live) -> anyhow::Result<Seen> {
    let (mut order, mut tracker) = (Order::default(), Tracker::default());
    let (mut events, mut updates): (Vec<Event>, Vec<Update>) = (Vec::new(), Vec::new());
    let mut seen = Seen::default();
    while seen.ended < 2 {
        let tick = live.next(&mut events).await?;
        order.append(&mut events);
        order.release(tick.now_ns, |event| tracker.apply(event, &mut updates));
        for update in updates.drain(..) {
            match update.happening {
                Happening::Transition { .. } => seen.transitions += 1,
                Happening::Accepted { wait_ns, .. } => {
                    seen.accepts += 1;
                    seen.wait_ns = wait_ns;
                }
                Happening::Ended(_) => seen.ended += 1,
                _ => {}
            }
        }
    }
    Ok(seen)
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for check in &report.checks {
        writeln!(out, "{:17} {:8} {}", check.name, check.status, check.found)?;
        if let Some(fix) = &check.fix {
            writeln!(out, "{:17} {:8} try: {fix}", "", "")?;
        }
    }
    if !report.probes.is_empty() {
        writeln!(out, "\n{:17} {:8} {:11} TELLS", "PROBE", "", "TAKEN")?;
    }
    for probe in &report.probes {
        let taken = match (probe.taken, probe.lost.is_some()) {
            (Some(taken), _) => taken,
            (None, true) => "none",
            (None, false) => "not needed",
        };
        writeln!(out, "{:17} {:8} {taken:11} {}", probe.name, probe.status, probe.tells)?;
        if let Some(lost) = &probe.lost {
            let word = if probe.taken.is_some() { "costs or misses" } else { "lost" };
            writeln!(out, "{:26} {word}: {lost}", "")?;
        }
        for refused in &probe.refused {
            writeln!(out, "{:26} {}: {}", "", refused.alternative, refused.reason)?;
        }
    }
    privileges::print(&report.threads, out)?;
    if !report.alternatives.is_empty() {
        writeln!(out, "\n{:17} {:11} ATTACHES", "PROBE", "ALTERNATIVE")?;
    }
    for AlternativeReport { probe, alternative, refused } in &report.alternatives {
        let attaches = refused.as_ref().map_or("yes".to_owned(), |reason| format!("no: {reason}"));
        writeln!(out, "{probe:17} {alternative:11} {attaches}")?;
    }
    match report.absent_fields.as_deref() {
        None => {}
        Some([]) => writeln!(out, "\nfields absent here: none")?,
        Some(fields) => writeln!(out, "\nfields absent here: {}", fields.join(" "))?,
    }
    writeln!(out, "\n{}", verdict(report.verdict))
}

fn verdict(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok: sockwatch sees everything here",
        Status::Reduced => "reduced: sockwatch works here; what it misses or costs more is said above",
        Status::Unusable => "UNUSABLE by eBPF: `sockwatch trace --source poll` samples the socket table instead",
    }
}
