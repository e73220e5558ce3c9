//! The bytes that cross the kernel boundary, in both directions: records up through the ring buffer,
//! offsets and filters down through `.rodata`.
//!
//! Everything here is `#[repr(C)]`, integers and byte arrays only, without implicit padding; sizes and
//! offsets are asserted at compile time. It must never hold anything else: meaning belongs to the agent.
#![no_std]

mod filter;
mod offsets;
mod record;
mod recorded;
mod tally;
mod thread;

pub use filter::*;
pub use offsets::*;
pub use record::*;
pub use recorded::*;
pub use tally::*;
pub use thread::*;

/// Plain old data: every byte pattern is a value, and no byte of it is padding.
///
/// # Safety
/// The implementor is `#[repr(C)]`, made of integers and byte arrays only, with no padding.
pub unsafe trait Plain: Copy + Sized + 'static {
    /// The value's bytes, in the machine's own order.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the implementor has no padding, so all of its bytes are initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// What the kernel side counts, an index into the per-CPU counter array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Records lost because the ring buffer was full.
    RingFull = 0,
    /// Sockets that a process filter could not remember because its table was full.
    MembersFull = 1,
    /// Transitions of a not yet decided socket that its waiting room could not hold.
    WaitingRoomFull = 2,
    /// Events that a relief program handled because the kernel skipped the first one.
    Relieved = 3,
    /// Accepts that could not be matched to a child: without BTF only their remote end tells which it is.
    AcceptsUnmatched = 4,
    /// What watched threads did and first reads, lost because the ring buffer was full.
    ThreadsLost = 5,
    /// Threads that were not watched because their table was full.
    ThreadsFull = 6,
    /// Connections whose wait was not measured because the table of those who wait was full.
    QueuedFull = 7,
    /// Accepts of threads that were not counted apart because their table was full.
    AcceptorsFull = 8,
}

/// How many [`Counter`]s there are.
pub const COUNTERS: usize = 9;
