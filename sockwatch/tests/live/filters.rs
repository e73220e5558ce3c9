//! Filters: of what matches, the whole life; of the rest, nothing.
//!
//! What must not show happens first, and what must show after it: when the latter has come, the former would have.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use crate::{
    harness::{Line, Machine, Trace, assert_stories, shared, skip},
    netns::Netns,
    puppet::Puppet,
    workload::{
        CLIENT, LISTENER, SERVER, STORIES, client_closes_first, close_by_fin, converse, free_address, free_port, place,
    },
};

const REFUSED: &str = "active: CLOSE>SYN_SENT reset_received SYN_SENT>CLOSE end refused";

/// Traces `work` with this filter until as many sockets have ended as stories are expected.
#[track_caller]
fn check(machine: Machine, filter: &[&str], expected: &[&str], work: impl FnOnce()) -> crate::harness::Ended {
    let mut trace = Trace::start(machine, filter);
    work();
    trace.until_count(expected.len(), "sockets' ends", |line| line.is("connection"));
    let ended = trace.finish();
    assert_stories(&ended, expected);
    ended
}

/// A conversation at a place of its own, for filters to leave out.
fn noise() {
    converse(place());
}

#[test]
fn port() {
    let Some(machine) = shared("port") else { return };
    let address = place();
    check(machine, &["--port", &address.port().to_string()], &STORIES, || {
        noise();
        converse(address);
    });
}

/// Several ports, in a list and repeated.
#[test]
fn ports() {
    let Some(machine) = shared("ports") else { return };
    let places = [place(), place(), place()];
    let ports = places.map(|place| place.port().to_string());
    let list = format!("{},{}", ports[0], ports[1]);
    let expected = [STORIES, STORIES, STORIES].concat();
    check(machine, &["--port", &list, "--port", &ports[2]], &expected, || {
        noise();
        places.into_iter().for_each(converse);
    });
}

/// Different kinds must all match.
#[test]
fn kinds_must_all_match() {
    let Some(machine) = shared("kinds_must_all_match") else { return };
    let (near, far) = (free_address(), free_address());
    let port = free_port();
    check(machine, &["--port", &port.to_string(), "--addr", &near.to_string()], &STORIES, || {
        converse((near, free_port()).into());
        converse((far, port).into());
        converse((near, port).into());
    });
}

/// A server's local port: the listener and its children, not their clients.
#[test]
fn local_port() {
    let Some(machine) = shared("local_port") else { return };
    let address = place();
    let ended = check(machine, &["--local-port", &address.port().to_string()], &[LISTENER, SERVER], || {
        noise();
        converse(address);
    });
    assert!(
        ended.lines.iter().filter(|line| line.identity().is_some()).all(|line| line.port("local") == address.port())
    );
}

/// A client's local port that connect() chooses: not known yet at CLOSE>SYN_SENT, and still nothing is missing.
#[test]
fn local_port_bound_by_connect() {
    let Some(machine) = shared("local_port_bound_by_connect") else { return };
    let netns = Netns::new("autobind");
    let (noisy, wanted, server) = (free_port(), free_port(), place());
    let ended = check(machine, &["--local-port", &wanted.to_string()], &[CLIENT], || {
        netns.run(|| {
            for port in [noisy, wanted] {
                // Of the calling thread's namespace.
                let set = |name: &str, value: String| fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
                set("ip_unprivileged_port_start", "0".into());
                set("ip_local_port_range", format!("{port} {port}"));
                converse(server);
            }
        });
    });
    let opened = ended.all("transition").next().unwrap();
    assert_eq!(opened.0["new"], "SYN_SENT");
    assert_eq!(opened.pid("by"), Some(std::process::id().into()), "{opened:?}");
    assert_eq!(ended.connection("active").end("local"), format!("127.0.0.1 {wanted}"));
    assert_eq!(ended.connection("active").pid("opener"), Some(std::process::id().into()));
}

