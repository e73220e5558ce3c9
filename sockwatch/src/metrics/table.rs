//! Every metric: its name, what it means, and where its figures come from. This table registers them, and
//! docs/metrics.md is printed from it: a new metric is a row.

use std::fmt;

use nix::errno::Errno;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType, registry};

use super::{
    histogram::Histogram,
    labels,
    points::{Figure, Labels, Points},
    series::{Name, Series},
    snapshot::{Pushed, Scrape},
};
use crate::tcp::{loss::Losses, state};

/// What kind of figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is as it is now.
    Gauge,
    /// Buckets, count and sum.
    Histogram,
    /// Always 1: the labels are what it tells.
    Info,
}

/// A base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// None: things are counted.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The word that a name ends with.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// A metric.
pub struct Row {
    /// Without its unit and without `_total`.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// What it is.
    pub kind: Kind,
    /// The labels of its series.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    write: fn(&Scrape, &mut Writer<'_>) -> fmt::Result,
}

impl Row {
    /// Its name with its unit, as OpenMetrics has it in `# TYPE`.
    pub fn family(&self) -> String {
        match self.unit {
            Unit::None => self.name.to_owned(),
            unit => format!("{}_{}", self.name, unit.word()),
        }
    }

    /// What is asked for in a query; of a histogram `_bucket`, `_count` and `_sum` follow.
    pub fn exposed(&self) -> String {
        let family = self.family();
        match self.kind {
            Kind::Counter => format!("{family}_total"),
            Kind::Info => format!("{family}_info"),
            Kind::Gauge | Kind::Histogram => family,
        }
    }

    /// Tells all its series.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn tell(&self, scrape: &Scrape, points: &mut dyn Points) -> fmt::Result {
        (self.write)(scrape, &mut Writer { points, since_ns: None })
    }
}

/// Labels of a listener.
const LISTENER: &[&str] = &["netns", "listener", "process"];

macro_rules! rows {
    ($($kind:ident $name:literal $unit:ident $labels:expr, $help:literal, $write:expr;)+) => {
        &[$(Row {
            name: $name,
            unit: Unit::$unit,
            kind: Kind::$kind,
            labels: $labels,
            help: $help,
            write: $write,
        }),+]
    };
}

