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

/// A file of a recording, read batch by batch. It is closed at its end.
pub struct Reader {
    path: PathBuf,
    header: Header,
    input: Input,
    reading: Reading,
    /// Rows that were read.
    rows: u64,
    batches: u64,
}

/// How far a file is read.
enum Input {
    /// To the end of its header, and closed.
    Resting {
        bytes: u64,
    },
    Open(Box<Frames<BufReader<File>>>),
    /// To its end, or to where it is damaged.
    Over {
        bytes: u64,
        end: Option<End>,
    },
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// If it cannot be read, or is no recording.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let (frames, header) = begin(path)?;
        Ok(Self {
            path: path.to_owned(),
            header,
            input: Input::Open(Box::new(frames)),
            reading: Reading::default(),
            rows: 0,
            batches: 0,
        })
    }

    /// Closes a file until it is read on, if nothing but its header was read. What is no file cannot be opened again.
    pub fn rest(&mut self) {
        if let Input::Open(frames) = &self.input
            && self.batches == 0
            && self.path.is_file()
        {
            self.input = Input::Resting { bytes: frames.at() };
        }
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
        if let Input::Resting { .. } = self.input {
            let (frames, header) = begin(&self.path)?;
            if header != self.header {
                return Err(FormatError::Foreign("it was replaced by another one in the meantime".into()));
            }
            self.input = Input::Open(Box::new(frames));
        }
        let Input::Open(frames) = &mut self.input else { return Ok(false) };
        let at = frames.at();
        let damaged = |what: String| FormatError::Damaged { at, what };
        let read = frames.batch().and_then(|batch| {
            let Some(batch) = batch else { return Ok(false) };
            let cells = Cells::of(&batch);
            let cells = cells.map_err(|column| damaged(format!("the column {column} holds something else")))?;
            self.rows += batch.num_rows() as u64;
            self.batches += 1;
            self.reading.read(&cells, batch.num_rows(), said).map_err(damaged)?;
            Ok(true)
        });
        if !matches!(read, Ok(true)) {
            self.input = Input::Over { bytes: frames.at(), end: frames.end() };
        }
        read
    }

    /// How it ends, once it has.
    pub fn end(&self) -> Option<End> {
        match &self.input {
            Input::Resting { .. } => None,
            Input::Open(frames) => frames.end(),
            Input::Over { end, .. } => *end,
        }
    }

    /// Bytes of it that were read and are well.
    pub fn bytes(&self) -> u64 {
        match &self.input {
            Input::Resting { bytes } | Input::Over { bytes, .. } => *bytes,
            Input::Open(frames) => frames.at(),
        }
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

/// Opens a file and reads its header.
fn begin(path: &Path) -> Result<(Frames<BufReader<File>>, Header), FormatError> {
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
    Ok((frames, header))
}