/// A client whose connect() fails before its port passes a filter is still rejected or shown as a whole.
#[test]
fn local_port_of_a_refused_client() {
    let Some(machine) = shared("local_port_of_a_refused_client") else { return };
    let (from, noisy, nobody) = (place(), place(), place());
    check(machine, &["--local-port", &from.port().to_string()], &[REFUSED], || {
        for from in [noisy, from] {
            refused_from(from, nobody);
        }
    });
}

fn refused_from(from: SocketAddr, to: SocketAddr) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(client.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    let refused = connect(client.as_raw_fd(), &SockaddrStorage::from(to));
    assert_eq!(refused, Err(nix::errno::Errno::ECONNREFUSED));
}

#[test]
fn remote_port() {
    let Some(machine) = shared("remote_port") else { return };
    let address = place();
    check(machine, &["--remote-port", &address.port().to_string()], &[CLIENT], || {
        noise();
        converse(address);
    });
}

#[test]
fn remote_port_range() {
    let Some(machine) = shared("remote_port_range") else { return };
    // Four neighbours, of which the range leaves out the first and the last.
    let first = 40_000 + (std::process::id() % 1000) as u16 * 4;
    let netns = Netns::new("range");
    let range = format!("{}-{}", first + 1, first + 2);
    check(machine, &["--remote-port", &range, "--netns", &netns.name], &[CLIENT, CLIENT], || {
        netns.run(|| {
            for port in [first, first + 3, first + 1, first + 2] {
                converse(([127, 0, 0, 1], port).into());
            }
        });
    });
}

/// A failed connect() has its CLOSE and its line.
#[test]
fn refused_under_remote_port() {
    let Some(machine) = shared("refused_under_remote_port") else { return };
    let (noisy, address) = (place(), place());
    let ended = check(machine, &["--remote-port", &address.port().to_string()], &[REFUSED], || {
        TcpStream::connect(noisy).unwrap_err();
        TcpStream::connect(address).unwrap_err();
    });
    assert_eq!(ended.connection("active").0["end"], "refused");
    assert_eq!(ended.connection("active").number("error"), Some(111));
}

#[test]
fn ipv4_prefix() {
    let Some(machine) = shared("ipv4_prefix") else { return };
    let (near, far) = (free_address(), free_address());
    let [_, high, low, _] = near.octets();
    check(machine, &["--addr", &format!("127.{high}.{low}.0/24")], &STORIES, || {
        converse((far, free_port()).into());
        converse((near, free_port()).into());
    });
}

#[test]
fn ipv6_prefix() {
    let Some(machine) = shared("ipv6_prefix") else { return };
    let netns = Netns::new("prefix");
    let [near, far] = [free_port(), free_port()].map(|unique| Ipv6Addr::new(0xfd00, 0, unique, 0, 0, 0, 0, 1));
    for address in [near, far] {
        netns.ip(&["address", "add", &format!("{address}/64"), "dev", "lo", "nodad"]);
    }
    let prefix = format!("fd00:0:{:x}::/48", near.segments()[2]);
    check(machine, &["--addr", &prefix], &STORIES, || {
        netns.run(|| {
            converse((Ipv6Addr::LOCALHOST, free_port()).into());
            // The client binds to the destination's own address.
            converse((far, free_port()).into());
            converse((near, free_port()).into());
        });
    });
}

/// An IPv4 prefix matches the v4-mapped ends of IPv6 sockets; the listener on `::` has no such end.
#[test]
fn ipv4_prefix_and_v4_mapped() {
    let Some(machine) = shared("ipv4_prefix_and_v4_mapped") else { return };
    let (near, far) = (free_address(), free_address());
    let ended = check(machine, &["--addr", &near.to_string()], &[CLIENT, SERVER], || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, free_port())).unwrap();
        for address in [far, near] {
            let client = TcpStream::connect((address, listener.local_addr().unwrap().port())).unwrap();
            let (server, _) = listener.accept().unwrap();
            client_closes_first(client, server);
        }
    });
    assert!(ended.connection("passive").end("local").starts_with(&format!("::ffff:{near} ")));
}

