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
        let process = owner.and_then(|owner| self.names.of(owner.pid, at_ns));
        let its = process.and_then(|process| process.workload.cgroup.as_deref());
        its.is_some_and(|its| is_below(its, wanted))
    }
}

/// Whether a cgroup is this one or below it.
fn is_below(cgroup: &str, wanted: &str) -> bool {
    let (cgroup, wanted) = (cgroup.trim_matches('/'), wanted.trim_matches('/'));
    cgroup.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || wanted.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_holds_itself_and_what_is_below() {
        let check = |cgroup, wanted, expected| assert_eq!(is_below(cgroup, wanted), expected, "{cgroup} {wanted}");
        check("/system.slice/nginx.service", "/system.slice", true);
        check("/system.slice/nginx.service", "system.slice/nginx.service/", true);
        check("/system.slice/nginx.service", "/system", false);
        check("/system.slice", "/system.slice/nginx.service", false);
        check("/system.slice", "/", true);
    }
}
