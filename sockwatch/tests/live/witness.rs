//! The kernel's own record of transitions, by ftrace: a witness where the kernel keeps eBPF programs out of some of its tasks.
//!
//! On such a machine (seen on one virtual machine's kernel: no program runs while a thread of process 1 is current) the transitions of a
//! softirq that interrupts such a task are lost without a count. ftrace sees them, and who was interrupted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::id,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

/// Transitions since its start.
pub(crate) struct Witness {
    mounted: PathBuf,
}

impl Witness {
    pub(crate) fn start() -> Self {
        let mounted = std::env::temp_dir().join(format!("sockwatch-witness-{}", id()));
        fs::create_dir_all(&mounted).unwrap();
        mount(Some("tracefs"), &mounted, Some("tracefs"), MsFlags::empty(), None::<&str>).unwrap();
        let witness = Self { mounted };
        let instance = witness.instance();
        fs::create_dir(&instance).unwrap();
        fs::write(instance.join("buffer_size_kb"), "16384").unwrap();
        fs::write(instance.join("events/sock/inet_sock_set_state/enable"), "1").unwrap();
        witness
    }

    fn instance(&self) -> PathBuf {
        self.mounted.join(format!("instances/sockwatch-{}", id()))
    }

    /// Whether one of the socket's transitions happened where a thread of process 1 was current.
    pub(crate) fn explains(&self, socket: &Value) -> bool {
        let tasks: Vec<String> = fs::read_dir("/proc/1/task")
            .into_iter()
            .flatten()
            .map(|entry| format!("-{} ", entry.unwrap().file_name().to_string_lossy()))
            .collect();
        let port = |end: &str| socket[end].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        let ports = format!(" sport={} dport={} ", port("local"), port("remote"));
        let trace = fs::read_to_string(self.instance().join("trace")).unwrap();
        let of_init = |line: &str| {
            let task = line.split('[').next().unwrap_or_default();
            tasks.iter().any(|tid| task.contains(tid.as_str()))
        };
        trace.lines().any(|line| line.contains(&ports) && of_init(line))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.instance());
        let _ = umount2(Path::new(&self.mounted), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.mounted);
    }
}
