//! Network namespaces of `ip netns`, deleted on drop.

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    process::{Command, id},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// A network namespace with its loopback up.
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    pub(crate) fn new(tag: &str) -> Self {
        let netns = Self { name: format!("sw-{}-{tag}", id()) };
        ip(&["netns", "add", &netns.name]);
        ip(&["-n", &netns.name, "link", "set", "lo", "up"]);
        netns
    }

    /// `ip -n NAME ARGUMENTS`
    pub(crate) fn ip(&self, arguments: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all);
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Its inode number: `netns` in JSON.
    pub(crate) fn inode(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().ino()
    }

    /// Runs on a thread within the namespace. Sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
