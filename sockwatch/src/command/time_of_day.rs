//! The time of day while something runs: it moves when somebody sets the clock, and when the machine has slept.

use anyhow::Context;
use sockwatch::{
    kernel::clock::ClockSets,
    monotonic::{now_ns, wall_offset_ns},
    sink::wall::Wall,
};

/// Tells the time of day from now on, for as long as the runtime runs.
pub(crate) fn follow() -> anyhow::Result<Wall> {
    let sets = ClockSets::watch().context("the kernel does not tell when the clock is set")?;
    let wall = Wall::of(wall_offset_ns());
    let told = wall.clone();
    tokio::spawn(async move {
        while sets.set().await.is_ok() {
            told.tell(now_ns(), wall_offset_ns());
        }
    });
    Ok(wall)
}
