//! The clock that the kernel's events are stamped with. Only sources and commands read it.

use nix::time::{ClockId, clock_gettime};

/// Two clocks are read in less, unless something comes between them.
const AT_ONCE_NS: u64 = 10_000;

/// So often they are read.
const TRIES: usize = 10;

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The Unix time in nanoseconds at which `CLOCK_MONOTONIC` was 0, as of now: it moves when the wall clock is set.
pub fn wall_offset_ns() -> u64 {
    // Who loses the CPU between two clocks reads them again.
    let readings = (0..TRIES).map(|_| {
        let before_ns = now_ns();
        let wall_ns = read(ClockId::CLOCK_REALTIME);
        let took_ns = now_ns().saturating_sub(before_ns);
        (took_ns, wall_ns.saturating_sub(before_ns + took_ns / 2))
    });
    let mut best = (u64::MAX, 0);
    for reading in readings {
        best = best.min(reading);
        if best.0 < AT_ONCE_NS {
            break;
        }
    }
    best.1
}

fn read(clock: ClockId) -> u64 {
    // These two clocks exist on every Linux; a time before 1970 reads as 0.
    let Ok(time) = clock_gettime(clock) else { return 0 };
    time.tv_sec().unsigned_abs().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec().unsigned_abs())
}
