//! Ctrl-C and SIGTERM: a normal end. SIGHUP is one, too, but where it means that the configuration is to be read again.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::Context;
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a trace, registered.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Stop {
    /// From now on these signals end the trace instead of the process. Needs a tokio runtime.
    pub(crate) fn register() -> anyhow::Result<Self> {
        Ok(Self { hangup: Some(register(SignalKind::hangup())?), ..Self::of_a_service()? })
    }

    /// The same for whoever takes the terminal: while it is not free, no signal ends the process before it is given back; while
    /// it is, each does at once.
    pub(crate) fn with_terminal(is_free: &Arc<AtomicBool>) -> anyhow::Result<Self> {
        let register = |kind: SignalKind| {
            flag::register_conditional_default(kind.as_raw_value(), Arc::clone(is_free)).context(DEAF)?;
            signal(kind).context(DEAF)
        };
        Ok(Self {
            interrupt: register(SignalKind::interrupt())?,
            terminate: register(SignalKind::terminate())?,
            hangup: Some(register(SignalKind::hangup())?),
        })
    }

    /// The same but for SIGHUP.
    pub(crate) fn of_a_service() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: register(SignalKind::interrupt())?,
            terminate: register(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// Resolves at the first of them.
    pub(crate) async fn wait(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            Some(()) = async { self.hangup.as_mut()?.recv().await } => {}
        }
    }
}

const DEAF: &str = "cannot listen for signals";

fn register(kind: SignalKind) -> anyhow::Result<Signal> {
    // The second one ends the process at once, even if nobody reads its output.
    let came = Arc::new(AtomicBool::new(false));
    flag::register_conditional_default(kind.as_raw_value(), Arc::clone(&came))
        .and_then(|_| flag::register(kind.as_raw_value(), came))
        .and_then(|_| signal(kind))
        .context(DEAF)
}

/// SIGHUP of a service: the configuration is to be read again. Needs a tokio runtime.
pub(crate) fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context(DEAF)
}
