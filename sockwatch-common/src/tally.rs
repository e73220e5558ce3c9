//! What the kernel side counts of a listener where connections are not told one by one.

use crate::Plain;

/// Bits of a duration that a bucket keeps below its highest one: buckets are a sixteenth of a power of two wide.
const KEPT_BITS: u32 = 4;

/// Shorter than two to this, in nanoseconds, is one bucket.
const LEAST_BITS: u32 = 10;

/// Longer than two to this, in nanoseconds, is one bucket: more than an hour.
const MOST_BITS: u32 = 42;

/// Buckets of a histogram of durations.
pub const BUCKETS: usize = 2 + ((MOST_BITS - LEAST_BITS) << KEPT_BITS) as usize;

/// Listeners that are counted apart; slot 0 is everybody else's.
pub const MAX_SLOTS: u32 = 256;

/// Threads whose accepts are counted apart.
pub const MAX_ACCEPTORS: u32 = 4096;

/// Connections between birth and accept that are remembered at once.
pub const MAX_QUEUED: u32 = 1 << 17;

/// Spells that are kept until the agent reads them, of each CPU.
pub const SPELLS: usize = 32;

/// A wait as long as this is a spell.
pub const SPELL_NS: u64 = 1_000_000;

/// A spell is told if it ends so long after the one before.
pub const SPELL_STEP_NS: u64 = 5_000_000;

/// Set in the key of a place; a cookie never comes near.
const PLACE: u64 = 1 << 63;

/// The key of the listeners at an address and a port; the address is 0 for any. IPv4 addresses stand in the first half, as they lie
/// in memory.
pub const fn place(netns: u32, is_inet6: bool, address: [u64; 2], port: u16) -> u64 {
    let [first, second] = address;
    PLACE | mixed(mixed(mixed(netns as u64 | (is_inet6 as u64) << 32, port as u64), first), second)
}

/// Whether this is the key of a place, not a cookie.
pub const fn is_place(key: u64) -> bool {
    key & PLACE != 0
}

/// Two words as one in which every bit depends on all of theirs, nearly.
const fn mixed(one: u64, other: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    (one ^ other.wrapping_mul(ODD)).wrapping_mul(ODD).rotate_left(29)
}

/// The bucket of a duration.
pub const fn bucket(ns: u64) -> usize {
    if ns < 1 << LEAST_BITS {
        return 0;
    }
    let bits = 63 - ns.leading_zeros();
    if bits >= MOST_BITS {
        return BUCKETS - 1;
    }
    let kept = (ns >> (bits - KEPT_BITS)) & ((1 << KEPT_BITS) - 1);
    1 + (((bits - LEAST_BITS) << KEPT_BITS) as u64 + kept) as usize
}

/// The first duration of a bucket, and the first after it.
pub const fn bounds(bucket: usize) -> (u64, u64) {
    if bucket == 0 {
        return (0, 1 << LEAST_BITS);
    }
    if bucket >= BUCKETS - 1 {
        return (1 << MOST_BITS, u64::MAX);
    }
    let (bits, kept) = ((bucket as u64 - 1) >> KEPT_BITS, (bucket as u64 - 1) & ((1 << KEPT_BITS) - 1));
    let width = 1 << (bits as u32 + LEAST_BITS - KEPT_BITS);
    let from = ((1 << KEPT_BITS) + kept) * width;
    (from, from + width)
}

/// Durations, by [`bucket`].
pub type Histogram = [u32; BUCKETS];

/// Somebody waited from then to then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spell {
    /// In nanoseconds of `CLOCK_MONOTONIC`.
    pub from_ns: u64,
    /// Likewise.
    pub to_ns: u64,
}

