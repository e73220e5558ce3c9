//! The Helm chart. Helm is used where it is installed; it cannot be had from the registries that everything else comes from, so
//! elsewhere only what can be seen without it is looked at: that the files are there, the values are YAML, and the chart's versions
//! are the program's.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{elsewhere, shell};

/// Fails if something is wrong with it.
pub(super) fn check(workspace: &Path) -> Result<()> {
    let chart = workspace.join("packaging/helm/sockwatch");
    let mut script = Command::new(elsewhere::python(workspace)?);
    script.arg(workspace.join("xtask/src/packages/chart.py")).arg(&chart).arg(env!("CARGO_PKG_VERSION"));
    shell::run(&mut script, "the chart must be YAML, and of this version")?;
    if shell::probe(Command::new("helm").arg("version")).is_none() {
        println!("the chart's templates are not rendered: helm is not installed");
        return Ok(());
    }
    shell::run(Command::new("helm").args(["lint", "--strict"]).arg(&chart), "helm must find nothing wrong")?;
    let rendered = shell::read(Command::new("helm").args(["template", "try"]).arg(&chart), "it must render")?;
    ensure!(String::from_utf8_lossy(&rendered).contains("kind: DaemonSet"), "the chart renders no DaemonSet");
    Ok(())
}
