//! `sockwatch list`: real sockets in every standing, and `ss` beside it.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Command, id},
    time::Instant,
};

use serde_json::Value;
use sockwatch::source::table::{Asked, Namespace, NamespaceError, Table};

use crate::{
    filters::Cgroup,
    harness::{patience, shared, skip, sockwatch},
    netns::Netns,
    puppet::Puppet,
    workload::{client_closes_first, free_address, linger_zero, place},
};

/// `sockwatch list --format json ARGUMENTS`: its sockets. Every line fits the schema.
fn list(arguments: &[&str]) -> Vec<Value> {
    let output = sockwatch().args(["list", "--format", "json"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let schema = sockwatch().arg("list-schema").output().unwrap().stdout;
    let schema = jsonschema::validator_for(&serde_json::from_slice(&schema).unwrap()).unwrap();
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    let mut lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        schema.validate(line).unwrap_or_else(|error| panic!("does not fit the schema: {error}: {line}"));
    }
    assert_eq!((&lines[0]["type"], &lines[lines.len() - 1]["type"]), (&"list".into(), &"summary".into()));
    lines.retain(|line| line["type"] == "socket");
    lines
}

/// Lists the sockets of an address until what is asked for is so; the kernel takes a moment for some of it.
#[track_caller]
fn list_until(address: SocketAddr, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let start = Instant::now();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    loop {
        let sockets = list(&["--addr", &ip, "--port", &port]);
        if is_so(&sockets) {
            return sockets;
        }
        assert!(start.elapsed() < patience(), "not {what}: {sockets:#?}");
    }
}

/// The one socket in this state and standing.
#[track_caller]
fn only<'a>(sockets: &'a [Value], state: &str, standing: &str) -> &'a Value {
    let found: Vec<_> = sockets.iter().filter(|it| it["state"] == state && it["standing"] == standing).collect();
    assert_eq!(found.len(), 1, "{state} {standing}: {sockets:#?}");
    found[0]
}

fn own_place() -> SocketAddr {
    (free_address(), place().port()).into()
}

/// The descriptors of this process and of these. Whatever another test starts holds all of ours until it has called
/// exec.
fn holders(socket: &Value, others: &[u32]) -> Vec<(u64, u64)> {
    let holders = socket["holders"].as_array().unwrap();
    let numbers = holders.iter().map(|holder| (holder["pid"].as_u64().unwrap(), holder["fd"].as_u64().unwrap()));
    numbers.filter(|(pid, _)| *pid == u64::from(id()) || others.iter().any(|other| *pid == u64::from(*other))).collect()
}

/// Three connections wait: one open, one whose client has closed, one that its client has reset.
#[test]
fn queued_children_are_told_of_by_their_listener() {
    let Some(_machine) = shared("queued_children_are_told_of_by_their_listener") else { return };
    let address = own_place();
    let listener = TcpListener::bind(address).unwrap();
    let _open = TcpStream::connect(address).unwrap();
    let mut closed = TcpStream::connect(address).unwrap();
    closed.write_all(b"hello").unwrap();
    closed.shutdown(Shutdown::Write).unwrap();
    let reset = TcpStream::connect(address).unwrap();
    linger_zero(&reset);
    drop(reset);
    let sockets = list_until(address, "queued", |sockets| {
        sockets.iter().any(|it| it["state"] == "LISTEN" && it["queue"]["dead"] == 1)
    });
    let queue = &only(&sockets, "LISTEN", "held")["queue"];
    assert_eq!(queue["depth"], 3, "{queue}");
    assert_eq!(queue["children"], serde_json::json!({ "CLOSE_WAIT": 1, "ESTABLISHED": 1 }));
    let child = only(&sockets, "CLOSE_WAIT", "queued");
    assert_eq!(
        (&child["unread_bytes"], &child["unread_fin"], &child["inode"]),
        (&5.into(), &true.into(), &Value::Null)
    );
    assert_eq!(child["listeners"][0], only(&sockets, "LISTEN", "held")["cookie"]);
    assert_eq!(holders(child, &[]), [(id().into(), listener.as_raw_fd() as u64)], "its listener's");
    only(&sockets, "ESTABLISHED", "queued");
    only(&sockets, "ESTABLISHED", "held");

    let pid = id().to_string();
    let (ip, state) = (address.ip().to_string(), ["--state", "close-wait"]);
    assert_eq!(list(&[&["--addr", &ip, "--pid", &pid][..], &state].concat()).len(), 1, "its listener's process's");
    let text = sockwatch().args(["list", "--addr", &ip]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("queued: 1 CLOSE_WAIT, 1 ESTABLISHED, 1 reset by their clients"), "{text}");
}

