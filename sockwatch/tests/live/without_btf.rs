//! A kernel without BTF, as sockwatch sees it: `/sys/kernel/btf` is hidden from it, in a mount namespace of its own. The
//! classic tracepoints and accept still tell the stream; what they cannot tell is absent, never guessed.

use std::{
    io::{PipeReader, Read, pipe},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::socket::{MsgFlags, accept, recv},
    unistd::close,
};

use crate::{
    harness::{Ended, Machine, Trace, alone, assert_stories, shared, skip, sockwatch},
    puppet::Puppet,
    workload::{LISTENER, client_closes_first, connect_from, converse, free_port, linger_zero, place},
};

const CLIENT: &str = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>FIN_WAIT1 FIN_WAIT1>FIN_WAIT2 \
                      FIN_WAIT2>CLOSE end -";
const SERVER: &str = "passive: LISTEN>SYN_RECV SYN_RECV>ESTABLISHED accept ESTABLISHED>CLOSE_WAIT \
                      CLOSE_WAIT>LAST_ACK LAST_ACK>CLOSE end -";
const STORIES: [&str; 3] = [LISTENER, CLIENT, SERVER];
const UNMATCHED_SERVER: &str = "passive: LISTEN>SYN_RECV SYN_RECV>ESTABLISHED ESTABLISHED>CLOSE_WAIT \
                                CLOSE_WAIT>LAST_ACK LAST_ACK>CLOSE end -";

const ENTRY: &str = "SOCKWATCH_TEST_WITHOUT_BTF";
const BTF: &str = "/sys/kernel/btf";

/// Becomes sockwatch without BTF. Its standard input is what sockwatch's output goes to: libtest writes to its own.
#[test]
#[ignore = "the entry point of the other tests' processes"]
fn hide() {
    let Some(arguments) = std::env::var_os(ENTRY) else { return };
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).unwrap();
    if Path::new(BTF).exists() {
        mount(Some("none"), BTF, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    let output = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let error = sockwatch().args(arguments.to_str().unwrap().split(' ')).stdout(output).exec();
    panic!("{error}");
}

/// Runs sockwatch with these arguments on a kernel without BTF.
fn spawn(arguments: &[&str]) -> (Child, PipeReader) {
    let (ours, theirs) = pipe().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_btf::hide", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ENTRY, arguments.join(" "))
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, ours)
}

/// Exit code, output and errors of a run that ends by itself.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let (child, mut output) = spawn(arguments);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let ended = child.wait_with_output().unwrap();
    (ended.status.code(), text, String::from_utf8(ended.stderr).unwrap())
}

/// A trace with this alternative of accept; `None`, and a line that says why, where the kernel lacks it.
fn start(name: &str, accept: &str, filter: &[&str]) -> Option<Trace> {
    start_on(shared(name)?, name, accept, filter)
}

fn start_on(machine: Machine, name: &str, accept: &str, filter: &[&str]) -> Option<Trace> {
    let choice = format!("accept={accept}");
    let mut arguments = vec!["trace", "--format", "json", "--source", "ebpf", "--latency", "5ms", "--probe", &choice];
    arguments.extend(filter);
    let (child, output) = spawn(&arguments);
    let trace = Trace::follow(machine, child, output, &arguments.join(" "));
    let tracing = trace.said.last().unwrap();
    for taken in ["state=tracepoint", "destroy=tracepoint", "enqueue=off"] {
        assert!(tracing.contains(taken), "{:?}", trace.said);
    }
    if !tracing.contains(&format!(" {choice} ")) {
        skip(name, trace.said.iter().find(|said| said.contains("no accept probe")).unwrap());
        return None;
    }
    Some(trace)
}

/// Traces `work` at a place of its own, by port, until as many sockets have ended as stories are expected.
#[track_caller]
fn check(name: &str, accept: &str, expected: &[&str], work: impl FnOnce(SocketAddr)) -> Option<Ended> {
    check_at(name, accept, place(), expected, work)
}

#[track_caller]
fn check_at(
    name: &str,
    accept: &str,
    address: SocketAddr,
    expected: &[&str],
    work: impl FnOnce(SocketAddr),
) -> Option<Ended> {
    let mut trace = start(name, accept, &["--port", &address.port().to_string()])?;
    converse(place());
    work(address);
    trace.until_count(expected.len(), "sockets' ends", |line| line.is("connection"));
    let ended = trace.finish();
    assert_stories(&ended, expected);
    Some(ended)
}

