//! Connections whose client has closed and whose process has not: who is in `CLOSE_WAIT` since when, by process.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;

use crate::tcp::{
    connection::Role,
    endpoint::Endpoint,
    event::{SocketKey, Task},
    update::Subject,
};

/// Connections that are remembered at once.
const MOST: usize = 1 << 20;

/// One in `CLOSE_WAIT`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    pub(super) key: SocketKey,
    pub(super) local: Endpoint,
    pub(super) owner: Option<Task>,
    pub(super) since_ns: u64,
    /// Else it was there before: since then at least.
    pub(super) seen_to_enter: bool,
}

impl Parked {
    pub(super) fn new(subject: &Subject, since_ns: u64) -> Self {
        let is_client = match subject.role {
            Role::Active => true,
            // Of two ports the greater one is taken for the client's.
            Role::Unknown => subject.local.port > subject.remote.port,
            Role::Passive | Role::Listener => false,
        };
        // Each of a client's own connections has a port of its own.
        let port = if is_client { 0 } else { subject.local.port };
        let local = Endpoint { port, ..subject.local };
        Self { key: subject.key, local, owner: subject.owner, since_ns, seen_to_enter: true }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct CloseWaits(HashMap<SocketKey, Parked, FixedState>);

/// A process's connections in `CLOSE_WAIT` at one local port: its clients', or, without a port, its own from one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// The process; its thread is who accepted or opened the first of them.
    pub owner: Task,
    /// The network namespace.
    pub netns: u32,
    /// The local ends' address; its port is 0 for connections that the process has opened itself.
    pub local: Endpoint,
    /// How many.
    pub count: u64,
    /// How long those have been in it that came since the run began, likewise.
    pub new_ns: Vec<u64>,
    /// How long each has been in it, at least, in nanoseconds; the longest first.
    pub ages_ns: Vec<u64>,
}

impl CloseWaits {
    pub(super) fn enter(&mut self, parked: Parked) {
        if self.0.len() < MOST {
            self.0.entry(parked.key).or_insert(parked);
        }
    }

    pub(super) fn leave(&mut self, key: SocketKey) {
        self.0.remove(&key);
    }

    pub(super) fn own(&mut self, key: SocketKey, by: Task) {
        if let Some(parked) = self.0.get_mut(&key) {
            parked.owner = Some(by);
        }
    }

    /// By process and local end, the most first. Nobody's are left out.
    pub(super) fn by_process(&self, began_ns: u64, now_ns: u64) -> Vec<Leak> {
        let mut leaks: BTreeMap<(u32, u32, Endpoint), Leak> = BTreeMap::new();
        for parked in self.0.values() {
            let Some(owner) = parked.owner else { continue };
            let Parked { key, local, .. } = *parked;
            let none = Leak { owner, netns: key.netns, local, count: 0, new_ns: Vec::new(), ages_ns: Vec::new() };
            let leak = leaks.entry((owner.pid, key.netns, local)).or_insert(none);
            leak.count += 1;
            let age_ns = now_ns.saturating_sub(parked.since_ns);
            leak.new_ns.extend((parked.seen_to_enter && parked.since_ns >= began_ns).then_some(age_ns));
            leak.ages_ns.push(age_ns);
        }
        let mut leaks: Vec<_> = leaks.into_values().collect();
        leaks.iter_mut().for_each(|leak| leak.ages_ns.sort_unstable_by(|a, b| b.cmp(a)));
        leaks.sort_by_key(|leak| std::cmp::Reverse(leak.count));
        leaks
    }
}
