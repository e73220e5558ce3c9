//! Against the running kernel: loopback sockets, and what its table says of them.

use std::{
    io::Read,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::id,
    sync::atomic::{AtomicU8, Ordering},
    time::Instant,
};

use super::*;
use crate::tcp::{
    endpoint::Endpoint,
    event::EventKind,
    filter::{Cgroup, Ports},
    state::TcpState,
};

/// A loopback address of this process and test alone: on a shared one, minisocks of earlier runs that had the same port
/// would be told too.
fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let [.., high, low] = id().to_be_bytes();
    format!("127.{high}.{low}.{}:0", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn pair(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    (listener, client, server)
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.ip(), port: address.port() }
}

fn find(local: SocketAddr, remote: Option<SocketAddr>) -> Option<Listed> {
    let remote = |listed: &Listed| match remote {
        Some(remote) => listed.remote == endpoint(remote),
        None => listed.remote.is_unspecified(),
    };
    list().unwrap().into_iter().find(|listed| listed.local == endpoint(local) && remote(listed))
}

/// Lists until the socket is in this state, for at most 5 seconds.
#[track_caller]
fn wait_for(local: SocketAddr, remote: SocketAddr, state: TcpState) -> Listed {
    let start = Instant::now();
    loop {
        let listed = find(local, Some(remote));
        match listed {
            Some(listed) if listed.state == state => return listed,
            _ => assert!(start.elapsed() < Duration::from_secs(5), "not {state}: {listed:?}"),
        }
    }
}

/// Lists until the socket is not listed, for at most 5 seconds.
#[track_caller]
fn wait_until_gone(local: SocketAddr, remote: SocketAddr) {
    let start = Instant::now();
    while let Some(listed) = find(local, Some(remote)) {
        assert!(start.elapsed() < Duration::from_secs(5), "still there: {listed:?}");
    }
}

fn check_life(address: &str) {
    let (listener, mut client, mut server) = pair(address);
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    let listed = find(listener.local_addr().unwrap(), None).unwrap();
    assert_eq!(listed.state, TcpState::Listen);
    let (depth, limit) = listed.queue.unwrap();
    assert!(depth == 0 && limit > 0, "{depth}/{limit}");

    let established = wait_for(client_end, server_end, TcpState::Established);
    let accepted = wait_for(server_end, client_end, TcpState::Established);
    assert!(established.inode != 0 && accepted.inode != 0 && established.key != accepted.key);
    assert_eq!((established.key.netns, established.queue), (own_netns().unwrap(), None));

    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    assert_eq!(wait_for(client_end, server_end, TcpState::FinWait2).key, established.key);
    assert_eq!(wait_for(server_end, client_end, TcpState::CloseWait).key, accepted.key);

    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let minisock = wait_for(client_end, server_end, TcpState::TimeWait);
    assert_eq!((minisock.key, minisock.inode), (established.key, 0), "the minisock keeps the cookie");
    wait_until_gone(server_end, client_end);
}

#[test]
fn a_connection_is_listed_from_listen_to_time_wait() {
    check_life("127.0.0.1:0");
}

#[test]
fn a_connection_over_ipv6_is_listed() {
    check_life("[::1]:0");
}

#[test]
fn a_v4_mapped_child_stays_ipv6() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let child = wait_for(server.local_addr().unwrap(), peer, TcpState::Established);
    assert_eq!(child.local.to_string(), format!("[::ffff:127.0.0.1]:{port}"));
    let client = wait_for(client.local_addr().unwrap(), client.peer_addr().unwrap(), TcpState::Established);
    assert_eq!(client.remote.to_string(), format!("127.0.0.1:{port}"));
}

#[test]
fn a_queued_child_shows_in_the_depth_and_has_no_inode() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let child = wait_for(address, client.local_addr().unwrap(), TcpState::Established);
    assert_eq!(child.inode, 0);
    assert_eq!(find(address, None).unwrap().queue.unwrap().0, 1);
}

fn poll_of(listener: &TcpListener, pids: Vec<u32>) -> Poll {
    let address = listener.local_addr().unwrap();
    let (ports, prefixes) =
        (vec![Ports(address.port()..=address.port())], vec![address.ip().to_string().parse().unwrap()]);
    let filter = Filter { ports, prefixes, pids, ..Filter::default() };
    Poll::new(filter, SHORTEST_INTERVAL).unwrap()
}

