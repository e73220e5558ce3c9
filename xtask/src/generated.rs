//! `cargo xtask gen`: files that follow from others, committed so that readers need not run anything.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{dashboard, shell, vm::support};

/// A generated file and how it comes about.
struct Generated {
    file: &'static str,
    print: fn(&Path) -> Result<Vec<u8>>,
}

const GENERATED: &[Generated] = &[
    Generated { file: "docs/trace.schema.json", print: |workspace| sockwatch(workspace, "schema") },
    Generated { file: "docs/list.schema.json", print: |workspace| sockwatch(workspace, "list-schema") },
    Generated { file: "docs/diagnose.schema.json", print: |workspace| sockwatch(workspace, "diagnose-schema") },
    Generated { file: "docs/info.schema.json", print: |workspace| sockwatch(workspace, "info-schema") },
    Generated { file: "docs/openapi.json", print: |workspace| sockwatch(workspace, "openapi") },
    Generated { file: "docs/recording.md", print: |workspace| sockwatch(workspace, "recording-format") },
    Generated { file: "docs/export.md", print: |workspace| sockwatch(workspace, "export-format") },
    Generated { file: "docs/metrics.md", print: |workspace| sockwatch(workspace, "metrics-format") },
    Generated { file: "docs/otlp.md", print: |workspace| sockwatch(workspace, "otlp-format") },
    Generated { file: "docs/privileges.md", print: |workspace| sockwatch(workspace, "privileges") },
    Generated { file: "sockwatch/docs/explain/README.md", print: |workspace| sockwatch(workspace, "explain-index") },
    Generated { file: "docs/kernel-support.md", print: kernel_support },
    Generated { file: dashboard::FILE, print: dashboard::print },
];

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
        std::fs::write(&path, (row.print)(&workspace)?).with_context(|| format!("cannot write {}", row.file))?;
        println!("{}: written", row.file);
    }
    Ok(())
}

/// Fails with the names of all files that are out of date.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let mut stale = Vec::new();
    for row in GENERATED {
        let committed = std::fs::read(workspace.join(row.file)).unwrap_or_default();
        if committed != (row.print)(workspace)? {
            stale.push(row.file);
        }
    }
    if !stale.is_empty() {
        bail!("out of date: {}. Run `cargo xtask gen` and commit the result", stale.join(", "));
    }
    println!("{} generated file(s) up to date", GENERATED.len());
    Ok(())
}

/// What the sockwatch binary prints.
fn sockwatch(workspace: &Path, subcommand: &str) -> Result<Vec<u8>> {
    let mut command = shell::sockwatch(workspace)?;
    command.arg(subcommand);
    shell::read(&mut command, "sockwatch must build and know this subcommand")
}

fn kernel_support(workspace: &Path) -> Result<Vec<u8>> {
    let run = std::fs::read(workspace.join(support::RUN)).with_context(|| format!("cannot read {}", support::RUN))?;
    Ok(support::page(&run, &sockwatch(workspace, "probes")?)?.into_bytes())
}
