//! Emits records into the ring buffer and counts them, per CPU. Only this file knows either map.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::{PerCpuArray, RingBuf},
    helpers::generated,
    macros::btf_map,
};
use sockwatch_common::{COUNTERS, Counter, Plain};

use crate::memory::setting;

/// The agent sets the size before it loads the programs.
#[btf_map]
static EVENTS: RingBuf<(), { 8 << 20 }> = RingBuf::new();

#[btf_map]
static COUNTED: PerCpuArray<[u64; COUNTERS], 1> = PerCpuArray::new();

/// A submission looks at the ring buffer's fill level once in so many: the look costs about as much as a submission.
const FILL_CHECK_INTERVAL: u64 = 64;

/// Adds to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter, by: u64) -> u64 {
    let Some(counted) = COUNTED.get_ptr_mut(0) else { return 0 };
    // SAFETY: the slot is this CPU's own, and programs of ours do not interrupt each other in mid-count except
    // from softirq on top of task context, where a count may be lost, never corrupted.
    unsafe {
        let slot = &raw mut (*counted)[counter as usize];
        let value = (*slot).wrapping_add(by);
        *slot = value;
        value
    }
}

/// Reserves a record, has it filled, submits it. A full ring buffer is a counted loss.
///
/// The reader polls on a timer: the default wake-up would cost ten times the probe itself.
#[inline(always)]
pub(crate) fn emit<T: Plain>(fill: impl FnOnce(*mut T)) {
    let Some(mut record) = EVENTS.reserve_untyped::<T>(0) else {
        count(Counter::RingFull, 1);
        return;
    };
    fill(record.as_mut_ptr());
    count(Counter::SubmittedBytes, size_of::<T>() as u64);
    let submitted = count(Counter::Submitted, 1);
    let wake = submitted % FILL_CHECK_INTERVAL == 0 && waiting_bytes() >= setting!(wakeup_bytes);
    record.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}

#[inline(always)]
fn waiting_bytes() -> u64 {
    // SAFETY: the static is the map; the loader put its address here.
    unsafe { generated::bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA)) }
}

/// Now, `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { generated::bpf_ktime_get_ns() }
}
