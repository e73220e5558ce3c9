//! A recording whose first files are missing: what was counted before the others is none of theirs.

use std::collections::HashMap;

use crate::tcp::{
    listing::Round,
    loss::{COUNTED, Losses},
    queue::NamespaceDrops,
};

/// Namespaces that are remembered at once.
const MOST: usize = 100_000;

/// What was there before the files that there are.
#[derive(Debug, Default)]
pub struct Rest {
    /// Namespaces that were listed, each with its counters before that, once they are known.
    listed: HashMap<u32, Option<NamespaceDrops>>,
    lost_before: Losses,
    has_begun: bool,
}

impl Rest {
    /// A count of [`COUNTED`] had grown to this before a batch. What the first batches say was before the files.
    pub fn lost_before(&mut self, index: usize, count: u64) {
        if let Some((_, counted)) = COUNTED.get(index).filter(|_| !self.has_begun) {
            *counted(&mut self.lost_before) = count;
        }
    }

    /// A first tick has come, or another one.
    pub fn begin(&mut self) {
        self.has_begun = true;
    }

    /// What was lost in these files, of all that was lost since the recording began.
    pub fn losses(&self, losses: Losses) -> Losses {
        losses.since(self.lost_before)
    }

    /// What a namespace's first listing shows was there before. Its counters are counted from the first listing that has them.
    pub(super) fn rebase(&mut self, round: &mut Round) {
        for listing in &mut round.listings {
            if self.listed.len() >= MOST {
                self.listed.clear();
            }
            listing.first |= !self.listed.contains_key(&listing.netns);
            let before = self.listed.entry(listing.netns).or_default();
            // Where they could not be read all are 0, and `somaxconn` is absent.
            if listing.somaxconn.is_some() || listing.dropped != NamespaceDrops::default() {
                listing.dropped = listing.dropped.since(before.get_or_insert(listing.dropped));
            }
        }
        for netns in &round.gone {
            self.listed.remove(netns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::listing::Listing;

    fn listing(overflows: u64, somaxconn: Option<u32>) -> Listing {
        let dropped = NamespaceDrops { overflows, ..NamespaceDrops::default() };
        Listing { netns: 1, dropped, somaxconn, ..Listing::default() }
    }

    #[test]
    fn a_namespace_s_counters_count_from_its_first_listing_that_has_them() {
        let mut rest = Rest::default();
        let mut check = |listing: Listing, gone: &[u32], expected: (bool, u64)| {
            let mut round = Round { listings: vec![listing], gone: gone.to_vec(), ..Round::default() };
            rest.rebase(&mut round);
            assert_eq!((round.listings[0].first, round.listings[0].dropped.overflows), expected);
        };
        check(listing(0, None), &[], (true, 0));
        check(listing(7, Some(128)), &[], (false, 0));
        check(listing(0, None), &[], (false, 0));
        check(listing(9, Some(128)), &[1], (false, 2));
        check(listing(0, Some(128)), &[], (true, 0));
        check(listing(5, Some(128)), &[], (false, 5));
    }

    #[test]
    fn what_was_lost_before_the_first_tick_s_batch_is_not_these_files_loss() {
        let mut rest = Rest::default();
        let all = Losses { ring_full: 9, skipped: 4, ..Losses::default() };
        assert_eq!(rest.losses(all), all);
        rest.lost_before(0, 7);
        rest.lost_before(COUNTED.len(), 7);
        rest.begin();
        rest.lost_before(0, 9);
        assert_eq!(rest.losses(all), Losses { ring_full: 2, ..all });
    }
}
