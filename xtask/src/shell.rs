//! Running other programs, and where the workspace is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root: cargo names this crate's directory at run time, which stays right when a checkout moves.
pub(crate) fn workspace() -> Result<PathBuf> {
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => std::env::current_dir().context("no current directory: run this from the checkout")?,
    };
    let root = start.ancestors().find(|directory| directory.join("xtask/Cargo.toml").is_file());
    root.map(Path::to_path_buf).context("not inside a sockwatch checkout: run `cargo xtask` from one")
}

/// Where cargo puts what it builds for the host.
pub(crate) fn target_directory(workspace: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |directory| workspace.join(directory))
}

/// The cargo that runs this task, in the workspace's root.
pub(crate) fn cargo(workspace: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace);
    command
}

/// Builds the program and all tests for debugging, once for all that need one of them: by itself the program would be built with
/// fewer features of its dependencies, and those twice. Returns the program's path.
pub(crate) fn debug_build(workspace: &Path) -> Result<PathBuf> {
    run(cargo(workspace).args(["test", "--quiet", "--workspace", "--no-run"]), "fix the errors above")?;
    Ok(target_directory(workspace).join("debug/sockwatch"))
}

/// The program as it is built for debugging, in the workspace's root.
pub(crate) fn sockwatch(workspace: &Path) -> Result<Command> {
    let mut command = Command::new(debug_build(workspace)?);
    command.current_dir(workspace);
    Ok(command)
}

/// The command as a person would type it.
pub(crate) fn spell(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs to the end with the terminal's own output; `otherwise` says what to do if it fails.
pub(crate) fn run(command: &mut Command, otherwise: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`: {otherwise}", spell(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}): {otherwise}", spell(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed; `otherwise` says what to do if it fails.
pub(crate) fn read(command: &mut Command, otherwise: &str) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start `{}`: {otherwise}", spell(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {otherwise}\n{}", spell(command), output.status, said.trim_end());
    }
    Ok(output.stdout)
}

/// What the command prints, if it can be run and succeeds.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this process may install packages and load eBPF programs.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
