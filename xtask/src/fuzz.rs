//! `cargo xtask fuzz`: the property tests of what parses foreign bytes and of what believes in events, with other random
//! input each time, for as long as wanted. A failure prints the smallest input that it found, and the seed to keep.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::shell;
use crate::test::Counts;

/// Each names at least one property test of the library.
const PROPERTIES: &[&str] = &[
    "tcp::decode::tests::no_bytes",
    "tcp::order::tests::everything_comes_out",
    "tcp::tracker::tests::model",
    "tcp::tracker::tests::properties",
    "source::table::record::tests::no_bytes",
    "recording::tests::hostile",
    "recording::tests::events_come_back",
    "recording::tests::rounds_come_back",
    "source::table::exchange::tests",
];

/// Cases of each property in a round: some seconds' worth.
const CASES: &str = "2000";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long to go on with new input; the round that has begun is finished
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    check(&shell::workspace()?, Duration::from_secs(options.seconds))
}

/// Rounds of all properties until the time is over, at least one.
pub(crate) fn check(workspace: &Path, time: Duration) -> Result<()> {
    shell::debug_build(workspace)?;
    let began = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || began.elapsed() < time {
        round(workspace)?;
        rounds += 1;
    }
    println!("{rounds} rounds of {CASES} cases of each property in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn round(workspace: &Path) -> Result<()> {
    let mut command = shell::cargo(workspace);
    command.args(["test", "--quiet", "--workspace", "--lib", "--"]).args(PROPERTIES);
    command.env("PROPTEST_CASES", CASES);
    let said = shell::read(&mut command, "the `minimal failing input` and the seed (`cc ...`) are in its output")?;
    let said = String::from_utf8_lossy(&said);
    let mut counts = Counts::default();
    said.lines().for_each(|line| counts.add(line));
    if counts.passed < PROPERTIES.len() as u64 {
        bail!("only {} property tests are left of {}: list them in xtask/src/fuzz.rs", counts.passed, PROPERTIES.len());
    }
    Ok(())
}
