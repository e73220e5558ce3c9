//! Files: which of them a thread may open from now on (Landlock).

use std::{fs, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use super::Step;

/// What a thread may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// What `/proc` and cgroups tell, for reading; for writing only within the directories that it is given.
    Named,
    /// Everything that it may read. The kernel lets no thread under Landlock look at processes that are not (descriptors,
    /// namespaces, memory: `hook_ptrace_access_check`, 5.13 to 6.18 at least), so that who looks goes without; that nothing
    /// is opened for writing is seen to by seccomp.
    Readable,
    /// Everything for reading, nothing for writing; it may connect to others, which Landlock else forbids.
    Outward,
}

/// For reading. `/sys/devices/system/cpu` is what C libraries ask for the number of CPUs.
const READ: [&str; 3] = ["/proc", "/sys/fs/cgroup", "/sys/devices/system/cpu"];

/// The newest that was tried; of older kernels as much as they have.
const KNOWN: ABI = ABI::V5;

pub(super) fn restrict(files: Files, writable: &[PathBuf]) -> Step {
    if files == Files::Readable {
        return Step::NotMeant("it looks at other processes, which Landlock forbids");
    }
    if hides_processes(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) {
        return Step::NotMeant("/proc hides processes (hidepid), and Landlock would hide all of them");
    }
    match try_restrict(files, writable) {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Step::Done,
        Ok(RulesetStatus::NotEnforced) => {
            Step::Impossible("the kernel has no Landlock, or it is switched off".to_owned())
        }
        Err(error) => Step::Impossible(error.to_string()),
    }
}

fn try_restrict(files: Files, writable: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let write = AccessFs::from_all(KNOWN) & !AccessFs::Execute;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(KNOWN))?;
    let (ruleset, readable) = match files {
        Files::Outward => (ruleset, &["/"][..]),
        Files::Named | Files::Readable => (ruleset.handle_access(AccessNet::from_all(KNOWN))?, &READ[..]),
    };
    let status = ruleset
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(writable, write))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// Whether `/proc` shows a process only to whoever may trace it: by a line of `/proc/self/mountinfo`.
fn hides_processes(mountinfo: &str) -> bool {
    let of_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let hides = |line: &str| line.split([' ', ',']).any(|word| word.starts_with("hidepid=") && word != "hidepid=0");
    mountinfo.lines().filter(of_proc).any(|line| hides(line) && !line.contains("hidepid=off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidepid_is_found() {
        let line = "24 1 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw";
        assert!(!hides_processes(line));
        assert!(hides_processes(&format!("{line},hidepid=invisible")));
        assert!(hides_processes(&format!("{line},gid=4,hidepid=2")));
        assert!(!hides_processes(&format!("{line},hidepid=off")));
        assert!(!hides_processes(&format!("{},hidepid=2", line.replace(" /proc ", " /mnt/proc "))), "another one");
    }
}
