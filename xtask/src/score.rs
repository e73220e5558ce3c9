//! `cargo xtask score`: how often `sockwatch diagnose` is right, over all of its patients, other people's servers among them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, shell};

/// Servers that are patients, and the Debian packages that have them.
const PACKAGES: &[(&str, &str)] =
    &[("nginx", "nginx-light"), ("redis-server", "redis-server"), ("node", "nodejs"), ("postgres", "postgresql")];

/// Patients from PyPI.
const MODULE: &str = "gunicorn";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install no servers: those that are absent are skipped
    #[arg(long)]
    as_is: bool,
    /// Only patients whose names contain this
    #[arg(long, value_name = "TEXT")]
    patient: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = shell::workspace()?;
    let mut command = shell::cargo(&workspace);
    command.args(["test", "--package", "sockwatch", "--test", "live", "--", "--nocapture", "score::"]);
    command.env("SOCKWATCH_LIVE", "required").env("SOCKWATCH_LIVE_SCORE", "full");
    if let Some(patient) = &options.patient {
        command.env("SOCKWATCH_LIVE_PATIENT", patient);
    }
    if !options.as_is {
        let python = servers(&workspace)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([python].into_iter().chain(std::env::split_paths(&path)));
        command.env("PATH", path.context("the path has a name that it cannot have")?);
    }
    shell::run(&mut command, "the verdicts above are wrong")
}

/// Installs what is absent. Returns the directory of a Python that has the modules.
fn servers(workspace: &Path) -> Result<PathBuf> {
    let is_absent = |program: &&str| !is_installed(program);
    let absent: Vec<_> =
        PACKAGES.iter().filter(|(program, _)| is_absent(program)).map(|(_, package)| *package).collect();
    if !absent.is_empty() {
        let _quiet = Quiet::keep()?;
        setup::install(&absent)?;
    }
    let environment = shell::target_directory(workspace).join("patients");
    let python = environment.join("bin");
    if !python.join(MODULE).is_file() {
        let mut venv = Command::new("python3");
        shell::run(venv.args(["-m", "venv"]).arg(&environment), "Debian's package is python3-venv")?;
        let mut pip = Command::new(python.join("pip"));
        shell::run(pip.args(["install", "--quiet", MODULE]), "PyPI must be reachable, or go without: --as-is")?;
    }
    Ok(python)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let directories = std::env::split_paths(&path).chain(versions.map(|version| version.path().join("bin")));
    directories.map(|directory| directory.join(program)).any(|file| file.is_file())
}

/// Debian starts a service when it is installed, unless this file says no. Gone when dropped.
struct Quiet(Option<PathBuf>);

impl Quiet {
    fn keep() -> Result<Self> {
        let file = PathBuf::from("/usr/sbin/policy-rc.d");
        if file.exists() {
            return Ok(Self(None));
        }
        ensure!(shell::is_root(), "installing servers takes root; --as-is goes without");
        fs::write(&file, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {}", file.display()))?;
        let this = Self(Some(file.clone()));
        match fs::set_permissions(&file, fs::Permissions::from_mode(0o755)) {
            Ok(()) => Ok(this),
            Err(error) => bail!("{}: {error}", file.display()),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            let _ = fs::remove_file(file);
        }
    }
}
