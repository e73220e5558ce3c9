//! The ring buffer: waits on a timer, or for the kernel side to say that much is waiting.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use tokio::{io::unix::AsyncFd, io::Interest, time::MissedTickBehavior};

/// Records are handed out in portions, so that a flood cannot grow memory without bound.
const PORTION: usize = 16 * 1024;

/// The consumer's end of the ring buffer.
pub struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
    timer: tokio::time::Interval,
    more: bool,
}

impl Ring {
    /// Polls every `latency`; the kernel side wakes it earlier when the buffer fills. Needs a tokio runtime.
    pub fn new(records: RingBuf<MapData>, latency: Duration) -> io::Result<Self> {
        let mut timer = tokio::time::interval(latency.max(Duration::from_millis(1)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // SAFETY: `RingBuf` owns its map's descriptor and returns the same one until it is dropped, after the
        // registration: `AsyncFd` owns it.
        let records = unsafe { AsyncFd::register_with_interest(records, Interest::READABLE) };
        Ok(Self { records: records.map_err(|error| io::Error::from(error.into_parts().1))?, timer, more: false })
    }

    /// Waits for the timer or a wake-up; not at all if the last portion left records behind.
    pub async fn wait(&mut self) -> io::Result<()> {
        if self.more {
            return Ok(());
        }
        tokio::select! {
            _ = self.timer.tick() => Ok(()),
            guard = self.records.readable() => guard.map(|mut guard| guard.clear_ready()),
        }
    }

    /// Hands out a portion of what is there; returns whether more is waiting.
    pub fn take(&mut self, mut each: impl FnMut(&[u8])) -> bool {
        let records = self.records.get_mut();
        for _ in 0..PORTION {
            let Some(record) = records.next() else {
                self.more = false;
                return false;
            };
            each(&record);
        }
        self.more = true;
        true
    }
}