/// All of them, in the order in which they are told.
pub const TABLE: &[Row] = rows! {
    Histogram "sockwatch_queue_wait" Seconds LISTENER,
        "Time from a connection's entry into the accept queue to accept(). Only of connections that were seen to do \
         both.",
        |scrape, out| out.waits(scrape, |series| &series.waits);
    Histogram "sockwatch_handshake" Seconds LISTENER,
        "Time from a connection's first SYN-ACK to its entry into the accept queue. Not known with SYN cookies and \
         Fast Open.",
        |scrape, out| out.waits(scrape, |series| &series.handshakes);
    Gauge "sockwatch_accept_queue_depth" None LISTENER,
        "Connections that wait in the accept queue now, those included whose client has gone (the kernel's \
         sk_ack_backlog).",
        |scrape, out| out.gauges(scrape, |series| series.now.depth.map(|depth| depth as f64));
    Gauge "sockwatch_accept_queue_limit" None LISTENER,
        "Limit of the accept queue, which takes one more than this (sk_max_ack_backlog: the backlog of listen(), at \
         most net.core.somaxconn). Of several sockets their sum.",
        |scrape, out| out.gauges(scrape, |series| series.now.limit.map(|limit| limit as f64));
    Gauge "sockwatch_accept_queue_oldest_age" Seconds LISTENER,
        "How long the oldest connection in the accept queue has waited until now; 0 if none waits.",
        |scrape, out| out.gauges(scrape, |series| series.now.depth.map(|_| series.now.oldest_ns as f64 / 1e9));
    Counter "sockwatch_accept_queue_arrivals" None LISTENER,
        "Connections that entered the accept queue.",
        |scrape, out| out.counts(scrape, |series| series.arrivals);
    Counter "sockwatch_accept_queue_accepts" None LISTENER,
        "Connections that were taken out of the accept queue by accept().",
        |scrape, out| out.counts(scrape, |series| series.accepts);
    Counter "sockwatch_accept_queue_abandoned" None &["netns", "listener", "process", "by"],
        "Connections whose client left by a FIN or a RST (label by) before anybody had accepted them. They stay in \
         the queue.",
        |scrape, out| out.pairs(scrape, "by", ["fin", "rst"], |series| series.left);
    Counter "sockwatch_accept_queue_dead_on_arrival" None &["netns", "listener", "process", "state"],
        "Connections that were accepted after their client had left: in CLOSE they were reset, in CLOSE_WAIT what \
         their client sent can still be read.",
        |scrape, out| out.pairs(scrape, "state", ["CLOSE_WAIT", "CLOSE"], |series| series.late);
    Counter "sockwatch_accept_queue_unqueued" None LISTENER,
        "Connections that were reset in the accept queue because their listener was closed.",
        |scrape, out| out.counts(scrape, |series| series.unqueued);
    Counter "sockwatch_accept_queue_overflows" None LISTENER,
        "Last ACKs of handshakes that found the accept queue full. SYNs that did are only in the drops.",
        |scrape, out| out.counts(scrape, |series| series.overflows);
    Counter "sockwatch_accept_queue_drops" None LISTENER,
        "Packets that the kernel dropped at the listener, SYNs and last ACKs (sk_drops), as of the last comparison \
         with its table.",
        |scrape, out| out.counts(scrape, |series| series.drops);
    Counter "sockwatch_synack_retransmits" None LISTENER,
        "SYN-ACKs that were sent again.",
        |scrape, out| out.counts(scrape, |series| series.synack_retransmits);
    Counter "sockwatch_accept_errors" None &["netns", "listener", "process", "errno"],
        "Calls of accept() that failed, by the name of the error. EAGAIN is none.",
        errors;
    Counter "sockwatch_accepts_unattributed" None &[],
        "Accepted connections whose listener is not known: they are in no series of a listener.",
        |scrape, out| out.counter(&[], scrape.snapshot.unattributed);
    Counter "sockwatch_listeners_folded" None &[],
        "Listening sockets without a series of their own because there were too many: they are summed where the label \
         listener is other.",
        |scrape, out| out.counter(&[], scrape.snapshot.folded);
    Gauge "sockwatch_sockets" None &["state"],
        "Sockets now by state, minisocks (TIME_WAIT, orphans in FIN_WAIT2) included; half-open requests are not.",
        |scrape, out| state::ALL.iter().zip(scrape.snapshot.states).try_for_each(|(state, count)| {
            out.gauge(&[("state", state.name())], count as f64)
        });
    Counter "sockwatch_connections_ended" None &["role", "end"],
        "Connections and listeners that ended, by their role and how: the words of the column END of trace.",
        endings;
    Counter "sockwatch_retransmits" None &[],
        "Segments that were retransmitted by connections; SYN-ACKs are not in it.",
        |scrape, out| out.counter(&[], scrape.snapshot.retransmits);
    Counter "sockwatch_resets_sent" None &["cause"],
        "RSTs sent, by the kernel's reason (enum sk_rst_reason, Linux 6.10 and later; else unknown).",
        |scrape, out| scrape.snapshot.resets_sent.iter().try_for_each(|(cause, count)| {
            out.counter(&[("cause", cause)], *count)
        });
    Counter "sockwatch_resets_received" None &["role"],
        "RSTs received, by the role of the socket.",
        |scrape, out| labels::ROLES.iter().zip(scrape.snapshot.resets_received).try_for_each(|(role, count)| {
            out.counter(&[("role", role.word())], count)
        });
    Gauge "sockwatch_local_ports_taken" None &["netns", "source", "destination"],
        "Local ports that connections from here to a destination take now, TIME_WAIT included. The 50 fullest; the \
         others are summed where the label destination is other.",
        ports;
    Counter "sockwatch_losses" None &["kind"],
        "What was not seen, repeated or doubtful, by the name of its counter (Losses in ARCHITECTURE.md).",
        |scrape, out| losses(&scrape.snapshot.totals.losses).into_iter().try_for_each(|(kind, count)| {
            out.counter(&[("kind", kind)], count)
        });
    Counter "sockwatch_reconcile_rounds" None &[],
        "Rounds of listings of the kernel's socket table that were compared with what sockwatch believes.",
        |scrape, out| out.counter(&[], scrape.snapshot.totals.agreement.rounds);
    Counter "sockwatch_reconcile_compared" None &[],
        "Records of the kernel's table that were compared.",
        |scrape, out| out.counter(&[], scrape.snapshot.totals.agreement.compared);
    Counter "sockwatch_reconcile_agreed" None &[],
        "Those of them that agreed.",
        |scrape, out| out.counter(&[], scrape.snapshot.totals.agreement.agreed);
    Counter "sockwatch_reconcile_repairs" None &["kind"],
        "What had to be corrected after the kernel's table: a socket in another state (differing), one that was not \
         known (unknown) or is no longer there (absent), an accept queue's depth (depth).",
        |scrape, out| {
            let agreement = &scrape.snapshot.totals.agreement;
            let kinds = [
                ("differing", agreement.differing),
                ("unknown", agreement.unknown),
                ("absent", agreement.absent),
                ("depth", agreement.depths),
            ];
            kinds.into_iter().try_for_each(|(kind, count)| out.counter(&[("kind", kind)], count))
        };
    Counter "sockwatch_events" None &[],
        "Events that sockwatch has taken in.",
        |scrape, out| out.counter(&[], scrape.snapshot.totals.events);
    Counter "sockwatch_read" Bytes &[],
        "Bytes of the records that sockwatch has read from the kernel's ring buffers.",
        |scrape, out| out.counter(&[], scrape.cost.read_bytes);
    Counter "sockwatch_program_runs" None &["program"],
        "Runs of each kernel-side program. Only while the sysctl kernel.bpf_stats_enabled is 1.",
        |scrape, out| scrape.cost.programs.iter().try_for_each(|program| {
            out.counter(&[("program", &program.name)], program.runs)
        });
    Counter "sockwatch_program_run" Seconds &["program"],
        "Time that each kernel-side program has run. Only while the sysctl kernel.bpf_stats_enabled is 1.",
        |scrape, out| scrape.cost.programs.iter().try_for_each(|program| {
            out.seconds(&[("program", &program.name)], program.ns as f64 / 1e9)
        });
    Counter "sockwatch_http_requests" None &["path", "code"],
        "Requests that were answered, by path and status.",
        |scrape, out| scrape.cost.requests.iter().try_for_each(|(path, code, count)| {
            out.counter(&[("path", path), ("code", &code.to_string())], *count)
        });
    Counter "sockwatch_http_refused" None &["reason"],
        "Clients that were turned away: too many at once (clients), too many requests of one (rate), a header that is \
         too large (header) or no request (malformed), too slow (slow), without the token (token), or where no TLS \
         could be agreed on (tls).",
        |scrape, out| scrape.cost.refused.iter().try_for_each(|(reason, count)| {
            out.counter(&[("reason", reason)], *count)
        });
    Counter "sockwatch_otlp_records" None &["outcome"],
        "Ended connections and listeners as log records for the OTLP receiver, by what became of them: it took them \
         (delivered), or they were dropped because too many waited (queue_full), because it rejected them out of a \
         request (rejected), or because it refused the request for good (refused). Only with --otlp.",
        |scrape, out| otlp(scrape, |pushed| pushed.records.iter().try_for_each(|(outcome, count)| {
            out.counter(&[("outcome", outcome)], *count)
        }));
    Gauge "sockwatch_otlp_records_waiting" None &[],
        "Log records that wait for the OTLP receiver or are on their way. Only with --otlp.",
        |scrape, out| otlp(scrape, |pushed| out.gauge(&[], pushed.waiting as f64));
    Counter "sockwatch_otlp_requests" None &["signal", "outcome"],
        "Requests to the OTLP receiver: it took it (taken), wants it again later (later), refused it for good \
         (refused), or gave no answer (failed). Only with --otlp.",
        |scrape, out| otlp(scrape, |pushed| pushed.requests.iter().try_for_each(|(signal, outcome, count)| {
            out.counter(&[("signal", signal), ("outcome", outcome)], *count)
        }));
    Counter "sockwatch_otlp_points_rejected" None &[],
        "Data points of metrics that the OTLP receiver rejected out of requests that it took. Only with --otlp.",
        |scrape, out| otlp(scrape, |pushed| out.counter(&[], pushed.points_rejected));
    Counter "process_cpu" Seconds &[],
        "CPU time of sockwatch in user space and in the kernel. What its kernel-side programs take is the time of \
         whom they watch.",
        |scrape, out| out.seconds(&[], scrape.cost.cpu_s);
    Gauge "process_resident_memory" Bytes &[],
        "Resident memory of sockwatch.",
        |scrape, out| out.gauge(&[], scrape.cost.resident_bytes as f64);
    Gauge "process_start_time" Seconds &[],
        "When sockwatch was started, as Unix time.",
        |scrape, out| out.gauge(&[], scrape.cost.started_s);
    Info "sockwatch_build" None &["version", "kernel", "source"],
        "Version of sockwatch, the kernel's release, and where events come from: ebpf, or poll (sampled).",
        |scrape, out| {
            let cost = &scrape.cost;
            out.info(&[("version", &cost.version), ("kernel", &cost.kernel), ("source", &cost.source)])
        };
};

