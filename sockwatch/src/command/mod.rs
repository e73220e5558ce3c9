//! One file per subcommand, and what they share.

pub(crate) mod doctor;
pub(crate) mod filter;
pub(crate) mod lab;
pub(crate) mod probes;
pub(crate) mod schema;
pub(crate) mod signals;
pub(crate) mod start;
pub(crate) mod trace;

use std::{fmt, io::Write};

/// A line on stderr. If nobody can read it, there is nobody to tell.
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
