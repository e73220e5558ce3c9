//! Parquet files in directories named after machine and day, as query engines take them: `host=web-1/date=2026-11-22/…`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use arrow_array::{RecordBatch, TimestampMicrosecondArray, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::{ArrowError, SchemaRef};
use chrono::DateTime;

use super::table::{Parquet, Table, TableError};

const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// A file per day. Until all are finished they have names that query engines pass over, for without its end a Parquet file
/// cannot be read; they are deleted if it does not come to that.
pub struct Partitions {
    directory: PathBuf,
    parts: Parts,
    /// Files of earlier exports that these ones replace.
    replaced: Vec<PathBuf>,
    /// The columns that are not in the directories' names.
    columns: Vec<usize>,
    schema: SchemaRef,
    open: BTreeMap<i64, Parquet<File>>,
    files: Vec<Unfinished>,
}

/// What an export is of: these parts of a recording, all of them. It is in its files' names, so that no part is there twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The recording's own name.
    pub recording: String,
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl Parts {
    fn name(&self) -> String {
        let last = if self.first == self.last { String::new() } else { format!("-{:04}", self.last) };
        format!("{}-{:04}{last}.parquet", word(&self.recording), self.first)
    }

    /// The same, of a file that has parts of this recording.
    fn of_file(&self, name: &str) -> Option<Self> {
        let parts = name.strip_prefix(&word(&self.recording))?.strip_prefix('-')?.strip_suffix(".parquet")?;
        let (first, last) = parts.split_once('-').unwrap_or((parts, parts));
        Some(Self { recording: self.recording.clone(), first: first.parse().ok()?, last: last.parse().ok()? })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// What becomes of files of the same parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// They are replaced, unless they have other parts, too.
    Replaced,
    /// They are left as they are: it is an error.
    Kept,
}

/// A file with the name that it has until all are finished.
struct Unfinished {
    path: PathBuf,
    part: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Why it cannot be deleted is why it could not be written.
        let _ = fs::remove_file(&self.part);
    }
}

impl Partitions {
    /// Below `directory`, files of these parts, for a table with these columns.
    ///
    /// # Errors
    /// If the columns lack the one that tells the day, or if an earlier export has some of the parts, on whatever day.
    pub fn new(
        directory: PathBuf,
        host: &str,
        parts: Parts,
        there: There,
        schema: &SchemaRef,
    ) -> Result<Self, TableError> {
        let columns: Vec<_> =
            (0..schema.fields().len()).filter(|index| schema.field(*index).name() != "host").collect();
        let schema = schema.project(&columns)?.into();
        let directory = directory.join(format!("host={}", word(host)));
        let replaced = overlapping(&directory, &parts)?;
        for (path, other) in &replaced {
            if there == There::Kept || !parts.contains(other) {
                return Err(TableError::Overlap { path: path.clone(), first: other.first, last: other.last });
            }
        }
        let replaced = replaced.into_iter().map(|(path, _)| path).collect();
        Ok(Self { directory, parts, replaced, columns, schema, open: BTreeMap::new(), files: Vec::new() })
    }

    /// Writes the files' ends, and gives them their names. Returns which there are.
    ///
    /// # Errors
    /// If one cannot be written, or has come in the meantime.
    pub fn finish(self) -> Result<Vec<PathBuf>, TableError> {
        for parquet in self.open.into_values() {
            parquet.finish()?.sync_all()?;
        }
        // Nobody may see a row twice: those who look now see it in a moment.
        for path in &self.replaced {
            fs::remove_file(path).map_err(|error| TableError::Create(path.clone(), error))?;
        }
        let name = |Unfinished { path, part }: &Unfinished| {
            // A link does not replace what has come in the meantime; some file systems have none.
            let named = match fs::hard_link(part, path) {
                Err(_) if !path.exists() => fs::rename(part, path),
                linked => linked,
            };
            named.map(|()| path.clone()).map_err(|error| TableError::Create(path.clone(), error))
        };
        self.files.iter().map(name).collect()
    }