/// What is not known is absent.
fn assert_nothing_invented(ended: &Ended) {
    for line in &ended.lines {
        assert!(line.0["socket"]["netns"].is_null(), "{line:?}");
        for name in ["queue_depth", "queue_limit", "acked_bytes", "received_bytes", "unread_bytes", "error"] {
            assert!(line.0[name].is_null(), "{name}: {line:?}");
        }
    }
}

#[track_caller]
fn conversation(name: &str, accept: &str, address: SocketAddr) {
    let Some(ended) = check_at(name, accept, address, &STORIES, converse) else { return };
    assert_nothing_invented(&ended);
    let own = Some(u64::from(std::process::id()));
    let server = ended.connection("passive");
    assert_eq!(server.pid("acceptor"), own);
    assert!(server.number("wait_ns").is_some_and(|wait| wait > 0), "{server:?}");
    assert_eq!(server.number("fd").is_some(), accept == "syscall", "{server:?}");
    assert_eq!(ended.connection("active").pid("opener"), own);
    assert_eq!(ended.connection("active").end("local"), server.end("remote"));
    assert_eq!(ended.connection("listener").end("local"), server.end("local"));
    assert_eq!(server.end("local"), format!("{} {}", address.ip(), address.port()));
    assert_eq!(ended.counts["unmatched"], 0);
}

#[test]
fn conversation_by_syscall() {
    conversation("conversation_by_syscall", "syscall", place());
}

#[test]
fn conversation_by_kretprobe() {
    conversation("conversation_by_kretprobe", "kretprobe", place());
}

#[test]
fn ipv6_by_syscall() {
    conversation("ipv6_by_syscall", "syscall", (Ipv6Addr::LOCALHOST, free_port()).into());
}

#[test]
fn ipv6_by_kretprobe() {
    conversation("ipv6_by_kretprobe", "kretprobe", (Ipv6Addr::LOCALHOST, free_port()).into());
}

/// A listener of both families: its child is IPv6, its client IPv4.
#[test]
fn v4_mapped() {
    let Some(ended) = check("v4_mapped", "syscall", &STORIES, |address| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        client_closes_first(client, server);
    }) else {
        return;
    };
    assert!(ended.connection("passive").end("local").starts_with("::ffff:127.0.0.1 "));
    assert!(ended.connection("active").end("remote").starts_with("127.0.0.1 "));
}

#[test]
fn refused_without_btf() {
    let story = "active: CLOSE>SYN_SENT reset_received SYN_SENT>CLOSE end refused";
    check("refused_without_btf", "syscall", &[story], |address| {
        TcpStream::connect(address).unwrap_err();
    });
}

