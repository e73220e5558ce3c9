//! The contest: each round gives every contender one turn at the same load, in rotated order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::contender::{
    self, AGGREGATED, BLAMING, CAPTURING, CONNECTIONS, CONTENDERS, Contender, Counted, JSON, RECORDING, SERVING,
};
use super::load::Load;
use super::output::{self, Lines, Losses};
use super::statistics::{median, range, rotated};
use super::tool::{Ended, Tool};
use super::verdict::Numbers;
use super::{Bench, PORT, proc, room, sizes};
use crate::shell;

const BASELINE: &str = "nothing";
/// If nothing's own rate varies by more than this factor, the machine is doing something else as well.
const NOISE: f64 = 1.25;

/// What a contender's turn gave.
struct Turn {
    round: u32,
    load: Load,
    tracing: Option<Tracing>,
}

/// What tracing took and gave; a turn with nothing attached has none.
struct Tracing {
    cpu_seconds: f64,
    peak_resident_mib: f64,
    output_bytes: u64,
    /// What its user sees: transitions or connections.
    seen: u64,
    expected: u64,
    /// Records that came from the kernel.
    events: u64,
    losses: Losses,
    /// Of a recording: the bytes of what it is exported to.
    exported: Vec<(&'static str, u64)>,
}

/// Turns and failures by contender.
#[derive(Default)]
struct Results {
    turns: BTreeMap<&'static str, Vec<Turn>>,
    failures: BTreeMap<&'static str, String>,
}

pub(super) fn run(bench: &Bench, wanted: impl Fn(&str) -> bool, numbers: &mut Numbers) -> Result<()> {
    let mut results = Results::default();
    for contender in CONTENDERS.iter().filter(|contender| wanted(contender.name)) {
        if let Some(reason) = contender.absence() {
            results.failures.insert(contender.name, reason);
        }
    }
    let present = CONTENDERS.iter().filter(|contender| wanted(contender.name) && contender.absence().is_none());
    // `None` is the turn with nothing attached.
    let turns: Vec<Option<&Contender>> = [None].into_iter().chain(present.map(Some)).collect();
    println!("\n{} rounds of {} connections, {} contenders", bench.rounds, bench.connections, turns.len());
    for round in 0..bench.rounds {
        for &contender in rotated(&turns, round) {
            take_turn(bench, round, contender, &mut results)?;
        }
    }
    print(&results);
    print_sizes(&results);
    collect(&results, numbers);
    Ok(())
}

/// One turn. Another tool's failure is noted and the contest goes on without it.
fn take_turn(bench: &Bench, round: u32, contender: Option<&'static Contender>, results: &mut Results) -> Result<()> {
    let name = contender.map_or(BASELINE, |contender| contender.name);
    if results.failures.contains_key(name) {
        return Ok(());
    }
    let turn = room::inside(|| match contender {
        None => Ok((run_load(bench.connections)?, None)),
        Some(contender) => trace(bench, contender).map(|(load, tracing)| (load, Some(tracing))),
    });
    match (turn, contender) {
        (Ok((load, tracing)), _) => {
            eprintln!("round {}: {name}: {:.0} connections/s", round + 1, load.connections_per_second());
            results.turns.entry(name).or_default().push(Turn { round, load, tracing });
            Ok(())
        }
        (Err(error), Some(_)) => {
            eprintln!("round {}: {name}: failed: {error:#}", round + 1);
            results.failures.insert(name, format!("failed: {error:#}"));
            Ok(())
        }
        (Err(error), None) => Err(error.context("the load fails with nothing attached")),
    }
}

fn trace(bench: &Bench, contender: &Contender) -> Result<(Load, Tracing)> {
    let output = bench.scratch.0.join(contender.name);
    let tool = Tool::start(contender.command(bench), &output, contender.ready)?;
    let load = run_load(bench.connections)?;
    tool.wait_until_quiet()?;
    let missed = proc::missed_runs(tool.pid())?;
    let ended = tool.end()?;
    let mut file = BufReader::new(File::open(&output).with_context(|| format!("{} is gone", output.display()))?);
    let (seen, events, losses) = match contender.counted {
        Counted::Summary => {
            let summary = output::summary(ended.said.iter().map(String::as_str))?;
            (summary.connections, summary.events, summary.losses)
        }
        Counted::Report => {
            let report = output::report(&mut file)?;
            (report.connections, report.events, report.losses)
        }
        Counted::Replay => {
            let mut replay = Command::new(&bench.sockwatch);
            replay.args(["replay", "--connections"]).arg(contender::recording(bench)).stdout(Stdio::null());
            let replayed = replay
                .stderr(Stdio::piped())
                .spawn()
                .and_then(std::process::Child::wait_with_output)
                .context("a recording cannot be replayed")?;
            let said = String::from_utf8_lossy(&replayed.stderr);
            let summary = output::summary(said.lines())?;
            (summary.connections, summary.events, summary.losses)
        }
        Counted::Packets => {
            let (events, lost) = output::packets(ended.said.iter().map(String::as_str))?;
            (sizes::first_syns(&output)?, events, Losses { lost, missed, dropped: 0 })
        }
        Counted::Lines => {
            let lines = Lines::read(file, PORT)?;
            let lost = lines.lost + lost_as_said(&ended);
            (lines.events, lines.events, Losses { lost, missed, dropped: 0 })
        }
    };
    let Ended { cpu_seconds, peak_resident_mib, mut output_bytes, .. } = ended;
    let mut exported = Vec::new();
    if contender.counted == Counted::Replay {
        let recording = contender::recording(bench);
        output_bytes = recording.metadata().with_context(|| format!("{} is gone", recording.display()))?.len();
        exported = sizes::exported(bench, &recording)?;
    }
    let expected = contender.reports.expected(&load);
    Ok((load, Tracing { cpu_seconds, peak_resident_mib, output_bytes, seen, expected, events, losses, exported }))
}

fn lost_as_said(ended: &Ended) -> u64 {
    ended.said.iter().filter_map(|line| output::lost(line)).sum()
}

/// The load in a process of its own, so that filters by process can tell it from the benchmark.
pub(super) fn run_load(connections: u64) -> Result<Load> {
    let program = std::env::current_exe().context("this program cannot find itself: run `cargo xtask bench` again")?;
    let mut command = Command::new(program);
    command.args(["load", "--port", &PORT.to_string(), "--connections", &connections.to_string()]);
    let printed = shell::read(&mut command, "the load must run alone: stop what listens on its port")?;
    output::load(&String::from_utf8_lossy(&printed))
}

/// Ratios to the turn with nothing attached of the same round.
fn ratios(results: &Results, name: &str) -> Vec<f64> {
    let turns = |name| results.turns.get(name).map(Vec::as_slice).unwrap_or_default();
    let pairs = turns(name).iter().filter_map(|turn| {
        let baseline = turns(BASELINE).iter().find(|baseline| baseline.round == turn.round)?;
        Some(turn.load.connections_per_second() / baseline.load.connections_per_second())
    });
    pairs.collect()
}

fn print(results: &Results) {
    println!(
        "\n{:<22} {:>9} {:>6} {:>13} {:>6} {:>19} {:>8} {:>19} {:>8} {:>7}",
        "contender",
        "conn/s",
        "ratio",
        "(range)",
        "CPU s",
        "seen/expected",
        "rec/conn",
        "lost/missed/dropped",
        "RSS MiB",
        "B/conn"
    );
    let names = [BASELINE].into_iter().chain(CONTENDERS.iter().map(|contender| contender.name));
    for name in names {
        if let Some(turns) = results.turns.get(name) {
            println!("{}", row(name, turns, &ratios(results, name)));
        }
        if let Some(reason) = results.failures.get(name) {
            println!("{name:<22} {reason}");
        }
    }
    println!(
        "conn/s, CPU s, RSS, B/conn: medians over rounds; ratio: median of each round's ratio to `{BASELINE}`; seen, \
         expected and losses: sums over rounds; lost: for want of room; missed: the program was running already on that \
         CPU; dropped: by the tool; CPU s: of the tool since it was attached, its drain included"
    );
    warn_of_noise(results);
}

/// What the same traffic takes in each form: for each event that a recording has of it.
fn print_sizes(results: &Results) {
    let tracings =
        |name| results.turns.get(name).into_iter().flatten().filter_map(|turn| Some((turn, turn.tracing.as_ref()?)));
    let Some((turn, recorded)) = tracings(RECORDING).next_back() else { return };
    let events = recorded.events as f64 / turn.load.connections as f64;
    println!("\nbytes of the same traffic for each event that a recording has of it ({events:.1} for a connection)");
    let of = |bytes: u64, load: &Load| bytes as f64 / load.connections as f64 / events;
    println!("  {:<34} {:>8.2}", "recording", of(recorded.output_bytes, &turn.load));
    for (name, bytes) in &recorded.exported {
        println!("  {name:<34} {:>8.2}", of(*bytes, &turn.load));
    }
    for (name, what) in [(JSON, "trace --format json, as it came"), (CAPTURING, "pcap, headers only (tcpdump)")] {
        if let Some((turn, tracing)) = tracings(name).next_back() {
            println!("  {what:<34} {:>8.2}", of(tracing.output_bytes, &turn.load));
        }
    }
}

fn warn_of_noise(results: &Results) {
    let baseline = results.turns.get(BASELINE).into_iter().flatten();
    let rates = baseline.map(|turn| turn.load.connections_per_second());
    if let Some((least, most)) = range(rates)
        && most > least * NOISE
    {
        println!("NOISY: `{BASELINE}` itself ran at {least:.0} to {most:.0} conn/s; repeat this on an idle machine");
    }
}

fn row(name: &str, turns: &[Turn], ratios: &[f64]) -> String {
    let rate = median(turns.iter().map(|turn| turn.load.connections_per_second())).unwrap_or(f64::NAN);
    let ratio = median(ratios.iter().copied()).unwrap_or(f64::NAN);
    let (least, most) = range(ratios.iter().copied()).unwrap_or((f64::NAN, f64::NAN));
    let mut row = format!("{name:<22} {rate:>9.0} {ratio:>6.3} {:>13}", format!("{least:.3}-{most:.3}"));
    let tracings: Vec<_> = turns.iter().filter_map(|turn| turn.tracing.as_ref()).collect();
    if tracings.is_empty() {
        return row;
    }
    let connections: u64 = turns.iter().map(|turn| turn.load.connections).sum();
    let middle = |number: fn(&Tracing) -> f64| median(tracings.iter().map(|t| number(t))).unwrap_or(f64::NAN);
    let sum = |number: fn(&Tracing) -> u64| tracings.iter().map(|t| number(t)).sum::<u64>();
    row += &format!(
        " {:>6.2} {:>19} {:>8.1} {:>19} {:>8.1} {:>7.0}",
        middle(|tracing| tracing.cpu_seconds),
        format!("{}/{}", sum(|tracing| tracing.seen), sum(|tracing| tracing.expected)),
        sum(|tracing| tracing.events) as f64 / connections as f64,
        format!(
            "{}/{}/{}",
            sum(|tracing| tracing.losses.lost),
            sum(|tracing| tracing.losses.missed),
            sum(|tracing| tracing.losses.dropped)
        ),
        middle(|tracing| tracing.peak_resident_mib),
        sum(|tracing| tracing.output_bytes) as f64 / connections as f64,
    );
    row
}

fn collect(results: &Results, numbers: &mut Numbers) {
    numbers.connections_ratio = median(ratios(results, CONNECTIONS));
    numbers.json_ratio = median(ratios(results, JSON));
    numbers.recording_ratio = median(ratios(results, RECORDING));
    let recordings = results.turns.get(RECORDING).into_iter().flatten().filter_map(|turn| turn.tracing.as_ref());
    let sizes = recordings.map(|tracing| tracing.output_bytes as f64 / tracing.events.max(1) as f64);
    numbers.bytes_per_event = median(sizes);
    numbers.serving_ratio = median(ratios(results, SERVING));
    numbers.aggregated_ratio = median(ratios(results, AGGREGATED));
    numbers.blaming_ratio = median(ratios(results, BLAMING));
    let turns =
        [CONNECTIONS, JSON, RECORDING, SERVING].into_iter().filter_map(|name| results.turns.get(name)).flatten();
    let lost: Vec<_> = turns.filter_map(|turn| turn.tracing.as_ref()).map(|tracing| tracing.losses.lost).collect();
    numbers.lost = (!lost.is_empty()).then(|| lost.iter().sum());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_turns_of_the_same_round() {
        let turn =
            |round, seconds| Turn { round, load: Load { connections: 100, listeners: 1, seconds }, tracing: None };
        let mut results = Results::default();
        results.turns.insert(BASELINE, vec![turn(0, 1.0), turn(1, 2.0), turn(2, 1.0)]);
        results.turns.insert(JSON, vec![turn(0, 2.0), turn(1, 2.0)]);
        assert_eq!(ratios(&results, JSON), [0.5, 1.0]);
        assert!(ratios(&results, CONNECTIONS).is_empty());
    }
}
