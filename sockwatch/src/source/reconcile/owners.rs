//! Who holds the sockets of a round. Processes that opened or accepted some are looked at in each round; all others only for
//! a socket that none of those holds: it was passed on, or was there before.

use std::collections::{HashMap, HashSet};

use crate::{
    process::{
        self,
        holders::{Holders, add_inodes},
    },
    tcp::{event::Task, filter::Filter},
};

/// A socket that nobody was seen to hold is looked for again after so many rounds: it may have been on its way.
const ROUNDS_UNHELD: u32 = 12;

/// Whose descriptors are known.
#[derive(Debug)]
pub(super) struct Owners {
    /// Of the filter.
    pids: Vec<u32>,
    everyone: bool,
    /// Sockets that the filter's processes hold.
    owned: HashSet<u32>,
    /// Processes that hold, or held, sockets of ours.
    likely: HashSet<u32>,
    /// By inode.
    holders: HashMap<u32, Vec<Task>>,
    /// Sockets that nobody was seen to hold, with the round in which that was.
    unheld: HashMap<u32, u32>,
    round: u32,
}

impl Owners {
    pub(super) fn new(filter: &Filter) -> Self {
        Self {
            pids: filter.pids.clone(),
            everyone: filter.pids.is_empty() && filter.cgroup.is_none(),
            owned: HashSet::new(),
            likely: HashSet::new(),
            holders: HashMap::new(),
            unheld: HashMap::new(),
            round: 0,
        }
    }

    /// Whether every process's sockets are ours.
    pub(super) fn are_everyone(&self) -> bool {
        self.everyone
    }

    /// Whether one of the filter's processes holds it.
    pub(super) fn own(&self, inode: u32) -> bool {
        inode != 0 && self.owned.contains(&inode)
    }

    /// A round begins; these processes have opened or accepted sockets since the last one.
    pub(super) fn begin(&mut self, owners: &HashSet<u32>) {
        self.round += 1;
        self.likely.extend(owners);
        // What they held before the trace, too: a listener that they share with others.
        self.likely.extend(&self.pids);
        self.owned.clear();
        for pid in &self.pids {
            // One that has ended holds nothing.
            let _ = add_inodes(*pid, &mut self.owned);
        }
    }

    /// Looks for whoever holds these sockets.
    pub(super) fn look(&mut self, inodes: &HashSet<u32>) {
        let held_before = std::mem::take(&mut self.holders);
        self.unheld.retain(|inode, since| inodes.contains(inode) && self.round - *since < ROUNDS_UNHELD);
        let mut names = HashMap::new();
        let likely = Holders::look_at(self.likely.iter().copied());
        let mut missing = self.take(&likely, inodes.iter().copied(), &mut names);
        // Of strangers' sockets nobody wants to know.
        missing.retain(|inode| self.everyone || held_before.contains_key(inode));
        if missing.iter().any(|inode| !self.unheld.contains_key(inode)) {
            let all = Holders::look();
            let missing = self.take(&all, missing.into_iter(), &mut names);
            self.unheld.extend(missing.into_iter().map(|inode| (inode, self.round)));
        }
        // Whoever holds none any more may get new ones; then it will be named again.
        self.likely = self.holders.values().flatten().map(|task| task.pid).collect();
    }

    /// Takes over who holds these; returns those that nobody does.
    fn take(
        &mut self,
        found: &Holders,
        inodes: impl Iterator<Item = u32>,
        names: &mut HashMap<u32, Option<Task>>,
    ) -> Vec<u32> {
        let mut missing = Vec::new();
        for inode in inodes.filter(|inode| *inode != 0) {
            let mut pids: Vec<_> = found.of(inode).iter().map(|holder| holder.pid).collect();
            pids.dedup();
            let tasks: Vec<_> =
                pids.into_iter().filter_map(|pid| *names.entry(pid).or_insert_with(|| leader(pid))).collect();
            if tasks.is_empty() { missing.push(inode) } else { drop(self.holders.insert(inode, tasks)) }
        }
        missing
    }

    /// Who holds these.
    pub(super) fn of(&self, inodes: impl Iterator<Item = u32>) -> HashMap<u32, Vec<Task>> {
        inodes.filter_map(|inode| Some((inode, self.holders.get(&inode)?.clone()))).collect()
    }
}

/// A process by its first thread; `None` if it has ended.
fn leader(pid: u32) -> Option<Task> {
    Some(Task { pid, tid: pid, comm: process::thread_name(pid, pid)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::metadata, net::TcpListener, os::fd::AsRawFd, os::unix::fs::MetadataExt, process::id};

    fn inode(listener: &TcpListener) -> u32 {
        metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino().try_into().unwrap()
    }

    #[test]
    fn a_holder_that_was_not_named_is_found_and_remembered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut owners = Owners::new(&Filter::default());
        owners.begin(&HashSet::new());
        owners.look(&HashSet::from([inode(&listener), 0]));
        let found = owners.of([inode(&listener)].into_iter());
        assert!(found[&inode(&listener)].iter().any(|task| task.pid == id()), "{found:?}");
        assert_eq!((owners.likely.contains(&id()), owners.unheld.len()), (true, 0));
    }

    /// Nobody else is looked at: the sockets of others are not asked for.
    #[test]
    fn what_the_filter_s_processes_hold_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut owners = Owners::new(&Filter { pids: vec![id()], ..Filter::default() });
        owners.begin(&HashSet::new());
        owners.look(&HashSet::from([inode(&listener)]));
        let found = owners.of([inode(&listener)].into_iter());
        assert_eq!(found[&inode(&listener)].iter().map(|task| task.pid).collect::<Vec<_>>(), [id()]);
    }

    #[test]
    fn a_socket_that_nobody_holds_is_looked_for_once() {
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            inode(&listener)
        };
        let mut owners = Owners::new(&Filter::default());
        for _ in 0..3 {
            owners.begin(&HashSet::new());
            owners.look(&HashSet::from([gone]));
        }
        assert_eq!(owners.unheld.get(&gone), Some(&1), "by the first round");
        assert!(owners.of([gone].into_iter()).is_empty());
    }
}
