//! What each thread may do once everything is in place: capabilities, system calls, files. A thread confines itself as its
//! first act, and for good; what a kernel cannot do is left out, and said.
//!
//! All threads share one memory, so this is no wall between them: it bounds what the process can do at most, and what a
//! mistake in one thread can touch. What each [`Role`] keeps stands in one table, from which docs/privileges.md is made.

pub mod capability;
pub mod document;
mod files;
pub mod role;
mod syscalls;

use std::{fmt, path::PathBuf};

use rustix::thread::{CapabilitySet, set_no_new_privs};

pub use self::{
    files::Files,
    role::{Role, Spare},
    syscalls::Calls,
};

/// Whether threads confine themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Yes: the program's default.
    On,
    /// No: for whoever embeds the library, and for trouble.
    #[default]
    Off,
}

/// What came of each step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// The capabilities that are left, permitted and effective.
    pub kept: CapabilitySet,
    /// Whether all others are dropped; the bounding set may stay full without `CAP_SETPCAP`.
    pub capabilities: Step,
    /// The bounding set is empty, too.
    pub bounding: Step,
    /// `no_new_privs` is set.
    pub no_new_privs: Step,
    /// Landlock.
    pub files: Step,
    /// seccomp.
    pub calls: Step,
}

/// `keeps CAP_BPF; in force: no_new_privs, seccomp; not here: Landlock (the kernel has none)`.
impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = [
            ("dropped capabilities", &self.capabilities),
            ("an empty bounding set", &self.bounding),
            ("no_new_privs", &self.no_new_privs),
            ("Landlock", &self.files),
            ("seccomp", &self.calls),
        ];
        let kept = capability::names(self.kept);
        write!(f, "keeps {}", if kept.is_empty() { "no capability".to_owned() } else { kept.join(" ") })?;
        let done: Vec<_> = steps.iter().filter(|(_, step)| **step == Step::Done).map(|(name, _)| *name).collect();
        write!(f, "; in force: {}", done.join(", "))?;
        let missing = steps.iter().filter_map(|(name, step)| match step {
            Step::Impossible(why) => Some(format!("{name} ({why})")),
            Step::Done | Step::NotMeant(_) => None,
        });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() { Ok(()) } else { write!(f, "; not here: {}", missing.join(", ")) }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is in force.
    Done,
    /// The role goes without it, for this reason.
    NotMeant(&'static str),
    /// This machine cannot do it, for this reason.
    Impossible(String),
}

impl Step {
    fn of<E: std::fmt::Display>(result: Result<(), E>) -> Self {
        result.map_or_else(|error| Self::Impossible(error.to_string()), |()| Self::Done)
    }
}

/// Confines the calling thread, and those that it will start, to what its role needs.
///
/// `writable` are the directories in which a role that writes may make and remove files. `works` says whether the role
/// can do its work without its [`Spare`] capability, on this kernel and with these files: if not, that stays.
pub fn confine(role: &Role, writable: &[PathBuf], works: impl FnOnce() -> bool) -> Confined {
    let spare = role.spare.map_or(&[][..], |spare| spare.capability);
    let (kept, capabilities) = match capability::reduce(role.keeps, spare, works) {
        Ok(kept) => (kept, Step::Done),
        Err(error) => (capability::held(), Step::Impossible(error.to_string())),
    };
    Confined {
        kept,
        capabilities,
        bounding: Step::of(capability::empty_bounding_set()),
        no_new_privs: Step::of(set_no_new_privs(true)),
        files: files::restrict(role.files, writable),
        // Last: it forbids the calls that the others make.
        calls: Step::of(syscalls::restrict(role.calls)),
    }
}

#[cfg(test)]
mod tests;
