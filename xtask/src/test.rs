//! `cargo xtask test`: everything CI checks, in one command, stopping at the first failure.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{browser, ebpf, elsewhere, fuzz, generated, packages, prometheus, setup, shell, tidy, vm};

enum Outcome {
    Passed,
    Skipped(String),
}

struct Step {
    name: &'static str,
    run: fn(&Path) -> Result<Outcome>,
}

/// How long property tests go on with new input, each time.
const FUZZING: Duration = Duration::from_secs(60);

/// The tests come last, so that their counts are what a reader sees at the end.
const STEPS: &[Step] = &[
    Step { name: "setup", run: |_| passed(setup::run()) },
    Step { name: "format", run: |workspace| passed(format(workspace)) },
    Step { name: "tidy", run: |_| passed(tidy::run()) },
    Step { name: "clippy", run: |workspace| passed(clippy(workspace)) },
    Step { name: "clippy for bpf", run: clippy_for_bpf },
    Step { name: "ebpf --check", run: |workspace| passed(ebpf::check(workspace)) },
    Step { name: "build", run: |workspace| passed(shell::debug_build(workspace).map(drop)) },
    Step { name: "gen --check", run: |workspace| passed(generated::check(workspace)) },
    Step { name: "recordings elsewhere", run: |workspace| passed(elsewhere::check(workspace)) },
    Step { name: "pages in a browser", run: |workspace| passed(browser::check(workspace)) },
    Step { name: "rules and dashboard", run: |workspace| passed(prometheus::rules::check(workspace)) },
    Step { name: "metrics in Prometheus", run: metrics_in_prometheus },
    Step { name: "packages", run: |workspace| passed(packages::check(workspace)) },
    Step { name: "fuzz", run: |workspace| passed(fuzz::check(workspace, FUZZING)) },
    Step { name: "tests", run: |workspace| passed(tests(workspace)) },
    Step { name: "tests on other kernels", run: other_kernels },
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only steps whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    step: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = shell::workspace()?;
    let began = Instant::now();
    let steps: Vec<_> = STEPS.iter().filter(|step| step.name.contains(&options.step)).collect();
    if steps.is_empty() {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("--step {}: there are {}", options.step, names.join(", "));
    }
    for step in &steps {
        let step_began = Instant::now();
        let outcome = (step.run)(&workspace).with_context(|| format!("step `{}` failed", step.name))?;
        let seconds = step_began.elapsed().as_secs_f64();
        match outcome {
            Outcome::Passed => println!("[{}] passed in {seconds:.1} s", step.name),
            Outcome::Skipped(reason) => println!("[{}] skipped: {reason}", step.name),
        }
    }
    println!("all {} steps done in {:.1} s", steps.len(), began.elapsed().as_secs_f64());
    Ok(())
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

fn format(workspace: &Path) -> Result<()> {
    shell::run(shell::cargo(workspace).args(["fmt", "--all", "--check"]), "run `cargo fmt --all`")
}

fn clippy(workspace: &Path) -> Result<()> {
    let mut command = shell::cargo(workspace);
    command.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]);
    shell::run(&mut command, "fix the lints above")
}

fn clippy_for_bpf(workspace: &Path) -> Result<Outcome> {
    Ok(ebpf::clippy(workspace)?.map_or(Outcome::Passed, Outcome::Skipped))
}

