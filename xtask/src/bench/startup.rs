//! How long sockwatch takes from its start until everything is attached.

use anyhow::Result;

use super::contender::{Ready, sockwatch};
use super::statistics::{median, range};
use super::tool::Tool;
use super::{Bench, PORT, room};

pub(super) const NAME: &str = "start-up";
const STARTS: usize = 10;

pub(super) fn run(bench: &Bench) -> Result<()> {
    println!("\nstart-up: from process start to the line that says `tracing `, {STARTS} times");
    match room::inside(|| (0..STARTS).map(|_| start(bench)).collect::<Result<Vec<_>>>()) {
        Ok(starts) => {
            let (least, most) = range(starts.iter().copied()).unwrap_or((f64::NAN, f64::NAN));
            let middle = median(starts).unwrap_or(f64::NAN);
            println!("median {middle:.0} ms, {least:.0} to {most:.0} ms");
        }
        Err(error) => println!("failed: {error:#}"),
    }
    Ok(())
}

/// In milliseconds.
fn start(bench: &Bench) -> Result<f64> {
    let tool = Tool::start(sockwatch(bench, "trace", PORT), &bench.scratch.0.join(NAME), Ready::Announced)?;
    let started_in = tool.started_in;
    tool.end()?;
    Ok(started_in.as_secs_f64() * 1e3)
}
