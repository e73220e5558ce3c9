//! What the dashboard shows: sections in the order in which they are read, each with a row for each panel.
//!
//! `{HOST` and `{LISTENER` at the beginning of a selector stand for the hosts and listeners that are chosen above the
//! panels.

use super::{hosts, listeners, now};

/// Panels below a heading, all of the same height.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) height: u32,
    pub(super) panels: &'static [Panel],
}

pub(super) struct Panel {
    pub(super) title: &'static str,
    /// What is seen, and what it means. A page of `sockwatch explain` says more.
    pub(super) description: &'static str,
    /// As Grafana names it: `s`, `cps` (so many a second), `percentunit` (1 is 100 %), `short` (a count).
    pub(super) unit: &'static str,
    /// Of 24 columns.
    pub(super) width: u32,
    pub(super) look: Look,
    /// Each with the legend of its series.
    pub(super) queries: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy)]
pub(super) enum Look {
    /// One value as it is now, coloured from these on.
    Value { warning: f64, critical: f64 },
    /// What its series are called.
    Name,
    /// Each series over time.
    Lines,
    /// The same, on top of each other.
    Areas,
    /// A histogram over time.
    Heatmap,
    /// A bar for each series as it is now, coloured from these on.
    Bars { warning: f64, critical: f64 },
}

pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Now", height: 4, panels: now::NOW },
    Section { title: "Queue wait: from the accept queue to accept()", height: 9, panels: listeners::WAIT },
    Section { title: "Accept queues", height: 8, panels: listeners::QUEUE },
    Section { title: "Handshakes", height: 8, panels: listeners::HANDSHAKE },
    Section { title: "Connections", height: 9, panels: hosts::CONNECTIONS },
    Section { title: "Local ports", height: 9, panels: hosts::PORTS },
    Section { title: "sockwatch itself", height: 8, panels: hosts::ITSELF },
];
