//! What a run keeps of its privileges, and an ordinary user with just the capabilities that docs/privileges.md lists: everything
//! works but what it names.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::{
    fs::{XattrFlags, setxattr},
    io::Errno,
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, capability_is_in_bounding_set},
};
use serde_json::Value;
use sockwatch::privilege::capability::{self, Need, USES};

use crate::{
    harness::{Trace, assert_stories, choices, shared, skip, sockwatch},
    netns::Netns,
    unprivileged::{Copy, USER},
    workload::{STORIES, converse, converse_with, place},
};

/// `VFS_CAP_REVISION_2`, with the effective bit.
const REVISION: u32 = 0x0200_0001;

/// Gives the file capabilities, as `setcap ...+ep` does. `false` where its file system has none, or is mounted without.
fn grant(program: &Path, set: CapabilitySet) -> bool {
    let (low, high) = (set.bits() as u32, (set.bits() >> 32) as u32);
    let value: Vec<u8> = [REVISION, low, 0, high, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    match setxattr(program, "security.capability", &value, XattrFlags::empty()) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP) => return false,
        Err(error) => panic!("{}: {error}", program.display()),
    }
    let flags = nix::sys::statvfs::statvfs(program).unwrap().flags();
    !flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID)
}

/// What `setcap` is told to give, as far as this machine has it to give: the kernel starts no file that is to have more.
fn granted() -> CapabilitySet {
    let can_give = |set: CapabilitySet| capability_is_in_bounding_set(set).unwrap();
    USES.iter().filter(|it| it.granted && can_give(it.set)).fold(CapabilitySet::empty(), |all, it| all | it.set)
}

/// A copy with these capabilities, for nobody; `None`, and a line that says why, where files have none.
fn capable(test: &str, set: CapabilitySet) -> Option<Copy> {
    let copy = Copy::new(test);
    // Linux 5.10 counts maps against it; what starts an ordinary user's program passes it on. Root in a container may not raise it,
    // and newer kernels do not ask.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    if grant(&copy.program(), set) {
        return Some(copy);
    }
    skip(test, "the temporary directory's file system gives files no capabilities");
    None
}

/// The statuses of all threads of a process, by their names.
fn statuses(pid: u32) -> HashMap<String, HashMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |text: String| -> HashMap<String, String> {
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let each = tasks.filter_map(|task| Some(status(fs::read_to_string(task.unwrap().path().join("status")).ok()?)));
    each.map(|status| (status["Name"].clone(), status)).collect()
}

pub(crate) fn bits(status: &HashMap<String, String>, field: &str) -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::from_str_radix(&status[field], 16).unwrap())
}

/// Whether maps can be read without `CAP_BPF`, which then is dropped: from 5.19 on.
fn reads_maps_without() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (5, 19)
}

/// All threads of a process have confined themselves. Returns their statuses.
#[track_caller]
pub(crate) fn assert_confined(pid: u32) -> HashMap<String, HashMap<String, String>> {
    let statuses = statuses(pid);
    for (name, status) in &statuses {
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"), "{name}");
        assert_eq!(bits(status, "CapEff"), bits(status, "CapPrm"), "{name}");
        for empty in ["CapInh", "CapAmb", "CapBnd"] {
            assert!(bits(status, empty).is_empty(), "{name}: {empty} {}", status[empty]);
        }
    }
    statuses
}

/// Once the first line is written everything is in place and dropped, and a listed socket, one that was there before, comes from
/// a thread that has dropped, too.
#[track_caller]
fn check_dropped(trace: &mut Trace) {
    trace.until("a listed socket", |line| line.is("listed"));
    let statuses = assert_confined(trace.pid());
    let main = &statuses["sockwatch"];
    let kept = if reads_maps_without() { CapabilitySet::empty() } else { CapabilitySet::BPF };
    assert_eq!(bits(main, "CapEff"), kept);
    let looks = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
    assert_eq!(bits(&statuses["reconcile"], "CapEff"), looks);
}

