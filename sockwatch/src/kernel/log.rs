//! What the probes say through aya-log. Only with the `probe-log` feature, and only of an object that was built to log.

use std::{fs, io, path::PathBuf};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// Reads the probes' log and prints it on stderr.
pub(super) struct ProbeLog(EbpfLogger<Stderr>);

/// Prints each record on stderr.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprintln!("probe: {}: {}", record.target(), record.args());
    }

    fn flush(&self) {}
}

impl ProbeLog {
    /// Takes the log's map out of a loaded object; `None` if it was not built to log.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(ebpf, Stderr).ok().map(Self)
    }

    /// Prints what has come in.
    pub(super) fn flush(&mut self) {
        self.0.flush();
    }
}

/// The object that the environment names instead of the committed one.
pub(super) fn object() -> io::Result<Option<Vec<u8>>> {
    std::env::var_os("SOCKWATCH_OBJECT").map(|path| fs::read(PathBuf::from(path))).transpose()
}
