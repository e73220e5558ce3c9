//! `cargo xtask vm`: the live tests on other kernels, in virtual machines that QEMU emulates.
//!
//! One file for the kernels, one for the machines, one for the guest's file system, one for what runs in it, one for how
//! it ends, one for what its console says, one for the table in the documentation.

mod guest;
mod initramfs;
mod kernel;
mod machine;
mod payload;
mod result;
pub(crate) mod support;
mod variant;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use self::guest::{Failure, Patience};
use self::initramfs::Archive;
use self::kernel::{KERNELS, Kernel, Row};
use self::machine::{MACHINES, Machine};
use self::payload::Binaries;
use self::result::{Column, Reader};
use self::variant::{VARIANTS, Work};
use crate::{setup, shell};

/// A guest keeps one CPU of the host busy.
const AT_A_TIME: usize = 2;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                                     the live tests on all kernels
  cargo xtask vm --kernel 6.1 --only reset           some of them on one kernel
  cargo xtask vm --kernel 5.10 --cmd 'sockwatch doctor'
  cargo xtask vm --kernel newest --shell             look around; `poweroff -f` ends it
  cargo xtask vm --write                             all kernels, and renew docs/kernel-support")]
pub(crate) struct Options {
    /// Run on this kernel (repeatable; default: all): 5.10, 6.1, 6.12, newest
    #[arg(long, value_name = "KERNEL", value_parser = row)]
    kernel: Vec<&'static Row>,
    /// Emulate this architecture; other than x86_64 only with --cmd or --shell
    #[arg(long, value_name = "ARCH", default_value = "x86_64", value_parser = machine)]
    arch: &'static Machine,
    /// Run this shell command in the guest instead of the tests, and show what it prints
    #[arg(long, value_name = "COMMAND", conflicts_with = "shell")]
    cmd: Option<String>,
    /// Open a shell in the guest
    #[arg(long)]
    shell: bool,
    /// Run only tests whose names contain this
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["cmd", "shell"])]
    only: Option<String>,
    /// Renew docs/kernel-support from this run; kernels that do not run keep what they have
    #[arg(long, conflicts_with_all = ["cmd", "shell", "only"])]
    write: bool,
    /// Take a guest for hung when it is silent for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    patience: u64,
    /// Where kernels are kept (default: target/vm)
    #[arg(long, value_name = "DIRECTORY")]
    cache: Option<PathBuf>,
}

/// The whole of a guest's life.
const WHOLE: Duration = Duration::from_secs(40 * 60);

fn row(name: &str) -> Result<&'static Row, String> {
    let names = || KERNELS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    KERNELS.iter().find(|row| row.name == name).ok_or_else(|| format!("not in the matrix: there are {}", names()))
}

fn machine(name: &str) -> Result<&'static Machine, String> {
    let names = || MACHINES.iter().map(|machine| machine.name).collect::<Vec<_>>().join(", ");
    MACHINES.iter().find(|machine| machine.name == name).ok_or_else(|| format!("there are {}", names()))
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = shell::workspace()?;
    let work = match (&options.cmd, options.shell) {
        (Some(command), _) => Work::Command(command.clone()),
        (None, true) => Work::Shell,
        (None, false) => Work::Tests { only: options.only.clone() },
    };
    let tests = matches!(work, Work::Tests { .. });
    if tests && options.arch.name != "x86_64" {
        bail!(
            "the live tests need the host's own programs in the guest: use --cmd or --shell on {}",
            options.arch.name
        );
    }
    let rows: Vec<_> = if options.kernel.is_empty() { KERNELS.iter().collect() } else { options.kernel.clone() };
    let bench = Bench::prepare(&workspace, options, work)?;
    if options.shell {
        return bench.shell(rows[0]);
    }
    let (columns, verdict) = bench.run_all(&rows);
    if !tests || options.only.is_some() {
        return verdict;
    }
    // Of a kernel that failed, what was written before stays.
    let settled = support::settle(&workspace, &columns, options.write);
    verdict.and(settled)
}

/// The matrix as CI runs it: these kernels, compared with the documentation.
pub(crate) fn check(workspace: &Path, names: &[&str]) -> Result<()> {
    let rows = names.iter().map(|name| row(name).map_err(anyhow::Error::msg)).collect::<Result<Vec<_>>>()?;
    let options = Options {
        kernel: Vec::new(),
        arch: &MACHINES[0],
        cmd: None,
        shell: false,
        only: None,
        write: false,
        patience: 180,
        cache: None,
    };
    let (columns, verdict) = Bench::prepare(workspace, &options, Work::Tests { only: None })?.run_all(&rows);
    verdict?;
    support::settle(workspace, &columns, false)
}

