//! From the command line's words to a filter: names are looked up here, once.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use sockwatch::{
    process::cgroup::cgroup2_mount,
    tcp::filter::{Cgroup, Filter},
};
use sockwatch_common as wire;

use crate::cli::FilterArgs;

/// What the filter words mean on this machine.
pub(crate) struct Resolved {
    /// The filter.
    pub(crate) filter: Filter,
    /// Processes whose sockets pass although they were opened before the trace.
    pub(crate) owners: Vec<u32>,
}

/// Looks names up and checks that what is named exists.
pub(crate) fn resolve(args: &FilterArgs) -> anyhow::Result<Resolved> {
    for pid in &args.pid {
        ensure!(
            Path::new(&format!("/proc/{pid}")).exists(),
            "--pid {pid}: there is no such process (`ps -e` lists them)"
        );
    }
    let cgroup_of = |path: &Path| anyhow::Ok(cgroup(path)?.0);
    let filter = Filter { cgroup: args.cgroup.as_deref().map(cgroup_of).transpose()?, ..anywhere(args)? };
    fits("--port", filter.ports.len(), wire::MAX_PORT_RANGES)?;
    fits("--local-port", filter.local_ports.len(), wire::MAX_PORT_RANGES)?;
    fits("--remote-port", filter.remote_ports.len(), wire::MAX_PORT_RANGES)?;
    fits("--addr", filter.prefixes.len(), wire::MAX_PREFIXES)?;
    fits("--pid", filter.pids.len(), wire::MAX_PIDS)?;
    fits("--netns", filter.netns.len(), wire::MAX_NETNS)?;
    let mut owners = args.pid.clone();
    if let Some(path) = args.cgroup.as_deref().filter(|_| owners.is_empty()) {
        processes(&cgroup(path)?.1, &mut owners);
    }
    Ok(Resolved { filter, owners })
}

/// The filter without its cgroup, which only the machine that it is on knows.
pub(crate) fn anywhere(args: &FilterArgs) -> anyhow::Result<Filter> {
    Ok(Filter {
        ports: args.port.clone(),
        local_ports: args.local_port.clone(),
        remote_ports: args.remote_port.clone(),
        prefixes: args.addr.clone(),
        pids: args.pid.clone(),
        cgroup: None,
        netns: args.netns.iter().map(|name| netns(name)).collect::<Result<_, _>>()?,
    })
}

/// The processes of a cgroup and of those below it; those that vanish meanwhile are of no interest.
fn processes(directory: &Path, pids: &mut Vec<u32>) {
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), pids);
        }
    }
}

fn fits(flag: &str, count: usize, limit: usize) -> anyhow::Result<()> {
    ensure!(count <= limit, "{flag}: at most {limit}, got {count} (ranges and prefixes cover many at once)");
    Ok(())
}

/// A namespace's inode number, from a name of `ip netns`, a path or the number itself.
fn netns(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let path = netns_path(name);
    let inode = fs::metadata(&path).map(|metadata| metadata.ino());
    let inode = inode.with_context(|| {
        format!("--netns {name}: cannot look at {} (`ip netns` lists names, `lsns -t net` numbers)", path.display())
    })?;
    let is_netns = statfs(&path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
        // The links in /proc/PID/ns say which kind they are; the files of `ip netns` are no links.
        && fs::read_link(&path).map_or(true, |link| link.to_string_lossy().starts_with("net:"));
    ensure!(is_netns, "--netns {name}: {} is not a network namespace", path.display());
    u32::try_from(inode).with_context(|| format!("--netns {name}: inode {inode} is out of range"))
}

/// The number of the namespace that is meant, if there is one.
pub(crate) fn find_netns(name: &str) -> Option<u32> {
    netns(name).ok()
}

/// The same for whoever must not learn by it which files there are: a name of `ip netns`.
pub(crate) fn named_netns(name: &str) -> Option<u32> {
    if name.contains('/') { None } else { netns(name).ok() }
}

/// The file that a name of `ip netns` or a path means.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    if name.contains('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) }
}

