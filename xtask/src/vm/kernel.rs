//! Stock Debian kernels: found through the system's own package sources, kept in a cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::machine::Machine;
use crate::shell;

/// A kernel of the matrix and the Debian suite that has it.
#[derive(Debug)]
pub(crate) struct Row {
    /// As `--kernel` takes it.
    pub(crate) name: &'static str,
    suite: &'static str,
    archive: Archive,
}

/// Where a suite is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// The oldest supported kernel first.
pub(crate) const KERNELS: &[Row] = &[
    Row { name: "5.10", suite: "bullseye-security", archive: Archive::Security },
    Row { name: "6.1", suite: "bookworm", archive: Archive::Main },
    Row { name: "6.12", suite: "trixie", archive: Archive::Main },
    Row { name: "newest", suite: "sid", archive: Archive::Main },
];

/// What the live tests need beyond what is built in, in the order of loading.
const MODULES: &[&str] = &["inet_diag", "tcp_diag", "veth", "sch_netem"];

/// A kernel on disk.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The guest's commands, static.
    pub(crate) busybox: PathBuf,
    /// Uncompressed, in the order of loading.
    pub(crate) modules: Vec<PathBuf>,
}

/// From the cache, or from the mirror.
pub(crate) fn get(row: &'static Row, machine: &Machine, cache: &Path) -> Result<Kernel> {
    let directory = cache.join(machine.name).join(row.name);
    if let Some(kernel) = cached(row, &directory) {
        return Ok(kernel);
    }
    println!("{}: fetching from {}", row.name, row.suite);
    let scratch = directory.join("fetch");
    if scratch.exists() {
        // What a fetch that failed has left may be another release's.
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    fetch(row, machine, &scratch)
        .with_context(|| format!("kernel {} cannot be fetched from Debian's {}", row.name, row.suite))?;
    let kernel = unpack(&scratch, &directory)
        .with_context(|| format!("kernel {}'s packages do not hold what was expected", row.name));
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    kernel?;
    cached(row, &directory).with_context(|| format!("{} is incomplete: remove it and try again", directory.display()))
}

/// `release` is written last: without it the rest is not complete.
fn cached(row: &'static Row, directory: &Path) -> Option<Kernel> {
    let release = fs::read_to_string(directory.join("release")).ok()?;
    let modules = MODULES.iter().map(|name| directory.join(name).with_extension("ko")).filter(|path| path.is_file());
    let (image, busybox) = (directory.join("vmlinuz"), directory.join("busybox"));
    Some(Kernel { name: row.name, release, image, busybox, modules: modules.collect() })
}

fn fetch(row: &Row, machine: &Machine, scratch: &Path) -> Result<()> {
    let mirror = mirror(row.archive)?;
    for part in ["lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(scratch.join(part)).with_context(|| format!("cannot create {}", scratch.display()))?;
    }
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = format!("deb [signed-by={keyring}] {mirror} {} main\n", row.suite);
    fs::write(scratch.join("sources.list"), source).context("cannot write a list of package sources")?;
    shell::read(apt("apt-get", machine, scratch).arg("update"), "is the mirror reachable?")?;
    let packages = packages(machine, scratch)?;
    shell::read(apt("apt-get", machine, scratch).arg("download").args(&packages), "is the mirror reachable?")?;
    for package in files(scratch, |path| path.extension().is_some_and(|extension| extension == "deb"))? {
        let mut unpack = Command::new("dpkg");
        shell::run(unpack.arg("-x").arg(&package).arg(scratch.join("root")), "the package is broken: try again")?;
    }
    Ok(())
}

/// The image's package and those that it is split into from 6.19 on.
fn packages(machine: &Machine, scratch: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![machine.kernel_package.to_owned()];
    while let Some(package) = open.pop() {
        let said = shell::read(
            apt("apt-cache", machine, scratch).args(["depends", "--important", &package]),
            "the suite has no such package",
        )?;
        for dependency in dependencies(&String::from_utf8_lossy(&said)) {
            if !found.contains(&dependency) {
                found.push(dependency.clone());
                open.push(dependency);
            }
        }
    }
    if found.is_empty() {
        bail!("{} depends on no kernel", machine.kernel_package);
    }
    found.push("busybox-static".to_owned());
    Ok(found)
}

fn dependencies(said: &str) -> Vec<String> {
    let all = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
    all.filter(|name| parts.iter().any(|part| name.starts_with(part))).map(str::to_owned).collect()
}

/// apt with a state of its own: the system's is left alone.
fn apt(program: &str, machine: &Machine, scratch: &Path) -> Command {
    let at = |name: &str| scratch.join(name).display().to_string();
    let mut command = Command::new(program);
    command.current_dir(scratch).arg("--quiet");
    for option in [
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        format!("Dir::Etc::SourceList={}", at("sources.list")),
        "Dir::Etc::SourceParts=/dev/null".into(),
        "Dir::State::status=/dev/null".into(),
        "Acquire::Languages=none".into(),
        format!("APT::Architecture={}", machine.debian),
        format!("APT::Architectures={}", machine.debian),
        "APT::Sandbox::User=root".into(),
        // Else a mirror that cannot be reached is only a warning.
        "APT::Update::Error-Mode=any".into(),
        "APT::Update::Post-Invoke::=".into(),
        "APT::Update::Post-Invoke-Success::=".into(),
    ] {
        command.arg("-o").arg(option);
    }
    command
}

/// Where this system gets its own packages: the kernels of other suites are there, too.
fn mirror(archive: Archive) -> Result<String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    if let Ok(parts) = files(Path::new("/etc/apt/sources.list.d"), |_| true) {
        texts.extend(parts.iter().filter_map(|path| fs::read_to_string(path).ok()));
    }
    let mirrors: Vec<_> = texts.iter().flat_map(|text| sources(text)).collect();
    // Only Debian's archives have all suites; another vendor's source stays out.
    let found = mirrors.iter().find(|(_, suites)| match archive {
        Archive::Main => suites.iter().any(|suite| is_release(suite)),
        Archive::Security => suites.iter().any(|suite| suite.ends_with("-security")),
    });
    let (mirror, _) = found.context("no Debian mirror in /etc/apt: the kernels of the matrix are Debian's")?;
    Ok(mirror.clone())
}

