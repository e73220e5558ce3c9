//! Somebody sets the clock while connections are traced. Only on a machine that is this test's own: a guest.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};

use crate::{
    harness::{Trace, alone, patience, skip},
    workload::{converse, place},
};

const HOUR_S: i64 = 3600;

const SECOND_NS: i64 = 1_000_000_000;

/// The clock goes an hour wrong, until this is dropped.
struct HourAhead;

impl HourAhead {
    fn set() -> Self {
        move_clock(HOUR_S);
        Self
    }
}

impl Drop for HourAhead {
    fn drop(&mut self) {
        move_clock(-HOUR_S);
    }
}

fn now() -> TimeSpec {
    clock_gettime(ClockId::CLOCK_REALTIME).unwrap()
}

fn move_clock(by_s: i64) {
    clock_settime(ClockId::CLOCK_REALTIME, now() + TimeSpec::new(by_s, 0)).unwrap();
}

#[test]
fn times_of_day_follow_the_clock() {
    const NAME: &str = "times_of_day_follow_the_clock";
    let Some(machine) = alone(NAME) else { return };
    if std::env::var_os("SOCKWATCH_LIVE_SETS_CLOCK").is_none() {
        skip(NAME, "SOCKWATCH_LIVE_SETS_CLOCK is not set: the machine may be somebody's");
        return;
    }
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string(), "--time", "wall"]);
    let began_s = now().tv_sec();
    converse(address);
    trace.until("the time of day", |line| {
        line.number("at_ns").is_some_and(|at_ns| (0..HOUR_S / 2).contains(&(at_ns / SECOND_NS - began_s)))
    });
    let ahead = HourAhead::set();
    let (is_enough, began) = (AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        // It is noticed after it is set: what happens meanwhile is told by the old time.
        scope.spawn(|| {
            while !is_enough.load(Ordering::Relaxed) && began.elapsed() < patience() {
                converse(address);
            }
        });
        trace.until("an hour later", |line| {
            line.number("at_ns").is_some_and(|at_ns| at_ns / SECOND_NS - began_s >= HOUR_S)
        });
        is_enough.store(true, Ordering::Relaxed);
    });
    drop(ahead);
    trace.finish();
}
