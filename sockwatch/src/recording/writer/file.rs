//! One file: whole batches, each written at once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{
    CompressionType, MetadataVersion,
    writer::{IpcWriteOptions, StreamEncoder},
};
use arrow_schema::SchemaRef;

use super::{Sync, WriteError};

/// What an address in memory is a multiple of, in the file: columns are compressed, so nobody maps them.
const ALIGNMENT: usize = 8;

/// Rows that are written as one batch at most, a tenth of what a reader takes: a round of listings may have millions.
const MOST_ROWS: usize = 1 << 18;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Recording {
    path: PathBuf,
    file: File,
    encoder: Encoder,
    /// Bytes of whole batches.
    bytes: u64,
    sync: Sync,
}

/// Encodes batches.
struct Encoder(StreamEncoder);

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Recording {
    /// Creates it, for its owner only, and writes its header.
    pub(super) fn create(
        path: &Path,
        force: bool,
        schema: &SchemaRef,
        level: i32,
        sync: Sync,
    ) -> Result<Self, WriteError> {
        let error = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists(path.to_owned()),
            _ => WriteError::Create { path: path.to_owned(), error },
        };
        // A link's end is what is meant, and what is no file must not be replaced by one: /dev/null is everybody's.
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(WriteError::NoFile(path.to_owned()));
        }
        if force && fs::symlink_metadata(path).is_ok() {
            fs::remove_file(path).map_err(error)?;
        }
        // Nobody else may read who talks to whom.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(error)?;
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?
            .try_with_compression(Some(CompressionType::ZSTD))?
            .try_with_compression_level(Some(level))?;
        let encoder = Encoder(StreamEncoder::try_new_with_options(schema, options)?);
        let mut recording = Self { path: path.to_owned(), file, encoder, bytes: 0, sync };
        if let Err(error) = recording.write(&RecordBatch::new_empty(SchemaRef::clone(schema))) {
            // Nothing is in it: it would count as one of those that are kept.
            let _ = fs::remove_file(path);
            return Err(match error {
                WriteError::Write { path, error, .. } => WriteError::Create { path, error },
                other => other,
            });
        }
        Ok(recording)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a batch, as several if it is large.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        let mut from = 0;
        loop {
            let rows = MOST_ROWS.min(batch.num_rows() - from);
            let buffers = self.encoder.0.encode(&batch.slice(from, rows))?;
            self.bytes = append(&mut self.file, &self.path, self.bytes, &buffers)?;
            from += rows;
            if from == batch.num_rows() {
                break;
            }
        }
        if self.sync == Sync::Flush {
            let failed = |error| WriteError::Write { path: self.path.clone(), kept: self.bytes, error };
            self.file.sync_data().map_err(failed)?;
        }
        if self.file.metadata().is_ok_and(|it| it.nlink() == 0) {
            return Err(WriteError::Deleted(self.path.clone()));
        }
        Ok(())
    }

    /// Ends it with its mark.
    pub(super) fn end(self) -> Result<u64, WriteError> {
        let Self { path, mut file, encoder, bytes, sync } = self;
        let bytes = append(&mut file, &path, bytes, &encoder.0.finish()?)?;
        if sync != Sync::Never {
            file.sync_all().map_err(|error| WriteError::Write { path, kept: bytes, error })?;
        }
        Ok(bytes)
    }
}

/// Appends to a file that has so many bytes. Returns how many it has then.
fn append(file: &mut File, path: &Path, bytes: u64, buffers: &[Buffer]) -> Result<u64, WriteError> {
    let message: Vec<&[u8]> = buffers.iter().map(Buffer::as_slice).collect();
    let message = message.concat();
    match file.write_all(&message) {
        Ok(()) => Ok(bytes + message.len() as u64),
        Err(error) => {
            // A part of a batch is of no use; that it cannot be taken away again harms nobody.
            let _ = file.set_len(bytes);
            Err(WriteError::Write { path: path.to_owned(), kept: bytes, error })
        }
    }
}
