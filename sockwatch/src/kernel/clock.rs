//! Whether somebody sets the clock.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    unistd::read,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A time that does not come, in seconds: only that the clock is set ends such a wait.
const NEVER_S: i64 = u32::MAX as i64;

/// Tells that the clock was set, or that the machine has slept.
#[derive(Debug)]
pub struct ClockSets(AsyncFd<OwnedFd>);

impl ClockSets {
    /// Tells it from now on.
    ///
    /// # Errors
    /// If the kernel has no such timers, or there are no more descriptors.
    pub fn watch() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(Expiration::OneShot(TimeSpec::new(NEVER_S, 0)), flags)?;
        // SAFETY: the descriptor stays the same and open until the `AsyncFd` is dropped, which owns it.
        let watched = unsafe { AsyncFd::register_with_interest(OwnedFd::from(timer), Interest::READABLE) };
        Ok(Self(watched.map_err(io::Error::from)?))
    }

    /// Waits until it is set again.
    ///
    /// # Errors
    /// If the runtime ends.
    pub async fn set(&self) -> io::Result<()> {
        loop {
            // ECANCELED is the news itself. Nobody else reads.
            if let Ok(_news) =
                self.0.readable().await?.try_io(|it| read(it.as_fd(), &mut [0; 8]).map_err(io::Error::from))
            {
                return Ok(());
            }
        }
    }
}
