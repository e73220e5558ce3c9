//! The clock that the kernel's events are stamped with. Only sources and commands read it.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The Unix time in nanoseconds at which `CLOCK_MONOTONIC` was 0, as of now: it moves when the wall clock is set.
pub fn wall_offset_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME).saturating_sub(now_ns())
}

fn read(clock: ClockId) -> u64 {
    // These two clocks exist on every Linux; a time before 1970 reads as 0.
    let Ok(time) = clock_gettime(clock) else { return 0 };
    time.tv_sec().unsigned_abs().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec().unsigned_abs())
}
