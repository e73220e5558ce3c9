//! How soon connections were read from.

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::diagnosis::first_reads;

use super::Spread;

/// Reads from connections that were accepted during the run.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Reads {
    /// From accept() to the first read of data. Of a client that sends late this is its own time, too. MPTCP's are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Spread>,
    /// Connections that ended with data of which nothing had been read.
    never: u64,
    /// Open connections of which no read was told, silent clients' and MPTCP's among them; of more than 65,536 not all.
    not_yet: u64,
}

impl From<first_reads::Reads> for Reads {
    fn from(reads: first_reads::Reads) -> Self {
        let first_reads::Reads { first, never, not_yet } = reads;
        Self { first: first.map(Spread::from), never, not_yet }
    }
}
