//! One file per subcommand, and what they share.

pub(crate) mod doctor;
pub(crate) mod filter;
pub(crate) mod lab;
pub(crate) mod schema;
pub(crate) mod signals;
pub(crate) mod start;
pub(crate) mod trace;
