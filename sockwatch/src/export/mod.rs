//! Recordings for other programs: a table of what each connection came to, a timeline to look at, and how long sockets were in
//! each state.

mod connections;
pub mod document;
mod folded;
mod partitions;
mod perfetto;
mod redacted;
mod table;

pub use self::{
    connections::{Connections, schema},
    folded::Folded,
    partitions::{Partitions, Parts, There},
    perfetto::Perfetto,
    redacted::{Redacted, Redaction, without_instance},
    table::{Csv, Parquet, Table, TableError},
};
