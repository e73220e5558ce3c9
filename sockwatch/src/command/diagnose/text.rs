//! The report for people: verdict, listeners, findings, cost; one screen.

use std::fmt::Write;

use sockwatch::{
    diagnosis::{
        Report,
        finding::Finding,
        first_reads::Reads,
        measure::Measured,
        waits::Spread,
        words::{Grouped, Rate, acceptors, age, count, percent, time},
    },
    explain::wrap,
    kernel::gauge::Taken,
    tcp::{endpoint::IPV4_WIDTH, loss::Losses},
};

use super::{Measuring, not_looked_for, verdict};

/// Listeners that are shown: more would not fit on a screen.
const MOST_LISTENERS: usize = 6;

/// Findings that are shown in full.
const MOST_FINDINGS: usize = 5;

const PROCESS_WIDTH: usize = 15;

/// From this width on waits stand in columns.
const WIDE: usize = 107;

/// Everything, with the line ends, in lines of `width` columns.
pub(super) fn page(report: &Report, measuring: &Measuring, width: usize) -> String {
    let mut page = String::new();
    wrap(&verdict(report), ("", "  "), width, &mut page);
    listeners(&mut page, report, width);
    for (index, finding) in report.findings.iter().take(MOST_FINDINGS).enumerate() {
        // The worst one's sentence is the verdict: it stands above.
        let name = finding.name.word();
        page.push('\n');
        match index {
            0 => wrap(name, ("", ""), width, &mut page),
            _ => wrap(&format!("{name}: {}", finding.sentence), ("", "  "), width, &mut page),
        }
        proof(&mut page, finding, width);
    }
    if let more @ 1.. = report.findings.len().saturating_sub(MOST_FINDINGS) {
        let _ = writeln!(page, "\n{} more: --format json tells all, --port fewer", count(more as u64, "finding"));
    }
    page.push('\n');
    footer(&mut page, report, measuring, width);
    page
}

