//! Files that hold a secret: nobody else may read them.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, ensure};

/// What is longer is another file.
const MOST_BYTES: u64 = 1 << 20;

/// What such a file holds. `how` says where one comes from, if it is not there.
pub(super) fn read(path: &Path, how: &str) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| format!("cannot open it; {how}"))?;
    let metadata = file.metadata().context("cannot look at it")?;
    ensure!(metadata.is_file(), "it is no file");
    // Others may not read it, and whoever is not its owner may not change it.
    let mode = metadata.mode() & 0o777;
    ensure!(
        mode & 0o027 == 0,
        "its mode is {mode:o}, so that others can read or change it: `chmod 640 {}`",
        path.display()
    );
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).context("cannot read it")?;
    Ok(text)
}