/// Where to listen to be listed, and the port to ask for: beside other tests' floods.
fn listed() -> (SocketAddr, String) {
    let address = place();
    (address, address.port().to_string())
}

#[test]
fn root_drops_what_it_does_not_need() {
    let Some(machine) = shared("root_drops_what_it_does_not_need") else { return };
    let (address, port) = listed();
    let _listener = TcpListener::bind(address).unwrap();
    let mut trace = Trace::start(machine, &["--latency", "5ms", "--port", &port]);
    if trace.probes.taken("state") != "btf" {
        return skip("root_drops_what_it_does_not_need", "without BTF nothing is listed");
    }
    check_dropped(&mut trace);
    trace.finish();
}

#[test]
fn nothing_is_dropped_without_a_sandbox() {
    let Some(machine) = shared("nothing_is_dropped_without_a_sandbox") else { return };
    let (_, port) = listed();
    let mut trace = Trace::start(machine, &["--no-sandbox", "--port", &port]);
    trace.until("the first line", |line| line.is("start"));
    let own = capability::held();
    for (name, status) in statuses(trace.pid()) {
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("0", "0"), "{name}");
        assert_eq!(bits(&status, "CapEff"), own, "{name}");
    }
    trace.finish();
}

/// A whole connection of root's, and one in another namespace that no process of the user's is in: with all that is granted an
/// ordinary user sees them as root does.
#[test]
fn an_ordinary_user_traces_with_what_is_granted() {
    let test = "an_ordinary_user_traces_with_what_is_granted";
    let Some(machine) = shared(test) else { return };
    let Some(copy) = capable("granted", granted()) else { return };
    let (address, netns) = (place(), Netns::new("granted"));
    let mut command = copy.command();
    command.args(["trace", "--source", "ebpf", "--format", "json", "--latency", "5ms"]).args(choices());
    command.args(["--port", &address.port().to_string()]);
    let before = netns.run(|| TcpListener::bind(address).unwrap());
    let mut trace = Trace::spawn(machine, command);
    if trace.probes.taken("state") != "btf" {
        return skip(test, "without BTF nothing is listed");
    }
    // Its holder is root's, and its namespace another one.
    trace.until("the listener in the other namespace", |line| {
        line.is("listed")
            && line.netns() == netns.inode()
            && line.pid("by").is_none_or(|pid| pid == u64::from(std::process::id()))
    });
    converse(address);
    trace.until_stopped();
    let mut ended = trace.finish();
    drop(before);
    let elsewhere = netns.inode();
    ended.lines.retain(|line| line.identity().is_none_or(|(netns, ..)| netns != elsewhere));
    assert_stories(&ended, &STORIES);
    assert_eq!(ended.counts["lost"], 0);
}

/// The sets of an ordinary user's run.
#[test]
fn an_ordinary_user_drops_what_was_granted() {
    let Some(machine) = shared("an_ordinary_user_drops_what_was_granted") else { return };
    let Some(copy) = capable("drops", granted()) else { return };
    let (address, port) = listed();
    let _listener = TcpListener::bind(address).unwrap();
    let mut command = copy.command();
    command
        .args(["trace", "--source", "ebpf", "--format", "json", "--latency", "5ms", "--port", &port])
        .args(choices());
    let mut trace = Trace::spawn(machine, command);
    if trace.probes.taken("state") != "btf" {
        return skip("an_ordinary_user_drops_what_was_granted", "without BTF nothing is listed");
    }
    check_dropped(&mut trace);
    trace.finish();
}

