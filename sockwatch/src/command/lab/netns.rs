//! The network namespaces of labs: made by the threads that act in them, gone with them.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    process::Command,
    thread,
};

use anyhow::{Context, bail};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};

use super::netlink;

/// Where the near end of a cable is.
pub(super) const NEAR: [u8; 4] = [10, 0, 0, 1];
/// Where the far end is.
const FAR: [u8; 4] = [10, 0, 0, 2];
/// Their hardware addresses, as [`plug_in`] says them.
const NEAR_HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR_HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A network namespace.
pub(super) struct Netns {
    file: File,
}

impl Netns {
    /// Makes the calling thread's own, with its loopback up. Threads that it starts from now on are in it, too.
    pub(super) fn enter_new() -> anyhow::Result<Self> {
        let refused = "cannot make a network namespace: this lab needs root (sudo sockwatch lab ...)";
        unshare(CloneFlags::CLONE_NEWNET).context(refused)?;
        netlink::loopback_up().context("cannot bring the loopback up")?;
        // Where everything is slow a FIN is sent twice, and the RST for the answer to the second would end a TIME_WAIT (RFC 1337).
        // Where it cannot be set, as in a container, that may happen.
        let _ = sysctl("net/ipv4/tcp_rfc1337", 1);
        let path = "/proc/thread-self/ns/net";
        Ok(Self { file: File::open(path).with_context(|| format!("cannot open {path}"))? })
    }

    /// Another one, which no thread stays in.
    pub(super) fn new() -> anyhow::Result<Self> {
        thread::scope(|scope| {
            scope.spawn(Self::enter_new).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Its inode number, as filters take it.
    pub(super) fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs within it on a thread of this name. Sockets made there stay there.
    pub(super) fn acting<T: Send>(&self, name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
        acting(name, || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// `ip ARGUMENTS` within it.
    pub(super) fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        self.acting("ip", || Ok(ip(arguments)))?
    }
}

/// Joins the calling thread's namespace to another one by a cable, its ends named near and far, with addresses. ARP is
/// neither needed nor answered: see [`hold`]. Nothing is sent again within three seconds, so that a held cable shows no
/// retransmissions.
pub(super) fn plug_in(far: &Netns) -> anyhow::Result<()> {
    let there = format!("/proc/{}/fd/{}", std::process::id(), far.file.as_raw_fd());
    let ends = "address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02";
    ip(&format!("link add near {ends} netns {there}"))?;
    ip("address add 10.0.0.1/24 dev near")?;
    ip("link set near up")?;
    ip("route replace 10.0.0.0/24 dev near src 10.0.0.1 rto_min 3s")?;
    far.ip("address add 10.0.0.2/24 dev far")?;
    far.ip("link set far up")?;
    far.ip("route replace 10.0.0.0/24 dev far src 10.0.0.2 rto_min 3s")?;
    sysctl("net/ipv4/conf/near/arp_ignore", 8)?;
    far.acting("sysctl", || Ok(sysctl("net/ipv4/conf/far/arp_ignore", 8)))??;
    release(far)
}

/// From now on the segments of both sides wait at their own end of the cable: the kernel does not know where to send
/// them. It asks for three seconds; nobody answers.
pub(super) fn hold(far: &Netns) -> anyhow::Result<()> {
    acting("cable", || netlink::forget_neighbour(if_nametoindex("near")?, FAR))?;
    far.acting("cable", || netlink::forget_neighbour(if_nametoindex("far")?, NEAR))
}

/// Sends what waits, and all that comes later.
pub(super) fn release(far: &Netns) -> anyhow::Result<()> {
    acting("cable", || netlink::set_neighbour(if_nametoindex("near")?, FAR, FAR_HARDWARE))?;
    far.acting("cable", || netlink::set_neighbour(if_nametoindex("far")?, NEAR, NEAR_HARDWARE))
}

/// Makes the far end a router that knows no way to this network, and says so by ICMP.
pub(super) fn gateway(far: &Netns, network: &str) -> anyhow::Result<()> {
    ip(&format!("route add {network} via 10.0.0.2"))?;
    far.acting("sysctl", || Ok(sysctl("net/ipv4/ip_forward", 1)))??;
    far.ip(&format!("route add unreachable {network}"))
}

/// `ip ARGUMENTS` in the calling thread's namespace.
fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.context("cannot run here: no `ip` program (Debian: apt-get install iproute2)")?;
    if !output.status.success() {
        bail!("cannot run here: ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Sets a value of the calling thread's network namespace: `net/ipv4/tcp_fin_timeout`.
pub(super) fn sysctl(name: &str, value: u32) -> anyhow::Result<()> {
    // The kernel looks for the writer's namespace.
    fs::write(format!("/proc/sys/{name}"), value.to_string())
        .with_context(|| format!("cannot run here: sysctl {name}={value}"))
}

/// Runs on a thread of this name: the column PROCESS shows it.
pub(super) fn acting<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
        let thread = thread.context("cannot start a thread")?;
        let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.with_context(|| format!("the {name}'s step failed"))
    })
}
