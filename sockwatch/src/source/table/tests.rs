//! Against the running kernel: loopback sockets, and what its table says of them.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::id,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use super::*;
use crate::monotonic::now_ns;

/// A loopback address of this process and test alone: on a shared one, minisocks of earlier runs that had the same port
/// would be told too.
pub(in crate::source) fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let [.., high, low] = id().to_be_bytes();
    format!("127.{high}.{low}.{}:0", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(in crate::source) fn pair(address: &str) -> (TcpListener, TcpStream, TcpStream) {
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
pub(in crate::source) fn wait_for(local: SocketAddr, remote: SocketAddr, state: TcpState) -> Listed {
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
pub(in crate::source) fn wait_until_gone(local: SocketAddr, remote: SocketAddr) {
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
    let timer = minisock.timer.unwrap();
    assert!(minisock.minisock && !established.minisock && timer.kind == TimerKind::TimeWait, "{timer:?}");
    assert!((50_000..=60_000).contains(&timer.expires_ms), "{timer:?}");
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

#[test]
fn listings_of_both_families_come_in_one() {
    let (_v4, _v6) = (pair("127.0.0.1:0"), pair("[::1]:0"));
    let listed = list().unwrap();
    let families = listed.iter().map(|listed| listed.local.address);
    let (v4, v6): (Vec<_>, Vec<_>) = families.partition(IpAddr::is_ipv4);
    assert!(v4.len() >= 3 && v6.len() >= 3);
}

#[test]
fn bytes_are_payload_and_marks() {
    let (_listener, mut client, mut server) = pair("127.0.0.1:0");
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let unread = wait_for(server_end, client_end, TcpState::CloseWait);
    assert_eq!((unread.receive_queue_bytes, unread.unread_bytes(), unread.has_unread_fin()), (6, 5, true));
    server.read_exact(&mut [0; 4]).unwrap();
    let unread = wait_for(server_end, client_end, TcpState::CloseWait);
    assert_eq!((unread.receive_queue_bytes, unread.unread_bytes(), unread.has_unread_fin()), (2, 1, true));
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    let read = wait_for(server_end, client_end, TcpState::CloseWait);
    assert_eq!((read.receive_queue_bytes, read.has_unread_fin()), (0, false));
}

/// Nobody reads: the receiver's buffer fills, then the sender's.
#[test]
fn a_closed_window_shows_as_unread_and_unacked_bytes() {
    let (_listener, mut client, server) = pair("127.0.0.1:0");
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    client.set_nonblocking(true).unwrap();
    let mut written: u64 = 0;
    let start = Instant::now();
    loop {
        match client.write(&[0; 65_536]) {
            Ok(count) => written += count as u64,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let sender = find(client_end, Some(server_end)).unwrap();
        if sender.timer.is_some_and(|timer| timer.kind == TimerKind::ZeroWindowProbe) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{sender:?}");
    }
    let (sender, receiver) = (find(client_end, Some(server_end)).unwrap(), find(server_end, Some(client_end)).unwrap());
    assert_eq!(u64::from(sender.unacked_bytes()) + u64::from(receiver.unread_bytes()), written);
    drop(client);
    let sender = wait_for(client_end, server_end, TcpState::FinWait1);
    assert_eq!(sender.send_queue_bytes, sender.unacked_bytes() + 1, "a FIN waits, too");
    drop(server);
}

#[test]
fn a_table_is_listed_again_from_any_thread() {
    let (listener, _client, _server) = pair("127.0.0.1:0");
    let mut table = Table::own().unwrap();
    let local = endpoint(listener.local_addr().unwrap());
    for _ in 0..3 {
        let before = now_ns();
        let listing = std::thread::scope(|scope| scope.spawn(|| table.list(Asked::Sockets)).join().unwrap()).unwrap();
        let after = now_ns();
        assert!(listing.sockets.iter().any(|listed| listed.local == local));
        assert!(listing.details.is_empty());
        let mut from_ns = before;
        for filled in listing.sockets.iter().map(|listed| listed.filled) {
            assert!(from_ns <= filled.from_ns && filled.from_ns <= filled.to_ns && filled.to_ns <= after);
            from_ns = filled.from_ns;
        }
    }
}

#[test]
fn details_stand_beside_their_sockets() {
    let (listener, mut client, mut server) = pair("127.0.0.1:0");
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let ends = (endpoint(client.local_addr().unwrap()), endpoint(client.peer_addr().unwrap()));
    wait_for(client.local_addr().unwrap(), client.peer_addr().unwrap(), TcpState::FinWait2);
    let listing = Table::own().unwrap().list(Asked::Details).unwrap();
    assert_eq!(listing.sockets.len(), listing.details.len());
    let mut told = listing.sockets.iter().zip(&listing.details);
    let (_, details) = told.clone().find(|(listed, _)| (listed.local, listed.remote) == ends).unwrap();
    let info = details.info.unwrap();
    let (at_server, received) = told.clone().find(|(listed, _)| (listed.remote, listed.local) == ends).unwrap();
    assert_eq!(at_server.received_bytes(&received.info.unwrap()), 5, "without the FIN");
    assert_eq!((details.shutdown, details.drops), (Some(2), Some(0)), "SEND_SHUTDOWN");
    assert_eq!((info.sent_bytes, info.received_bytes, info.retransmits), (Some(5), 0, 0), "without SYN and FIN");
    assert!(info.rtt_us > 0 && info.last_sent_ms < 5_000, "{info:?}");
    let at_listener = |listed: &Listed| listed.local == endpoint(listener.local_addr().unwrap());
    let (_, details) = told.find(|(listed, _)| listed.state == TcpState::Listen && at_listener(listed)).unwrap();
    assert_eq!(details.info, None);
}

#[test]
fn this_thread_s_namespace_is_found_and_listed_without_privilege() {
    let (listener, _client, _server) = pair("127.0.0.1:0");
    let own = own_netns().unwrap();
    let namespace = Namespace::find(own).unwrap();
    let listing = namespace.list(Asked::Sockets).unwrap();
    assert!(listing.sockets.iter().any(|listed| listed.local == endpoint(listener.local_addr().unwrap())));
    assert!(listing.sockets.iter().all(|listed| listed.key.netns == own));
    assert!(Places::look().found.iter().any(|place| place.inode == own));
    let error = Namespace::find(1).unwrap_err().to_string();
    assert!(error.starts_with("there is no network namespace 1"), "{error}");
}
