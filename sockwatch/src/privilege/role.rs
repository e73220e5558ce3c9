//! The threads of a run, and what each keeps.

use rustix::thread::CapabilitySet;

use super::{Calls, Files};

/// What a thread does, and what it needs for that once everything is in place.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// The thread's name, and of which command.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// Capabilities that it keeps, as far as they are there.
    pub keeps: CapabilitySet,
    /// One that it keeps only where it does not work without.
    pub spare: Option<Spare>,
    /// System calls besides those that every thread needs.
    pub calls: &'static [Calls],
    /// What it may open.
    pub files: Files,
}

/// A capability that is only kept where it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Spare {
    /// The first of these that is there.
    pub capability: &'static [CapabilitySet],
    /// Where that is.
    pub needed: &'static str,
}

/// To look at other users' processes and into other namespaces.
const LOOK: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE).union(CapabilitySet::DAC_READ_SEARCH);

const MAPS: Option<Spare> = Some(Spare {
    capability: &[CapabilitySet::BPF, CapabilitySet::SYS_ADMIN],
    needed: "up to Linux 5.18, which lets nobody else read maps (kernel.unprivileged_bpf_disabled)",
});

/// The main thread of `trace`, `record` and `audit`.
pub const TRACE: Role = Role {
    name: "main",
    does: "reads events, prints them",
    keeps: CapabilitySet::empty(),
    spare: MAPS,
    calls: &[Calls::Maps],
    files: Files::Named,
};

/// The main thread where it polls.
pub const POLL: Role = Role {
    name: "main, polling",
    does: "lists its own network namespace, looks whose sockets they are",
    keeps: CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH),
    spare: None,
    calls: &[Calls::Table],
    files: Files::Readable,
};

/// The main thread of `diagnose`.
pub const DIAGNOSE: Role = Role {
    name: "main of `diagnose`",
    does: "reads events; at the end reads settings of namespaces, and TCP_DEFER_ACCEPT from copies of descriptors",
    keeps: LOOK,
    spare: MAPS,
    calls: &[Calls::Maps, Calls::Namespaces, Calls::Descriptors],
    files: Files::Readable,
};

/// The same, with `--flame-graph`: a file that it made and does not need is taken away.
pub const DIAGNOSE_DRAWING: Role = Role {
    name: "the same with `--flame-graph`",
    does: "and removes the picture's file if there is nothing to draw",
    calls: &[Calls::Maps, Calls::Namespaces, Calls::Descriptors, Calls::Removing],
    ..DIAGNOSE
};

/// The main thread of `top`, whether it polls or not.
pub const TOP: Role = Role {
    name: "main of `top`",
    does: "reads events, or lists sockets; reads settings of namespaces; draws, and hears keys",
    keeps: LOOK,
    spare: MAPS,
    calls: &[Calls::Maps, Calls::Table, Calls::Namespaces, Calls::Terminal],
    files: Files::Readable,
};

/// The main thread of `serve`, whether it polls or not.
pub const SERVE: Role = Role {
    name: "main of `serve`",
    does: "reads events, or lists sockets; reads settings of namespaces; reads its configuration again",
    keeps: LOOK,
    spare: MAPS,
    calls: &[Calls::Maps, Calls::Table, Calls::Namespaces],
    files: Files::Readable,
};

/// The thread of `serve` that answers clients.
pub const HTTP: Role = Role {
    name: "http, of `serve`",
    does: "accepts clients and answers them",
    keeps: CapabilitySet::empty(),
    spare: None,
    calls: &[Calls::Accepting],
    files: Files::Named,
};

/// The thread of `serve` that pushes to an OTLP receiver.
pub const OTLP: Role = Role {
    name: "otlp, of `serve`",
    does: "looks the receiver's name up, connects to it, pushes",
    keeps: CapabilitySet::empty(),
    spare: None,
    calls: &[Calls::Connecting],
    files: Files::Outward,
};

/// The thread that lists the kernel's socket tables.
pub const RECONCILE: Role = Role {
    name: "reconcile",
    does: "enters each network namespace, lists its sockets, looks who holds them",
    keeps: LOOK,
    spare: None,
    calls: &[Calls::Table, Calls::Namespaces],
    files: Files::Readable,
};

/// The thread that writes a recording.
pub const RECORD: Role = Role {
    name: "record",
    does: "writes the recording, makes and deletes files where it rotates",
    keeps: CapabilitySet::empty(),
    spare: Some(Spare {
        capability: &[CapabilitySet::DAC_OVERRIDE],
        needed: "to rotate in a directory where only others may write",
    }),
    calls: &[Calls::Writing, Calls::Removing],
    files: Files::Named,
};

/// The thread of `diagnose` that watches threads.
pub const THREADS: Role = Role {
    name: "threads, of `diagnose`",
    does: "reads stacks, memory maps and programs of the processes that should accept, and names functions",
    keeps: LOOK.union(CapabilitySet::SYSLOG),
    spare: MAPS,
    calls: &[Calls::Maps],
    files: Files::Readable,
};

/// All of them.
pub const ROLES: &[Role] =
    &[TRACE, POLL, DIAGNOSE, DIAGNOSE_DRAWING, TOP, SERVE, HTTP, OTLP, RECONCILE, RECORD, THREADS];
