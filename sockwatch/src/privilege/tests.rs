use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs},
    path::PathBuf,
    thread,
};

use super::{
    role::{DIAGNOSE, OTLP, RECONCILE, RECORD, ROLES, TRACE},
    *,
};

/// Confines a thread, and asks it.
fn within<T: Send + 'static>(
    role: &'static Role,
    writable: Vec<PathBuf>,
    ask: impl FnOnce() -> T + Send + 'static,
) -> (Confined, T) {
    let work = move || {
        let confined = confine(role, &writable, || true);
        (confined, ask())
    };
    thread::spawn(work).join().unwrap()
}

/// A line of the calling thread's status.
fn status(name: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap().to_owned()
}

fn is_refused<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn every_role_is_confined_and_says_so_in_its_status() {
    for role in ROLES {
        let ask = || ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd", "NoNewPrivs", "Seccomp"].map(status);
        let (confined, [effective, permitted, inheritable, ambient, bounding, no_new_privs, seccomp]) =
            within(role, Vec::new(), ask);
        assert_eq!((confined.capabilities, confined.no_new_privs), (Step::Done, Step::Done), "{}", role.name);
        assert_eq!(confined.calls, Step::Done, "{}", role.name);
        let bits = |text: &str| u64::from_str_radix(text, 16).unwrap();
        assert_eq!(bits(&effective), confined.kept.bits(), "{}", role.name);
        assert_eq!(permitted, effective, "{}", role.name);
        assert_eq!((bits(&inheritable), bits(&ambient)), (0, 0), "{}", role.name);
        assert_eq!(bits(&bounding) == 0, confined.bounding == Step::Done, "{}", role.name);
        assert!(role.keeps.contains(confined.kept), "{}", role.name);
        assert_eq!((no_new_privs.as_str(), seccomp.as_str()), ("1", "2"), "{}", role.name);
    }
}

#[test]
fn whoever_traces_neither_writes_nor_connects_nor_starts_anything() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let path = std::env::temp_dir().join(format!("sockwatch-privilege-{}", std::process::id()));
    let to_create = path.clone();
    let (_, [created, connected, started, read, threads]) = within(&TRACE, Vec::new(), move || {
        let child = std::process::Command::new("true").spawn();
        [
            is_refused(File::create(&to_create)),
            is_refused(TcpStream::connect(address)),
            is_refused(child.map(|_| ())),
            fs::read_to_string("/proc/self/comm").is_ok() && fs::read_dir("/proc").is_ok(),
            thread::spawn(|| fs::read_to_string("/proc/thread-self/stat").is_ok()).join().unwrap(),
        ]
    });
    assert!(!path.exists());
    assert!(created && connected && started, "{created} {connected} {started}");
    assert!(read && threads, "what it needs is left to it");
}

/// Landlock lets whoever traces read only what it needs.
#[test]
fn whoever_traces_reads_what_proc_tells() {
    let (confined, readable) = within(&TRACE, Vec::new(), || File::open("/etc/passwd").is_ok());
    match confined.files {
        Step::Done => assert!(!readable),
        Step::NotMeant(why) => eprintln!("skipped: {why}"),
        Step::Impossible(why) => eprintln!("skipped: {why}"),
    }
}

#[test]
fn whoever_records_writes_in_its_directory_only() {
    let directory = std::env::temp_dir().join(format!("sockwatch-privilege-{}-record", std::process::id()));
    let other = directory.with_extension("other");
    fs::create_dir(&directory).unwrap();
    fs::create_dir(&other).unwrap();
    let (inside, outside) = (directory.join("a.swr"), other.join("a.swr"));
    let (confined, [written, removed, elsewhere, connected]) = within(&RECORD, vec![directory.clone()], move || {
        [
            fs::write(&inside, "a").is_ok(),
            fs::remove_file(&inside).is_ok(),
            File::create(&outside).is_ok(),
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok(),
        ]
    });
    fs::remove_dir_all(&directory).unwrap();
    fs::remove_dir_all(&other).unwrap();
    assert!(written && removed && !connected, "{written} {removed} {connected}");
    assert_eq!(elsewhere, confined.files != Step::Done, "{confined:?}");
}

/// It connects, and looks names up; it neither listens nor writes.
#[test]
fn whoever_pushes_connects_to_others() {
    let receiver = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = receiver.local_addr().unwrap();
    let (_, [connected, found, written]) = within(&OTLP, Vec::new(), move || {
        [
            TcpStream::connect(address).is_ok(),
            ("localhost", address.port()).to_socket_addrs().is_ok_and(|mut found| found.next().is_some()),
            File::create("/dev/null").is_ok(),
        ]
    });
    assert!(connected && found && !written, "{connected} {found} {written}");
}

/// What they are there for still works: another process's descriptors, one's own namespace, its table.
#[test]
fn whoever_looks_sees_other_processes() {
    let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    for role in [&RECONCILE, &DIAGNOSE] {
        let (_, (descriptors, namespace)) = within(role, Vec::new(), move || {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map(|entries| entries.count());
            (descriptors.unwrap_or(0), File::open(format!("/proc/{pid}/ns/net")).is_ok())
        });
        assert!(descriptors >= 3 && namespace, "{}: {descriptors} {namespace}", role.name);
    }
    let (_, listed) = within(&RECONCILE, Vec::new(), || crate::source::table::list().map(|it| it.len()));
    assert!(listed.is_ok(), "{listed:?}");
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// A capability that may be missed stays only where the work fails without it.
#[test]
fn a_spare_capability_stays_where_it_is_needed() {
    let spare = capability::held() & CapabilitySet::DAC_OVERRIDE;
    for works in [true, false] {
        let work = move || confine(&RECORD, &[], || works).kept;
        let kept = thread::spawn(work).join().unwrap();
        assert_eq!(kept, if works { CapabilitySet::empty() } else { spare });
    }
}
