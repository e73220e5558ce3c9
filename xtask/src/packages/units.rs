//! The units of systemd: whether systemd understands them, and how far they confine, by its own score (0: everything, 10: nothing).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, shell};

/// Each with the highest score that it may have, in tenths. Below 5 systemd says "OK".
const UNITS: &[(&str, u32)] = &[("sockwatch-record.service", 26), ("sockwatch-serve.service", 29)];

/// Fails if a unit is not understood, or confines less than it did.
pub(super) fn check(workspace: &Path, program: &Path) -> Result<()> {
    if !setup::is_debian() {
        println!("units are not looked at: this is no Debian");
        return Ok(());
    }
    setup::install(&["systemd"])?;
    for (unit, most) in UNITS {
        let path = workspace.join("packaging/systemd").join(unit);
        verify(&path, program)?;
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager"]).arg(format!("--threshold={most}")).arg(&path);
        let said = shell::read(&mut security, "a unit must not confine less than it did")?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let score = said.lines().find_map(|line| line.split("exposure level for ").nth(1));
        println!("{}", score.context("systemd-analyze told no score")?);
    }
    Ok(())
}

/// Lets systemd read it, with the program in the place of the one that it will start.
fn verify(unit: &Path, program: &Path) -> Result<()> {
    let text = std::fs::read_to_string(unit).with_context(|| format!("cannot read {}", unit.display()))?;
    let name = unit.file_name().context("a unit has a name")?;
    let copy = program.with_file_name(name);
    let text = text.replace("/usr/bin/sockwatch", &program.display().to_string());
    std::fs::write(&copy, text).with_context(|| format!("cannot write {}", copy.display()))?;
    // Manual pages are not installed here.
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&copy).output().context("cannot start systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<_> = said.lines().filter(|line| line.contains("sockwatch")).collect();
    if !ours.is_empty() {
        bail!("systemd does not understand {}: {}", unit.display(), ours.join("; "));
    }
    Ok(())
}
