//! Starts a source: eBPF, or polling where eBPF is refused.

use std::collections::HashMap;

use anyhow::Context;
use sockwatch::{
    kernel::{
        session::{Choice, Options, StartError, Yardstick},
        tracefs,
    },
    source::live::Live,
    tcp::filter::Filter,
};

use super::filter::to_wire;
use crate::cli::CollectArgs;

/// What `--source ebpf` needs, for the error that says so.
const HOW_TO_GRANT: &str = "\
eBPF needs root, or CAP_BPF and CAP_PERFMON, and CAP_DAC_READ_SEARCH for tracepoints by tracefs:
  sudo sockwatch trace ...                                            as root
  setcap cap_bpf,cap_perfmon,cap_dac_read_search+ep $(which sockwatch)  for every user
  docker run --cap-add BPF --cap-add PERFMON --cap-add DAC_READ_SEARCH  in a container
`sockwatch doctor` says what is missing; `--source poll` works without.";

/// Attaches the probes.
pub(crate) fn live(args: &CollectArgs, filter: &Filter) -> Result<Live, StartError> {
    let options = Options {
        filter: to_wire(filter),
        members: Vec::new(),
        ring_bytes: args.buffer,
        choices: choices(args),
        yardstick: if args.with_empty_probe { Yardstick::Attached } else { Yardstick::Without },
    };
    Live::start(&options, args.latency)
}

fn choices(args: &CollectArgs) -> HashMap<String, Choice> {
    let mut choices: HashMap<_, _> = args
        .probe
        .iter()
        .map(|(probe, choice)| {
            let choice = if choice == "off" { Choice::Off } else { Choice::Only(choice.clone()) };
            (probe.clone(), choice)
        })
        .collect();
    if args.no_handshake {
        choices.insert("enqueue".into(), Choice::Off);
    }
    choices
}

/// tracefs, before the runtime has threads.
pub(crate) fn prepare() {
    // What is missing shows as a refused alternative, with the reason.
    let _ = tracefs::ensure();
}

/// A current-thread runtime: one consumer, no locks.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// The error of `--source ebpf`.
pub(crate) fn refused(error: StartError) -> anyhow::Error {
    anyhow::Error::new(error).context(HOW_TO_GRANT)
}
