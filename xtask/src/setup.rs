//! `cargo xtask setup`: the eBPF toolchain. Quick and offline when everything is already there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Everything but the linker. Debian packages a compiler with a prebuilt `core` for BPF: no nightly, no build-std.
const PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-clippy",
    "libstd-rust-web-dev-bpf",
    "llvm-22",
    "llvm-22-dev",
    "clang-22",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "iproute2",
];
/// Without these two packages a Debian-like system has no BPF compiler.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Which compiler builds the kernel-side object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Debian's `rustc-web`. The committed object is what this one builds.
    Debian,
    /// rustup's nightly, with `core` built from source.
    Nightly,
}

/// What `cargo xtask ebpf` works with.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    /// The directory of a `bpf-linker` of the right version.
    pub(crate) linker: PathBuf,
}

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    let workspace = shell::workspace()?;
    let compiler = install_compiler()?;
    let linker = match find_linker(&workspace) {
        Some(linker) => linker,
        None => install_linker(&workspace, compiler)?,
    };
    let name = match compiler {
        Compiler::Debian => "Debian's rustc-web",
        Compiler::Nightly => "rustup's nightly",
    };
    println!("eBPF toolchain ready: {name}, bpf-linker {LINKER_VERSION} in {}", linker.display());
    Ok(())
}

/// The installed toolchain; installs nothing.
pub(crate) fn toolchain(workspace: &Path) -> Result<Toolchain> {
    let linker = find_linker(workspace)
        .with_context(|| format!("bpf-linker {LINKER_VERSION} is not installed: run `cargo xtask setup`"))?;
    if is_debian() && missing(COMPILER_PACKAGES).is_empty() {
        return Ok(Toolchain { compiler: Compiler::Debian, linker });
    }
    if has_nightly() {
        return Ok(Toolchain { compiler: Compiler::Nightly, linker });
    }
    bail!("no compiler for BPF is installed: run `cargo xtask setup`")
}

fn install_compiler() -> Result<Compiler> {
    if !is_debian() {
        return install_nightly();
    }
    let absent = missing(PACKAGES);
    if absent.is_empty() {
        return Ok(Compiler::Debian);
    }
    if shell::is_root() {
        shell::run(apt_get().arg("update"), "check the network and the system's package sources")?;
    }
    if !COMPILER_PACKAGES.iter().all(|package| is_offered(package)) {
        return install_nightly();
    }
    if !shell::is_root() {
        bail!("missing packages: {0}. Run this as root, or `sudo apt-get install -y {0}` first", absent.join(" "));
    }
    install_packages(&absent)?;
    Ok(Compiler::Debian)
}

/// Debian packages that a task needs besides.
pub(crate) fn install(packages: &[&'static str]) -> Result<()> {
    let absent = missing(packages);
    if absent.is_empty() {
        return Ok(());
    }
    if !is_debian() || !shell::is_root() {
        bail!("missing: {} (Debian's names); install them, or run this as root on Debian", absent.join(" "));
    }
    shell::run(apt_get().arg("update"), "check the network and the system's package sources")?;
    install_packages(&absent)
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let mut install = apt_get();
    install.args(["install", "-y", "--no-install-recommends"]).args(packages);
    shell::run(&mut install, "look above for the package that apt refuses")
}

/// The way the aya book describes, for systems without Debian's packages. Not covered by CI.
fn install_nightly() -> Result<Compiler> {
    if !has_nightly() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        shell::run(&mut install, "install rustup, or use Debian 12 or newer with the rustc-web packages")?;
    }
    Ok(Compiler::Nightly)
}

fn install_linker(workspace: &Path, compiler: Compiler) -> Result<PathBuf> {
    let root = workspace.join("target/tools");
    let mut install = shell::cargo(workspace);
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force", "--root"]).arg(&root);
    match compiler {
        Compiler::Debian => {
            install.args(["--no-default-features", "--features", "llvm-22"]);
            install.env("LLVM_PREFIX", LLVM_PREFIX).env("LLVM_SYS_221_PREFIX", LLVM_PREFIX);
            install.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", format!("-L{LLVM_PREFIX}/lib"));
        }
        Compiler::Nightly => {}
    }
    shell::run(&mut install, "look above for the first compiler error; the LLVM packages may not match the linker")?;
    find_linker(workspace)
        .context("bpf-linker was installed but does not run: try target/tools/bin/bpf-linker --version")
}

/// A `bpf-linker` of the right version: the workspace's own, `$SOCKWATCH_TOOLS`', or one in the path.
fn find_linker(workspace: &Path) -> Option<PathBuf> {
    let own = Some(workspace.join("target/tools/bin"));
    let shared = std::env::var_os("SOCKWATCH_TOOLS").map(|tools| PathBuf::from(tools).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter().chain(shared).chain(std::env::split_paths(&path)).find(|directory| {
        let linker = directory.join("bpf-linker");
        linker.is_file() && shell::probe(Command::new(linker).arg("--version")).is_some_and(|said| is_version(&said))
    })
}

fn is_version(said: &str) -> bool {
    said.split_whitespace().nth(1) == Some(LINKER_VERSION)
}

pub(crate) fn is_debian() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|release| names_debian(&release))
}

fn names_debian(os_release: &str) -> bool {
    let families = os_release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    families.flat_map(|value| value.trim_matches('"').split_whitespace()).any(|family| family == "debian")
}

fn missing(packages: &[&'static str]) -> Vec<&'static str> {
    // dpkg-query fails as a whole when one package is unknown, and still lists the others.
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    packages.iter().copied().filter(|package| !is_installed(&listed, package)).collect()
}

fn is_installed(listed: &str, package: &str) -> bool {
    listed.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
}

fn is_offered(package: &str) -> bool {
    shell::probe(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_some()
}

fn has_nightly() -> bool {
    shell::probe(Command::new("rustup").args(["component", "list", "--installed", "--toolchain", "nightly"]))
        .is_some_and(|components| components.lines().any(|line| line.starts_with("rust-src")))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_derivatives_are_told_from_others() {
        assert!(names_debian("NAME=x\nID=debian\n"));
        assert!(names_debian("ID=pop\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nHOME_URL=\"debian\"\n"));
    }

    #[test]
    fn a_removed_package_is_not_installed() {
        let listed = "clang-22 installed\niproute2 config-files\n";
        assert!(is_installed(listed, "clang-22"));
        assert!(!is_installed(listed, "iproute2"));
        assert!(!is_installed(listed, "clang"));
    }

    #[test]
    fn only_the_pinned_linker_will_do() {
        assert!(is_version("bpf-linker 0.13.0\n"));
        assert!(!is_version("bpf-linker 0.13.01"));
        assert!(!is_version(""));
    }
}
