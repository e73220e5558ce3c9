//! Where the kernel is out of minisocks: a network namespace has `tcp_max_tw_buckets` of them at most, and of what closes first
//! beyond that nothing is left. Its events are the same as ever; only `TCPTimeWaitOverflow` grows, and a listing shows which
//! there are.

use std::collections::HashMap;

use crate::tcp::listing::Listing;

/// The network namespaces in which that has happened.
#[derive(Clone, Debug, Default)]
pub(in crate::tcp::tracker) struct Crowds(HashMap<u32, Crowd>);

/// One of them.
#[derive(Clone, Debug, Default)]
struct Crowd {
    /// `TCPTimeWaitOverflow` at the last listing.
    overflows: u64,
    /// Whether it had grown since the listing before.
    now: bool,
    /// The same at the listing before.
    before: bool,
}

impl Crowds {
    /// Takes a listing's counter.
    pub(super) fn learn(&mut self, listing: &Listing) {
        let overflows = listing.dropped.time_wait_overflows;
        if overflows > 0 || self.0.contains_key(&listing.netns) {
            let crowd = self.0.entry(listing.netns).or_default();
            (crowd.before, crowd.now) = (crowd.now, overflows > crowd.overflows);
            // Without minisocks the counters are not read.
            crowd.overflows = crowd.overflows.max(overflows);
        }
    }

    /// Whether only listings tell which minisocks there are, until the next one says otherwise.
    pub(in crate::tcp::tracker) fn is_full(&self, netns: u32) -> bool {
        !self.0.is_empty() && self.0.get(&netns).is_some_and(|crowd| crowd.now)
    }

    /// Whether that was so at some time since the listing before this one.
    pub(super) fn was_full(&self, netns: u32) -> bool {
        self.0.get(&netns).is_some_and(|crowd| crowd.now || crowd.before)
    }

    /// The namespace is no more.
    pub(super) fn forget(&mut self, netns: u32) {
        self.0.remove(&netns);
    }
}
