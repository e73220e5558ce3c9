//! The report for people: verdict, listeners, findings, cost; one screen.

use std::fmt::Write;

use sockwatch::{
    diagnosis::{
        Report,
        finding::Finding,
        measure::Measured,
        waits::Spread,
        words::{Grouped, Rate, acceptors, count, percent, time},
    },
    tcp::{endpoint::IPV4_WIDTH, loss::Losses},
};

use super::{Cost, verdict};

/// Listeners that are shown: more would not fit on a screen.
const MOST_LISTENERS: usize = 6;

/// Findings that are shown in full.
const MOST_FINDINGS: usize = 5;

const PROCESS_WIDTH: usize = 15;

/// Everything, with the line ends.
pub(super) fn page(report: &Report, cost: Cost) -> String {
    let mut page = format!("{}\n", verdict(report));
    listeners(&mut page, report);
    for finding in report.findings.iter().take(MOST_FINDINGS) {
        self::finding(&mut page, finding);
    }
    if let more @ 1.. = report.findings.len().saturating_sub(MOST_FINDINGS) {
        let _ = writeln!(page, "\n{} more: --format json tells all, --port fewer", count(more as u64, "finding"));
    }
    page.push('\n');
    footer(&mut page, report, cost);
    page
}

fn listeners(page: &mut String, report: &Report) {
    // Who has nothing to do is only counted.
    let has_traffic =
        |listener: &&Measured| listener.waits() > 0 || listener.turned_away() > 0 || !listener.failures.is_empty();
    let busy: Vec<_> = report.listeners.iter().filter(has_traffic).collect();
    if !busy.is_empty() {
        let _ = writeln!(
            page,
            "\n{:IPV4_WIDTH$} {:PROCESS_WIDTH$} {:>9} {:>8} {:>11}  WAIT p50    p90    p99  p99.9    max",
            "LISTENER", "PROCESS", "ACCEPTED", "RATE", "QUEUE"
        );
    }
    for listener in busy.iter().take(MOST_LISTENERS) {
        row(page, listener);
    }
    let untold = busy.len().saturating_sub(MOST_LISTENERS) as u64;
    let idle = (report.listeners.len() - busy.len()) as u64;
    if untold > 0 {
        let _ = writeln!(page, "and {} with connections", count(untold, "other listener"));
    }
    if idle > 0 && !busy.is_empty() {
        let _ = writeln!(page, "and {} that nobody connected to", count(idle, "listener"));
    }
}

fn row(page: &mut String, listener: &Measured) {
    let owner = listener.owner.map_or("-".into(), |owner| owner.to_string());
    let limit = listener.limit.map_or("?".into(), |limit| limit.to_string());
    let queue = format!("{}/{}/{limit}", listener.still_waiting, listener.greatest);
    let rate = Rate(listener.tenths_per_second(listener.accepted));
    let local = listener.local.to_string();
    let _ = write!(
        page,
        "{local:IPV4_WIDTH$} {owner:PROCESS_WIDTH$} {:>9} {rate:>8} {queue:>11}     ",
        Grouped(listener.accepted)
    );
    match listener.wait {
        Some(Spread { p50_ns, p90_ns, p99_ns, p999_ns, max_ns, .. }) => {
            for ns in [p50_ns, p90_ns, p99_ns, p999_ns, max_ns] {
                let _ = write!(page, " {:>6}", time(ns));
            }
        }
        None => page.push_str("      -"),
    }
    page.push('\n');
    let _ = writeln!(page, "  {}", details(listener).join("; "));
}

/// What no column has room for, if there is something to say.
fn details(listener: &Measured) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(handshake) = listener.handshake {
        let (p50, p99) = (time(handshake.p50_ns), time(handshake.p99_ns));
        words.push(format!("SHAKE p50 {p50}, p99 {p99}"));
    }
    match (listener.oldest, listener.since_accept_ns) {
        (Some(oldest), since) => {
            let waiting = u64::from(listener.still_waiting);
            words.push(format!("{} wait now, the oldest for {}", Grouped(waiting), time(oldest.ns())));
            words.push(since.map_or("no accept".into(), |ns| format!("last accept {} ago", time(ns))));
        }
        (None, Some(since)) => words.push(format!("last accept {} ago", time(since))),
        (None, None) => {}
    }
    if let Some(gaps) = listener.gaps {
        words.push(format!("longest pause while somebody waited {}", time(gaps.max_ns)));
    }
    let told = [
        (listener.left.by_fin + listener.left.by_rst, "left before accept()"),
        (listener.dead_on_arrival, "dead on arrival"),
        (listener.overflows, "ACKs dropped at the full queue"),
        (listener.drops.map_or(0, u64::from), "packets dropped at the listener"),
        (listener.synack_retransmits, "SYN-ACKs sent again"),
        (listener.failures.iter().map(|failure| failure.count).sum(), "failed accepts"),
    ];
    words.extend(
        told.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{} {what}", Grouped(number))),
    );
    if let Some(blame) = &listener.blame
        && listener.slow > 0
    {
        let parts = blame.parts.iter().filter(|part| part.ns > 0);
        let parts: Vec<_> = parts.map(|it| format!("{} {}", it.kind.word(), percent(blame.permille(it.ns)))).collect();
        words.push(format!("BLAME {}", parts.join(", ")));
    }
    if listener.acceptors.len() > 1 {
        words.push(format!("accepted by {}", acceptors(listener)));
    }
    words
}

fn finding(page: &mut String, finding: &Finding) {
    let name = finding.name.word();
    let _ = writeln!(page, "\n{name}: {}", finding.sentence);
    let sections = [("evidence", &finding.evidence), ("it is not", &finding.rules_out), ("what to do", &finding.fix)];
    for (heading, lines) in sections {
        for (index, line) in lines.iter().enumerate() {
            let heading = if index == 0 { heading } else { "" };
            let _ = writeln!(page, "  {heading:10} {line}");
        }
    }
}

fn footer(page: &mut String, report: &Report, cost: Cost) {
    let Losses { late, repaired, .. } = report.losses;
    let (lost, missed, dropped) = (report.losses.lost(), report.losses.missed(), report.losses.dropped());
    if lost + missed + dropped + late + repaired > 0 {
        let _ = writeln!(
            page,
            "not seen: lost={lost} missed={missed} dropped={dropped} late={late} repaired={repaired} (`sockwatch explain lost` tells more)"
        );
    }
    if report.unattributed > 0 {
        let _ = writeln!(page, "{} of a listener that is not known: in no row", count(report.unattributed, "accept"));
    }
    let seconds = report.ran_ns.max(1) as f64 / 1e9;
    let _ = writeln!(
        page,
        "measured for {}, slow from {}; own cost: {}, {:.0}/s, {:.1} % of one CPU, {} kB",
        time(report.ran_ns),
        time(report.slow_ns),
        count(report.events, "event"),
        report.events as f64 / seconds,
        cost.cpu.as_secs_f64() * 100.0 / seconds,
        Grouped(cost.bytes / 1000)
    );
}
