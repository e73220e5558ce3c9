//! Reads a recording.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

pub use super::frames::End;
use super::{FormatError, frames::Frames, header::Header, rows::Said, schema::Cells, table::Reading};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 18;

/// A file of a recording, read batch by batch.
pub struct Reader {
    path: PathBuf,
    header: Header,
    frames: Frames<BufReader<File>>,
    reading: Reading,
    /// Rows that were read.
    rows: u64,
    batches: u64,
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// If it cannot be read, or is no recording.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(FormatError::Foreign("it is a directory".into()));
        }
        let mut frames = Frames::new(BufReader::with_capacity(READ_BYTES, file));
        let schema = frames.schema().map_err(|error| match error {
            FormatError::Damaged { at: 0, .. } => FormatError::Foreign("it does not begin as an Arrow stream".into()),
            error => error,
        })?;
        let Some(schema) = schema else {
            return Err(FormatError::Foreign("it ends before it has begun".into()));
        };
        let header = Header::of_metadata(schema.metadata())?;
        Ok(Self { path: path.to_owned(), header, frames, reading: Reading::default(), rows: 0, batches: 0 })
    }

    /// Its path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Appends what the next batch says. Returns whether there was one.
    ///
    /// # Errors
    /// If it is damaged from here on.
    pub fn next(&mut self, said: &mut Said) -> Result<bool, FormatError> {
        let at = self.frames.at();
        let Some(batch) = self.frames.batch()? else { return Ok(false) };
        let damaged = |what: String| FormatError::Damaged { at, what };
        let cells = Cells::of(&batch).map_err(|column| damaged(format!("the column {column} holds something else")))?;
        self.rows += batch.num_rows() as u64;
        self.batches += 1;
        self.reading.read(&cells, batch.num_rows(), said).map_err(damaged)?;
        Ok(true)
    }

    /// How it ends, once it has.
    pub fn end(&self) -> Option<End> {
        self.frames.end()
    }

    /// Bytes of it that were read and are well.
    pub fn bytes(&self) -> u64 {
        self.frames.at()
    }

    /// Rows that were read.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Batches that were read.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Rows among them that this version does not understand.
    pub fn not_understood(&self) -> u64 {
        self.reading.not_understood
    }
}
