//! Starts a source: eBPF, or polling where eBPF is refused.

use std::collections::HashMap;

use anyhow::{Context, anyhow};
use sockwatch::{
    kernel::{
        probes::{Alternative, Need},
        refusal::Refusal,
        session::{Choice, Options, Outcome, StartError, Telling, Threads, Yardstick, default_ring_bytes},
        tracefs,
    },
    privilege::{
        Confined, Sandbox,
        capability::{least_setcap, setcap},
        confine,
        role::{POLL, Role, TRACE},
    },
    source::{
        Source, SourceError, TableNews, Tick,
        live::Live,
        poll::{Poll, cookies_of},
        reconcile::{Reconciler, Schedule, Scope},
    },
    tcp::{event::Event, reset::ResetReasons},
};

use super::{
    filter::{Resolved, to_wire},
    tell,
};
use crate::cli::{CollectArgs, Reconcile, SourceName};

/// What `--source ebpf` needs, for the error that says so.
fn how_to_grant() -> String {
    let program = "$(command -v sockwatch)";
    let (all, least) = (setcap(program), least_setcap(program));
    format!(
        "\
eBPF needs root, or CAP_BPF and CAP_PERFMON on the program's file, and others for more (docs/privileges.md):
  sudo sockwatch trace ...                       as root
  {all}
                                                 for every user who may run it
  {least}
                                                 the least: one network namespace, no owners of other users' sockets
  docker run --cap-add BPF --cap-add PERFMON ... in a container, as root
`sockwatch doctor` says what is missing; `--source poll` works without."
    )
}

/// A started source.
pub(crate) enum Started {
    /// Every event.
    Live(Box<Live>),
    /// Samples.
    Poll(Box<Poll>),
}

impl Source for Started {
    async fn next(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        match self {
            Self::Live(live) => live.next(events).await,
            Self::Poll(poll) => poll.next(events).await,
        }
    }

    fn table(&mut self) -> TableNews {
        match self {
            Self::Live(live) => live.table(),
            Self::Poll(poll) => poll.table(),
        }
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Tick, SourceError> {
        match self {
            Self::Live(live) => live.drain(events),
            Self::Poll(poll) => poll.drain(events),
        }
    }
}

impl Started {
    /// The source's name in JSON.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Live(_) => "ebpf",
            Self::Poll(_) => "poll",
        }
    }

    /// What the kernel's numbers of reasons for a RST mean; polling sees no RSTs.
    pub(crate) fn reset_reasons(&self) -> ResetReasons {
        match self {
            Self::Live(live) => live.reset_reasons().clone(),
            Self::Poll(_) => ResetReasons::default(),
        }
    }

    /// Each probe with the alternative that was taken.
    pub(crate) fn probes(&self) -> String {
        match self {
            Self::Live(live) => taken(live),
            Self::Poll(_) => String::new(),
        }
    }

    /// Bytes that came through the ring buffer.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Live(live) => live.bytes(),
            Self::Poll(_) => 0,
        }
    }

    /// Confines the main thread to what it needs from now on. Everything that it writes to must be open.
    pub(crate) fn confine(&self, sandbox: Sandbox) {
        let role = if matches!(self, Self::Live(_)) { &TRACE } else { &POLL };
        self.confine_to(role, sandbox);
    }

    /// The same, of a command with a role of its own. Returns what came of it, if it was to be.
    pub(crate) fn confine_to(&self, role: &Role, sandbox: Sandbox) -> Option<Confined> {
        match self {
            Self::Live(live) => confine_main(role, live, sandbox),
            Self::Poll(_) => (sandbox == Sandbox::On).then(|| confine(role, &[], || true)),
        }
    }

    /// Says on stderr, in one line, that everything is in place and what the source is.
    pub(crate) fn announce(&self, args: &CollectArgs) {
        match self {
            Self::Live(live) => announce(live),
            Self::Poll(_) => tell(format_args!(
                "tracing by polling the socket table every {0} ms: sampled (~, right to within {0} ms), what lasts less is not seen",
                args.interval.as_millis()
            )),
        }
    }
}

/// Confines the main thread of a live run to what it needs from now on. What a kernel cannot do is no reason not to go on:
/// `doctor` says it. Returns what came of it, if it was to be.
pub(crate) fn confine_main(role: &Role, live: &Live, sandbox: Sandbox) -> Option<Confined> {
    (sandbox == Sandbox::On).then(|| confine(role, &[], || live.may_read()))
}

/// Says on stderr which probes are in place, and what is lost without the others.
pub(crate) fn announce(live: &Live) {
    warn(live);
    tell(format_args!("tracing by eBPF: {}", taken(live)));
}

/// Each probe with the alternative that was taken.
fn taken(live: &Live) -> String {
    let taken = live.outcomes().iter().map(|outcome| {
        let taken = outcome.taken.map_or("off", |taken| taken.name);
        format!("{}={taken}", outcome.probe.name)
    });
    taken.collect::<Vec<_>>().join(" ")
}

