//! Emits records into the ring buffer and counts them, per CPU. Only this file knows either map.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::{ArrayOfMaps, PerCpuArray, RingBuf},
    helpers::generated,
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use sockwatch_common::{COUNTERS, Counter, Plain};

use crate::memory::setting;

type Ring = RingBuf<(), 4096>;

/// A ring buffer of its own for each CPU: a shared one would have all CPUs wait for each other's cache lines. The agent
/// makes them, of the size that the user asked for.
#[btf_map]
static EVENTS: ArrayOfMaps<Ring, 1> = ArrayOfMaps::new();

#[btf_map]
static COUNTED: PerCpuArray<[u64; COUNTERS], 1> = PerCpuArray::new();

#[btf_map]
static SUBMITTED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// A submission looks at the ring buffer's fill level once in so many: the look costs about as much as a submission. A power of two.
const FILL_CHECK_INTERVAL: u64 = 64;

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    let Some(counted) = COUNTED.get_ptr_mut(0) else { return };
    // SAFETY: the slot outlives the program's run. It is this CPU's own, but a softirq, or from 7.x on another task, may run
    // between the load and the store and count as well: that is lost then. Stable Rust has no atomic addition for BPF.
    unsafe {
        let slot = &raw mut (*counted)[counter as usize];
        slot.write_volatile(slot.read_volatile().wrapping_add(1));
    }
}

/// True once in some [`FILL_CHECK_INTERVAL`] submissions of this CPU. Not exact, and needs not be.
#[inline(always)]
fn is_time_to_look() -> bool {
    let Some(submitted) = SUBMITTED.get_ptr_mut(0) else { return false };
    // SAFETY: the slot is aligned and outlives the program's run.
    unsafe {
        let count = submitted.read_volatile().wrapping_add(1);
        submitted.write_volatile(count);
        count & (FILL_CHECK_INTERVAL - 1) == 0
    }
}

/// A record that is being filled. It must be submitted: the verifier insists.
pub(crate) struct Reserved<T: 'static> {
    record: RingBufEntry<T>,
    ring: &'static Ring,
}

/// Reserves a record. A full ring buffer is a counted loss.
#[inline(always)]
pub(crate) fn reserve<T: Plain>() -> Option<Reserved<T>> {
    // SAFETY: the helper has no preconditions.
    let ring = EVENTS.get(unsafe { generated::bpf_get_smp_processor_id() })?;
    match ring.reserve_untyped::<T>(0) {
        Some(record) => Some(Reserved { record, ring }),
        None => {
            count(Counter::RingFull);
            None
        }
    }
}

impl<T: Plain> Reserved<T> {
    /// Where the record lies: uninitialised, to be filled field by field.
    #[inline(always)]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.record.as_mut_ptr()
    }

    /// Hands the record to the reader, which polls on a timer: the default wake-up would cost ten times the probe itself.
    #[inline(always)]
    pub(crate) fn submit(self) {
        let wake = is_time_to_look() && waiting_bytes(self.ring) >= setting!(wakeup_bytes);
        self.record.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
    }
}

#[inline(always)]
fn waiting_bytes(ring: &Ring) -> u64 {
    // SAFETY: a map's reference is its address in the kernel.
    unsafe { generated::bpf_ringbuf_query(core::ptr::from_ref(ring).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA)) }
}

/// Now, `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { generated::bpf_ktime_get_ns() }
}
