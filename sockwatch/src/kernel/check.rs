//! What this machine allows: capabilities, lockdown, security modules. `doctor` and start-up share it.

use std::fs;

/// Capabilities that sockwatch may need, by their bit (`include/uapi/linux/capability.h`).
pub const CAPABILITIES: [(&str, u32); 5] =
    [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_ADMIN", 21), ("CAP_DAC_READ_SEARCH", 2), ("CAP_SYS_RESOURCE", 24)];

/// The effective capability set of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Of this process; none if `/proc` does not tell.
    pub fn of_self() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// From the text of `/proc/PID/status`.
    pub fn parse(status: &str) -> Self {
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether one of [`CAPABILITIES`] is there.
    pub fn has(self, name: &str) -> bool {
        CAPABILITIES.iter().any(|(known, bit)| *known == name && self.0 >> bit & 1 == 1)
    }

    /// Those of `CAP_BPF` and `CAP_PERFMON` that are missing. `CAP_SYS_ADMIN` holds both.
    pub fn missing(self) -> Vec<&'static str> {
        if self.has("CAP_SYS_ADMIN") {
            return Vec::new();
        }
        ["CAP_BPF", "CAP_PERFMON"].into_iter().filter(|name| !self.has(name)).collect()
    }
}

/// The kernel's lockdown mode; `None` where it has no lockdown, or does not show it.
pub fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let mode = modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))?;
    (mode != "none").then(|| mode.to_owned())
}

/// The active security modules; empty where securityfs is not mounted.
pub fn security_modules() -> Vec<String> {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    modules.trim().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        let all = Capabilities::parse("Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert!(all.has("CAP_BPF") && all.missing().is_empty());
        assert_eq!(Capabilities::parse("CapEff:\t0000000000000000").missing(), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(Capabilities::parse("CapEff:\t0000008000000000").missing(), ["CAP_PERFMON"]);
        assert_eq!(Capabilities::parse("").missing(), ["CAP_BPF", "CAP_PERFMON"]);
    }
}
