//! The virtual machines that QEMU emulates.

use std::path::Path;
use std::process::Command;

/// A machine: how to start it, and what runs on it.
#[derive(Debug)]
pub(crate) struct Machine {
    /// As `--arch` takes it, and as Rust calls it.
    pub(crate) name: &'static str,
    /// As Debian calls it.
    pub(crate) debian: &'static str,
    pub(crate) kernel_package: &'static str,
    /// Debian packages that emulate it.
    pub(crate) packages: &'static [&'static str],
    qemu: &'static str,
    arguments: &'static [&'static str],
    console: &'static str,
}

pub(crate) const MACHINES: &[Machine] = &[
    Machine {
        name: "x86_64",
        debian: "amd64",
        kernel_package: "linux-image-cloud-amd64",
        packages: &["qemu-system-x86", "xz-utils"],
        qemu: "qemu-system-x86_64",
        // With several threads, or with cmpxchg16b, up to a fifth of all boots crash (QEMU 7.2).
        arguments: &["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max,-cx16"],
        console: "ttyS0",
    },
    Machine {
        name: "aarch64",
        debian: "arm64",
        kernel_package: "linux-image-cloud-arm64",
        packages: &["qemu-system-arm", "xz-utils"],
        qemu: "qemu-system-aarch64",
        arguments: &["-machine", "virt", "-accel", "tcg,thread=single", "-cpu", "cortex-a72"],
        console: "ttyAMA0",
    },
];

impl Machine {
    /// `console` is where QEMU connects the guest's only serial line. No disk, no network, no second boot.
    pub(crate) fn boot(&self, image: &Path, initramfs: &Path, console: &str) -> Command {
        let mut command = Command::new(self.qemu);
        command.args(self.arguments).args(["-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-serial", console]);
        command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs).arg("-append");
        command.arg(format!("console={} panic=-1 rdinit=/init quiet loglevel=4", self.console));
        command
    }
}
