//! Parquet files in directories named after machine and day, as query engines take them: `host=web-1/date=2026-11-22/…`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use arrow_array::{RecordBatch, TimestampMicrosecondArray, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::{ArrowError, SchemaRef};
use chrono::DateTime;

use super::table::{Parquet, Table, TableError};

const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// A file per day; deleted if it is not finished, for without its end a Parquet file cannot be read.
pub struct Partitions {
    directory: PathBuf,
    name: String,
    /// The columns that are not in the directories' names.
    columns: Vec<usize>,
    schema: SchemaRef,
    open: BTreeMap<i64, Parquet<File>>,
    files: Vec<PathBuf>,
}

impl Partitions {
    /// Below `directory`, files of this name, for a table with these columns.
    ///
    /// # Errors
    /// If the columns lack the one that tells the day.
    pub fn new(directory: PathBuf, host: &str, name: String, schema: &SchemaRef) -> Result<Self, TableError> {
        let columns: Vec<_> =
            (0..schema.fields().len()).filter(|index| schema.field(*index).name() != "host").collect();
        let schema = schema.project(&columns)?.into();
        let directory = directory.join(format!("host={}", word(host)));
        Ok(Self { directory, name, columns, schema, open: BTreeMap::new(), files: Vec::new() })
    }

    /// Writes the files' ends. Returns which there are.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, TableError> {
        for parquet in std::mem::take(&mut self.open).into_values() {
            parquet.finish()?;
        }
        Ok(std::mem::take(&mut self.files))
    }

    fn of_day(&mut self, day: i64) -> Result<&mut Parquet<File>, TableError> {
        match self.open.entry(day) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let directory = self.directory.join(format!("date={}", date(day)));
                let path = directory.join(&self.name);
                let create = || {
                    fs::create_dir_all(&directory)?;
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
                };
                let file = create().map_err(|error: io::Error| TableError::Create(path.clone(), error))?;
                self.files.push(path);
                Ok(entry.insert(Parquet::new(file, SchemaRef::clone(&self.schema))?))
            }
        }
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        for file in &self.files {
            // Why it cannot be deleted is why it could not be written.
            let _ = fs::remove_file(file);
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

/// A machine's name as part of a directory's.
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
    fn a_name_stays_within_its_directory() {
        assert_eq!(word("web-1.example"), "web-1.example");
        assert_eq!(word("../../etc"), ".._.._etc");
        assert_eq!(word(".."), "unknown");
        assert_eq!(word(""), "unknown");
    }
}
