//! Capabilities: what each is for, which of them are there, and how to be rid of them.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// A capability and what sockwatch does with it.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Its bit.
    pub set: CapabilitySet,
    /// Its name as the kernel's documentation has it.
    pub name: &'static str,
    /// Whether tracing works without.
    pub need: Need,
    /// What it is used for.
    pub used_for: &'static str,
    /// What is lost without it.
    pub without: &'static str,
    /// Whether sockwatch sees less without it, on every kernel.
    pub sees_more: bool,
    /// Whether it is given to a file by [`setcap`].
    pub granted: bool,
}

/// Whether tracing works without a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It does not.
    Required,
    /// It does, and less is seen.
    Optional,
}

/// Everything that sockwatch can make use of.
pub const USES: &[Use] = &[
    Use {
        set: CapabilitySet::BPF,
        name: "CAP_BPF",
        need: Need::Required,
        used_for: "load the programs, make their maps; up to Linux 5.18 read the maps, too",
        without: "no eBPF: `trace` and `record` poll the socket table, `diagnose` and `audit` do not start",
        sees_more: true,
        granted: true,
    },
    Use {
        set: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        need: Need::Required,
        used_for: "attach to tracepoints and functions, read the kernel's structures, sample CPUs",
        without: "the same",
        sees_more: true,
        granted: true,
    },
    Use {
        set: CapabilitySet::DAC_READ_SEARCH,
        name: "CAP_DAC_READ_SEARCH",
        need: Need::Optional,
        used_for: "read tracefs, which belongs to root, and list other users' descriptors",
        without: "classic tracepoints: failed accepts where the kernel does not trace functions' returns, everything \
                  without BTF; and who holds a socket that somebody else opened",
        sees_more: true,
        granted: true,
    },
    Use {
        set: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        need: Need::Optional,
        used_for: "see other users' descriptors, network namespaces, memory maps and stacks",
        without: "owners of sockets that were there before, other users' namespaces, and in `diagnose` what keeps their \
                  threads from accept() and TCP_DEFER_ACCEPT of their listeners",
        sees_more: true,
        granted: true,
    },
    Use {
        set: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        need: Need::Optional,
        used_for: "enter other network namespaces (setns), mount tracefs where nobody has, read kernel stacks of sleeping threads",
        without: "comparison with the socket tables of other network namespaces (containers), classic tracepoints where \
                  tracefs is not mounted, in `diagnose` where a thread slept that was asleep from the beginning",
        sees_more: true,
        granted: true,
    },
    Use {
        set: CapabilitySet::SYSLOG,
        name: "CAP_SYSLOG",
        need: Need::Optional,
        used_for: "read the addresses of the kernel's functions (/proc/kallsyms)",
        without: "names of kernel functions in `diagnose`, unless kernel.kptr_restrict is 0 and kernel.perf_event_paranoid at most 1",
        sees_more: true,
        granted: true,
    },
    Use {
        set: CapabilitySet::SYS_RESOURCE,
        name: "CAP_SYS_RESOURCE",
        need: Need::Optional,
        used_for: "raise RLIMIT_MEMLOCK, against which Linux 5.8 to 5.10 count maps",
        without: "on those kernels: eBPF, unless `ulimit -l` is unlimited",
        sees_more: false,
        granted: false,
    },
    Use {
        set: CapabilitySet::SETPCAP,
        name: "CAP_SETPCAP",
        need: Need::Optional,
        used_for: "empty the bounding set",
        without: "nothing: no_new_privs forbids to gain capabilities in any case",
        sees_more: false,
        granted: true,
    },
    Use {
        set: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        need: Need::Optional,
        used_for: "`list --long`: see a socket's mark (SO_MARK)",
        without: "marks",
        sees_more: false,
        granted: false,
    },
    Use {
        set: CapabilitySet::DAC_OVERRIDE,
        name: "CAP_DAC_OVERRIDE",
        need: Need::Optional,
        used_for: "as root: write where only somebody else may (`sudo sockwatch record -o ~/web.swr`)",
        without: "nothing, if sockwatch's own user may write there",
        sees_more: false,
        granted: false,
    },
];

