//! Files that hold a secret, which nobody else may read, or a certificate.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, ensure};
use nix::unistd::geteuid;

/// What is longer is another file.
const MOST_BYTES: u64 = 1 << 20;

/// What a secret file holds. `how` says where one comes from, if it is not there.
pub(super) fn read(path: &Path, how: &str) -> anyhow::Result<Vec<u8>> {
    let (file, metadata) = open(path, &format!("; {how}"))?;
    // Others may not read it, and whoever is not its owner may not change it.
    let mode = metadata.mode() & 0o777;
    ensure!(
        mode & 0o027 == 0,
        "its mode is {mode:o}, so that others can read or change it: `chmod 640 {}`",
        path.display()
    );
    let owner = metadata.uid();
    ensure!(
        owner == 0 || owner == geteuid().as_raw(),
        "it belongs to user {owner}, who can read and change it: `chown root {}`",
        path.display()
    );
    content(file)
}

/// What any file holds.
pub(super) fn read_public(path: &Path) -> anyhow::Result<Vec<u8>> {
    content(open(path, "")?.0)
}

/// Nobody is waited for at its other end, should it be a pipe.
fn open(path: &Path, how: &str) -> anyhow::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.with_context(|| format!("cannot open it{how}"))?;
    let metadata = file.metadata().context("cannot look at it")?;
    ensure!(metadata.is_file(), "it is no file");
    ensure!(metadata.len() <= MOST_BYTES, "{} bytes are too many", metadata.len());
    Ok((file, metadata))
}

fn content(file: File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).context("cannot read it")?;
    Ok(bytes)
}
