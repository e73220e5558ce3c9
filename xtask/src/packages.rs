//! What is made of a built program to install it: a Debian package with man pages, completions, units and documents, a bill of
//! materials, checksums. CI makes and checks all of it with the debug build; `cargo xtask dist` with the one that is published.

mod chart;
mod deb;
mod sbom;
mod units;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{musl, shell};

/// Files that the program embeds: without them `cargo install` would fail.
const EMBEDDED: &[&str] =
    &["src/kernel/sockwatch-probes.o", "docs/explain/README.md", "src/command/report/page.html", "Cargo.toml"];

/// Makes a package, a bill of materials and checksums of a program, into its directory.
pub(crate) fn make(workspace: &Path, program: &Path, architecture: &str) -> Result<Vec<PathBuf>> {
    let directory = program.parent().context("a program lies in a directory")?;
    let bill = directory.join(format!("sockwatch-{}-{architecture}.cdx.json", env!("CARGO_PKG_VERSION")));
    let target = format!("{architecture}-unknown-linux-musl");
    std::fs::write(&bill, sbom::make(workspace, &target)?)
        .with_context(|| format!("cannot write {}", bill.display()))?;
    // The package's texts are printed by the program itself, where this machine can run it, else by its debug build.
    let speaker =
        if architecture == std::env::consts::ARCH { program.to_owned() } else { shell::debug_build(workspace)? };
    let package = deb::make(workspace, program, &speaker, architecture, directory)?;
    let made = vec![program.to_owned(), package, bill];
    checksums(directory, &made)?;
    Ok(made)
}

/// CI's step: everything that can be checked with the debug build.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let directory = shell::target_directory(workspace).join("packages");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).context("cannot remove the last packages")?;
    }
    std::fs::create_dir_all(&directory).context("cannot make a directory for packages")?;
    let program = directory.join("sockwatch");
    // A debugger's part of it is most of it, and would take minutes to compress.
    let stripped = musl::stripped(&shell::debug_build(workspace)?)?;
    std::fs::write(&program, stripped).context("cannot write the program")?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).context("cannot write the program")?;
    let made = make(workspace, &program, std::env::consts::ARCH)?;
    let [_, package, bill] = made.as_slice() else { anyhow::bail!("three files are made, not {}", made.len()) };
    deb::check(package, &directory.join("root"))?;
    sbom::check(workspace, bill)?;
    units::check(workspace, &program)?;
    chart::check(workspace)?;
    embedded(workspace)?;
    let mut sums = Command::new("sha256sum");
    shell::read(sums.current_dir(&directory).args(["--check", "--strict", SUMS]), "checksums must fit")?;
    println!("a package, a bill of materials, units and a chart are made and checked in {}", directory.display());
    Ok(())
}

const SUMS: &str = "SHA256SUMS";

/// `SHA256SUMS`, as `sha256sum --check` reads it.
fn checksums(directory: &Path, files: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("sha256sum");
    command.current_dir(directory).args(files.iter().filter_map(|file| file.file_name()));
    let sums = shell::read(&mut command, "it is in coreutils")?;
    std::fs::write(directory.join(SUMS), sums).context("cannot write checksums")
}

/// Fails if `cargo package`, and so `cargo install` from a registry, would leave out what the program embeds.
fn embedded(workspace: &Path) -> Result<()> {
    let mut list = shell::cargo(workspace);
    list.args(["package", "--list", "--allow-dirty", "--package", "sockwatch"]);
    let listed = String::from_utf8_lossy(&shell::read(&mut list, "cargo must list the crate's files")?).into_owned();
    for file in EMBEDDED {
        ensure!(listed.lines().any(|line| line == *file), "`cargo package` leaves {file} out");
    }
    Ok(())
}
