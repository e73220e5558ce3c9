//! `cargo xtask ebpf`: builds the kernel-side object that is committed, so that users need no BPF toolchain.
//!
//! The same source gives the same bytes from any directory: paths are remapped, flags come from nowhere but
//! here, and the compiler is a distribution's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Compiler, Toolchain};
use crate::{setup, shell};

const COMMITTED: &str = "sockwatch/src/kernel/sockwatch-probes.o";
const TARGET: &str = "bpfel-unknown-none";
/// Its own directory: another compiler's artifacts must not mix with the host's.
const TARGET_DIRECTORY: &str = "target/bpf";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Compare with the committed object instead of replacing it; fails when a byte differs
    #[arg(long, conflicts_with = "features")]
    check: bool,
    /// Build with these features, for debugging: the object goes to target/, the committed one stays
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = shell::workspace()?;
    if options.check {
        return check(&workspace);
    }
    if options.features.is_empty() {
        let size = build(&workspace, &[], &workspace.join(COMMITTED))?;
        println!("{COMMITTED}: {size} bytes");
        return Ok(());
    }
    let name = format!("{TARGET_DIRECTORY}/sockwatch-probes-{}.o", options.features.join("-"));
    let size = build(&workspace, &options.features, &workspace.join(&name))?;
    println!("{name}: {size} bytes (for debugging; {COMMITTED} is unchanged)");
    Ok(())
}

/// Fails, naming the difference, unless the committed object is what the source builds to.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let rebuilt_path = workspace.join(TARGET_DIRECTORY).join("sockwatch-probes-check.o");
    build(workspace, &[], &rebuilt_path)?;
    let rebuilt = std::fs::read(&rebuilt_path).context("the rebuilt object is not readable: run this again")?;
    let committed = std::fs::read(workspace.join(COMMITTED))
        .with_context(|| format!("{COMMITTED} is not readable: run `cargo xtask ebpf` and commit it"))?;
    match difference(&committed, &rebuilt) {
        None => {
            println!("{COMMITTED}: {} bytes, the same as the source builds to", committed.len());
            Ok(())
        }
        Some(offset) => bail!(
            "{COMMITTED} is not what the source builds to: {} bytes committed, {} rebuilt, first difference at byte \
             {offset}. Run `cargo xtask ebpf` and commit the result (compiler here: {})",
            committed.len(),
            rebuilt.len(),
            compiler_version(),
        ),
    }
}

/// Lints the kernel-side crate for the target it is built for, or says why it cannot.
pub(crate) fn clippy(workspace: &Path) -> Result<Option<String>> {
    let toolchain = setup::toolchain(workspace)?;
    match toolchain.compiler {
        Compiler::Nightly => return Ok(Some("needs Debian's rust-web-clippy".to_owned())),
        Compiler::Debian => {}
    }
    let mut command = compile(workspace, &toolchain, Command::new("/usr/bin/cargo-clippy"), "clippy")?;
    command.args(["--", "--deny", "warnings"]);
    shell::run(&mut command, "fix the lints above; they are in sockwatch-ebpf or sockwatch-common")?;
    Ok(None)
}

/// Builds, strips and writes to `to`; returns the size in bytes.
fn build(workspace: &Path, features: &[String], to: &Path) -> Result<usize> {
    let toolchain = setup::toolchain(workspace)?;
    let cargo = match toolchain.compiler {
        Compiler::Debian => Command::new("/usr/bin/cargo"),
        Compiler::Nightly => Command::new("cargo"),
    };
    let mut command = compile(workspace, &toolchain, cargo, "build")?;
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    shell::run(&mut command, "fix sockwatch-ebpf, or run `cargo xtask setup` if a tool is missing")?;
    strip(&workspace.join(TARGET_DIRECTORY).join(TARGET).join("release/sockwatch-probes"), to)?;
    let object = std::fs::read(to).with_context(|| format!("{} was not written: run this again", to.display()))?;
    Ok(object.len())
}

