//! An ordinary user: polling works and says what it is, eBPF is refused with what to do.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::Command,
};

use crate::{
    harness::{Line, Trace, shared, stories},
    workload::place,
};

/// nobody
pub(crate) const USER: u32 = 65534;

/// The program where every user can run it; removed on drop.
pub(crate) struct Copy {
    directory: PathBuf,
}

impl Copy {
    pub(crate) fn new(tag: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("sockwatch-{}-{tag}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = Self { directory };
        fs::copy(env!("CARGO_BIN_EXE_sockwatch"), copy.program()).unwrap();
        fs::set_permissions(copy.program(), fs::Permissions::from_mode(0o755)).unwrap();
        // Another test's child that was forked while the copy was written has it open until its own exec.
        let busy = |error: std::io::Error| error.kind() == std::io::ErrorKind::ExecutableFileBusy;
        while Command::new(copy.program()).arg("--version").output().is_err_and(busy) {
            std::thread::yield_now();
        }
        copy
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.join("sockwatch")
    }

    /// The program as that user, without root's groups and capabilities.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.uid(USER).gid(USER).current_dir("/");
        command
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Every transition that lasts is seen, and times say how exact they are.
#[test]
fn polling_as_an_ordinary_user() {
    let Some(machine) = shared("polling_as_an_ordinary_user") else { return };
    let copy = Copy::new("poll");
    let address = place();
    let mut command = copy.command();
    let port = address.port().to_string();
    command.args(["trace", "--source", "poll", "--interval", "10ms", "--format", "json", "--port", &port]);
    let mut trace = Trace::spawn(machine, command);
    let listener = TcpListener::bind(address).unwrap();
    trace.until("the listener", |line| line.is("listed") && line.role() == "listener");
    let client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    // A slow machine is seen on its way there.
    let is_established = |line: &Line| line.0["state"] == "ESTABLISHED" || line.0["new"] == "ESTABLISHED";
    trace.until_count(2, "established ends", |line| {
        (line.is("listed") || line.is("transition")) && is_established(line)
    });
    client.shutdown(std::net::Shutdown::Write).unwrap();
    trace.until("the client's FIN", |line| line.is("transition") && line.0["new"] == "CLOSE_WAIT");
    drop((server, client));
    trace.until("the server's end", |line| line.is("connection") && line.port("local") == address.port());
    let said = trace.said.clone();
    let ended = trace.finish();
    assert_eq!(ended.lines[0].0["source"], "poll");
    assert_eq!(said.len(), 1, "one line: {said:?}");
    assert!(said[0].contains("polling") && said[0].contains("10 ms"), "{said:?}");
    for line in ended.all("transition") {
        assert!(line.number("sampled_ns").is_some_and(|sampled| sampled > 0), "{line:?}");
        assert!(line.0["by"].is_null(), "{line:?}");
    }
    let stories = stories(&ended.lines);
    let server = stories.iter().find(|story| story.contains("CLOSE_WAIT>CLOSE") || story.contains("LAST_ACK>CLOSE"));
    assert!(server.is_some_and(|story| story.contains("ESTABLISHED ESTABLISHED>CLOSE_WAIT ")), "{stories:#?}");
    assert!(server.is_some_and(|story| story.ends_with(" end vanished")), "{stories:#?}");
}

/// Without a choice, what works is taken; one line says why, one says what.
#[test]
fn falling_back_to_polling() {
    let Some(machine) = shared("falling_back_to_polling") else { return };
    let copy = Copy::new("auto");
    let mut command = copy.command();
    command.args(["trace", "--format", "json", "--port", &place().port().to_string()]);
    let trace = Trace::spawn(machine, command);
    let said = trace.said.clone();
    let ended = trace.finish();
    assert_eq!(ended.lines[0].0["source"], "poll");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("falling back to polling") && said[0].contains("doctor"), "{said:?}");
}

#[test]
fn ebpf_as_an_ordinary_user_is_refused() {
    let Some(_machine) = shared("ebpf_as_an_ordinary_user_is_refused") else { return };
    let copy = Copy::new("ebpf");
    let output = copy.command().args(["trace", "--source", "ebpf", "--duration", "1ms"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    for word in ["CAP_BPF", "CAP_PERFMON", "sudo", "setcap", "--source poll", "sockwatch doctor"] {
        assert!(said.contains(word), "no {word}: {said}");
    }
}

/// doctor runs for every user, and says that eBPF is unusable: exit 2.
#[test]
fn doctor_as_an_ordinary_user() {
    let Some(_machine) = shared("doctor_as_an_ordinary_user") else { return };
    let copy = Copy::new("doctor");
    let output = copy.command().arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("CAP_BPF"), "{text}");
    let json = copy.command().args(["doctor", "--format", "json"]).output().unwrap();
    serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap();
}

/// list shows every socket to every user; whose they are it says as far as it may look, and what is missing.
#[test]
fn listing_as_an_ordinary_user() {
    let Some(_machine) = shared("listing_as_an_ordinary_user") else { return };
    let copy = Copy::new("list");
    let listener = TcpListener::bind(place()).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let output = copy.command().args(["list", "--port", &port]).output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("LISTEN ") && line.ends_with(" hidden")), "{text}");
    assert!(said.contains("CAP_SYS_PTRACE") && said.contains("1 socket marked hidden"), "{said}");
    let all = copy.command().args(["list", "--netns", "all", "--port", &port]).output().unwrap();
    let said = String::from_utf8(all.stderr).unwrap();
    assert_eq!(all.status.code(), Some(0), "{said}");
    assert!(said.contains("network namespaces of"), "{said}");
}
