//! Whether a listener has `TCP_DEFER_ACCEPT`: nothing but its descriptor tells.

use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sockwatch::process::holders::Holders;

sockopt_impl!(
    /// How many seconds the kernel waits for data before it hands a connection out.
    DeferAccept,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    libc::c_int
);

/// The seconds of a process's listener; `None` if it has no such option, is gone, or may not be looked at. A copy of its
/// descriptor is held meanwhile, for some microseconds (`pidfd_getfd`, 5.6, with the rights of a debugger).
pub(super) fn seconds(pid: u32, inode: u32) -> Option<u32> {
    let holders = Holders::look_at([pid]);
    let fd = holders.of(inode).first()?.fd;
    let process = pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty()).ok()?;
    let listener = pidfd_getfd(process, fd.try_into().ok()?, PidfdGetfdFlags::empty()).ok()?;
    let seconds = getsockopt(&listener, DeferAccept).ok()?;
    seconds.try_into().ok().filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::metadata, net::TcpListener, os::fd::AsRawFd, os::unix::fs::MetadataExt, process::id};

    #[test]
    fn a_listener_without_the_option_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino();
        assert_eq!(seconds(id(), inode.try_into().unwrap()), None);
        assert_eq!(seconds(id(), 0), None, "nobody's");
    }
}