/// The states that one more listing tells, sorted, with `gone` for what is unlisted.
fn told(poll: &mut Poll) -> Vec<&'static str> {
    let mut events = Vec::new();
    poll.drain(&mut events).unwrap();
    let word = |event: &Event| match event.kind {
        EventKind::Listed { state, .. } => state.name(),
        EventKind::Unlisted { .. } => "gone",
        ref other => panic!("{other:?}"),
    };
    let mut words: Vec<_> = events.iter().map(word).collect();
    words.sort_unstable();
    words
}

#[tokio::test(flavor = "current_thread")]
async fn next_lists_at_once_and_then_by_the_interval() {
    let (listener, client, _server) = pair(&own_address());
    let mut poll = poll_of(&listener, vec![]);
    let mut events = Vec::new();
    let first = poll.next(&mut events).await.unwrap();
    assert_eq!(events.len(), 3, "{events:?}");
    let unknown = |event: &Event| matches!(event.kind, EventKind::Listed { interval_ns: u64::MAX, .. });
    assert!(events.iter().all(unknown), "{events:?}");

    drop(client);
    events.clear();
    let second = poll.next(&mut events).await.unwrap();
    assert!(second.now_ns > first.now_ns && second.losses == Losses::default());
    assert!(!events.is_empty());
    for event in events {
        let (EventKind::Listed { interval_ns, .. } | EventKind::Unlisted { interval_ns }) = event.kind else {
            panic!()
        };
        assert_eq!(interval_ns, second.now_ns - first.now_ns);
        assert_eq!(event.at_ns + WINDOW_NS, second.now_ns);
    }
}

#[test]
fn polling_tells_differences_only() {
    let (listener, client, server) = pair(&own_address());
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    let mut poll = poll_of(&listener, vec![]);
    assert_eq!(told(&mut poll), ["ESTABLISHED", "ESTABLISHED", "LISTEN"]);
    assert_eq!(told(&mut poll), [""; 0]);
    client.shutdown(Shutdown::Write).unwrap();
    wait_for(client_end, server_end, TcpState::FinWait2);
    assert_eq!(told(&mut poll), ["CLOSE_WAIT", "FIN_WAIT2"]);
    drop((server, listener));
    wait_for(client_end, server_end, TcpState::TimeWait);
    wait_until_gone(server_end, client_end);
    assert_eq!(told(&mut poll), ["TIME_WAIT", "gone", "gone"]);
}

#[test]
fn a_process_filter_follows_what_it_held_to_its_end() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    wait_for(server_end, client_end, TcpState::Established);
    let mut poll = poll_of(&listener, vec![id()]);
    assert_eq!(told(&mut poll), ["ESTABLISHED", "LISTEN"], "nobody holds the queued child yet");
    let server = listener.accept().unwrap().0;
    assert_eq!(told(&mut poll), ["ESTABLISHED", "LISTEN"], "the child, and the listener's depth");
    drop(client);
    drop(server);
    wait_for(client_end, server_end, TcpState::TimeWait);
    wait_until_gone(server_end, client_end);
    assert_eq!(told(&mut poll), ["TIME_WAIT", "gone"], "the minisock has no inode");

    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let nothing = told(&mut poll_of(&listener, vec![child.id()]));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(nothing, [""; 0], "std opens sockets with CLOEXEC");
}

#[test]
fn filters_that_polling_cannot_serve_say_why() {
    let refused = |filter| match Poll::new(filter, SHORTEST_INTERVAL) {
        Err(SourceError::Read { what, error }) => format!("{what}: {error}"),
        Err(SourceError::Unsupported(why)) => why,
        other => panic!("{other:?}"),
    };
    let cgroup = Filter { cgroup: Some(Cgroup { id: 1, level: 1 }), ..Filter::default() };
    assert!(refused(cgroup).starts_with("cannot show the sockets of a cgroup by polling"));
    let own = own_netns().unwrap();
    assert!(Poll::new(Filter { netns: vec![own], ..Filter::default() }, Duration::ZERO).is_ok());
    assert!(refused(Filter { netns: vec![own, 1], ..Filter::default() }).contains("nsenter"));
    // Above the largest pid_max (2^22).
    assert!(refused(Filter { pids: vec![1 << 23], ..Filter::default() }).contains("/proc/8388608/fd"));
}

#[test]
fn listings_of_both_families_come_in_one() {
    let (_v4, _v6) = (pair("127.0.0.1:0"), pair("[::1]:0"));
    let listed = list().unwrap();
    let families = listed.iter().map(|listed| listed.local.address);
    let (v4, v6): (Vec<_>, Vec<_>) = families.partition(IpAddr::is_ipv4);
    assert!(v4.len() >= 3 && v6.len() >= 3);
}