/// Everything that guests share.
struct Bench {
    directory: PathBuf,
    cache: PathBuf,
    machine: &'static Machine,
    binaries: Binaries,
    work: Work,
    patience: Patience,
}

impl Bench {
    fn prepare(workspace: &Path, options: &Options, work: Work) -> Result<Self> {
        setup::install(options.arch.packages)?;
        let directory = shell::target_directory(workspace).join("vm");
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let cache = options.cache.clone().unwrap_or_else(|| directory.join("kernels"));
        let binaries = payload::build(workspace, options.arch)?;
        let patience = Patience { silence: Duration::from_secs(options.patience), whole: WHOLE };
        Ok(Self { directory, cache, machine: options.arch, binaries, work, patience })
    }

    fn shell(&self, row: &'static Row) -> Result<()> {
        let kernel = kernel::get(row, self.machine, &self.cache)?;
        let initramfs = self.initramfs(&kernel)?;
        shell::run(&mut self.machine.boot(&kernel.image, &initramfs, "mon:stdio"), "QEMU ended with an error")
    }

    /// Two guests at a time; every kernel is tried, whatever becomes of the others.
    /// What the kernels said on which all went well, and whether these are all.
    fn run_all(&self, rows: &[&'static Row]) -> (Vec<(&'static str, Column)>, Result<()>) {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME.min(rows.len()) {
                scope.spawn(|| {
                    while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let began = Instant::now();
                        let result = self.run_one(row);
                        let outcome = result.as_ref().map_or("FAILED", |_| "ok");
                        for test in result.as_ref().map(Column::unsteady).unwrap_or_default() {
                            println!("{:7} unsteady, failed once and passed alone: {test}", row.name);
                        }
                        println!("{:7} {outcome} in {:.0} s", row.name, began.elapsed().as_secs_f64());
                        results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((row.name, result));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        results.sort_by_key(|(name, _)| KERNELS.iter().position(|row| row.name == *name));
        let mut failed = Vec::new();
        let mut columns = Vec::new();
        for (name, result) in results {
            match result {
                Ok(column) => columns.push((name, column)),
                Err(error) => failed.push(format!("{name}: {error:#}")),
            }
        }
        let verdict = match failed.is_empty() {
            true => Ok(()),
            false => Err(anyhow!("{} of {} kernels failed:\n{}", failed.len(), rows.len(), failed.join("\n"))),
        };
        (columns, verdict)
    }

    /// A guest that never started is tried once more: emulated firmware may fail.
    fn run_one(&self, row: &'static Row) -> Result<Column> {
        let kernel = kernel::get(row, self.machine, &self.cache)?;
        println!("{:7} Debian's {}", row.name, kernel.release);
        let initramfs = self.initramfs(&kernel)?;
        let log = self.directory.join(format!("console-{}-{}.log", self.machine.name, row.name));
        let mut tries = 0;
        loop {
            tries += 1;
            let mut reader = Reader::default();
            let boot = self.machine.boot(&kernel.image, &initramfs, "stdio");
            let ended = guest::run(boot, &log, self.patience, |line| self.show(row, &mut reader, line))?;
            match ended {
                Err(failure @ Failure::NeverStarted(_)) if tries == 1 => {
                    println!("{:7} {failure}: trying once more", row.name);
                }
                Err(failure) => bail!("{failure}; see {}", log.display()),
                Ok(status) => return self.judge(status, reader.column, &log),
            }
        }
    }

    fn show(&self, row: &Row, reader: &mut Reader, line: &str) {
        match self.work {
            Work::Command(_) | Work::Shell => println!("{:7} {line}", row.name),
            Work::Tests { .. } => {
                if let Some(text) = reader.read(line) {
                    text.lines().for_each(|line| println!("{:7} {line}", row.name));
                }
            }
        }
    }

    fn judge(&self, status: i32, column: Column, log: &Path) -> Result<Column> {
        let faults = match &self.work {
            Work::Command(_) | Work::Shell => Vec::new(),
            Work::Tests { only: None } => column.faults(&VARIANTS.iter().map(|row| row.name).collect::<Vec<_>>()),
            Work::Tests { only: Some(only) } => column.faults_of(only),
        };
        if !faults.is_empty() {
            bail!("{}; see {}", faults.join("; "), log.display());
        }
        if status != 0 {
            bail!("the guest's status is {status}: see {}", log.display());
        }
        Ok(column)
    }

    fn initramfs(&self, kernel: &Kernel) -> Result<PathBuf> {
        let mut archive = Archive::default();
        let modules = payload::fill(&mut archive, &self.binaries, kernel)?;
        archive.file("/init", variant::init(&self.binaries.paths(modules), &self.work).as_bytes());
        let path = self.directory.join(format!("initramfs-{}-{}", self.machine.name, kernel.name));
        fs::write(&path, archive.finish()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
