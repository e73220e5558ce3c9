//! What each of sockwatch's BPF programs costs per run, beside an empty program on the same tracepoint.
//!
//! A round of its own: the kernel's counting costs time too, in every program alike.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use super::contender::{Ready, sockwatch};
use super::rounds::run_load;
use super::tool::Tool;
use super::{Bench, PORT, proc, room};

pub(super) const NAME: &str = "probes";
/// The program that does nothing, on the tracepoint of the state probe.
const EMPTY: &str = "empty";
/// What the state probe's name begins with, on whichever tracepoint it was attached.
const STATE_PROBE: &str = "set_state";

/// A program's counters.
struct Program {
    name: String,
    runs: u64,
    time: Duration,
}

impl Program {
    fn nanoseconds_per_run(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.time.as_nanos() as f64 / self.runs as f64)
    }
}

/// Prints the table; returns how much a run of the state probe takes beyond an empty one's, in nanoseconds.
pub(super) fn run(bench: &Bench) -> Result<Option<f64>> {
    println!("\ntime per run of each program, with all of them attached");
    match room::inside(|| count(bench)) {
        Ok(programs) => Ok(print(&programs)),
        Err(error) => {
            println!("failed: {error:#}");
            Ok(None)
        }
    }
}

fn count(bench: &Bench) -> Result<Vec<Program>> {
    let counting =
        enable_stats(Stats::RunTime).context("the kernel does not count runs: it needs Linux 5.8, and root")?;
    let mut command = sockwatch(bench, "trace", PORT);
    command.args(["--connections", "--with-empty-probe"]);
    let tool = Tool::start(command, &bench.scratch.0.join(NAME), Ready::Announced)?;
    run_load(bench.connections)?;
    let owned = proc::bpf_programs(tool.pid())?;
    let mut programs = Vec::new();
    for program in loaded_programs() {
        // A program of somebody else may be unloaded while the list is read.
        let Ok(program) = program else { continue };
        if owned.contains(&program.id()) {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            programs.push(Program { name, runs: program.run_count(), time: program.run_time() });
        }
    }
    tool.end()?;
    drop(counting);
    programs.sort_by_key(|program| std::cmp::Reverse(program.time));
    Ok(programs)
}

fn print(programs: &[Program]) -> Option<f64> {
    let find = |name: &str| {
        let program = programs.iter().find(|program| program.name.starts_with(name));
        program.and_then(Program::nanoseconds_per_run)
    };
    let empty = find(EMPTY);
    println!("{:<16} {:>10} {:>8} {:>11}", "program", "runs", "ns/run", "over empty");
    for program in programs {
        let (time, over) = match (program.nanoseconds_per_run(), empty) {
            (Some(time), Some(empty)) => (format!("{time:.0}"), format!("{:+.0}", time - empty)),
            (Some(time), None) => (format!("{time:.0}"), "-".to_owned()),
            (None, _) => ("-".to_owned(), "-".to_owned()),
        };
        println!("{:<16} {:>10} {time:>8} {over:>11}", program.name, program.runs);
    }
    Some(find(STATE_PROBE)? - empty?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, runs: u64, nanoseconds: u64) -> Program {
        Program { name: name.to_owned(), runs, time: Duration::from_nanos(nanoseconds) }
    }

    #[test]
    fn the_state_probe_is_compared_with_the_empty_one() {
        let programs = [program("set_state_btf", 10, 2000), program("accept", 0, 0), program("empty", 10, 400)];
        assert_eq!(print(&programs), Some(160.0));
        assert_eq!(print(&programs[..2]), None);
    }
}
