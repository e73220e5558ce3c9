//! Static binaries: one file that runs on any kernel and any distribution.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{ebpf, setup, shell};

/// zstd is written in C. Debian's `musl-gcc` builds it for this architecture, clang for the other, with the same headers:
/// those that it needs are the same on both.
const HEADERS: &str = "/usr/include/x86_64-linux-musl";

/// What cargo has built.
pub(crate) struct Built(Vec<Artifact>);

impl Built {
    /// A program or test by its kind (`bin`, `test`) and name.
    pub(crate) fn executable(&self, kind: &str, name: &str) -> Result<PathBuf> {
        let found = self.0.iter().find(|artifact| artifact.target.name == name && artifact.target.kind == [kind]);
        let path = found.and_then(|artifact| artifact.executable.clone());
        path.with_context(|| format!("cargo built no {kind} {name}: was it renamed?"))
    }
}

/// A line of cargo's `--message-format json`.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Runs cargo with these arguments for a static build of sockwatch with one of the workspace's profiles.
pub(crate) fn build(workspace: &Path, architecture: &str, profile: &str, arguments: &[&str]) -> Result<Built> {
    let target = format!("{architecture}-unknown-linux-musl");
    let mut command = shell::cargo(workspace);
    command.args(arguments).args(["--quiet", "--locked", "--profile", profile, "--package", "sockwatch"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let native = architecture == std::env::consts::ARCH;
    if install_target(&target) {
        command.args(["--target", &target]);
        if !native {
            // The target brings its C library's objects along: no cross compiler is needed.
            let variable = |name: &str| format!("CARGO_TARGET_{}_{name}", target.to_uppercase().replace('-', "_"));
            command.env(variable("LINKER"), "rust-lld");
            command.env(variable("RUSTFLAGS"), "-Clinker-flavor=ld.lld -Clink-self-contained=yes");
        }
        c_compiler(&mut command, architecture, native)?;
    } else if native {
        println!("{target} is not installed and cannot be: linking the host's own C library statically");
        let target = format!("{architecture}-unknown-linux-gnu");
        command.args(["--target", &target]).env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    } else {
        anyhow::bail!("{target} is not installed: run `rustup target add {target}`");
    }
    println!("building a static sockwatch for {architecture}");
    let said = shell::read(command.stderr(Stdio::inherit()), "fix the errors above")?;
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(Built(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

/// Says how C is compiled for the target.
fn c_compiler(command: &mut Command, architecture: &str, native: bool) -> Result<()> {
    if native {
        return setup::install(&["musl-tools"]);
    }
    setup::install(&["musl-dev", "clang-22", "llvm-22"])?;
    let target = format!("{architecture}_unknown_linux_musl");
    let headers = format!("--target={architecture}-linux-musl -isystem {HEADERS}");
    command.env(format!("CC_{target}"), "clang-22").env(format!("AR_{target}"), "llvm-ar-22");
    command.env(format!("CFLAGS_{target}"), headers);
    Ok(())
}

/// Whether it is there now.
fn install_target(target: &str) -> bool {
    let installed = shell::probe(Command::new("rustup").args(["target", "list", "--installed"]));
    if installed.is_some_and(|installed| installed.lines().any(|line| line == target)) {
        return true;
    }
    shell::probe(Command::new("rustup").args(["target", "add", target])).is_some()
}

/// Without what only a debugger reads.
pub(crate) fn stripped(program: &Path) -> Result<Vec<u8>> {
    let to = program.with_extension("stripped");
    shell::run(ebpf::objcopy().arg("--strip-all").arg(program).arg(&to), "run `cargo xtask setup`")?;
    std::fs::read(&to).with_context(|| format!("cannot read {}", to.display()))
}
