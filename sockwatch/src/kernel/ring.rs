//! The ring buffers, one per CPU: waits on a timer, or for the kernel side to say that much is waiting.

use std::{future::poll_fn, io, task::Poll, time::Duration};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior},
};

/// Records are handed out in portions, so that a flood cannot grow memory without bound.
const PORTION: usize = 16 * 1024;

/// The consumer's end of all ring buffers.
pub struct Rings {
    rings: Vec<AsyncFd<RingBuf<MapData>>>,
    timer: Interval,
    more: bool,
}

impl Rings {
    /// Polls every `latency`; the kernel side wakes it earlier when a buffer fills. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch the descriptors.
    pub fn new(rings: Vec<RingBuf<MapData>>, latency: Duration) -> io::Result<Self> {
        let mut timer = tokio::time::interval(latency.max(Duration::from_millis(1)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rings = rings.into_iter().map(watch).collect::<io::Result<_>>()?;
        Ok(Self { rings, timer, more: false })
    }

    /// Waits for the timer or a wake-up; not at all if the last portion left records behind.
    ///
    /// # Errors
    /// If the runtime is gone.
    pub async fn wait(&mut self) -> io::Result<()> {
        if self.more {
            return Ok(());
        }
        let Self { rings, timer, .. } = self;
        let woken = poll_fn(|context| {
            for ring in rings.iter() {
                if let Poll::Ready(guard) = ring.poll_read_ready(context) {
                    return Poll::Ready(guard.map(|mut guard| guard.clear_ready()));
                }
            }
            Poll::Pending
        });
        tokio::select! {
            _ = timer.tick() => Ok(()),
            woken = woken => woken,
        }
    }

    /// Hands out a portion of what is there, each CPU's records in their order. `each` returns a record's time. Returns the
    /// time up to which nothing is left behind: `None` if nothing is left at all.
    pub fn take(&mut self, mut each: impl FnMut(&[u8]) -> u64) -> Option<u64> {
        let portion = (PORTION / self.rings.len().max(1)).max(1);
        let mut complete_until = None;
        for ring in &mut self.rings {
            let records = ring.get_mut();
            let mut last_ns = 0;
            let mut taken = 0;
            while taken < portion
                && let Some(record) = records.next()
            {
                last_ns = each(&record);
                taken += 1;
            }
            if taken == portion {
                complete_until = Some(complete_until.map_or(last_ns, |until: u64| until.min(last_ns)));
            }
        }
        self.more = complete_until.is_some();
        complete_until
    }
}

fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: `RingBuf` owns its map's descriptor and returns the same one until it is dropped, after the registration:
    // `AsyncFd` owns it.
    let watched = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    Ok(watched?)
}