/// All tests. Live tests share the machine with each other and with whatever else runs on it: those that fail are run once more,
/// by themselves, and what they had failed with stays in the output. One that fails twice has failed, and so have many at once.
fn tests(workspace: &Path) -> Result<()> {
    let mut command = shell::cargo(workspace);
    if shell::is_root() {
        // Nothing that should run may be skipped.
        command.env("SOCKWATCH_LIVE", "required");
        if shell::probe(Command::new("tmux").arg("-V")).is_none() {
            setup::install(&["tmux"])?;
        }
    }
    command.args(["test", "--workspace", "--no-fail-fast"]);
    let first = run_tests(&mut command)?;
    println!("all test binaries: {first}");
    if first.succeeded {
        return Ok(());
    }
    let failed = &first.names_of_failed;
    if !first.is_whole() || failed.is_empty() || failed.len() > FAILED_TOGETHER {
        bail!("`cargo test --workspace` failed: look for the first FAILED above");
    }
    println!("again, by themselves: {}", failed.join(", "));
    let mut command = shell::cargo(workspace);
    command.env("SOCKWATCH_LIVE", "required");
    command.args(["test", "-p", "sockwatch", "--test", "live", "--", "--exact", "--test-threads=1"]).args(failed);
    let second = run_tests(&mut command)?;
    // Names of other tests than live ones are not found there.
    if !second.succeeded || second.counts.passed != failed.len() as u64 {
        bail!("tests failed: {}", failed.join(", "));
    }
    println!("unsteady, failed once and passed alone: {}", failed.join(", "));
    Ok(())
}

/// More that fail at once have not been disturbed: something is broken.
const FAILED_TOGETHER: usize = 4;

/// What a run of tests printed, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    succeeded: bool,
    counts: Counts,
    names_of_failed: Vec<String>,
    /// Test binaries that have begun, and that have come to their end.
    begun: u64,
    ended: u64,
}

impl Run {
    fn read(&mut self, line: &str) {
        self.counts.add(line);
        self.begun += u64::from(line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")));
        self.ended += u64::from(line.starts_with("test result: "));
        let failed = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        self.names_of_failed.extend(failed.map(str::to_owned));
    }

    /// No test binary has crashed, and the names of all that failed are known.
    fn is_whole(&self) -> bool {
        self.begun == self.ended && self.counts.failed == self.names_of_failed.len() as u64
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { passed, failed, ignored } = self.counts;
        write!(f, "{passed} passed; {failed} failed; {ignored} ignored")
    }
}

/// Shows the tests' own output as it comes.
fn run_tests(command: &mut Command) -> Result<Run> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start `cargo test`: is cargo installed?")?;
    let output = child.stdout.take().context("`cargo test` has no output: run it by hand")?;
    let mut run = Run::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the tests' output: run `cargo test --workspace` by hand")?;
        writeln!(std::io::stdout(), "{line}").context("cannot print the tests' output")?;
        run.read(&line);
    }
    run.succeeded = child.wait().context("`cargo test` is gone: run it by hand")?.success();
    Ok(run)
}

fn metrics_in_prometheus(workspace: &Path) -> Result<Outcome> {
    if !shell::is_root() {
        return Ok(Outcome::Skipped("tracing takes root".into()));
    }
    passed(prometheus::check(workspace))
}

/// Two of the matrix: the others may vanish from the mirror, and all four take twice as long.
fn other_kernels(workspace: &Path) -> Result<Outcome> {
    if !shell::is_root() {
        return Ok(Outcome::Skipped("installing an emulator takes root; try `cargo xtask vm`".into()));
    }
    passed(vm::check(workspace, &["6.1", "6.12"]))
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; ignores all others.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                // "measured" and "filtered" are not tests that ran.
                _other => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_up_and_others_ignored() {
        let mut run = Run::default();
        run.read("running 3 tests");
        run.read("test a::b ... ok");
        run.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        run.read("running 1 test");
        run.read("test a::c ... FAILED");
        assert!(!run.is_whole(), "it may crash yet");
        run.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.1s");
        assert_eq!(run.counts, Counts { passed: 5, failed: 1, ignored: 1 });
        assert_eq!(run.names_of_failed, ["a::c"]);
        assert_eq!(run.to_string(), "5 passed; 1 failed; 1 ignored");
        assert!(run.is_whole());
        run.counts.failed += 1;
        assert!(!run.is_whole(), "a name is missing");
    }
}