#[test]
fn pid_of_a_client() {
    let Some(machine) = shared("pid_of_a_client") else { return };
    let mut client = Puppet::new();
    let mut trace = Trace::start(machine, &["--pid", &client.pid().to_string()]);
    let listener = TcpListener::bind(place()).unwrap();
    let address = listener.local_addr().unwrap();
    // Another process's client.
    let stranger = TcpStream::connect(address).unwrap();
    client_closes_first(stranger, listener.accept().unwrap().0);
    client.tell(&format!("connect {address}"));
    let (server, _) = listener.accept().unwrap();
    server.shutdown(std::net::Shutdown::Write).unwrap();
    trace.until("FIN", |line| line.0["new"] == "CLOSE_WAIT");
    client.tell("close");
    trace.until_finished(1);
    let ended = trace.finish();
    let story = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>LAST_ACK \
                 LAST_ACK>CLOSE end peer-fin";
    assert_stories(&ended, &[story]);
    assert_eq!(ended.connection("active").pid("opener"), Some(client.pid().into()));
}

#[test]
fn pid_of_a_server() {
    let Some(machine) = shared("pid_of_a_server") else { return };
    let mut server = Puppet::new();
    let trace = Trace::start(machine, &["--pid", &server.pid().to_string()]);
    noise();
    let address = place();
    server.tell(&format!("listen {address}"));
    check_server(trace, &mut server, address, &[LISTENER, SERVER]);
}

/// The process listened before the trace began: its listener's birth is not seen, its children's are.
#[test]
fn pid_of_a_server_that_listens_already() {
    let Some(machine) = shared("pid_of_a_server_that_listens_already") else { return };
    let mut server = Puppet::new();
    let address = place();
    server.tell(&format!("listen {address}"));
    let mut trace = Trace::start(machine, &["--pid", &server.pid().to_string()]);
    trace.until("the listener", |line| line.is("listed"));
    noise();
    check_server(trace, &mut server, address, &["listener: is LISTEN LISTEN>CLOSE end stopped", SERVER]);
}

/// A connection that the process had accepted when the trace began.
#[test]
fn pid_of_a_server_with_connections() {
    let Some(machine) = shared("pid_of_a_server_with_connections") else { return };
    let mut server = Puppet::new();
    let address = place();
    server.tell(&format!("listen {address}"));
    let client = TcpStream::connect(address).unwrap();
    server.tell("accept");
    let mut trace = Trace::start(machine, &["--pid", &server.pid().to_string()]);
    trace.until_count(2, "the listener and the connection", |line| line.is("listed"));
    noise();
    let fits = |line: &Line| line.0["new"] == "CLOSE_WAIT";
    client.shutdown(std::net::Shutdown::Write).unwrap();
    trace.until("the client's FIN", fits);
    server.tell("close");
    trace.until_finished(1);
    let ended = trace.finish();
    let story = "unknown: is ESTABLISHED ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>LAST_ACK LAST_ACK>CLOSE end peer-fin";
    assert_stories(&ended, &["listener: is LISTEN", story]);
}

fn check_server(mut trace: Trace, server: &mut Puppet, address: SocketAddr, expected: &[&str]) {
    let client = TcpStream::connect(address).unwrap();
    server.tell("accept");
    close_by_fin(&mut trace, 1, client, || server.tell("close"));
    server.tell("stop");
    trace.until_stopped();
    let ended = trace.finish();
    assert_stories(&ended, expected);
    assert_eq!(ended.connection("passive").pid("acceptor"), Some(server.pid().into()));
    assert!(ended.connection("passive").number("wait_ns").is_some_and(|wait| wait > 0));
}

/// One of two workers that share a listener: its connections only, each from its birth on, before anybody accepted it.
#[test]
fn pid_of_a_prefork_worker() {
    let Some(machine) = shared("pid_of_a_prefork_worker") else { return };
    let address = place();
    let listener = TcpListener::bind(address).unwrap();
    let mut workers = [Puppet::sharing(&listener), Puppet::sharing(&listener)];
    let mut trace = Trace::start(machine, &["--pid", &workers[1].pid().to_string()]);
    noise();
    for worker in &mut workers {
        worker.tell("inherit");
    }
    let mut clients = Vec::new();
    for index in [0, 1, 0, 1] {
        clients.push((index, TcpStream::connect(address).unwrap()));
        workers[index].tell("accept");
    }
    for (index, client) in clients {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        workers[index].tell("wait");
        workers[index].tell("close");
    }
    trace.until_finished(2);
    let ended = trace.finish();
    let passive: Vec<_> = ended.stories().into_iter().filter(|story| !story.starts_with("listener")).collect();
    assert_eq!(passive, [SERVER, SERVER].map(|story| ended.probes.tell(story)));
    for accept in ended.all("accept") {
        assert_eq!(accept.pid("by"), Some(workers[1].pid().into()));
    }
}

