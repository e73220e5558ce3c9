//! What measuring cost, as JSON tells it.

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::kernel::gauge::Taken;

use super::super::{Measuring, nanoseconds};

/// What measuring cost.
#[derive(Serialize, JsonSchema)]
pub(super) struct Costs {
    /// Events taken in.
    events: u64,
    /// Bytes that came through the ring buffers.
    bytes: u64,
    /// CPU time of sockwatch itself, in nanoseconds; that of its probes is the traced programs'.
    cpu_ns: u64,
    /// What the probes took; absent where the kernel does not measure it (Linux 5.8 and `CAP_SYS_ADMIN`), and of a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    probes: Option<Probes>,
}

/// What the probes took in the programs that they trace.
#[derive(Serialize, JsonSchema)]
struct Probes {
    /// It was measured for so long, at the beginning of the run.
    measured_ns: u64,
    /// How often they ran then.
    runs: u64,
    /// How long, in nanoseconds.
    ns: u64,
}

impl Costs {
    pub(super) fn new(events: u64, measuring: &Measuring) -> Self {
        let probes = |Taken { measured, runs, ns }| Probes { measured_ns: nanoseconds(measured), runs, ns };
        Self {
            events,
            bytes: measuring.bytes,
            cpu_ns: nanoseconds(measuring.cpu),
            probes: measuring.probes.map(probes),
        }
    }
}
