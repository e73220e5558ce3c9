//! A file that appears when it is complete.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

/// A file that has another name until it is complete, and is deleted if it does not come to that.
pub(crate) struct Pending {
    path: PathBuf,
    part: PathBuf,
    pub(crate) file: File,
    force: bool,
}

impl Pending {
    pub(crate) fn begin(path: &Path, force: bool) -> anyhow::Result<Self> {
        let is_special = fs::metadata(path).is_ok_and(|there| !there.is_file());
        ensure!(!is_special, "{}: it is no file, and is not replaced by one", path.display());
        ensure!(force || !path.exists(), "{}: it exists; --force replaces it", path.display());
        let name = path.file_name().with_context(|| format!("{}: not a file's name", path.display()))?;
        let part = path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = file.with_context(|| format!("cannot create a file beside {}", path.display()))?;
        Ok(Self { path: path.to_owned(), part, file, force })
    }

    /// It is complete: it gets its name.
    pub(crate) fn keep(self) -> anyhow::Result<()> {
        let Self { path, part, file, force } = &self;
        file.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        // A link does not replace what has come in the meantime; a rename does, but some file systems have no links.
        let named = match fs::hard_link(part, path) {
            Err(_) if *force || !path.exists() => fs::rename(part, path),
            linked => linked,
        };
        named.with_context(|| format!("cannot call it {}", path.display()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Not there any more once it was renamed.
        let _ = fs::remove_file(&self.part);
    }
}