#[test]
fn minisocks_count_down() {
    let Some(_machine) = shared("minisocks_count_down") else { return };
    let address = own_place();
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(address).unwrap();
    client_closes_first(client, listener.accept().unwrap().0);
    // This one's server keeps its end: the client becomes an orphan.
    let client = TcpStream::connect(address).unwrap();
    let (_server, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    list_until(address, "FIN_WAIT2", |now| now.iter().any(|it| it["state"] == "FIN_WAIT2"));
    drop(client);
    let both = |sockets: &[Value]| sockets.iter().filter(|it| it["standing"] == "minisock").count() == 2;
    let first = list_until(address, "two minisocks", both);
    let expires = |sockets: &[Value], state| {
        let minisock = only(sockets, state, "minisock");
        assert!(minisock["holders"] == Value::Array(vec![]) && minisock["timer"]["kind"] == "time_wait", "{minisock}");
        minisock["timer"]["expires_ms"].as_u64().unwrap()
    };
    let (time_wait, orphan) = (expires(&first, "TIME_WAIT"), expires(&first, "FIN_WAIT2"));
    assert!((40_000..=60_000).contains(&time_wait) && (1..=60_000).contains(&orphan), "{time_wait} {orphan}");
    assert_eq!(only(&first, "TIME_WAIT", "minisock")["age_at_least_ms"], 60_000 - time_wait);
    list_until(address, "later", |now| expires(now, "TIME_WAIT") < time_wait && expires(now, "FIN_WAIT2") < orphan);
}

/// A FIN that finds no window waits in FIN_WAIT1 with everything before it, and nobody holds it.
#[test]
fn an_orphan_has_no_process() {
    let Some(_machine) = shared("an_orphan_has_no_process") else { return };
    let address = own_place();
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (_server, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    let mut written = 0;
    // Until both ends' buffers stay full.
    let stuck = |sockets: &[Value]| sockets.iter().any(|it| it["timer"]["kind"] == "zero_window_probe");
    let start = Instant::now();
    while !stuck(&list(&["--remote-port", &address.port().to_string(), "--addr", &address.ip().to_string()])) {
        while let Ok(count) = client.write(&[0; 65_536]) {
            written += count as u64;
        }
        assert!(start.elapsed() < patience(), "the window stays open");
    }
    drop(client);
    let sockets = list_until(address, "an orphan", |sockets| sockets.iter().any(|it| it["standing"] == "orphan"));
    let (orphan, server) = (only(&sockets, "FIN_WAIT1", "orphan"), only(&sockets, "ESTABLISHED", "held"));
    assert!(orphan["holders"] == Value::Array(vec![]) && orphan["inode"].is_null(), "{orphan}");
    let payload = orphan["unacked_bytes"].as_u64().unwrap() + server["unread_bytes"].as_u64().unwrap();
    assert_eq!(payload, written, "without the FIN");
}

#[test]
fn a_shared_listener_names_every_holder() {
    let Some(_machine) = shared("a_shared_listener_names_every_holder") else { return };
    let address = own_place();
    let listener = TcpListener::bind(address).unwrap();
    let mut worker = Puppet::sharing(&listener);
    worker.tell("inherit");
    let _client = TcpStream::connect(address).unwrap();
    let sockets = list_until(address, "queued", |sockets| sockets.iter().any(|it| it["standing"] == "queued"));
    let (shared, child) = (only(&sockets, "LISTEN", "held"), only(&sockets, "ESTABLISHED", "queued"));
    let mut pids: Vec<_> = holders(shared, &[worker.pid()]).into_iter().map(|(pid, _)| pid).collect();
    pids.dedup();
    let mut expected = [u64::from(id()), worker.pid().into()];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(holders(child, &[worker.pid()]), holders(shared, &[worker.pid()]));
}

#[test]
fn other_namespaces_are_listed_by_name_number_and_all_at_once() {
    let Some(_machine) = shared("other_namespaces_are_listed_by_name_number_and_all_at_once") else { return };
    let netns = Netns::new("list");
    let address: SocketAddr = (free_address(), 80).into();
    // The thread ends, the socket stays.
    let listener = netns.run(|| TcpListener::bind(address).unwrap());
    let (number, ip) = (netns.inode().to_string(), address.ip().to_string());
    assert!(list(&["--addr", &ip]).is_empty(), "not here");
    for name in [&netns.name[..], &number, "all"] {
        let sockets = list(&["--netns", name, "--addr", &ip]);
        let socket = only(&sockets, "LISTEN", "held");
        assert_eq!((socket["netns"].as_u64(), sockets.len()), (Some(netns.inode()), 1), "{name}");
        assert_eq!(holders(socket, &[]), [(id().into(), listener.as_raw_fd() as u64)]);
    }
    let both = sockwatch().args(["list", "--netns", &format!("{},{number}", netns.name)]).output().unwrap();
    assert_eq!(String::from_utf8(both.stdout).unwrap().lines().count(), 2, "a namespace under two names is one");
}

/// A queued child is no process's, but was made in its listener's cgroup.
#[test]
fn a_cgroup_s_sockets_are_its_processes_and_those_made_there() {
    let name = "a_cgroup_s_sockets_are_its_processes_and_those_made_there";
    let Some(_machine) = shared(name) else { return };
    let Some(cgroup) = Cgroup::new("list") else { return skip(name, "no writable cgroup v2 hierarchy") };
    let address = own_place();
    let mut member = Puppet::new();
    cgroup.join(member.pid());
    member.tell(&format!("listen {address}"));
    let _client = TcpStream::connect(address).unwrap();
    list_until(address, "queued", |sockets| sockets.iter().any(|it| it["standing"] == "queued"));
    let sockets = list(&["--cgroup", cgroup.path.to_str().unwrap(), "--addr", &address.ip().to_string()]);
    let (listener, child) = (only(&sockets, "LISTEN", "held"), only(&sockets, "ESTABLISHED", "queued"));
    assert_eq!(sockets.len(), 2, "not the client: {sockets:#?}");
    let path = format!("/{}", cgroup.path.file_name().unwrap().to_str().unwrap());
    assert_eq!((&listener["cgroup"], &child["cgroup"]), (&path.clone().into(), &path.into()));
    drop(member);
}

/// A table is listed from any thread once it is open, and while it is open its namespace lives.
#[test]
fn a_table_stays_in_its_namespace() {
    let Some(_machine) = shared("a_table_stays_in_its_namespace") else { return };
    let netns = Netns::new("table");
    let address: SocketAddr = (free_address(), 80).into();
    let inode = netns.inode() as u32;
    let namespace = Namespace::find(inode).unwrap();
    let mut table = Table::of(&namespace).unwrap();
    drop(namespace);
    let listener = netns.run(|| TcpListener::bind(address).unwrap());
    let listed = |table: &mut Table| table.list(Asked::Sockets).unwrap().sockets;
    let sockets = listed(&mut table);
    assert!(sockets.iter().all(|it| it.key.netns == inode) && sockets.len() == 1, "{sockets:?}");
    let mut client = netns.run(|| TcpStream::connect(address).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    server.shutdown(Shutdown::Both).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop((client, listener));
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    drop(server);
    drop(netns);
    assert!(matches!(Namespace::find(inode), Err(NamespaceError::NotFound { .. })), "nobody is in it");
    let start = Instant::now();
    while !matches!(listed(&mut table)[..], [minisock] if minisock.minisock) {
        assert!(start.elapsed() < patience(), "{:?}", listed(&mut table));
    }
}

/// What `ss` knows, too: the same sockets, states, queues as the kernel counts them, inodes and holders.
#[test]
fn list_agrees_with_ss() {
    let Some(_machine) = shared("list_agrees_with_ss") else { return };
    let address = own_place();
    let ss = |ip: &str| Command::new("ss").args(["-tanpeH", "src", ip, "or", "dst", ip]).output();
    let ip = address.ip().to_string();
    if ss(&ip).is_err() {
        return skip("list_agrees_with_ss", "no ss here");
    }
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    drop((server, listener.accept().unwrap()));
    let minisock = |sockets: &[Value]| sockets.iter().any(|it| it["standing"] == "minisock");
    let sockets = list_until(address, "settled", minisock);
    let mut ours: Vec<_> = sockets.iter().map(as_ss).collect();
    let mut theirs: Vec<_> = String::from_utf8(ss(&ip).unwrap().stdout).unwrap().lines().map(parse_ss).collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

/// State, ends, inode and this process's descriptors.
type Common = (String, String, String, u64, Vec<(u64, u64)>);

fn as_ss(socket: &Value) -> Common {
    let text = |name: &str| socket[name].as_str().unwrap().to_owned();
    let state = match socket["state"].as_str().unwrap() {
        "ESTABLISHED" => "ESTAB".to_owned(),
        state => state.replace('_', "-").replace("WAIT1", "WAIT-1").replace("WAIT2", "WAIT-2"),
    };
    let held = if socket["standing"] == "held" { holders(socket, &[]) } else { Vec::new() };
    (state, text("local"), text("remote"), socket["inode"].as_u64().unwrap_or(0), held)
}

/// `LISTEN 0 128 127.0.0.1:80 0.0.0.0:* users:(("a",pid=1,fd=3)) ino:12 sk:1`
fn parse_ss(line: &str) -> Common {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |text: &str, name: &str| -> Vec<u64> {
        let after = text.split(name).skip(1);
        after.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()).collect()
    };
    let inode = number(line, "ino:").first().copied().unwrap_or(0);
    let mut held: Vec<_> = number(line, "pid=").into_iter().zip(number(line, "fd=")).collect();
    held.retain(|(pid, _)| *pid == u64::from(id()));
    held.sort_unstable();
    (words[0].into(), words[3].into(), words[4].into(), inode, held)
}
