//! What reading a large recording takes: time, and memory, which must not grow with the file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{Bench, Scratch, proc, verdict::Numbers};
use crate::shell;

pub(super) const NAME: &str = "large-recording";

/// The small one is long enough that as many connections are remembered as ever will be.
const SMALL_SHARE: u64 = 8;

/// Between two looks at a command's memory.
const EVERY: Duration = Duration::from_millis(10);

/// What is done with it. `OUT` is a file to write.
const COMMANDS: &[&[&str]] = &[
    &["info"],
    &["replay", "--connections"],
    &["diagnose", "--recording"],
    &["report", "--output", "OUT.html"],
    &["export", "--output", "OUT.parquet"],
    &["export", "--output", "OUT.folded"],
    // To nobody: as JSON lines it would be forty times as large.
    &["export", "--to", "csv"],
    &["export", "--to", "jsonl"],
    &["export", "--output", "OUT.pftrace"],
    &["list", "--at", "10s", "--recording"],
];

/// What a command took.
struct Took {
    seconds: f64,
    peak_mib: f64,
}

pub(super) fn run(bench: &Bench, numbers: &mut Numbers) -> Result<()> {
    println!("\na large recording: connections over loopback, 14 events each");
    let workspace = shell::workspace()?;
    let directory = shell::target_directory(&workspace).join(NAME);
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let scratch = Scratch(directory);
    let sizes = [bench.large_mib.div_ceil(SMALL_SHARE), bench.large_mib];
    let [small, large] = sizes.map(|mib| make(&workspace, &scratch.0, mib << 20));
    let (small, large) = (small?, large?);
    let [few, many] = sizes.map(|mib| format!("{mib} MiB"));
    println!("{:<32} {few:>12} {:>12} {many:>12} {:>12}", "", "peak", "peak");
    let mut growth: f64 = 0.0;
    for command in COMMANDS {
        let [few, many] = [&small, &large].map(|file| measure(bench, command, file, &scratch.0));
        let (few, many) = (few?, many?);
        println!(
            "{:<32} {:>10.1} s {:>8.0} MiB {:>10.1} s {:>8.0} MiB",
            command.join(" "),
            few.seconds,
            few.peak_mib,
            many.seconds,
            many.peak_mib
        );
        growth = growth.max(many.peak_mib / few.peak_mib);
        remove_outputs(&scratch.0)?;
    }
    numbers.memory_growth = Some(growth);
    Ok(())
}

/// Makes room for the next: JSON lines of a large recording are many times as large as it.
fn remove_outputs(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).context("the scratch directory is gone")? {
        let path = entry.context("the scratch directory is gone")?.path();
        if path.file_stem().is_some_and(|stem| stem == "out") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A recording of so many bytes.
fn make(workspace: &Path, directory: &Path, bytes: u64) -> Result<PathBuf> {
    let path = directory.join(format!("{}.swr", bytes >> 20));
    let mut command = shell::cargo(workspace);
    command.args(["bench", "--quiet", "--package", "sockwatch", "--bench", "recording", "--", "--make"]);
    command.arg(&path).arg(bytes.to_string());
    shell::run(&mut command, "fix the errors above")?;
    Ok(path)
}

fn measure(bench: &Bench, words: &[&str], recording: &Path, directory: &Path) -> Result<Took> {
    let mut command = Command::new(&bench.sockwatch);
    for word in words {
        match word.strip_prefix("OUT") {
            Some(extension) => command.arg(directory.join(format!("out{extension}"))).arg("--force"),
            None => command.arg(word),
        };
    }
    command.arg(recording).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().context("what was built does not start")?;
    let mut peak_mib: f64 = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().context("it is gone")? {
            break status;
        }
        // It may have ended meanwhile.
        peak_mib = peak_mib.max(proc::peak_resident_mib(child.id()).unwrap_or(0.0));
        thread::sleep(EVERY);
    };
    // A diagnosis may have findings.
    if status.code().is_none_or(|code| code > 1) {
        bail!("`{}` ended with {status}: run it by hand", shell::spell(&command));
    }
    Ok(Took { seconds: began.elapsed().as_secs_f64(), peak_mib })
}