/// What is in a cgroup and below it.
pub(crate) struct Members {
    /// The ids of the cgroups.
    pub(crate) cgroups: HashSet<u64>,
    /// Their processes.
    pub(crate) processes: HashSet<u32>,
}

/// Who is in a cgroup now.
pub(crate) fn members(path: &Path) -> anyhow::Result<Members> {
    let (_, directory) = cgroup(path)?;
    let (mut pids, mut cgroups) = (Vec::new(), HashSet::new());
    processes(&directory, &mut pids);
    ids(&directory, &mut cgroups);
    Ok(Members { cgroups, processes: pids.into_iter().collect() })
}

fn ids(directory: &Path, cgroups: &mut HashSet<u64>) {
    // Removed meanwhile.
    let Ok(metadata) = fs::metadata(directory) else { return };
    cgroups.insert(metadata.ino());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            ids(&entry.path(), cgroups);
        }
    }
}

/// A cgroup v2 directory, with its id and depth.
fn cgroup(path: &Path) -> anyhow::Result<(Cgroup, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("--cgroup: cannot read /proc/self/mountinfo")?;
    let Some(root) = cgroup2_mount(&mounts) else {
        bail!("--cgroup: no cgroup v2 hierarchy is mounted (`mount -t cgroup2 none /sys/fs/cgroup`)");
    };
    let directory = match fs::canonicalize(path) {
        Ok(directory) if directory.starts_with(&root) => directory,
        _ => root.join(path.strip_prefix("/").unwrap_or(path)),
    };
    let metadata = fs::metadata(directory.join("cgroup.procs")).and_then(|_| fs::metadata(&directory));
    let metadata = metadata.with_context(|| {
        format!("--cgroup {}: no such cgroup below {} (`systemd-cgls` lists them)", path.display(), root.display())
    })?;
    let below = directory.strip_prefix(&root).unwrap_or(Path::new(""));
    let level = below.components().count() as u32;
    Ok((Cgroup { id: metadata.ino(), level }, directory))
}

/// The filter as the kernel side takes it. Sets that are too long were refused by [`resolve`].
pub(crate) fn to_wire(filter: &Filter) -> wire::Filter {
    let mut told = wire::Filter::ANY;
    told.ports = port_set(&filter.ports);
    told.local_ports = port_set(&filter.local_ports);
    told.remote_ports = port_set(&filter.remote_ports);
    for (slot, prefix) in told.prefixes.iter_mut().zip(&filter.prefixes) {
        *slot = wire::Prefix { address: words(prefix.network()), mask: words(prefix.mask()) };
        told.prefix_count += 1;
    }
    for (slot, pid) in told.pids.iter_mut().zip(&filter.pids) {
        *slot = *pid;
        told.pid_count += 1;
    }
    for (slot, netns) in told.netns.iter_mut().zip(&filter.netns) {
        *slot = *netns;
        told.netns_count += 1;
    }
    if let Some(cgroup) = filter.cgroup {
        (told.has_cgroup, told.cgroup, told.cgroup_level) = (1, cgroup.id, cgroup.level);
    }
    told
}

fn port_set(ports: &[sockwatch::tcp::filter::Ports]) -> wire::PortSet {
    let mut set = wire::PortSet::ANY;
    for (slot, ports) in set.ranges.iter_mut().zip(ports) {
        *slot = wire::PortRange { first: *ports.0.start(), last: *ports.0.end() };
        set.count += 1;
    }
    set
}

/// Sixteen bytes as the two words that the kernel side reads at the same place.
fn words(bytes: [u8; 16]) -> [u64; 2] {
    let (high, low) = bytes.split_at(8);
    [high, low].map(|half| u64::from_ne_bytes(half.try_into().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_s_namespace_is_found_by_path() {
        let inode = netns("/proc/self/ns/net").unwrap();
        assert_eq!(netns(&inode.to_string()).unwrap(), inode);
        let error = format!("{:#}", netns("no-such-namespace").unwrap_err());
        assert!(error.contains("ip netns"), "{error}");
    }
}
