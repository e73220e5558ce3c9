//! promtool reads what packaging/ brings: the configuration, the rules, their tests, and every query of the dashboard.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{dashboard, shell};

/// What a Prometheus beside one sockwatch is given; it names the rules.
const CONFIGURATION: &str = "packaging/prometheus/prometheus.yml";
pub(super) const RULES: &str = "packaging/prometheus/sockwatch.rules.yml";
const TESTS: &str = "packaging/prometheus/tests";

/// CI's step: everything that takes no running Prometheus, and so neither root.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let promtool = super::tools(workspace)?.join("promtool");
    let ask = |words: &[&str], files: &[PathBuf]| {
        let mut command = Command::new(&promtool);
        shell::read(command.args(words).args(files), "promtool must find nothing wrong")
    };
    ask(&["check", "config"], &[workspace.join(CONFIGURATION)])?;
    let tests = tests(workspace)?;
    ask(&["test", "rules"], &tests)?;
    let queries = dashboard::queries();
    ask(&["check", "rules"], &[as_rules(workspace, &queries)?])?;
    println!("promtool: the rules pass {} files of tests, {} queries of panels are PromQL", tests.len(), queries.len());
    Ok(())
}

fn tests(workspace: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(workspace.join(TESTS)).with_context(|| format!("cannot list {TESTS}"))?;
    let mut files: Vec<_> = files.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.sort();
    ensure!(!files.is_empty(), "{TESTS} is empty");
    Ok(files)
}

/// promtool checks expressions in rules only. JSON is YAML, too.
fn as_rules(workspace: &Path, queries: &[String]) -> Result<PathBuf> {
    let rules =
        queries.iter().enumerate().map(|(number, query)| json!({"record": format!("query:{number}"), "expr": query}));
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<_>>()}]});
    let path = shell::target_directory(workspace).join("dashboard.rules.json");
    fs::write(&path, rules.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
