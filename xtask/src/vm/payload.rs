//! What is in a guest: the static binaries, the kernel's modules, and the few programs of the host that the tests call.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::initramfs::Archive;
use super::kernel::Kernel;
use super::machine::Machine;
use super::variant::Payload;
use crate::musl;

/// Programs that the live tests start. busybox' `ip` knows no network namespaces.
const PROGRAMS: &[&str] = &["/usr/sbin/ip", "/usr/sbin/tc", "/usr/bin/ss", "/usr/bin/bash"];

/// What was built for the guests. The tests know paths from the build: they stay the same in the guest.
pub(crate) struct Binaries {
    sockwatch: PathBuf,
    /// Only on the host's architecture.
    tests: Option<PathBuf>,
    /// What labs are compared with.
    goldens: Vec<PathBuf>,
}

impl Binaries {
    /// As the guest's init needs them.
    pub(crate) fn paths(&self, modules: Vec<String>) -> Payload<'_> {
        Payload {
            tests: self.tests.as_deref().and_then(Path::to_str).unwrap_or_default(),
            sockwatch: self.sockwatch.to_str().unwrap_or_default(),
            modules,
        }
    }
}

/// Static binaries as they are shipped, but for optimisation at link time.
pub(crate) fn build(workspace: &Path, machine: &Machine) -> Result<Binaries> {
    let native = machine.name == std::env::consts::ARCH;
    let arguments: &[&str] = if native { &["test", "--no-run", "--test", "live"] } else { &["build"] };
    let built = musl::build(workspace, machine.name, "guest", arguments)?;
    let sockwatch = built.executable("bin", "sockwatch")?;
    let tests = if native { Some(built.executable("test", "live")?) } else { None };
    let goldens = if native { goldens(workspace)? } else { Vec::new() };
    Ok(Binaries { sockwatch, tests, goldens })
}

fn goldens(workspace: &Path) -> Result<Vec<PathBuf>> {
    let directory = workspace.join("sockwatch/tests/labs");
    let files = directory.read_dir().with_context(|| format!("reading {}", directory.display()))?;
    let paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|it| it == "golden")).collect())
}

/// Returns the modules' paths in the guest.
pub(crate) fn fill(archive: &mut Archive, binaries: &Binaries, kernel: &Kernel) -> Result<Vec<String>> {
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/bin", "/root", "/etc"] {
        archive.directory(directory);
    }
    archive.copy("/bin/busybox", &kernel.busybox)?;
    for binary in [Some(&binaries.sockwatch), binaries.tests.as_ref()].into_iter().flatten() {
        archive.file(binary.to_str().context("the target directory's name is not UTF-8")?, &musl::stripped(binary)?);
    }
    for golden in &binaries.goldens {
        archive.copy(golden.to_str().context("the workspace's name is not UTF-8")?, golden)?;
    }
    if binaries.tests.is_some() {
        for program in PROGRAMS {
            archive.host_program(program)?;
        }
    }
    let mut modules = Vec::new();
    for module in &kernel.modules {
        let name = module.file_name().context("a module has a name")?;
        let path = format!("/modules/{}", name.to_string_lossy());
        archive.copy(&path, module)?;
        modules.push(path);
    }
    Ok(modules)
}