/// All counters of losses by name: without a rest, so that a new one is told, too.
fn losses(losses: &Losses) -> [(&'static str, u64); 14] {
    let Losses {
        ring_full,
        members_full,
        waiting_room_full,
        skipped,
        relieved,
        repeated,
        accepts_unmatched,
        decode_failed,
        late,
        tracker_full,
        evicted,
        repaired,
        unexpected_transitions,
        unrecorded,
    } = *losses;
    [
        ("ring_full", ring_full),
        ("members_full", members_full),
        ("waiting_room_full", waiting_room_full),
        ("skipped", skipped),
        ("relieved", relieved),
        ("repeated", repeated),
        ("accepts_unmatched", accepts_unmatched),
        ("decode_failed", decode_failed),
        ("late", late),
        ("tracker_full", tracker_full),
        ("evicted", evicted),
        ("repaired", repaired),
        ("unexpected_transitions", unexpected_transitions),
        ("unrecorded", unrecorded),
    ]
}

/// Writes the series of one metric.
struct Writer<'a> {
    points: &'a mut dyn Points,
    /// When the figures were 0, if not when sockwatch started.
    since_ns: Option<u64>,
}

impl Writer<'_> {
    fn counter(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        self.points.point(labels, Figure::Count(value), self.since_ns)
    }

    /// A counter that is no whole number.
    fn seconds(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.points.point(labels, Figure::Amount(value), self.since_ns)
    }

    fn gauge(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.points.point(labels, Figure::Level(value), self.since_ns)
    }

    fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) -> fmt::Result {
        self.points.point(labels, Figure::Times(histogram), self.since_ns)
    }

    fn info(&mut self, labels: Labels<'_>) -> fmt::Result {
        self.points.point(labels, Figure::Fact, self.since_ns)
    }

    /// Each listener with its labels; that of all others last, if there are any.
    fn listeners(
        &mut self,
        scrape: &Scrape,
        mut write: impl FnMut(&mut Self, Labels<'_>, &Series) -> fmt::Result,
    ) -> fmt::Result {
        for (Name { netns, local, process }, series) in &scrape.snapshot.listeners {
            let (netns, local, process) = (netns.to_string(), local.to_string(), process.to_string());
            self.since_ns = Some(series.since_ns);
            write(self, &[("netns", &netns), ("listener", &local), ("process", &process)], series)?;
        }
        self.since_ns = None;
        if scrape.snapshot.folded > 0 {
            write(self, &[("listener", "other")], &scrape.snapshot.other)?;
        }
        Ok(())
    }

    fn waits(&mut self, scrape: &Scrape, of: fn(&Series) -> &Histogram) -> fmt::Result {
        self.listeners(scrape, |out, labels, series| out.histogram(labels, of(series)))
    }

    fn counts(&mut self, scrape: &Scrape, of: fn(&Series) -> u64) -> fmt::Result {
        self.listeners(scrape, |out, labels, series| out.counter(labels, of(series)))
    }

    fn gauges(&mut self, scrape: &Scrape, of: fn(&Series) -> Option<f64>) -> fmt::Result {
        self.listeners(scrape, |out, labels, series| of(series).map_or(Ok(()), |value| out.gauge(labels, value)))
    }

    /// Two counts of each listener, told apart by one more label.
    fn pairs(&mut self, scrape: &Scrape, label: &str, values: [&str; 2], of: fn(&Series) -> [u64; 2]) -> fmt::Result {
        self.listeners(scrape, |out, labels, series| {
            let mut counts = values.into_iter().zip(of(series));
            counts.try_for_each(|(value, count)| out.counter(&with(labels, (label, value)), count))
        })
    }
}

