//! The files of a recording: one, or one after the other, of which the oldest are deleted.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use arrow_array::RecordBatch;
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};

use super::{Options, WriteError, Written, file::Recording};
use crate::{
    monotonic::{now_ns, wall_offset_ns},
    recording::{header::Header, schema::schema},
    sink::time_of_day::compact_utc,
};

/// The files of a recording.
#[derive(Debug)]
pub(super) struct Files {
    header: Header,
    options: Options,
    current: Option<Recording>,
    /// The last that was begun.
    path: PathBuf,
    began: Instant,
    /// Rows in the current file: one without any is not ended for another.
    current_rows: u64,
    /// In files that are complete.
    complete: u64,
    rows: u64,
    full: bool,
    /// The time of day at which the recording began, for its files' names.
    stamp: String,
}

impl Files {
    pub(super) fn new(header: Header, options: Options) -> Self {
        let stamp = compact_utc(header.started_ns.saturating_add(header.wall_offset_ns));
        let header = Header { part: 0, ..header };
        Self {
            header,
            path: options.path.clone(),
            options,
            current: None,
            began: Instant::now(),
            current_rows: 0,
            complete: 0,
            rows: 0,
            full: false,
            stamp,
        }
    }

    /// Begins the next file.
    pub(super) fn begin(&mut self) -> Result<(), WriteError> {
        self.header.part += 1;
        if self.header.part > 1 {
            (self.header.started_ns, self.header.wall_offset_ns) = (now_ns(), wall_offset_ns());
        }
        let path = match self.options.rotation.rotates() {
            true => part(&self.options.path, &self.stamp, self.header.part),
            false => self.options.path.clone(),
        };
        let schema = schema(self.header.to_metadata());
        let Options { force, level, sync, .. } = self.options;
        self.current = Some(Recording::create(&path, force, &schema, level, sync)?);
        self.path = path;
        (self.began, self.current_rows) = (Instant::now(), 0);
        self.prune();
        Ok(())
    }

    /// Appends a batch, to the next file if it is time for one; nothing once there are as many bytes as are allowed.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        if self.full {
            return Ok(());
        }
        self.rotate_if_due()?;
        if self.current.is_none() {
            self.begin()?;
        }
        if let Some(current) = &mut self.current {
            current.write(batch)?;
            self.rows += batch.num_rows() as u64;
            self.current_rows += batch.num_rows() as u64;
        }
        self.full = self.options.max_bytes.is_some_and(|most| self.bytes() >= most);
        Ok(())
    }

    /// Ends the file if another one is to follow.
    pub(super) fn rotate_if_due(&mut self) -> Result<(), WriteError> {
        if self.current_rows == 0 {
            return Ok(());
        }
        let has_all = |bytes| self.current.as_ref().is_some_and(|current| current.bytes() >= bytes);
        if self.options.rotation.bytes.is_some_and(has_all) || self.rotates_in() == Some(Duration::ZERO) {
            self.end()?;
        }
        Ok(())
    }

    /// How long until it is time for another file.
    pub(super) fn rotates_in(&self) -> Option<Duration> {
        self.current.as_ref().filter(|_| self.current_rows > 0)?;
        self.options.rotation.every.map(|every| every.saturating_sub(self.began.elapsed()))
    }

    /// Ends the file.
    pub(super) fn end(&mut self) -> Result<(), WriteError> {
        if let Some(current) = self.current.take() {
            self.complete += current.end()?;
        }
        Ok(())
    }

    pub(super) fn written(&self) -> Written {
        Written {
            bytes: self.bytes(),
            rows: self.rows,
            path: self.path.clone(),
            files: self.header.part,
            full: self.full,
        }
    }

    fn bytes(&self) -> u64 {
        self.complete + self.current.as_ref().map_or(0, Recording::bytes)
    }

    /// Deletes the oldest files, of earlier recordings to the same path, too. One that cannot be deleted stays.
    fn prune(&self) {
        let rotation = &self.options.rotation;
        if rotation.keep_files.is_none() && rotation.keep_bytes.is_none() {
            return;
        }
        let Some(current) = self.current.as_ref().map(Recording::path) else { return };
        let mut parts = parts(&self.options.path);
        // What this recording has written is the newest, whatever time of day its files are called after.
        parts.sort_by_cached_key(|part| (part.stamp == self.stamp, part.stamp.clone(), part.number));
        let (mut files, mut bytes) = (0, 0);
        for part in parts.into_iter().rev() {
            files += usize::from(part.bytes > 0);
            bytes += part.bytes;
            let too_many = rotation.keep_files.is_some_and(|most| files > most);
            let too_much = rotation.keep_bytes.is_some_and(|most| bytes > most);
            // One without even a header was begun when the disk was full, and counts for nothing.
            if part.path != current && (part.bytes == 0 || too_many || too_much) {
                let _ = fs::remove_file(part.path);
            }
        }
    }
}

/// The directory in which files will be made after the first; none if there will be one file only.
pub(super) fn directory(options: &Options) -> Option<PathBuf> {
    options.rotation.rotates().then(|| parent(&options.path).to_owned())
}

/// Whether the calling thread may make files there.
pub(super) fn may_write(directory: &Path) -> bool {
    let write = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, directory, write, AtFlags::AT_EACCESS).is_ok()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `web.swr` is followed by `web-20261121T093000Z-0001.swr` and so on.
fn part(path: &Path, stamp: &str, part: u32) -> PathBuf {
    let (stem, extension) = stem(path);
    path.with_file_name(format!("{stem}-{stamp}-{part:04}{extension}"))
}

/// A file's name without its extension, and that with its dot.
fn stem(path: &Path) -> (String, String) {
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", text(extension))).unwrap_or_default();
    (path.file_stem().map(text).unwrap_or_default(), extension)
}

/// A file of a recording that rotates.
#[derive(Debug)]
struct Part {
    /// When the recording began.
    stamp: String,
    number: u64,
    path: PathBuf,
    bytes: u64,
}

/// The files that are called after a path, in no order.
fn parts(path: &Path) -> Vec<Part> {
    let (stem, extension) = stem(path);
    let named = |name: &str| {
        let middle = name.strip_prefix(&format!("{stem}-"))?.strip_suffix(extension.as_str())?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (stamp, part) = middle.split_once('-')?;
        let (day, time) = stamp.strip_suffix('Z')?.split_once('T')?;
        let is_part = digits(day) && digits(time) && digits(part) && part.len() >= 4;
        is_part.then(|| Some((stamp.to_owned(), part.parse().ok()?)))?
    };
    let files = fs::read_dir(parent(path)).into_iter().flatten().flatten();
    let parts = files.filter_map(|file| {
        let (stamp, number) = named(&file.file_name().to_string_lossy())?;
        Some(Part { stamp, number, path: file.path(), bytes: file.metadata().ok()?.len() })
    });
    parts.collect()
}
