//! The kernel's socket table, as a listing shows it: what we believe is compared with it. Plain figures; who lists is
//! elsewhere.

use std::collections::HashMap;

use super::{
    endpoint::Endpoint,
    event::{SocketKey, Task},
    queue::{Follows, NamespaceDrops},
    state::TcpState,
};

/// One socket of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which socket.
    pub key: SocketKey,
    /// Local end and remote end.
    pub tuple: (Endpoint, Endpoint),
    /// Its state; a minisock's own, so `FIN_WAIT2` for an orphan's.
    pub state: TcpState,
    /// A minisock's remaining time in nanoseconds; `None` for a socket.
    pub expires_in_ns: Option<u64>,
    /// Accept queue depth and limit, for a listener.
    pub queue: Option<(u32, u32)>,
    /// Not before this, `CLOCK_MONOTONIC`, did the kernel write the record.
    pub from_ns: u64,
    /// Not after this.
    pub to_ns: u64,
    /// `sk_drops` of a listener.
    pub drops: Option<u32>,
    /// The number by which processes hold it; 0 if none does.
    pub inode: u32,
    /// Whether it may be one of ours: unknown sockets of others are none of our business.
    pub ours: bool,
}

/// The table of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Its inode number.
    pub netns: u32,
    /// Before the first record was written.
    pub from_ns: u64,
    /// After the last one was.
    pub to_ns: u64,
    /// Whether nothing of this namespace was listed before: what is in it was there before we looked.
    pub first: bool,
    /// The sockets.
    pub records: Vec<Record>,
    /// Who holds them, by inode: as far as it was looked for and can be seen, each with its process's name.
    pub holders: HashMap<u32, Vec<Task>>,
    /// The namespace's counters since it was listed first.
    pub dropped: NamespaceDrops,
    /// `net.core.somaxconn`, where it can be read.
    pub somaxconn: Option<u32>,
    /// Which connections to its listeners are followed.
    pub follows: Follows,
}

/// The tables of all namespaces in which sockets are tracked, listed one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// One for each namespace.
    pub listings: Vec<Listing>,
    /// Namespaces that do not exist any more: all that was in them is gone.
    pub gone: Vec<u32>,
    /// Namespaces that could not be listed.
    pub unlisted: u64,
    /// After the last record was written.
    pub to_ns: u64,
}

/// How far we agree with the kernel. Counts; each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Rounds of listings that were compared.
    pub rounds: u64,
    /// Records that we had something to say about.
    pub compared: u64,
    /// Those of them that agree.
    pub agreed: u64,
    /// Sockets that were there before we looked, taken over from a first listing.
    pub adopted: u64,
    /// Records in another state than we believed.
    pub differing: u64,
    /// Records of sockets that we did not know.
    pub unknown: u64,
    /// Sockets that we believed in and that two listings in a row did not show.
    pub absent: u64,
    /// Depths of accept queues that two listings in a row contradicted.
    pub depths: u64,
    /// Minisocks that went before their time without a word: a SYN that found the accept queue full takes one away, and is
    /// dropped itself. Up to 6.10 also those that came to `TIME_WAIT`, or were reset: no event tells of it there. Above
    /// `tcp_max_tw_buckets` all that nobody could know: whether one was made.
    pub displaced: u64,
    /// Listings that could not be had: of a namespace that nobody may enter, or that no process is in.
    pub unlisted: u64,
}

impl Agreement {
    /// What a listing had to repair.
    pub fn repaired(&self) -> u64 {
        self.differing + self.unknown + self.absent + self.depths
    }
}
