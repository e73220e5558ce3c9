//! The ring buffers, one per CPU: waits on a timer, or for the kernel side to say that much is waiting.

use std::{future::poll_fn, io, task::Poll, time::Duration};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior},
};

/// Records are handed out in portions, so that a flood cannot grow memory without bound.
const PORTION: usize = 16 * 1024;
/// So many in a row of one CPU's.
const CHUNK: usize = 256;

/// The consumer's end of all ring buffers.
pub struct Rings {
    rings: Vec<Ring>,
    timer: Interval,
    more: bool,
}

/// One CPU's.
struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
    /// When the last record taken was written.
    last_ns: u64,
    /// Whether this portion has left records behind.
    left: bool,
}

impl Rings {
    /// Polls every `latency`; the kernel side wakes it earlier when a buffer fills. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch the descriptors.
    pub fn new(rings: Vec<RingBuf<MapData>>, latency: Duration) -> io::Result<Self> {
        let mut timer = tokio::time::interval(latency.max(Duration::from_millis(1)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rings = rings.into_iter().map(Ring::new).collect::<io::Result<_>>()?;
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
                if let Poll::Ready(guard) = ring.records.poll_read_ready(context) {
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
    ///
    /// The ring that is furthest behind comes first, so that whoever sorts the records need not keep one CPU's until another's
    /// have caught up.
    pub fn take(&mut self, mut each: impl FnMut(&[u8]) -> u64) -> Option<u64> {
        for ring in &mut self.rings {
            ring.left = true;
        }
        let mut left = PORTION;
        while left > 0
            && let Some(ring) = self.rings.iter_mut().filter(|ring| ring.left).min_by_key(|ring| ring.last_ns)
        {
            left -= ring.take(CHUNK.min(left), &mut each);
        }
        let complete_until = self.rings.iter().filter(|ring| ring.left).map(|ring| ring.last_ns).min();
        self.more = complete_until.is_some();
        complete_until
    }
}

impl Ring {
    fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: `RingBuf` owns its map's descriptor and returns the same one until it is dropped, after the registration:
        // `AsyncFd` owns it.
        let watched = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self { records: watched?, last_ns: 0, left: false })
    }

    /// Hands out so many records, or as many as there are; returns how many.
    fn take(&mut self, most: usize, each: &mut impl FnMut(&[u8]) -> u64) -> usize {
        let records = self.records.get_mut();
        for taken in 0..most {
            let Some(record) = records.next() else {
                self.left = false;
                return taken;
            };
            self.last_ns = each(&record);
        }
        most
    }
}