/// A directory of the test's own, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn of(user: u32, test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sockwatch-privileges-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&path, Some(user), Some(user)).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Records with rotation, so that files are made and deleted by the thread that has dropped everything.
#[track_caller]
fn check_rotation(mut command: Command, directory: &Path) {
    command.args(["record", "--source", "ebpf", "--duration", "3s", "--rotate-every", "500ms", "--flush", "200ms"]);
    command.args(["--keep", "2", "--output"]).arg(directory.join("web.swr")).args(choices());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let address = place();
    let listener = TcpListener::bind(address).unwrap();
    // A file without events is not ended for another.
    while child.try_wait().unwrap().is_none() {
        converse_with(&listener, address);
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}: {said}");
    let begun = said.split_whitespace().find_map(|word| word.strip_prefix("files=")).unwrap();
    assert!(begun.parse::<u32>().unwrap() > 2, "{said}");
    let info = sockwatch().arg("info").args(&files).output().unwrap();
    assert!(info.status.success(), "{}", String::from_utf8_lossy(&info.stderr));
}

#[test]
fn an_ordinary_user_rotates_recordings() {
    let Some(_machine) = shared("an_ordinary_user_rotates_recordings") else { return };
    let Some(copy) = capable("rotates", granted()) else { return };
    let scratch = Scratch::of(USER, "rotates");
    check_rotation(copy.command(), &scratch.0);
}

/// Root may write there by one of its capabilities only: the thread that writes keeps that one.
#[test]
fn root_rotates_recordings_in_somebody_s_directory() {
    let Some(_machine) = shared("root_rotates_recordings_in_somebody_s_directory") else { return };
    let scratch = Scratch::of(USER, "somebody-s");
    check_rotation(sockwatch(), &scratch.0);
}

fn findings(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let names =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap().to_owned());
    names.collect()
}

/// A server that never accepts is found and named by an ordinary user as by root.
#[test]
fn an_ordinary_user_diagnoses_root_s_server() {
    let Some(_machine) = shared("an_ordinary_user_diagnoses_root_s_server") else { return };
    let Some(copy) = capable("diagnoses", granted()) else { return };
    let address = place();
    let listener = TcpListener::bind(address).unwrap();
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let diagnose = |mut command: Command| {
        command.args(["diagnose", "--duration", "2s", "--format", "json", "--port", &address.port().to_string()]);
        command.output().unwrap()
    };
    let (by_root, by_user) = (diagnose(sockwatch()), diagnose(copy.command()));
    assert_eq!(by_user.status.code(), by_root.status.code(), "{}", String::from_utf8_lossy(&by_user.stderr));
    assert_eq!(findings(&by_user), findings(&by_root));
    drop((listener, clients));
}

/// The least that traces: what is lost is said, each with what would give it.
#[test]
fn doctor_names_what_the_least_capabilities_lose() {
    let Some(_machine) = shared("doctor_names_what_the_least_capabilities_lose") else { return };
    let required = USES.iter().filter(|it| it.need == Need::Required);
    let least = required.fold(CapabilitySet::empty(), |all, it| all | it.set);
    let Some(copy) = capable("least", least) else { return };
    let output = copy.command().arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for name in ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"] {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
        assert!(line.contains("reduced") && line.contains("lost: "), "{line}");
    }
    assert!(text.contains("sudo setcap cap_bpf,cap_perfmon,"), "{text}");
    let kept = text.lines().find(|line| line.starts_with("reconcile ")).unwrap();
    assert!(kept.ends_with("no capability"), "{text}");
}

/// doctor as root: every step that this kernel can do is in force, and each thread's capabilities are named.
#[test]
fn doctor_says_what_is_kept() {
    let Some(_machine) = shared("doctor_says_what_is_kept") else { return };
    let output = sockwatch().args(["doctor", "--format", "json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sandbox = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "sandbox").unwrap();
    let found = sandbox["found"].as_str().unwrap();
    assert!(found.starts_with("dropped capabilities, an empty bounding set, no_new_privs, "), "{found}");
    let threads = report["threads"].as_array().unwrap();
    let keeps = |name: &str| threads.iter().find(|thread| thread["name"] == name).unwrap()["keeps"].clone();
    assert_eq!(keeps("reconcile"), serde_json::json!(["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]));
    assert_eq!(keeps("record"), serde_json::json!([]));
}