    fn of_day(&mut self, day: i64) -> Result<&mut Parquet<File>, TableError> {
        match self.open.entry(day) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let directory = self.directory.join(format!("date={}", date(day)));
                let name = self.parts.name();
                let path = directory.join(&name);
                let part = directory.join(format!(".{name}.{}.part", process::id()));
                let create = || {
                    fs::create_dir_all(&directory)?;
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)
                };
                let file = create().map_err(|error: io::Error| TableError::Create(path.clone(), error))?;
                self.files.push(Unfinished { path, part });
                Ok(entry.insert(Parquet::new(file, SchemaRef::clone(&self.schema))?))
            }
        }
    }
}

impl Table for Partitions {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        let ended =
            rows.column_by_name("ended").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let days = days(ended.ok_or_else(|| ArrowError::SchemaError("no column ended".into()))?);
        let rows = rows.project(&self.columns)?;
        let mut from = 0;
        for run in days.chunk_by(|one, next| one == next) {
            self.of_day(run[0])?.write(&rows.slice(from, run.len()))?;
            from += run.len();
        }
        Ok(())
    }
}

fn days(ended: &TimestampMicrosecondArray) -> Vec<i64> {
    ended.values().iter().map(|unix_us| unix_us.div_euclid(DAY_US)).collect()
}

fn date(day: i64) -> String {
    DateTime::from_timestamp(day * 24 * 3600, 0).unwrap_or_default().format("%Y-%m-%d").to_string()
}

/// Files that have some of these parts.
fn overlapping(directory: &Path, parts: &Parts) -> Result<Vec<(PathBuf, Parts)>, TableError> {
    let mut found = Vec::new();
    let days = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        days => days,
    };
    let unreadable = |error| TableError::Create(directory.to_owned(), error);
    for day in days.map_err(unreadable)? {
        let day = day.map_err(unreadable)?.path();
        if !day.is_dir() {
            continue;
        }
        for file in fs::read_dir(&day).map_err(unreadable)? {
            let file = file.map_err(unreadable)?;
            let its = parts.of_file(&file.file_name().to_string_lossy());
            found.extend(its.filter(|its| its.overlaps(parts)).map(|its| (file.path(), its)));
        }
    }
    Ok(found)
}

/// A name that a recording gives, as one of a file: it stays in its directory.
fn word(host: &str) -> String {
    let safe =
        |character: char| if character.is_ascii_alphanumeric() || "-_.".contains(character) { character } else { '_' };
    let word: String = host.chars().map(safe).collect();
    if word.chars().all(|character| character == '.') { "unknown".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_utc() {
        assert_eq!(date(0), "1970-01-01");
        let ended = TimestampMicrosecondArray::from(vec![0, DAY_US - 1, DAY_US, 20_779 * DAY_US]);
        assert_eq!(days(&ended), [0, 0, 1, 20_779]);
        assert_eq!(date(20_779), "2026-11-22");
    }

    #[test]
    fn files_tell_their_parts() {
        let parts = |first, last| Parts { recording: "6fa4-ee8a".into(), first, last };
        assert_eq!(parts(3, 3).name(), "6fa4-ee8a-0003.parquet");
        assert_eq!(parts(3, 12_000).name(), "6fa4-ee8a-0003-12000.parquet");
        for parts in [parts(3, 3), parts(3, 12_000)] {
            assert_eq!(parts.of_file(&parts.name()), Some(parts));
        }
        assert_eq!(parts(1, 1).of_file("6fa4-ee8b-0001.parquet"), None);
        assert_eq!(parts(1, 1).of_file(".6fa4-ee8a-0001.parquet.7.part"), None);
        assert!(parts(1, 3).overlaps(&parts(3, 4)) && !parts(1, 3).overlaps(&parts(4, 4)));
        assert!(parts(1, 3).contains(&parts(2, 3)) && !parts(2, 3).contains(&parts(1, 3)));
    }

    #[test]
    fn a_name_stays_within_its_directory() {
        assert_eq!(word("web-1.example"), "web-1.example");
        assert_eq!(word("../../etc"), ".._.._etc");
        assert_eq!(word("/srv/a-0001.parquet"), "_srv_a-0001.parquet");
        assert_eq!(word(".."), "unknown");
        assert_eq!(word(""), "unknown");
    }
}