fn listeners(page: &mut String, report: &Report, width: usize) {
    // Who has nothing to do is only counted.
    let has_traffic =
        |listener: &&Measured| listener.waits() > 0 || listener.turned_away() > 0 || !listener.failures.is_empty();
    let busy: Vec<_> = report.listeners.iter().filter(has_traffic).collect();
    if !busy.is_empty() {
        let waits = if width < WIDE { "" } else { "  WAIT p50    p90    p99  p99.9    max" };
        let _ = writeln!(
            page,
            "\n{:IPV4_WIDTH$} {:PROCESS_WIDTH$} {:>9} {:>8} {:>11}{waits}",
            "LISTENER", "PROCESS", "ACCEPTED", "RATE", "QUEUE"
        );
    }
    for listener in busy.iter().take(MOST_LISTENERS) {
        row(page, listener, width);
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

fn row(page: &mut String, listener: &Measured, width: usize) {
    let owner = listener.owner.map_or("-".into(), |owner| owner.to_string());
    let limit = listener.limit.map_or("?".into(), |limit| limit.to_string());
    let queue = format!("{}/{}/{limit}", listener.still_waiting, listener.greatest);
    let rate = Rate(listener.tenths_per_second(listener.accepted));
    let local = listener.local.to_string();
    let _ = write!(
        page,
        "{local:IPV4_WIDTH$} {owner:PROCESS_WIDTH$} {:>9} {rate:>8} {queue:>11}",
        Grouped(listener.accepted)
    );
    let mut words = details(listener);
    if let Some(Spread { p50_ns, p90_ns, p99_ns, p999_ns, max_ns, .. }) = listener.wait {
        let [p50, p90, p99, p999, max] = [p50_ns, p90_ns, p99_ns, p999_ns, max_ns].map(time);
        if width < WIDE {
            words.insert(0, format!("WAIT p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}"));
        } else {
            let _ = write!(page, "      {p50:>6} {p90:>6} {p99:>6} {p999:>6} {max:>6}");
        }
    }
    page.push('\n');
    if !words.is_empty() {
        wrap(&words.join("; "), ("  ", "  "), width, page);
    }
}

/// What no column has room for, if there is something to say.
fn details(listener: &Measured) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(handshake) = listener.handshake {
        let (p50, p99) = (time(handshake.p50_ns), time(handshake.p99_ns));
        words.push(format!("SHAKE p50 {p50}, p99 {p99}"));
    }
    if let Some(Reads { first, never, .. }) = listener.reads {
        words.extend(first.map(|first| format!("READ p50 {}, p99 {}", time(first.p50_ns), time(first.p99_ns))));
        words.extend((never > 0).then(|| format!("ended with unread data only {}", Grouped(never))));
    }
    match (listener.oldest, listener.since_accept_ns) {
        (Some(oldest), since) => {
            let waiting = u64::from(listener.still_waiting);
            let verb = if waiting == 1 { "waits" } else { "wait" };
            words.push(format!("{} {verb} now, the oldest for {}", Grouped(waiting), age(oldest)));
            words.push(since.map_or("no accept".into(), |ns| format!("last accept {} ago", time(ns))));
        }
        (None, Some(since)) => words.push(format!("last accept {} ago", time(since))),
        (None, None) => {}
    }
    if let Some(gaps) = listener.gaps {
        words.push(format!("longest pause while somebody waited {}", time(gaps.max_ns)));
    }
    let told = [
        ("left before accept()", listener.left.by_fin + listener.left.by_rst),
        ("dead on arrival", listener.dead_on_arrival),
        ("ACKs dropped at the full queue", listener.overflows),
        ("packets dropped at the listener", listener.drops.map_or(0, u64::from)),
        ("SYN-ACKs sent again", listener.synack_retransmits),
        ("failed accepts", listener.failures.iter().map(|failure| failure.count).sum()),
    ];
    let told = told.into_iter().filter(|(_, number)| *number > 0);
    words.extend(told.map(|(what, number)| format!("{what} {}", Grouped(number))));
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

/// A finding's lines, below its name.
fn proof(page: &mut String, finding: &Finding, width: usize) {
    let sections = [("evidence", &finding.evidence), ("it is not", &finding.rules_out), ("what to do", &finding.fix)];
    for (heading, lines) in sections {
        for (index, line) in lines.iter().enumerate() {
            let heading = if index == 0 { heading } else { "" };
            wrap(line, (&format!("  {heading:10} "), &" ".repeat(15)), width, page);
        }
    }
}

fn footer(page: &mut String, report: &Report, measuring: &Measuring, width: usize) {
    let Losses { late, repaired, .. } = report.losses;
    let (lost, missed, dropped) = (report.losses.lost(), report.losses.missed(), report.losses.dropped());
    if lost + missed + dropped + late + repaired > 0 {
        let told = format!(
            "not seen: lost={lost} missed={missed} dropped={dropped} late={late} repaired={repaired} (`sockwatch explain lost` tells more)"
        );
        wrap(&told, ("", "  "), width, page);
    }
    if report.unattributed > 0 {
        let _ = writeln!(page, "{} of a listener that is not known: in no row", count(report.unattributed, "accept"));
    }
    if report.is_counted {
        let told = "connections were counted in the kernel, not told one by one (--aggregate=never tells each)";
        wrap(told, ("", "  "), width, page);
    }
    let unlooked = not_looked_for(report, measuring);
    if !unlooked.is_empty() {
        wrap(&format!("not looked for: {}", unlooked.join(", ")), ("", "  "), width, page);
    }
    let seconds = report.ran_ns.max(1) as f64 / 1e9;
    if let Some(host) = &measuring.recorded_on {
        let told = format!(
            "recorded on {host} for {}, slow from {}: {}, {} kB; neither what threads did nor what was asked of each socket is in a \
             recording",
            time(report.ran_ns),
            time(report.slow_ns),
            count(report.events, "event"),
            Grouped(measuring.bytes / 1000)
        );
        return wrap(&told, ("", "  "), width, page);
    }
    let mut told = format!(
        "measured for {}, slow from {}; own cost: {}, {:.0}/s, {:.1} % of one CPU, {} kB",
        time(report.ran_ns),
        time(report.slow_ns),
        count(report.events, "event"),
        report.events as f64 / seconds,
        measuring.cpu.as_secs_f64() * 100.0 / seconds,
        Grouped(measuring.bytes / 1000)
    );
    if let Some(Taken { measured, runs, ns }) = measuring.probes.filter(|taken| taken.runs > 0) {
        let seconds = measured.as_secs_f64();
        let _ = write!(
            told,
            "; its probes {} a run, {:.0} runs/s, {:.2} % of one CPU (by the first {seconds:.1} s)",
            time(ns / runs),
            runs as f64 / seconds,
            ns as f64 / 1e7 / seconds
        );
    }
    wrap(&told, ("", "  "), width, page);
}
