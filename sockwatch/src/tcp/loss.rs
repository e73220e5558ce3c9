//! Every way to lose something, by name. Three words, never mixed: the kernel could not reserve (lost), a program was
//! skipped (missed), we discarded it (dropped).

/// Losses since the start. All are counts; each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events that found the ring buffer full, over all CPUs.
    pub ring_full: u64,
    /// Sockets that a process filter's table could not hold.
    pub members_full: u64,
    /// Transitions that the waiting room could not hold.
    pub waiting_room_full: u64,
    /// Runs of a program that the kernel skipped because that program was running on that CPU already
    /// (`recursion_misses`).
    pub skipped: u64,
    /// Events that a relief program took over.
    pub relieved: u64,
    /// Those of them that had not been skipped after all, and were discarded as repetitions.
    pub repeated: u64,
    /// Accepts that could not be matched to a connection: without BTF an accept tells only its remote end, and only to a
    /// caller who asks.
    pub accepts_unmatched: u64,
    /// Records that could not be decoded.
    pub decode_failed: u64,
    /// Events that came out of order beyond the window.
    pub late: u64,
    /// Sockets that the tracker had no room for.
    pub tracker_full: u64,
    /// Finished sockets and minisocks that the tracker forgot, to have room for new ones.
    pub evicted: u64,
    /// Sockets that had to be corrected after the kernel's table.
    pub repaired: u64,
    /// Transitions that the state machine does not allow from what we believed.
    pub unexpected_transitions: u64,
    /// Rows that a recording has not: its writer could not keep up.
    pub unrecorded: u64,
}

/// What a source counts of its losses, and nobody else: a recording holds these, by name.
pub const COUNTED: [(&str, Counted); 9] = [
    ("ring_full", |losses| &mut losses.ring_full),
    ("members_full", |losses| &mut losses.members_full),
    ("waiting_room_full", |losses| &mut losses.waiting_room_full),
    ("skipped", |losses| &mut losses.skipped),
    ("relieved", |losses| &mut losses.relieved),
    ("repeated", |losses| &mut losses.repeated),
    ("accepts_unmatched", |losses| &mut losses.accepts_unmatched),
    ("decode_failed", |losses| &mut losses.decode_failed),
    ("unrecorded", |losses| &mut losses.unrecorded),
];

/// One of the counts.
pub type Counted = fn(&mut Losses) -> &mut u64;

impl Losses {
    /// What has been added since `before` to what a source counts.
    #[must_use]
    pub fn since(mut self, mut before: Self) -> Self {
        for (_, counted) in COUNTED {
            *counted(&mut self) = counted(&mut self).saturating_sub(*counted(&mut before));
        }
        self
    }

    /// What the kernel side could not deliver.
    pub fn lost(&self) -> u64 {
        self.ring_full + self.members_full + self.waiting_room_full
    }

    /// Runs that the kernel skipped and that no relief took over.
    pub fn missed(&self) -> u64 {
        self.skipped.saturating_sub(self.relieved.saturating_sub(self.repeated))
    }

    /// What we discarded.
    pub fn dropped(&self) -> u64 {
        self.decode_failed + self.tracker_full + self.unrecorded
    }
}
