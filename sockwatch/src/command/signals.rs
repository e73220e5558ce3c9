//! Ctrl-C and SIGTERM: a normal end.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::Context;
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a trace, registered.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    /// From now on these signals end the trace instead of the process. Needs a tokio runtime.
    pub(crate) fn register() -> anyhow::Result<Self> {
        let register = |kind: SignalKind| {
            // The second one ends the process at once, even if nobody reads its output.
            let came = Arc::new(AtomicBool::new(false));
            flag::register_conditional_default(kind.as_raw_value(), Arc::clone(&came))
                .and_then(|_| flag::register(kind.as_raw_value(), came))
                .and_then(|_| signal(kind))
                .context("cannot listen for signals")
        };
        Ok(Self {
            interrupt: register(SignalKind::interrupt())?,
            terminate: register(SignalKind::terminate())?,
            hangup: register(SignalKind::hangup())?,
        })
    }

    /// Resolves at the first of them.
    pub(crate) async fn wait(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