/// The command that gives a file what [`USES`] says.
pub fn setcap(program: &str) -> String {
    let names: Vec<_> = USES.iter().filter(|it| it.granted).map(|it| it.name.to_ascii_lowercase()).collect();
    format!("sudo setcap {}+ep {program}", names.join(","))
}

/// The least with which it traces.
pub fn least_setcap(program: &str) -> String {
    let required = USES.iter().filter(|it| it.need == Need::Required);
    let names: Vec<_> = required.map(|it| it.name.to_ascii_lowercase()).collect();
    format!("sudo setcap {}+ep {program}", names.join(","))
}

/// The names of those that sockwatch can make use of.
pub fn names(set: CapabilitySet) -> Vec<&'static str> {
    USES.iter().filter(|it| set.contains(it.set)).map(|it| it.name).collect()
}

/// Those without which nothing is traced, and that are missing. `CAP_SYS_ADMIN` holds both.
pub fn missing(held: CapabilitySet) -> Vec<&'static str> {
    let is_missing = |it: &&Use| it.need == Need::Required && !held.intersects(it.set | CapabilitySet::SYS_ADMIN);
    USES.iter().filter(is_missing).map(|it| it.name).collect()
}

/// What the calling thread may do now; nothing if the kernel does not tell.
pub fn held() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Drops everything but `keeps`, and but `spare` if `works` does not without it. Returns what is left.
pub(super) fn reduce(
    keeps: CapabilitySet,
    spare: &[CapabilitySet],
    works: impl FnOnce() -> bool,
) -> io::Result<CapabilitySet> {
    let sets = capabilities(None)?;
    let mut kept = sets.permitted & keeps;
    // No longer effective, so that it can be tried, and still permitted, so that it can come back.
    set_capabilities(None, CapabilitySets { effective: kept, inheritable: CapabilitySet::empty(), ..sets })?;
    let spare = spare.iter().find(|spare| sets.permitted.contains(**spare) && !kept.contains(**spare));
    if let Some(spare) = spare
        && !works()
    {
        kept |= *spare;
    }
    // Dropping from the bounding set needs CAP_SETPCAP until that is done; it goes with the last step.
    empty_bounding(sets.permitted)?;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    clear_ambient_capability_set()?;
    Ok(kept)
}

/// Empties the bounding set with the capability that this takes, if it is permitted.
fn empty_bounding(permitted: CapabilitySet) -> io::Result<()> {
    if !permitted.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    let sets = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: sets.effective | CapabilitySet::SETPCAP, ..sets })?;
    for capability in bounding() {
        remove_capability_from_bounding_set(capability)?;
    }
    Ok(())
}

/// Says whether the bounding set is empty.
pub(super) fn empty_bounding_set() -> io::Result<()> {
    match bounding().next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("the bounding set cannot be emptied without CAP_SETPCAP")),
    }
}

/// What is in the bounding set: the kernel refuses to tell of capabilities that it does not have.
fn bounding() -> impl Iterator<Item = CapabilitySet> {
    let known = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    known
        .map_while(|it| Some((it, capability_is_in_bounding_set(it).ok()?)))
        .filter_map(|(it, is_in)| is_in.then_some(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_is_named_as_setcap_takes_it() {
        let granted = setcap("/usr/bin/sockwatch");
        assert!(granted.starts_with("sudo setcap cap_bpf,cap_perfmon,cap_dac_read_search,"), "{granted}");
        assert!(granted.ends_with("+ep /usr/bin/sockwatch") && !granted.contains("net_admin"), "{granted}");
        assert_eq!(least_setcap("x"), "sudo setcap cap_bpf,cap_perfmon+ep x");
    }

    #[test]
    fn what_tracing_needs_is_missed() {
        assert_eq!(missing(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing(CapabilitySet::BPF), ["CAP_PERFMON"]);
        assert!(missing(CapabilitySet::BPF | CapabilitySet::PERFMON).is_empty());
        assert!(missing(CapabilitySet::SYS_ADMIN).is_empty());
    }

    #[test]
    fn names_and_bits_agree() {
        for it in USES {
            let (word, _) = it.set.iter_names().next().unwrap();
            assert_eq!(it.name, format!("CAP_{word}"));
            assert_eq!(names(it.set), [it.name]);
        }
    }
}
