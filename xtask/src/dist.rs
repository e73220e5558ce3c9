//! `cargo xtask dist`: the program as one static file that runs on every kernel and distribution, and what is made of it: a
//! Debian package, a bill of materials, checksums.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{musl, packages, shell};

/// How often a start is timed.
const STARTS: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build for this architecture
    #[arg(long, value_name = "ARCH", default_value = std::env::consts::ARCH, value_parser = ["x86_64", "aarch64"])]
    arch: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = shell::workspace()?;
    let path = build(&workspace, &options.arch)?;
    let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    println!("{}: {:.1} MiB, static", path.display(), size as f64 / f64::from(1 << 20));
    for made in packages::make(&workspace, &path, &options.arch)?.iter().skip(1) {
        println!("{}", made.display());
    }
    if options.arch != std::env::consts::ARCH {
        return Ok(());
    }
    let version = median(|| start(Command::new(&path).arg("--version"), "sockwatch "))?;
    println!("start-up: {:.1} ms to --version", version.as_secs_f64() * 1e3);
    if shell::is_root() {
        let mut trace = Command::new(&path);
        trace.args(["trace", "--source", "ebpf", "--duration", "1ms"]);
        let attached = median(|| start(&mut trace, "tracing "))?;
        println!("start-up: {:.0} ms until all probes are attached", attached.as_secs_f64() * 1e3);
    } else {
        println!("start-up with probes: not timed, that needs root");
    }
    Ok(())
}

fn build(workspace: &Path, architecture: &str) -> Result<PathBuf> {
    let built = musl::build(workspace, architecture, "release", &["build"])?.executable("bin", "sockwatch")?;
    let directory = shell::target_directory(workspace).join("dist");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(format!("sockwatch-{}-linux-{architecture}", env!("CARGO_PKG_VERSION")));
    let program = musl::stripped(&built)?;
    std::fs::write(&path, program).with_context(|| format!("cannot write {}", path.display()))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, executable).with_context(|| format!("cannot write {}", path.display()))?;
    let interpreter =
        shell::read(Command::new("readelf").args(["--program-headers", "--wide"]).arg(&path), "binutils?")?;
    if String::from_utf8_lossy(&interpreter).contains("INTERP") {
        bail!("{} is not static: it asks for a dynamic loader", path.display());
    }
    Ok(path)
}

fn median(start: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut starts = std::iter::repeat_with(start).take(STARTS).collect::<Result<Vec<_>>>()?;
    starts.sort_unstable();
    Ok(starts[STARTS / 2])
}

/// The time until the program prints a line that begins so.
fn start(command: &mut Command, line: &str) -> Result<Duration> {
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("what was built does not start")?;
    // The command keeps the pipe's other end open until it is given another.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let found = BufReader::new(&mut reader).lines().map_while(Result::ok).find(|said| said.starts_with(line));
    let elapsed = began.elapsed();
    child.wait().context("what was built is gone")?;
    found.with_context(|| format!("`{}` never said `{line}`", shell::spell(command)))?;
    Ok(elapsed)
}
