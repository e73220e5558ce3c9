//! Counters as JSON: what was lost, and how far we agree with the kernel.

use schemars::JsonSchema;
use serde::Serialize;

use crate::tcp::{listing::Agreement, loss::Losses};

/// Losses since the start. `lost`: the kernel could not reserve; `missed`: a program was skipped; `dropped`: discarded
/// by sockwatch.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LossCounts {
    /// The sum of `ring_full`, `members_full` and `waiting_room_full`.
    pub(super) lost: u64,
    /// Runs of a program that the kernel skipped and that its relief did not take over.
    pub(super) missed: u64,
    /// The sum of `decode_failed`, `tracker_full` and `unrecorded`.
    pub(super) dropped: u64,
    /// Runs of a program that the kernel skipped (`recursion_misses`).
    pub(super) skipped: u64,
    /// Events that a relief program took over.
    pub(super) relieved: u64,
    /// Those of them that were discarded as repetitions.
    pub(super) repeated: u64,
    /// Events that found the ring buffer full.
    pub(super) ring_full: u64,
    /// Sockets that a process filter could not remember.
    pub(super) members_full: u64,
    /// Transitions of undecided sockets that could not be kept.
    pub(super) waiting_room_full: u64,
    /// Accepts that could not be matched to a connection (only without BTF): the caller asked for no address, or two
    /// connections with that remote end were waiting, or none.
    pub(super) accepts_unmatched: u64,
    /// Records that could not be decoded.
    pub(super) decode_failed: u64,
    /// Sockets that could not be tracked.
    pub(super) tracker_full: u64,
    /// Rows that a recording lacks, because the disk was too slow for them.
    pub(super) unrecorded: u64,
    /// Finished sockets that were forgotten to make room: the end of their TIME_WAIT is not told.
    pub(super) evicted: u64,
    /// Sockets that had to be corrected after the kernel's socket table, each a `disagreement` line, and depths of accept queues.
    pub(super) repaired: u64,
    /// Events out of order.
    pub(super) late: u64,
    /// Transitions that did not fit.
    pub(super) unexpected_transitions: u64,
}

/// How far what sockwatch believes agrees with the kernel's socket table.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgreementCounts {
    /// Rounds of listings.
    pub(super) rounds: u64,
    /// Records compared.
    pub(super) compared: u64,
    /// Those of them that agree.
    pub(super) agreed: u64,
    /// Sockets taken over from first listings.
    pub(super) adopted: u64,
    /// Records in another state than believed.
    pub(super) differing: u64,
    /// Records of sockets that were not known.
    pub(super) unknown: u64,
    /// Sockets believed in that two listings in a row did not show.
    pub(super) absent: u64,
    /// Depths of accept queues that two listings in a row contradicted.
    pub(super) depths: u64,
    /// Minisocks that went before their time without a word: a SYN that finds the accept queue full takes one away, and is
    /// dropped itself. Up to kernel 6.10 also those that came to TIME_WAIT, or were reset: no event tells of it there.
    /// Above tcp_max_tw_buckets also those that the kernel did not make.
    pub(super) displaced: u64,
    /// Listings of network namespaces that could not be had.
    pub(super) unlisted: u64,
}

impl From<&Agreement> for AgreementCounts {
    fn from(agreement: &Agreement) -> Self {
        let &Agreement { rounds, compared, agreed, adopted, differing, unknown, absent, depths, displaced, unlisted } =
            agreement;
        Self { rounds, compared, agreed, adopted, differing, unknown, absent, depths, displaced, unlisted }
    }
}

impl From<&Losses> for LossCounts {
    fn from(losses: &Losses) -> Self {
        Self {
            lost: losses.lost(),
            missed: losses.missed(),
            skipped: losses.skipped,
            relieved: losses.relieved,
            repeated: losses.repeated,
            dropped: losses.dropped(),
            ring_full: losses.ring_full,
            members_full: losses.members_full,
            waiting_room_full: losses.waiting_room_full,
            accepts_unmatched: losses.accepts_unmatched,
            decode_failed: losses.decode_failed,
            tracker_full: losses.tracker_full,
            unrecorded: losses.unrecorded,
            evicted: losses.evicted,
            repaired: losses.repaired,
            late: losses.late,
            unexpected_transitions: losses.unexpected_transitions,
        }
    }
}
