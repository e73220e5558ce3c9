//! Sees what the kernel would skip.
//!
//! A softirq that interrupts a program on its CPU cannot run that program again: the kernel skips it there, for a whole
//! backlog of packets at once, and only counts it (`recursion_misses`; measured, 0.1 % of all transitions of a load that
//! fills the machine). So a second program, the relief, stands behind the first on the same tracepoint and handles the
//! events that the first one did not mark as its own. From 7.x on a program can be preempted in its middle, too, and the kernel
//! skips it for whatever runs on that CPU meanwhile. A busy flag would not do: the kernel also skips before the program
//! has set it and after it has cleared it.
//!
//! If a softirq comes between the two programs of one event, the mark is another event's by then and the relief handles
//! the event a second time. Its records say that they are the relief's, and the agent drops the repetition.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use sockwatch_common::{Counter, Kind, RELIEF};

use crate::{emit::count, memory::Direct, socket::Socket};

/// Which program is relieved.
#[derive(Clone, Copy)]
pub(crate) enum Post {
    State = 0,
    Destroy = 1,
}

/// Which of the two programs handles an event.
#[derive(Clone, Copy)]
pub(crate) enum By {
    First,
    Relief,
}

impl By {
    /// The kind as it stands in the record.
    #[inline(always)]
    pub(crate) fn mark(self, kind: Kind) -> u8 {
        match self {
            Self::First => kind as u8,
            Self::Relief => kind as u8 | RELIEF,
        }
    }
}

/// What tells an event from the one before it on its CPU. The address alone would not: it is reused at once. It stands
/// apart from the rest because the verifier allows no arithmetic on pointers but adding to them.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Event {
    address: u64,
    /// The cookie, and the states in its lowest bits.
    rest: u64,
}

/// By post: the last event that its first program took on this CPU.
#[btf_map]
static TAKEN: PerCpuArray<[Event; 2], 1> = PerCpuArray::new();

/// Marks an event as taken by the first program.
#[inline(always)]
pub(crate) fn take(post: Post, event: Event) {
    if let Some(taken) = TAKEN.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own, the index below its length.
        unsafe { (&raw mut (*taken)[post as usize]).write_volatile(event) };
    }
}

/// Whether the first program did not take this event: then it is the relief's.
#[inline(always)]
pub(crate) fn is_left(post: Post, event: Event) -> bool {
    let Some(taken) = TAKEN.get_ptr(0) else { return false };
    // SAFETY: as in `take`.
    let last = unsafe { (&raw const (*taken)[post as usize]).read_volatile() };
    if last.address == event.address && last.rest == event.rest {
        return false;
    }
    count(Counter::Relieved);
    true
}

/// This event.
#[inline(always)]
pub(crate) fn event(socket: &Socket<Direct>, old: u8, new: u8) -> Event {
    let cookie = socket.cookie_at(old, new);
    Event { address: socket.address(), rest: cookie << 8 | u64::from(old) << 4 | u64::from(new) }
}
