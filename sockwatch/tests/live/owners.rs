//! Who owns a connection: at accept, and after its descriptor has moved; against what `/proc` and `ss` say.

use std::{
    fs,
    io::{IoSlice, IoSliceMut, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio, id},
    thread,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::{
    harness::{Line, Machine, Trace, shared},
    puppet::Puppet,
    workload::place,
};

fn trace(machine: Machine, address: SocketAddr) -> Trace {
    Trace::start(machine, &["--port", &address.port().to_string(), "--reconcile", "100ms"])
}

/// Reads until a server's end has this owner, and returns that line.
fn until_owned(trace: &mut Trace, kind: &str, pid: u32) -> Line {
    let fits = |line: &Line| line.is(kind) && line.role() == "passive" && line.0["socket"]["owner"]["pid"] == pid;
    trace.until(&format!("a {kind} by {pid}"), fits);
    trace.seen.iter().find(|line| fits(line)).cloned().unwrap()
}

/// What `ss` says of the server's end of this connection: `users:(("nginx",pid=812,fd=6))`.
fn users(client: &TcpStream) -> String {
    let (local, remote) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    let filter = format!("sport = :{} and dport = :{}", local.port(), remote.port());
    let output = Command::new("ss").args(["-Htnp", &filter]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// `/proc/PID/fd/FD` is a socket.
fn is_socket(pid: u32, fd: i64) -> bool {
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|link| link.to_string_lossy().starts_with("socket:["))
}

/// Workers share a listener that their parent opened: each connection is its acceptor's.
#[test]
fn prefork_workers() {
    let Some(machine) = shared("prefork_workers") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let listener = TcpListener::bind(address).unwrap();
    let mut workers = [Puppet::sharing(&listener), Puppet::sharing(&listener)];
    for worker in &mut workers {
        let client = TcpStream::connect(address).unwrap();
        worker.tell("inherit");
        worker.tell("accept");
        let accept = until_owned(&mut trace, "accept", worker.pid());
        let fd = accept.number("fd").filter(|_| trace.probes.has("accept-return"));
        assert!(fd.is_none_or(|fd| is_socket(worker.pid(), fd)), "{accept:?}");
        let users = users(&client);
        assert!(users.contains(&format!("pid={},", worker.pid())), "{users}");
        assert!(fd.is_none_or(|fd| users.contains(&format!("fd={fd})"))), "{users} {accept:?}");
    }
    drop(workers);
    drop(listener);
    trace.until_stopped();
    let ended = trace.finish();
    assert_eq!(ended.all("heir").filter(|line| line.role() == "passive").count(), 0, "nothing was passed on");
}

/// The acceptor is the thread; its process has a name of its own.
#[test]
fn threads() {
    let Some(machine) = shared("threads") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let accept = || {
        let tid = nix::unistd::gettid().as_raw();
        (listener.accept().unwrap().0, tid)
    };
    let (server, tid) = thread::scope(|scope| {
        let thread = thread::Builder::new().name("picks up".into()).spawn_scoped(scope, accept).unwrap();
        thread.join().unwrap()
    });
    let accepted = until_owned(&mut trace, "accept", id());
    let owner = &accepted.0["socket"]["owner"];
    assert_eq!((&owner["comm"], &owner["tid"]), (&"picks up".into(), &tid.into()), "{accepted:?}");
    let process = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(owner["process"], process.trim_end(), "{accepted:?}");
    drop((server, client, listener));
    trace.until_stopped();
    trace.finish();
}

/// A connection that this process accepted.
fn accepted(trace: &mut Trace, address: SocketAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let server = listener.accept().unwrap().0;
    until_owned(trace, "accept", id());
    (listener, client, server)
}

/// Reads until the server's end has been found with this process, and checks that `ss` agrees.
fn until_heir(trace: &mut Trace, client: &TcpStream, pid: u32) -> Line {
    let line = until_owned(trace, "heir", pid);
    assert_eq!((line.pid("by"), line.pid("former")), (Some(pid.into()), Some(id().into())), "{line:?}");
    let users = users(client);
    assert!(users.contains(&format!("pid={pid},")), "{users}");
    line
}

/// A descriptor in a message to another process (`SCM_RIGHTS`).
#[test]
fn passed_to_another_process() {
    let Some(machine) = shared("passed_to_another_process") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let (listener, client, server) = accepted(&mut trace, address);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut puppet = Puppet::with_stderr(theirs.into());
    send(&ours, &server);
    puppet.tell("receive");
    drop(server);
    until_heir(&mut trace, &client, puppet.pid());
    puppet.tell("close");
    drop((client, listener));
    trace.until_stopped();
    let ended = trace.finish();
    let line = ended.connection("passive");
    assert_eq!((line.pid("acceptor"), line.pid("heir")), (Some(id().into()), Some(puppet.pid().into())), "{line:?}");
    assert_eq!(line.0["socket"]["owner"]["pid"], puppet.pid(), "{line:?}");
}

/// Both hold it: its owner stays, until the other one is the last to close it.
#[test]
fn shared_with_another_process() {
    let Some(machine) = shared("shared_with_another_process") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let (listener, client, server) = accepted(&mut trace, address);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut puppet = Puppet::with_stderr(theirs.into());
    send(&ours, &server);
    puppet.tell("receive");
    // A connection from before is passed on later: by then the first one's holders have been looked at.
    let other = TcpStream::connect(address).unwrap();
    let second = listener.accept().unwrap().0;
    send(&ours, &second);
    puppet.tell("receive");
    drop(second);
    let line = until_heir(&mut trace, &other, puppet.pid());
    let (first, second) = (client.local_addr().unwrap().to_string(), other.local_addr().unwrap().to_string());
    assert_eq!(line.0["socket"]["remote"], second, "{line:?}");
    drop((server, client, other, listener));
    drop(puppet);
    trace.until_stopped();
    let ended = trace.finish();
    let heirs: Vec<_> = ended.all("heir").filter(|line| line.role() == "passive").collect();
    let remotes: Vec<_> = heirs.iter().map(|line| &line.0["socket"]["remote"]).collect();
    assert_eq!(remotes, [&second, &first], "{heirs:?}");
}

/// As inetd does: accept, fork, exec, close.
#[test]
fn inherited_by_another_program() {
    let Some(machine) = shared("inherited_by_another_program") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let (listener, client, server) = accepted(&mut trace, address);
    let mut cat = Command::new("cat").stdin(OwnedFd::from(server)).stdout(Stdio::null()).spawn().unwrap();
    let line = until_heir(&mut trace, &client, cat.id());
    assert_eq!(line.0["by"]["comm"], "cat", "{line:?}");
    drop(client);
    assert!(cat.wait().unwrap().success());
    drop(listener);
    trace.until_stopped();
    trace.finish();
}

/// The same process runs another program.
#[test]
fn kept_by_exec() {
    let Some(machine) = shared("kept_by_exec") else { return };
    let address = place();
    let mut trace = trace(machine, address);
    let (listener, mut client, server) = accepted(&mut trace, address);
    // The command goes at once: it would keep the descriptor here, too.
    let stdin = OwnedFd::from(server);
    let mut shell =
        Command::new("sh").args(["-c", "read line; exec cat"]).stdin(stdin).stdout(Stdio::null()).spawn().unwrap();
    until_heir(&mut trace, &client, shell.id());
    client.write_all(b"go on\n").unwrap();
    trace.until("another program", |line| {
        line.is("heir") && line.0["by"]["comm"] == "cat" && line.pid("former") == Some(shell.id().into())
    });
    drop(client);
    assert!(shell.wait().unwrap().success());
    drop(listener);
    trace.until_stopped();
    trace.finish();
}

/// Sends a descriptor.
fn send(to: &UnixStream, stream: &TcpStream) {
    let descriptors = [stream.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(to, &[IoSlice::new(b"!")], &mut ancillary, SendFlags::empty()).unwrap();
}

/// Receives one.
pub(crate) fn receive(from: impl AsFd) -> std::io::Result<TcpStream> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _no_descriptor => None,
    });
    descriptors.next().map(TcpStream::from).ok_or_else(|| std::io::Error::other("no descriptor in the message"))
}
