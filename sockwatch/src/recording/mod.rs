//! Recordings: what a source said, in the order in which it said it, in a file that other tools can read.
//!
//! A recording is an Arrow IPC stream (<https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format>) with
//! buffers compressed by zstd. It is only ever appended to, and whole batches are written at once: after a crash all of
//! them can be read. One row is one thing that the source said; [`schema`] has the columns, docs/recording.md the
//! meaning. Replayed, it is a source like any other: the tracker learns exactly what it would have learned then.

mod batch;
mod cells;
mod columns;
pub mod document;
mod frames;
pub mod header;
mod layout;
pub mod reader;
mod rows;
pub mod schema;
mod table;
#[cfg(test)]
mod tests;
mod words;
pub mod writer;

pub use self::rows::{Mark, Said};
pub(crate) use self::table::MOST_LISTED;

/// Why a file is no recording, or no whole one.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It begins otherwise.
    #[error("not a recording of sockwatch: {0}")]
    Foreign(String),
    /// A newer sockwatch wrote it, in a way that this one cannot read.
    #[error("format {found} is newer than this sockwatch, which reads {}.x: take a newer sockwatch", header::FORMAT.0)]
    Newer {
        /// The file's.
        found: String,
    },
    /// From some byte on it makes no sense.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// How many bytes are well.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[from] std::io::Error),
}