/// One listener's counts of one CPU. All only grow, but for the spells.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Connections accepted.
    pub accepted: u64,
    /// Those of them that were not seen to be born: how long they waited is not known.
    pub unmeasured: u64,
    /// Those of them that were in `CLOSE_WAIT`.
    pub half_closed: u64,
    /// Those of them that were in `CLOSE`.
    pub dead: u64,
    /// Left by a FIN before accept().
    pub by_fin: u64,
    /// Left by a RST before accept().
    pub by_rst: u64,
    /// Gone with their listener.
    pub removed: u64,
    /// Handshakes that needed another SYN-ACK.
    pub retransmitted: u64,
    /// All waits together, in nanoseconds.
    pub sum_ns: u64,
    /// The longest wait.
    pub longest_ns: u64,
    /// When the last was accepted.
    pub last_accept_ns: u64,
    /// The greatest depth that one of them found, itself included.
    pub deepest: u64,
    /// Spells told so far: the last of them are in `recent`, each at its number modulo [`SPELLS`].
    pub spells: u64,
    /// See `spells`.
    pub recent: [Spell; SPELLS],
    /// Birth to accept().
    pub waits: Histogram,
    /// First SYN-ACK to birth.
    pub handshakes: Histogram,
    /// Birth to the client's FIN or RST, of those that nobody had accepted.
    pub left: Histogram,
}

impl Tally {
    /// Nothing counted.
    pub const NONE: Self = Self {
        accepted: 0,
        unmeasured: 0,
        half_closed: 0,
        dead: 0,
        by_fin: 0,
        by_rst: 0,
        removed: 0,
        retransmitted: 0,
        sum_ns: 0,
        longest_ns: 0,
        last_accept_ns: 0,
        deepest: 0,
        spells: 0,
        recent: [Spell { from_ns: 0, to_ns: 0 }; SPELLS],
        waits: [0; BUCKETS],
        handshakes: [0; BUCKETS],
        left: [0; BUCKETS],
    };
}

/// A thread that accepts from the listener of a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptorKey {
    /// The slot.
    pub slot: u32,
    /// The thread.
    pub tid: u32,
}

/// How much it accepted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AcceptorCount {
    /// Connections.
    pub accepted: u64,
    /// Its process.
    pub pid: u32,
    /// Padding.
    pub reserved: u32,
    /// Its name.
    pub comm: [u8; 16],
}

/// A connection between birth and accept.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    /// When it was born, in nanoseconds of `CLOCK_MONOTONIC`.
    pub born_ns: u64,
    /// When its client left; 0 if it has not.
    pub left_ns: u64,
    /// Its listener's cookie; where that is not known, the [`place`] of one at its own address.
    pub listener: u64,
    /// The place of a listener at any address and its port.
    pub anywhere: u64,
    /// 1 if its client left by a FIN only.
    pub by_fin: u32,
    /// 1 if the filter lets it in, whatever its remote end will be.
    pub is_ours: u32,
    /// How many were in the queue before it.
    pub depth: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: integers and arrays of them only; the sizes asserted below are the sums of the fields' sizes.
unsafe impl Plain for Tally {}
// SAFETY: as above.
unsafe impl Plain for AcceptorKey {}
// SAFETY: as above.
unsafe impl Plain for AcceptorCount {}
// SAFETY: as above.
unsafe impl Plain for Queued {}

const _: () = {
    assert!(size_of::<Tally>() == 13 * 8 + 16 * SPELLS + 3 * 4 * BUCKETS);
    assert!(size_of::<Tally>().is_multiple_of(8));
    // The most that a per-CPU value may have.
    assert!(size_of::<Tally>() <= 32 << 10);
    assert!(size_of::<AcceptorCount>() == 32);
    assert!(size_of::<Queued>() == 48);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for index in 0..BUCKETS - 1 {
            let (from, to) = bounds(index);
            assert_eq!((bucket(from), bucket(to - 1), bucket(to)), (index, index, index + 1), "{index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn places_differ_in_every_part() {
        let places = [
            place(1, false, [2, 3], 4),
            place(2, false, [2, 3], 4),
            place(1, true, [2, 3], 4),
            place(1, false, [3, 2], 4),
            place(1, false, [0, 3], 4),
            place(1, false, [2, 3], 5),
            place(0, false, [0, 0], 0),
        ];
        for (index, one) in places.iter().enumerate() {
            assert!(*one >= PLACE && !places[index + 1..].contains(one));
        }
    }

    #[test]
    fn a_bucket_is_a_sixteenth_of_its_durations_wide_at_most() {
        for index in 1..BUCKETS - 1 {
            let (from, to) = bounds(index);
            assert!((to - from) * 16 <= from, "{index}: {from} to {to}");
        }
    }
}