fn is_release(suite: &str) -> bool {
    let codenames = ["bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"];
    codenames.contains(&suite)
}

/// Addresses and suites in apt's two formats.
fn sources(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        if let (Some(addresses), Some(suites)) = (field("URIs:"), field("Suites:"))
            && let Some(address) = addresses.split_whitespace().next()
        {
            found.push((address.to_owned(), suites.split_whitespace().map(str::to_owned).collect()));
        }
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("deb ")) {
        let line = line.split_once(']').map_or(line, |(_, rest)| rest);
        let mut words = line.split_whitespace();
        if let (Some(address), Some(suite)) = (words.next(), words.next()) {
            found.push((address.to_owned(), vec![suite.to_owned()]));
        }
    }
    found
}

/// Keeps the image and the modules that are needed.
fn unpack(scratch: &Path, directory: &Path) -> Result<()> {
    let everything = walk(&scratch.join("root"))?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let image = everything.iter().find(|path| name(path).starts_with("vmlinuz")).context("no vmlinuz")?;
    for module in MODULES {
        let Some(path) = everything.iter().find(|path| name(path).split('.').next() == Some(module)) else { continue };
        let bytes = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => shell::read(Command::new("xz").arg("-dc").arg(path), "install xz-utils")?,
            _ => fs::read(path)?,
        };
        fs::write(directory.join(module).with_extension("ko"), bytes)?;
    }
    let busybox = everything.iter().find(|path| path.ends_with("bin/busybox")).context("no busybox")?;
    let modules = everything.iter().find_map(|path| path.parent().filter(|parent| parent.ends_with("kernel/net/ipv4")));
    let release = modules.and_then(|path| path.ancestors().nth(3)).context("no modules")?;
    fs::copy(image, directory.join("vmlinuz"))?;
    fs::copy(busybox, directory.join("busybox"))?;
    fs::write(directory.join("release"), name(release))?;
    Ok(())
}

fn walk(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
}

fn files(directory: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| wanted(path)).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_package_sources_are_read() {
        let text = "Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\n\nTypes: deb\nURIs: http://b\n\
                    Suites: bookworm-security\n";
        let found = sources(text);
        assert_eq!(found[0], ("http://a/debian".into(), vec!["bookworm".into(), "bookworm-updates".into()]));
        assert_eq!(found[1].0, "http://b");
        assert_eq!(
            sources("deb [signed-by=/x] http://c/debian trixie main\n# deb http://d x\n"),
            [("http://c/debian".into(), vec!["trixie".into()])]
        );
    }

    #[test]
    fn only_parts_of_the_kernel_are_followed() {
        let said = "linux-image-7\n  Depends: linux-binary-7\n  Depends: kmod\n  Depends: linux-modules-7\n";
        assert_eq!(dependencies(said), ["linux-binary-7", "linux-modules-7"]);
    }
}