/// A cgroup's directory, removed on drop.
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
}

impl Cgroup {
    /// Of version 2.
    pub(crate) fn new(tag: &str) -> Option<Self> {
        Self::at(tag, |kind, _options| kind == "cgroup2")
    }

    /// One that may use so much CPU time, in µs, each 100 ms; of either version.
    pub(crate) fn limited(tag: &str, quota_us: u32) -> Option<Self> {
        let has_cpu = |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|word| word == "cpu");
        if let Some(cgroup) = Self::at(tag, has_cpu) {
            fs::write(cgroup.path.join("cpu.cfs_quota_us"), quota_us.to_string()).ok()?;
            return Some(cgroup);
        }
        let cgroup = Self::new(tag)?;
        fs::write(cgroup.path.parent()?.join("cgroup.subtree_control"), "+cpu").ok()?;
        fs::write(cgroup.path.join("cpu.max"), format!("{quota_us} 100000")).ok()?;
        Some(cgroup)
    }

    fn at(tag: &str, fits: impl Fn(&str, &str) -> bool) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let [_, point, kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
            fits(kind, options).then_some(point)
        });
        let path = Path::new(mount?).join(format!("sockwatch-{}-{tag}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self { path })
    }

    pub(crate) fn join(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn cgroup() {
    let Some(machine) = shared("cgroup") else { return };
    let Some(cgroup) = Cgroup::new("filter") else {
        skip("cgroup", "no writable cgroup v2 hierarchy");
        return;
    };
    let (mut member, mut stranger) = (Puppet::new(), Puppet::new());
    cgroup.join(member.pid());
    check(machine, &["--cgroup", cgroup.path.to_str().unwrap()], &STORIES, || {
        noise();
        stranger.tell(&format!("converse {}", place()));
        member.tell(&format!("converse {}", place()));
    });
    drop(member);
}

/// A cgroup's processes are those of the cgroups below it, too.
#[test]
fn cgroup_below() {
    let Some(machine) = shared("cgroup_below") else { return };
    let Some(above) = Cgroup::new("above") else {
        skip("cgroup_below", "no writable cgroup v2 hierarchy");
        return;
    };
    let below = Cgroup { path: above.path.join("below") };
    fs::create_dir(&below.path).unwrap();
    let mut member = Puppet::new();
    below.join(member.pid());
    // Its path within the hierarchy works as well.
    let path = Path::new("/").join(above.path.file_name().unwrap());
    check(machine, &["--cgroup", path.to_str().unwrap()], &STORIES, || {
        noise();
        member.tell(&format!("converse {}", place()));
    });
    drop((member, below));
}

#[test]
fn netns_by_name() {
    let Some(machine) = shared("netns_by_name") else { return };
    let (wanted, other) = (Netns::new("wanted"), Netns::new("noise"));
    let address = place();
    let ended = check(machine, &["--netns", &wanted.name], &STORIES, || {
        converse(address);
        other.run(|| converse(address));
        wanted.run(|| converse(address));
    });
    assert_eq!(ended.connection("passive").netns(), wanted.inode());
}

#[test]
fn netns_by_path_and_number() {
    let Some(machine) = shared("netns_by_path_and_number") else { return };
    let (one, other, noisy) = (Netns::new("path"), Netns::new("number"), Netns::new("neither"));
    let address = place();
    let words = format!("/run/netns/{},{}", one.name, other.inode());
    check(machine, &["--netns", &words], &[STORIES, STORIES].concat(), || {
        for netns in [&noisy, &one, &other] {
            netns.run(|| converse(address));
        }
    });
}