fn errors(scrape: &Scrape, out: &mut Writer<'_>) -> fmt::Result {
    out.listeners(scrape, |out, labels, series| {
        let mut errors = series.errors.iter();
        errors.try_for_each(|(number, count)| out.counter(&with(labels, ("errno", &errno(*number))), *count))
    })
}

/// What is only there where something is pushed.
fn otlp(scrape: &Scrape, write: impl FnOnce(&Pushed) -> fmt::Result) -> fmt::Result {
    scrape.cost.otlp.as_ref().map_or(Ok(()), write)
}

/// Those that there were: most pairs of a role and an end cannot be.
fn endings(scrape: &Scrape, out: &mut Writer<'_>) -> fmt::Result {
    for (end, counts) in labels::ENDS.iter().zip(&scrape.snapshot.endings) {
        for (role, count) in labels::ROLES.iter().zip(counts).filter(|(_, count)| **count > 0) {
            out.counter(&[("role", role.word()), ("end", end)], *count)?;
        }
    }
    Ok(())
}

fn ports(scrape: &Scrape, out: &mut Writer<'_>) -> fmt::Result {
    scrape.snapshot.ports.iter().try_for_each(|taken| match taken.route {
        Some((netns, source, remote)) => {
            let (netns, source, remote) = (netns.to_string(), source.to_string(), remote.to_string());
            out.gauge(&[("netns", &netns), ("source", &source), ("destination", &remote)], taken.ports as f64)
        }
        None => out.gauge(&[("destination", "other")], taken.ports as f64),
    })
}

fn with<'a>(labels: Labels<'a>, more: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    labels.iter().copied().chain([more]).collect()
}

fn errno(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => number.to_string(),
        known => format!("{known:?}"),
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for row in TABLE {
            let unit = match row.unit {
                Unit::None => None,
                Unit::Seconds => Some(registry::Unit::Seconds),
                Unit::Bytes => Some(registry::Unit::Bytes),
            };
            let kind = match row.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            row.tell(self, &mut encoder.encode_descriptor(row.name, row.help, unit.as_ref(), kind)?)?;
        }
        Ok(())
    }
}
