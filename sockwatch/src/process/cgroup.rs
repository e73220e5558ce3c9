//! Where a process or a socket belongs: the systemd unit, the container, the pod, by the path of its cgroup. The paths
//! are made by container runtimes and systemd; only what is spelled as they spell it is taken for one of theirs.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::tcp::event::is_unprintable;

/// What a cgroup's path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The path below the hierarchy's root; absent if unknown or the root itself.
    pub cgroup: Option<String>,
    /// The innermost systemd service or scope that is not a container's.
    pub unit: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
    /// The Kubernetes pod's uid, with dashes.
    pub pod: Option<String>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Who made it.
    pub runtime: Runtime,
    /// Its id (64 hexadecimal digits from most runtimes), or its name.
    pub id: String,
}

/// What makes containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, through Kubernetes or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// LXC and Incus.
    Lxc,
    /// systemd-nspawn, or another one registered with systemd-machined.
    Machine,
    /// The path has an id and does not say whose: Kubernetes without systemd, ECS.
    Unnamed,
}

impl Runtime {
    /// Its name in a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Lxc => "lxc",
            Self::Machine => "machine",
            Self::Unnamed => "container",
        }
    }
}

impl Container {
    /// The id as `docker ps` and `podman ps` shorten it: 12 digits.
    pub fn short_id(&self) -> &str {
        if is_id(&self.id) { &self.id[..12] } else { &self.id }
    }
}

impl Workload {
    /// Whether that is this cgroup, by its path, or one below it. All are below the root.
    pub fn is_in(&self, cgroup: &str) -> bool {
        let wanted = cgroup.trim_matches('/');
        let rest = self.cgroup.as_deref().and_then(|its| its.trim_matches('/').strip_prefix(wanted));
        wanted.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// From the text of `/proc/PID/cgroup`.
    pub fn of_process(text: &str) -> Self {
        path_of(text).map(Self::of_path).unwrap_or_default()
    }

    /// From a path below the root of a cgroup hierarchy.
    pub fn of_path(path: &str) -> Self {
        let path = path.replace(is_unprintable, "?");
        let mut workload = Self::default();
        let mut parent = "";
        for component in path.split('/').filter(|component| !component.is_empty()) {
            workload.add(parent, component);
            parent = component;
        }
        workload.cgroup = (!path.trim_matches('/').is_empty()).then_some(path);
        workload
    }

    /// Goes one directory down. What lies within a container is its own affair only if it is a container again.
    fn add(&mut self, parent: &str, component: &str) {
        // `kubepods-burstable-podUID.slice:cri-containerd:ID`: containerd told of systemd paths, without systemd.
        if let [slice, prefix, id] = component.split(':').collect::<Vec<_>>()[..]
            && let Some(pod) = pod(slice)
        {
            self.pod = Some(pod);
            self.container = container_by_prefix(&format!("{prefix}-{id}"));
        } else if let Some(pod) = pod(component) {
            self.pod = Some(pod);
        } else if let Some(container) = container(parent, component) {
            self.container = Some(container);
        } else if self.container.is_none() && is_unit(component) {
            self.unit = Some(component.to_owned());
        }
    }
}

/// The path that says most, of a process's hierarchies: that of v2, unless only systemd's or other v1 ones are used (it
/// then says `/`).
fn path_of(text: &str) -> Option<&str> {
    // `ID:CONTROLLERS:PATH`; a path may hold colons.
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let mut best: Option<(&str, &str)> = None;
    let rank = |(controllers, path): (&str, &str)| match (path, controllers) {
        ("/", _) => 0,
        (_, "") => 3,
        (_, "name=systemd") => 2,
        (_, _) => 1,
    };
    for line in lines {
        if best.is_none_or(|best| rank(line) > rank(best)) {
            best = Some(line);
        }
    }
    best.map(|(_, path)| path)
}

/// `podUID` (cgroupfs), `kubepods-burstable-podUID.slice` (systemd, with underscores), also below another slice
/// (`kubelet-kubepods-...`). A static pod's uid is a hash without dashes.
fn pod(component: &str) -> Option<String> {
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => slice.split_once("kubepods").and_then(|(_, rest)| rest.rsplit_once("-pod"))?.1.replace('_', "-"),
        None => component.strip_prefix("pod")?.to_owned(),
    };
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| *byte == b'-').count();
    (digits == 32 && digits + dashes == uid.len() && [0, 4].contains(&dashes)).then_some(uid)
}

fn container(parent: &str, component: &str) -> Option<Container> {
    let scope = component.strip_suffix(".scope");
    if let Some(container) = container_by_prefix(scope.unwrap_or(component)) {
        return Some(container);
    }
    let named = |runtime, id: &str| Some(Container { runtime, id: id.to_owned() });
    if is_id(component) {
        let runtime = if ["docker", "buildkit"].contains(&parent) { Runtime::Docker } else { Runtime::Unnamed };
        return named(runtime, component);
    }
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return named(Runtime::Lxc, name);
    }
    if parent == "lxc" {
        return named(Runtime::Lxc, component);
    }
    if let Some(name) = component.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service")) {
        return named(Runtime::Machine, name);
    }
    named(Runtime::Machine, scope.filter(|_| parent == "machine.slice")?.strip_prefix("machine-")?)
}

/// `docker-ID`, as the systemd driver names its scopes. Not `libpod-conmon-ID` and `crio-conmon-ID`: those are the
/// containers' attendants.
fn container_by_prefix(name: &str) -> Option<Container> {
    const PREFIXES: [(&str, Runtime); 7] = [
        ("docker-", Runtime::Docker),
        ("libpod-", Runtime::Podman),
        // With podman's split cgroups, below the unit that started it.
        ("libpod-payload-", Runtime::Podman),
        ("cri-containerd-", Runtime::Containerd),
        ("nerdctl-", Runtime::Containerd),
        ("crio-", Runtime::CriO),
        ("cri-o-", Runtime::CriO),
    ];
    PREFIXES.into_iter().find_map(|(prefix, runtime)| {
        let id = name.strip_prefix(prefix).filter(|id| is_id(id))?;
        Some(Container { runtime, id: id.to_owned() })
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_unit(component: &str) -> bool {
    [".service", ".scope"].iter().any(|suffix| component.len() > suffix.len() && component.ends_with(suffix))
}

/// Where cgroup v2 is mounted, from the text of `/proc/self/mountinfo`.
pub fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The paths of cgroups v2 by their ids, as they were when first asked for.
#[derive(Debug, Default)]
pub struct Cgroups {
    paths: Option<HashMap<u64, String>>,
}

impl Cgroups {
    /// The path of the cgroup with this id, which is its directory's inode number; `/` for the root. `None` if it is
    /// gone, or lies outside of what is mounted here. The first call walks the whole hierarchy.
    pub fn path(&mut self, id: u64) -> Option<&str> {
        self.paths.get_or_insert_with(walk).get(&id).map(String::as_str)
    }
}

fn walk() -> HashMap<u64, String> {
    let mut paths = HashMap::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(root) = cgroup2_mount(&mounts) else { return paths };
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        // Removed meanwhile.
        let Ok(metadata) = fs::metadata(&directory) else { continue };
        let below = directory.strip_prefix(&root).unwrap_or(Path::new(""));
        paths.insert(metadata.ino(), format!("/{}", below.to_string_lossy()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories
            .extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()));
    }
    paths
}

#[cfg(test)]
mod tests;
