//! Tables as files.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

/// Rows that are held in memory until they are written.
const ROW_GROUP: usize = 1 << 17;

/// Why a table cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Its rows.
    #[error("cannot make a table's rows")]
    Rows(#[from] ArrowError),
    /// Its file.
    #[error("cannot write a Parquet file")]
    Parquet(#[from] ParquetError),
    /// What it is written to.
    #[error("cannot write a table")]
    Write(#[from] io::Error),
    /// A file of it.
    #[error("cannot create {0}")]
    Create(PathBuf, #[source] io::Error),
    /// An earlier export.
    #[error(
        "{path} exists, of parts {first} to {last} of this recording: --force replaces it by an export of all of them, and other \
         parts go beside it"
    )]
    Overlap {
        /// Its file.
        path: PathBuf,
        /// The first part in it.
        first: u32,
        /// The last one.
        last: u32,
    },
}

/// Takes rows.
pub trait Table {
    /// Appends rows.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, rows: &RecordBatch) -> Result<(), TableError>;
}

/// Comma-separated values, the columns' names first.
pub struct Csv<W: Write>(arrow_csv::Writer<W>);

impl<W: Write> Csv<W> {
    /// Into this.
    pub fn new(out: W) -> Self {
        Self(arrow_csv::WriterBuilder::new().with_header(true).build(out))
    }

    /// What it was written to.
    pub fn into_inner(self) -> W {
        self.0.into_inner()
    }
}

impl<W: Write> Table for Csv<W> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        Ok(self.0.write(rows)?)
    }
}

/// A Parquet file.
pub struct Parquet<W: Write + Send>(ArrowWriter<W>);

impl<W: Write + Send> Parquet<W> {
    /// Into this.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(out: W, schema: SchemaRef) -> Result<Self, TableError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        Ok(Self(ArrowWriter::try_new(out, schema, Some(properties))?))
    }

    /// Writes its end, without which it cannot be read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<W, TableError> {
        Ok(self.0.into_inner()?)
    }
}

impl<W: Write + Send> Table for Parquet<W> {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        Ok(self.0.write(rows)?)
    }
}
