//! The two texts that a scrape can ask for: OpenMetrics, and the older format that every scraper reads.

use std::fmt::{self, Write};

use prometheus_client::{encoding::text, registry::Registry};

use super::{
    snapshot::Scrape,
    table::{Kind, TABLE},
};

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Classic,
}

impl Format {
    /// What a client wants that sends this header `Accept`, if any.
    pub fn accepted(accept: Option<&str>) -> Self {
        let wants = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if wants { Self::OpenMetrics } else { Self::Classic }
    }

    /// The header `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics as text.
///
/// # Errors
/// Never, but for a bug of the encoder.
pub fn write(scrape: Scrape, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut told = String::new();
    text::encode(&mut told, &registry)?;
    match format {
        Format::OpenMetrics => Ok(told),
        Format::Classic => classic(&told),
    }
}

/// The older format: counters are declared by the name of their samples, there are no units, infos are gauges, nothing
/// ends it.
fn classic(told: &str) -> Result<String, fmt::Error> {
    let mut classic = String::with_capacity(told.len());
    // The encoder writes each metric as a block in the table's order.
    let mut rows = TABLE.iter();
    let mut row = rows.next();
    for line in told.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let Some(rest) = line.strip_prefix("# ") else {
            writeln!(classic, "{line}")?;
            continue;
        };
        let (keyword, rest) = rest.split_once(' ').ok_or(fmt::Error)?;
        let (family, rest) = rest.split_once(' ').ok_or(fmt::Error)?;
        while row.is_some_and(|row| row.family() != family) {
            row = rows.next();
        }
        let row = row.ok_or(fmt::Error)?;
        let rest = if (keyword, row.kind) == ("TYPE", Kind::Info) { "gauge" } else { rest };
        writeln!(classic, "# {keyword} {} {rest}", row.exposed())?;
    }
    Ok(classic)
}
