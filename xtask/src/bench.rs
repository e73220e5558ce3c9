//! `cargo xtask bench`: what tracing costs. Every ratio is of runs that took turns in the same rounds, because a
//! machine's speed drifts by more than the differences that matter here.

mod bystander;
mod contender;
mod large;
pub(crate) mod load;
mod output;
mod probes;
mod proc;
mod room;
mod rounds;
mod sizes;
pub(crate) mod soak;
mod startup;
mod statistics;
mod tool;
mod tracker;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell;
use verdict::Numbers;

/// The port of the benchmark's own listeners: in no service's range, so that counting lines by port is exact.
const PORT: u16 = 7919;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often every contender takes its turn
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many connections a turn opens, accepts and closes
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Measure only this: a contender's name (it runs beside `nothing`), or `probes`, `bystanders`, `start-up`, `tracker`, `recording`, `screen`, `large-recording`
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How many MiB the large recording has; what is a target holds for 1024
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..))]
    large: u64,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// What all measurements share.
struct Bench {
    rounds: u32,
    connections: u64,
    large_mib: u64,
    /// The sockwatch binary, built for release.
    sockwatch: PathBuf,
    /// Where the contenders write: memory, so that no disk takes part.
    scratch: Scratch,
}

/// A directory that goes when the benchmark ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}; remove it by hand", self.0.display());
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !shell::is_root() {
        bail!("the benchmark loads eBPF programs and makes network namespaces: run it as root");
    }
    check_name(options)?;
    let bench = prepare(options)?;
    println!("kernel {}, {} CPUs", proc::kernel_release()?, cpus()?);
    let mut numbers = Numbers::default();
    if contender::CONTENDERS.iter().any(|contender| options.wants(contender.name)) {
        rounds::run(&bench, |name| options.wants(name), &mut numbers)?;
    }
    if options.wants(probes::NAME) {
        numbers.state_probe_ns = probes::run(&bench)?;
    }
    if options.wants(bystander::NAME) {
        bystander::run(&bench)?;
    }
    if options.wants(startup::NAME) {
        startup::run(&bench)?;
    }
    if options.wants(tracker::NAME) {
        tracker::run(&mut numbers)?;
    }
    if options.wants(tracker::RECORDING) {
        tracker::recording(&mut numbers)?;
    }
    if options.wants(tracker::SCREEN) {
        tracker::screen(&mut numbers)?;
    }
    if options.wants(large::NAME) {
        large::run(&bench, &mut numbers)?;
    }
    verdict::print(&numbers);
    Ok(())
}

fn check_name(options: &Options) -> Result<()> {
    let sections =
        [probes::NAME, bystander::NAME, startup::NAME, tracker::NAME, tracker::RECORDING, tracker::SCREEN, large::NAME];
    let names: Vec<_> = contender::CONTENDERS.iter().map(|contender| contender.name).chain(sections).collect();
    if !names.iter().any(|name| options.wants(name)) {
        bail!("--only takes one of: {}", names.join(", "));
    }
    Ok(())
}

/// The sockwatch binary, built for release.
fn release_build(workspace: &Path) -> Result<PathBuf> {
    let mut build = shell::cargo(workspace);
    build.args(["build", "--quiet", "--release", "--package", "sockwatch"]);
    shell::run(&mut build, "fix the errors above: the benchmark measures the release build")?;
    Ok(shell::target_directory(workspace).join("release/sockwatch"))
}

fn prepare(options: &Options) -> Result<Bench> {
    let workspace = shell::workspace()?;
    let foreign = contender::CONTENDERS.iter().filter(|contender| !contender.is_sockwatch());
    // Measuring another tool alone needs no sockwatch.
    let is_alone = foreign.into_iter().any(|contender| options.only.as_deref() == Some(contender.name));
    let sockwatch = if is_alone { PathBuf::new() } else { release_build(&workspace)? };
    let Options { rounds, connections, large: large_mib, only: _ } = *options;
    Ok(Bench { rounds, connections, large_mib, sockwatch, scratch: scratch(&workspace)? })
}

fn scratch(workspace: &Path) -> Result<Scratch> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { shell::target_directory(workspace) };
    let directory = parent.join(format!("sockwatch-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}: make room there", directory.display()))?;
    Ok(Scratch(directory))
}

fn cpus() -> Result<usize> {
    let cpus = std::thread::available_parallelism().context("the number of CPUs is unknown")?;
    Ok(cpus.get())
}
