//! A sink that shows only what passes a filter: of sources that the kernel does not filter.

use std::io;

use super::{Sight, Sink};
use crate::{
    pipeline::Totals,
    process::names::Names,
    tcp::{
        filter::Filter,
        update::{Subject, Update},
    },
};

/// What to show.
#[derive(Debug, Default)]
pub struct Selection {
    /// By namespace, ends and owner's process; its cgroup is not looked at.
    pub filter: Filter,
    /// The owner's cgroup, by its path, or one above it.
    pub cgroup: Option<String>,
    /// What processes there are, to look up their cgroups.
    pub names: Names,
}

impl Selection {
    /// Whether both ask for the same.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.filter, &self.cgroup) == (&other.filter, &other.cgroup)
    }

    /// Whether an update passes.
    pub fn passes(&mut self, update: &Update) -> bool {
        self.admits(&update.subject, update.at_ns)
    }

    /// Whether a socket passes, as it was at that time.
    pub fn admits(&mut self, subject: &Subject, at_ns: u64) -> bool {
        let Subject { key, local, remote, owner, .. } = *subject;
        if !self.filter.matches_tuple(key.netns, local, remote) {
            return false;
        }
        if !self.filter.pids.is_empty() && !owner.is_some_and(|owner| self.filter.pids.contains(&owner.pid)) {
            return false;
        }
        let Some(wanted) = &self.cgroup else { return true };
        owner.is_some_and(|owner| self.names.is_in(owner.pid, at_ns, wanted))
    }
}

/// Shows what passes.
pub struct Selected<S> {
    /// Where it is shown.
    pub sink: S,
    /// What passes; without it, everything.
    pub selection: Option<Selection>,
}

impl<S: Sink> Sink for Selected<S> {
    fn wants(&mut self, update: &Update) -> bool {
        self.selection.as_mut().is_none_or(|selection| selection.passes(update)) && self.sink.wants(update)
    }

    fn update(&mut self, update: &Update) -> io::Result<()> {
        self.sink.update(update)
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.sink.tick(totals)
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        self.sink.look(sight)
    }
}
