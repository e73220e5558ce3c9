//! sockwatch's build, test and measuring tasks: `cargo xtask <task>`.
//!
//! This file holds the command line only; each task has a file of its own.

mod bench;
mod browser;
mod dashboard;
mod dist;
mod ebpf;
mod elsewhere;
mod fuzz;
mod generated;
mod musl;
mod packages;
mod prometheus;
mod score;
mod service;
mod setup;
mod shell;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "sockwatch's build, test and measuring tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building the kernel-side object needs (idempotent)
    Setup,
    /// Rebuild the committed kernel-side object
    Ebpf(ebpf::Options),
    /// Everything CI checks: formatting, lints, generated files, import rules, tests
    Test(test::Options),
    /// Regenerate the files that follow from others
    Gen(generated::Options),
    /// Run the property tests with other random input, for a while
    Fuzz(fuzz::Options),
    /// Check which modules may name what
    Tidy,
    /// Run the live tests on other kernels, in virtual machines
    Vm(vm::Options),
    /// Check rules and dashboard with promtool, and as root a run of the debug build with a real Prometheus
    Prometheus,
    /// Make and check packages with the debug build, as CI does
    Packages,
    /// Build the static release binary, a Debian package, a bill of materials and checksums
    Dist(dist::Options),
    /// Score `diagnose` on servers that are ill or well, real ones among them
    Score(score::Options),
    /// Measure what tracing costs, beside tracing nothing and beside other tools
    Bench(bench::Options),
    /// Let `serve` run for long under a full load: nothing may grow, and no loss go untold
    Soak(bench::soak::Options),
    /// Open, accept and close loopback connections (the benchmark runs this as a process of its own)
    #[command(hide = true)]
    Load(bench::load::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        // The chain of causes on one line; a backtrace would only point into this program.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Ebpf(options) => ebpf::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Gen(options) => generated::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Tidy => tidy::run(),
        Task::Score(options) => score::run(&options),
        Task::Prometheus => prometheus::run(),
        Task::Packages => shell::workspace().and_then(|workspace| packages::check(&workspace)),
        Task::Dist(options) => dist::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Soak(options) => bench::soak::run(&options),
        Task::Load(options) => bench::load::run(&options),
    }
}
