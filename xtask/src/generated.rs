//! `cargo xtask gen`: files that the sockwatch binary prints, committed so that readers need not run it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell;

/// A generated file and the sockwatch command that prints it.
struct Generated {
    file: &'static str,
    command: &'static [&'static str],
}

const GENERATED: &[Generated] = &[Generated { file: "docs/trace.schema.json", command: &["schema"] }];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail when generating again would change a byte
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = shell::workspace()?;
    if options.check {
        return check(&workspace);
    }
    for row in GENERATED {
        let path = workspace.join(row.file);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        std::fs::write(&path, print(&workspace, row)?).with_context(|| format!("cannot write {}", row.file))?;
        println!("{}: written", row.file);
    }
    Ok(())
}

/// Fails with the names of all files that are out of date.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let mut stale = Vec::new();
    for row in GENERATED {
        let committed = std::fs::read(workspace.join(row.file)).unwrap_or_default();
        if committed != print(workspace, row)? {
            stale.push(row.file);
        }
    }
    if !stale.is_empty() {
        bail!("out of date: {}. Run `cargo xtask gen` and commit the result", stale.join(", "));
    }
    println!("{} generated file(s) up to date", GENERATED.len());
    Ok(())
}

fn print(workspace: &Path, row: &Generated) -> Result<Vec<u8>> {
    let mut command = shell::cargo(workspace);
    command.args(["run", "--quiet", "--package", "sockwatch", "--"]).args(row.command);
    shell::read(&mut command, "sockwatch must build and know this subcommand")
}
