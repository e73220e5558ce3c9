//! Why the kernel does not let a probe attach: what is missing, or who said no.

use std::io;

use aya::{EbpfError, programs::ProgramError};
use rustix::{
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};

use super::{check, probes::Hook};
use crate::privilege::capability;

/// Why an alternative was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The user said so.
    #[error("switched off")]
    SwitchedOff,
    /// The kernel lacks something.
    #[error("the kernel has no {0}")]
    Missing(String),
    /// The kernel does not describe its structures.
    #[error("the kernel has no BTF")]
    NoBtf,
    /// The alternative does not apply.
    #[error("not needed")]
    NotNeeded,
    /// Capabilities are missing.
    #[error("not permitted: {0} missing")]
    Capability(String),
    /// Kernel lockdown.
    #[error("refused by kernel lockdown ({0})")]
    Lockdown(String),
    /// Everything is permitted, and it was refused all the same.
    #[error("refused by a security module (EPERM without a word from the verifier)")]
    SecurityModule,
    /// The same where memory may not be locked: maps count as such before Linux 5.11.
    #[error(
        "refused without a word from the verifier: before Linux 5.11 maps count as locked memory, of which {0} KiB are \
         allowed here (`ulimit -l unlimited` as root, LimitMEMLOCK= in a unit, or CAP_SYS_RESOURCE); after that by a \
         security module"
    )]
    LockedMemory(u64),
    /// The verifier's last word.
    #[error("rejected by the verifier: {0}")]
    Verifier(String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Tells the reasons apart: EPERM may be a capability, lockdown or a security module.
pub(super) fn of_program(error: &ProgramError, hook: Hook) -> Refusal {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            if io_error.raw_os_error() == Some(EPERM) && log.trim().is_empty() {
                return not_permitted();
            }
            let statistics = ["processed ", "stack depth ", "verification time ", "max_"];
            let says = |line: &&str| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start));
            let last = log.lines().rev().find(says);
            Refusal::Verifier(last.map_or_else(|| io_error.to_string(), |line| line.trim().to_owned()))
        }
        ProgramError::Btf(_) => Refusal::Missing(describe(hook)),
        other => match root_error(other) {
            Some(io) if io.raw_os_error() == Some(EPERM) || io.raw_os_error() == Some(EACCES) => not_permitted(),
            Some(io) if io.kind() == io::ErrorKind::NotFound => Refusal::Missing(describe(hook)),
            _ => Refusal::Other(chain(other)),
        },
    }
}

const EPERM: i32 = 1;
const EACCES: i32 = 13;

fn not_permitted() -> Refusal {
    let missing = capability::missing(capability::held());
    if !missing.is_empty() {
        return Refusal::Capability(missing.join(" and "));
    }
    let limit =
        getrlimit(Resource::Memlock).current.filter(|_| !capability::held().contains(CapabilitySet::SYS_RESOURCE));
    match (check::lockdown(), limit) {
        (Some(mode), _) => Refusal::Lockdown(mode),
        (None, Some(bytes)) => Refusal::LockedMemory(bytes / 1024),
        (None, None) => Refusal::SecurityModule,
    }
}

fn describe(hook: Hook) -> String {
    match hook {
        Hook::BtfTracepoint(name) => format!("tracepoint {name} in its BTF"),
        Hook::FExit(function) => format!("function {function} in its BTF"),
        Hook::Tracepoint(category, name) => format!("tracepoint {category}:{name}, or tracefs is not mounted"),
        Hook::KProbe(function) | Hook::KRetProbe(function) => format!("kprobes (CONFIG_KPROBES), or no {function}"),
        Hook::CpuClock(_) => "perf events of CPU clocks".to_owned(),
    }
}

/// Why the object itself was refused.
pub(super) fn of_object(error: &EbpfError) -> Refusal {
    match root_error(error) {
        Some(io) if io.raw_os_error() == Some(EPERM) => not_permitted(),
        _ => Refusal::Other(chain(error)),
    }
}

fn root_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e io::Error> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        source = error.source();
    }
    None
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