/// Who received a RST knows how it ended; who sent it does not, here.
#[test]
fn client_resets_without_btf() {
    let server = "passive: LISTEN>SYN_RECV SYN_RECV>ESTABLISHED accept reset_received ESTABLISHED>CLOSE end peer-rst";
    let client = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>CLOSE end -";
    check("client_resets_without_btf", "syscall", &[LISTENER, server, client], |address| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        linger_zero(&client);
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// The port that connect() chooses is not known at `CLOSE>SYN_SENT`, nor is the one of a former life taken for it.
#[test]
fn local_port_without_btf() {
    let (name, from, to) = ("local_port_without_btf", place(), place());
    let Some(mut trace) = start(name, "syscall", &["--local-port", &from.port().to_string()]) else { return };
    let listener = TcpListener::bind(to).unwrap();
    for from in [place(), from] {
        let client = connect_from(from, to);
        client_closes_first(client, listener.accept().unwrap().0);
    }
    trace.until_finished(1);
    let ended = trace.finish();
    assert_stories(&ended, &[CLIENT]);
    assert_eq!(ended.connection("active").port("local"), from.port());
}

#[track_caller]
fn process(name: &str, accept: &str) {
    let mut owner = Puppet::new();
    let Some(mut trace) = start(name, accept, &["--pid", &owner.pid().to_string()]) else { return };
    assert!(trace.said.iter().any(|said| said.contains("no BTF; sockets opened before")), "{:?}", trace.said);
    converse(place());
    owner.tell(&format!("converse {}", place()));
    trace.until_count(3, "sockets' ends", |line| line.is("connection"));
    let ended = trace.finish();
    assert_stories(&ended, &STORIES);
    assert_eq!(ended.connection("passive").pid("acceptor"), Some(owner.pid().into()));
    assert_eq!(ended.counts["unmatched"], 0);
}

#[test]
fn process_by_syscall() {
    process("process_by_syscall", "syscall");
}

#[test]
fn process_by_kretprobe() {
    process("process_by_kretprobe", "kretprobe");
}

/// Who accepts without asking for the other end's address is not told apart: counted, not guessed. Alone: others' traces
/// would count it too.
#[test]
fn accept_without_address() {
    let (name, address) = ("accept_without_address", place());
    let Some(machine) = alone(name) else { return };
    let filter = ["--port", &address.port().to_string()];
    let Some(mut trace) = start_on(machine, name, "syscall", &filter) else { return };
    let listener = TcpListener::bind(address).unwrap();
    serve_anonymously(&listener, TcpStream::connect(address).unwrap());
    drop(listener);
    trace.until_count(3, "sockets' ends", |line| line.is("connection"));
    let ended = trace.finish();
    assert_stories(&ended, &[LISTENER, CLIENT, UNMATCHED_SERVER]);
    // The machine's other processes may accept so at the same time.
    assert!(ended.counts["unmatched"] >= 1, "{:?}", ended.counts);
    let losses = &ended.lines.last().unwrap().0["losses"]["accepts_unmatched"];
    assert_eq!(losses.as_u64(), Some(ended.counts["unmatched"]));
}

/// accept() with no room for an address, and the end of the connection as in [`client_closes_first`].
fn serve_anonymously(listener: &TcpListener, mut client: TcpStream) {
    let server = accept(listener.as_raw_fd()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(recv(server, &mut [0], MsgFlags::empty()), Ok(0));
    close(server).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// Two connections from one remote end wait at once: by that end alone neither can be told.
#[test]
fn one_remote_end_twice() {
    let (name, from, to) = ("one_remote_end_twice", place(), [place(), place()]);
    let ports = format!("{},{}", to[0].port(), to[1].port());
    let Some(machine) = alone(name) else { return };
    let Some(mut trace) = start_on(machine, name, "syscall", &["--port", &ports]) else { return };
    let listeners = to.map(|address| TcpListener::bind(address).unwrap());
    let clients = to.map(|to| connect_from(from, to));
    for (listener, client) in listeners.iter().zip(clients) {
        client_closes_first(client, listener.accept().unwrap().0);
    }
    drop(listeners);
    trace.until_count(6, "sockets' ends", |line| line.is("connection"));
    let ended = trace.finish();
    let expected = [LISTENER, CLIENT, UNMATCHED_SERVER];
    assert_stories(&ended, &[expected, expected].concat());
    assert!(ended.counts["unmatched"] >= 2, "{:?}", ended.counts);
}

/// doctor works, and says what is missing: exit 1, not 2.
#[test]
fn doctor_says_what_is_missing() {
    let Some(_machine) = shared("doctor_says_what_is_missing") else { return };
    let (code, text, _) = run(&["doctor"]);
    assert_eq!(code, Some(1), "{text}");
    let missing = [
        "no BTF",
        "network namespaces",
        "cookies",
        "how connections ended",
        "handshake times",
        "RSTs sent",
        "SYN-ACKs",
    ];
    for words in missing {
        assert!(text.contains(words), "no {words}: {text}");
    }
    assert!(text.contains("self-test         ok") && !text.contains("UNUSABLE"), "{text}");
    let (code, json, _) = run(&["doctor", "--format", "json"]);
    assert_eq!(code, Some(1));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["verdict"], "reduced");
}

/// A filter that only BTF could serve is refused, with the reason.
#[test]
fn a_namespace_is_not_found() {
    let Some(_machine) = shared("a_namespace_is_not_found") else { return };
    let (code, text, said) = run(&["trace", "--source", "ebpf", "--netns", "/proc/self/ns/net", "--duration", "1ms"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(text.is_empty() && said.contains("no BTF") && said.contains("network namespace"), "{said}");
}
