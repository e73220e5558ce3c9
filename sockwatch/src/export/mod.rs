//! Recordings for other programs: a table of what each connection came to, and how long sockets were in each state.

mod addresses;
mod connections;
mod folded;
mod table;

pub use self::{
    addresses::Addresses,
    connections::{Connections, columns},
    folded::Folded,
    table::{Csv, Parquet, Table, TableError},
};
