//! A private network namespace for a turn: no other traffic, and no TIME_WAIT sockets left by the turn before.

use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, unshare};

use crate::shell;

/// Runs `turn` on a thread with a network namespace of its own; what it starts is in there too.
pub(super) fn inside<T: Send>(turn: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let turn = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace: run this as root")?;
            let mut up = Command::new("ip");
            shell::run(up.args(["link", "set", "lo", "up"]), "install iproute2")?;
            turn()
        });
        turn.join().map_err(|_panic| anyhow!("a measurement panicked: see the message above"))?
    })
}
