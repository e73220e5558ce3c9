//! What a run comes to.

use super::{finding::Finding, measure::Measured, ports::PortUse};
use crate::tcp::loss::Losses;

/// What a run comes to.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long the run was, in nanoseconds.
    pub ran_ns: u64,
    /// From which wait on a connection counts as slow, in nanoseconds.
    pub slow_ns: u64,
    /// Every listener, the most hurt first, then the busiest.
    pub listeners: Vec<Measured>,
    /// Destinations of connections that were opened here, the one with most of its local ports taken first.
    pub ports: Vec<PortUse>,
    /// What was found, the worst first; none if all is well.
    pub findings: Vec<Finding>,
    /// Accepts of connections whose listener is not known: in no measure.
    pub unattributed: u64,
    /// Whether connections were only counted: nothing is known of their states then, nor of local ports.
    pub is_counted: bool,
    /// Events taken in.
    pub events: u64,
    /// What was not seen.
    pub losses: Losses,
}

impl Report {
    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.listeners.iter().map(|listener| listener.accepted).sum()
    }
}
