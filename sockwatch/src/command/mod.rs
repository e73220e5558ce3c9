//! One file per subcommand, and what they share.

pub(crate) mod audit;
pub(crate) mod diagnose;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod filter;
pub(crate) mod info;
pub(crate) mod lab;
pub(crate) mod list;
pub(crate) mod packages;
pub(crate) mod pending;
pub(crate) mod probes;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod start;
pub(crate) mod time_of_day;
pub(crate) mod top;
pub(crate) mod trace;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

/// A line on stderr. If nobody can read it, there is nobody to tell.
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Colours on a terminal only, and not against <https://no-color.org>.
pub(crate) fn wants_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
