//! Recordings and exports are opened by other programs: the libraries that people will open them with, as PyPI has them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, shell};

/// A recording that is kept in the repository, and how many events it holds is asked of sockwatch.
const FILE: &str = "sockwatch/tests/recordings/format-1.0.swr";
const SCRIPT: &str = "sockwatch/tests/recordings/read.py";

/// One during which the clock was set.
const MOVED: [&str; 2] =
    ["sockwatch/tests/recordings/clock-moves-0001.swr", "sockwatch/tests/recordings/clock-moves-0002.swr"];
const EXPORTS_SCRIPT: &str = "sockwatch/tests/recordings/export.py";
const SPARK_SCRIPT: &str = "sockwatch/tests/recordings/spark.py";

/// Of versions that this was tried with; a later one may be taken any time.
const LIBRARIES: &[&str] = &[
    "pyarrow>=21",
    "polars>=1.30",
    "duckdb>=1.3",
    "perfetto>=0.16",
    "protobuf",
    "pyspark>=4,<5",
    "cyclonedx-python-lib[json-validation]>=9",
    "pyyaml",
];

/// Compares what they see with what sockwatch sees.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let python = python(workspace)?;
    let mut info = shell::sockwatch(workspace)?;
    info.args(["info", "--format", "json", FILE]);
    let info = shell::read(&mut info, "sockwatch must build")?;
    let info: serde_json::Value = serde_json::from_slice(&info).context("`sockwatch info` printed no JSON")?;
    let events = info["events"].as_u64().context("`sockwatch info` tells no events")?;
    let mut script = Command::new(&python);
    script.current_dir(workspace).args([SCRIPT, FILE, &events.to_string()]);
    shell::run(&mut script, "these libraries must see what sockwatch sees")?;
    exports(workspace, &python)
}

/// The same of what `sockwatch export` makes of it.
fn exports(workspace: &Path, python: &Path) -> Result<()> {
    let directory = shell::target_directory(workspace).join("exports");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).context("cannot remove the last exports")?;
    }
    std::fs::create_dir_all(&directory).context("cannot make a directory for exports")?;
    let export = |files: &[&str], output: &str, more: &[&str]| {
        let mut export = shell::sockwatch(workspace)?;
        export.arg("export").args(files).args(more);
        shell::run(export.arg("--output").arg(directory.join(output)), "sockwatch must export it")
    };
    export(&[FILE], "web.parquet", &[])?;
    export(&[FILE], "web.csv", &[])?;
    export(&[FILE], "web.pftrace", &[])?;
    export(&[FILE], "lake", &["--partition"])?;
    export(&MOVED, "moved.pftrace", &[])?;
    let mut report = shell::sockwatch(workspace)?;
    report.args(["report", FILE, "--output"]);
    shell::run(report.arg(directory.join("web.html")), "sockwatch must report it")?;
    let csv = std::fs::read_to_string(directory.join("web.csv")).context("cannot read what was exported")?;
    let rows = csv.lines().count().saturating_sub(1);
    let mut script = Command::new(python);
    script.current_dir(workspace).arg(EXPORTS_SCRIPT).arg(&directory).arg(rows.to_string());
    shell::run(&mut script, "these libraries must see what was exported")?;
    let mut script = Command::new(python);
    script.current_dir(workspace).arg(SPARK_SCRIPT).arg(&directory);
    shell::run(&mut script, "Spark must answer as the report does")
}

/// A python of our own with the libraries in it.
pub(crate) fn python(workspace: &Path) -> Result<std::path::PathBuf> {
    // Spark runs on it.
    if shell::probe(Command::new("java").arg("-version")).is_none() {
        setup::install(&["default-jre-headless"])?;
    }
    let directory = shell::target_directory(workspace).join("python");
    let python = directory.join("bin/python");
    let imports = ["-c", "import pyarrow, polars, duckdb, perfetto, pyspark, cyclonedx, jsonschema, yaml"];
    if python.is_file() && shell::probe(Command::new(&python).args(imports)).is_some() {
        return Ok(python);
    }
    if shell::probe(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_none() {
        setup::install(&["python3", "python3-venv"])?;
    }
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&directory), "python3 and its venv are needed")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(LIBRARIES);
    shell::run(&mut install, "PyPI must be reachable")?;
    if shell::probe(Command::new(&python).args(imports)).is_none() {
        bail!("{} cannot import what was installed: remove {}", python.display(), directory.display());
    }
    Ok(python)
}
