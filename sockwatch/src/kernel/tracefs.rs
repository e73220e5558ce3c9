//! tracefs: classic tracepoints are attached through it, and a fresh machine has not mounted it.

use std::path::Path;

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// What could be done about tracefs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracefs {
    /// Mounted, and readable.
    Mounted(&'static str),
    /// Mounted now, for this process alone.
    MountedPrivately(&'static str),
    /// Neither; the reason.
    Missing(String),
}

/// Finds tracefs, or mounts it in a mount namespace of this process's own, so that nothing else sees it.
///
/// Call it before the process has threads: the namespace is the calling thread's.
pub fn ensure() -> Tracefs {
    if let Some(path) = mounted() {
        return Tracefs::Mounted(path);
    }
    match mount_privately(MOUNT_POINTS[0]) {
        Ok(()) => Tracefs::MountedPrivately(MOUNT_POINTS[0]),
        Err(error) => Tracefs::Missing(error.desc().to_owned()),
    }
}

/// Where it is mounted.
pub(super) fn mounted() -> Option<&'static str> {
    MOUNT_POINTS.into_iter().find(|path| Path::new(path).join("events").is_dir())
}

fn mount_privately(path: &str) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave: what others mount later still appears here (network namespaces are bind mounts), ours does not appear there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    mount(Some("tracefs"), path, Some("tracefs"), MsFlags::empty(), None::<&str>)
}