/// `cargo <subcommand>` of the kernel-side crate, with nothing taken over from the caller's configuration.
fn compile(workspace: &Path, toolchain: &Toolchain, cargo: Command, subcommand: &str) -> Result<Command> {
    let mut command = scrubbed(cargo);
    fetch(workspace, toolchain)?;
    command.current_dir(workspace).arg(subcommand);
    command.args(["--package", "sockwatch-ebpf", "--bins", "--release", "--locked"]);
    command.args(["--target", TARGET, "--target-dir", TARGET_DIRECTORY]);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace)?.join("\x1f"));
    let mut path = vec![toolchain.linker.clone()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    command.env("PATH", std::env::join_paths(path).context("PATH holds a directory with a colon: remove it")?);
    match toolchain.compiler {
        Compiler::Debian => {
            // aya-ebpf alone needs unstable features; our own crate must do without.
            command.env("CARGO", "/usr/bin/cargo").env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "aya_ebpf");
        }
        Compiler::Nightly => {
            command.env("RUSTUP_TOOLCHAIN", "nightly").args(["-Z", "build-std=core"]);
        }
    }
    Ok(command)
}

/// Sources must be there before the build: their directories' names are among the flags.
fn fetch(workspace: &Path, toolchain: &Toolchain) -> Result<()> {
    let mut command = match toolchain.compiler {
        Compiler::Debian => scrubbed(Command::new("/usr/bin/cargo")),
        Compiler::Nightly => scrubbed(Command::new("cargo")),
    };
    command.current_dir(workspace).args(["fetch", "--locked", "--quiet", "--target", TARGET]);
    if toolchain.compiler == Compiler::Debian {
        command.env("RUSTC", "/usr/bin/rustc");
    }
    shell::run(&mut command, "check the network, and that Cargo.lock is up to date")
}

fn flags(workspace: &Path) -> Result<Vec<String>> {
    let mut flags = vec![
        // The register names of the architecture; the programs read registers at offsets from BTF instead, so one
        // object serves all, and this only has to be the same everywhere.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        // Without these two there is no BTF in the object.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    // rustc takes the last match, so the narrower registry directories come after the workspace.
    flags.push(format!("--remap-path-prefix={}=/sockwatch", workspace.display()));
    for sources in registry_sources()? {
        flags.push(format!("--remap-path-prefix={}=/registry", sources.display()));
    }
    Ok(flags)
}

/// The directories below which crates are unpacked; their names depend on the registry's address.
fn registry_sources() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let sources = home.context("neither CARGO_HOME nor HOME is set: set one of them")?.join("registry/src");
    let entries = std::fs::read_dir(&sources)
        .with_context(|| format!("no crates in {}: run `cargo fetch` first", sources.display()))?;
    let mut directories: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    directories.sort();
    Ok(directories)
}

/// The command without any variable that changes what a compiler is told.
fn scrubbed(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_build_setting) {
            command.env_remove(name);
        }
    }
    // Empty rather than absent: an empty wrapper also overrides a configuration file's.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

fn is_build_setting(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: &[&str] = &["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_"];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// DWARF goes, and BTF's line information with it: it holds the source text, so that each comment would change the
/// object, and is two thirds of it. BTF itself stays.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut command = objcopy();
    command.args(["--strip-debug", "--remove-section=.BTF.ext", "--remove-section=.rel.BTF.ext"]).arg(from).arg(to);
    shell::run(&mut command, "run `cargo xtask setup`")
}

/// LLVM's, which knows every architecture.
pub(crate) fn objcopy() -> Command {
    let mut candidates = ["/usr/bin/llvm-objcopy-22", "/usr/lib/llvm-22/bin/llvm-objcopy"].into_iter();
    let objcopy = candidates.find(|candidate| Path::new(candidate).is_file()).unwrap_or("llvm-objcopy");
    Command::new(objcopy)
}

fn compiler_version() -> String {
    let version = shell::probe(Command::new("/usr/bin/rustc").arg("--version"));
    version.map_or_else(|| "unknown".to_owned(), |version| version.trim().to_owned())
}

/// The first offset at which the two differ.
fn difference(committed: &[u8], rebuilt: &[u8]) -> Option<usize> {
    let differing = committed.iter().zip(rebuilt).position(|(a, b)| a != b);
    differing.or_else(|| (committed.len() != rebuilt.len()).then(|| committed.len().min(rebuilt.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"abc", b"axc"), Some(1));
        assert_eq!(difference(b"abc", b"abcd"), Some(3));
        assert_eq!(difference(b"", b"a"), Some(0));
    }

    #[test]
    fn settings_are_scrubbed_and_homes_are_kept() {
        assert!(is_build_setting("RUSTFLAGS"));
        assert!(is_build_setting("CARGO_PROFILE_RELEASE_LTO"));
        assert!(is_build_setting("CARGO_TARGET_DIR"));
        assert!(!is_build_setting("CARGO_HOME"));
        assert!(!is_build_setting("CARGO_HTTP_CAINFO"));
        assert!(!is_build_setting("PATH"));
    }
}