/// Says what is lost without a probe that the kernel refused, or with the best that it allows without BTF. What was
/// switched off, or is not needed, is no news.
pub(crate) fn warn(live: &Live) {
    live.outcomes().iter().for_each(warn_of);
}

fn warn_of(outcome: &Outcome) {
    if let Some(Alternative { name, lost: Some(lost), .. }) = outcome.taken
        && outcome.refused.iter().any(|(_, why)| *why == Refusal::NoBtf)
    {
        let probe = outcome.probe.name;
        tell(format_args!("sockwatch: warning: the kernel has no BTF: {probe}={name} costs or misses: {lost}"));
    }
    let refused = outcome.refused.iter().filter(|(_, why)| !matches!(why, Refusal::SwitchedOff | Refusal::NotNeeded));
    let reasons: Vec<_> = refused.map(|(name, why)| format!("{name}: {why}")).collect();
    if let (None, Need::Optional { without }, false) = (outcome.taken, outcome.probe.need, reasons.is_empty()) {
        tell(format_args!(
            "sockwatch: warning: no {} probe, so without {without} ({})",
            outcome.probe.name,
            reasons.join("; ")
        ));
    }
}

/// Says what needs to be granted.
pub(crate) fn refused(error: &anyhow::Error) -> anyhow::Error {
    anyhow!("cannot trace by eBPF: {error:#}\n\n{}", how_to_grant())
}

/// Starts what was asked for, for the caller to announce once all else is in place, too. `auto` falls back to polling and says why.
pub(crate) fn source(args: &CollectArgs, resolved: &Resolved) -> anyhow::Result<Started> {
    let started = match args.source {
        SourceName::Poll => poll(args, resolved)?,
        SourceName::Ebpf => Started::Live(Box::new(
            live(args, resolved, Threads::Ignored, Telling::Events).map_err(|error| refused(&error))?,
        )),
        SourceName::Auto => match live(args, resolved, Threads::Ignored, Telling::Events) {
            Ok(live) => Started::Live(Box::new(live)),
            Err(error) if error.downcast_ref::<StartError>().is_some() => {
                tell(format_args!("sockwatch: falling back to polling: {error:#} (`sockwatch doctor` says more)"));
                poll(args, resolved)?
            }
            Err(error) => return Err(error),
        },
    };
    Ok(started)
}

fn poll(args: &CollectArgs, resolved: &Resolved) -> anyhow::Result<Started> {
    Ok(Started::Poll(Box::new(Poll::new(resolved.filter.clone(), args.interval)?)))
}

pub(crate) fn live(
    args: &CollectArgs,
    resolved: &Resolved,
    threads: Threads,
    telling: Telling,
) -> anyhow::Result<Live> {
    let options = Options {
        filter: to_wire(&resolved.filter),
        ring_bytes: args.buffer.unwrap_or_else(default_ring_bytes),
        choices: choices(args),
        yardstick: if args.with_empty_probe { Yardstick::Attached } else { Yardstick::Without },
        threads,
        telling,
    };
    let mut live = Live::start(&options, args.latency)?;
    remember_owned(&mut live, &resolved.owners)?;
    if let (Reconcile::Every(interval), true) = (args.reconcile, live.tells_cookies()) {
        let schedule = Schedule::Every(interval);
        live.reconcile(Reconciler::start(&resolved.filter, schedule, Scope::All, args.sandbox.wanted())?);
    }
    Ok(live)
}

/// Lets the sockets pass that the processes of a filter hold already. Attached first, listed second: a socket opened in
/// between is seen by one of them.
fn remember_owned(live: &mut Live, owners: &[u32]) -> anyhow::Result<()> {
    if owners.is_empty() {
        return Ok(());
    }
    let unseen = |why: &dyn std::fmt::Display| {
        tell(format_args!(
            "sockwatch: warning: {why}; sockets opened before the trace are not shown until they are accepted"
        ));
    };
    if !live.tells_cookies() {
        unseen(&Refusal::NoBtf);
        return Ok(());
    }
    match cookies_of(owners) {
        Ok(cookies) => {
            live.remember(&cookies).context("cannot remember the sockets that the processes hold already")?
        }
        Err(error) => unseen(&format_args!("{:#}", anyhow::Error::from(error))),
    }
    Ok(())
}

fn choices(args: &CollectArgs) -> HashMap<String, Choice> {
    let choice = |name: &str| if name == "off" { Choice::Off } else { Choice::Only(name.to_owned()) };
    let mut choices: HashMap<_, _> = args.probe.iter().map(|(probe, name)| (probe.clone(), choice(name))).collect();
    if args.no_handshake {
        choices.insert("enqueue".into(), Choice::Off);
    }
    choices
}

/// tracefs, before the runtime has threads.
pub(crate) fn prepare() {
    // What is missing shows as a refused alternative, with the reason.
    let _ = tracefs::ensure();
}

/// A current-thread runtime: one consumer, no locks.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}
