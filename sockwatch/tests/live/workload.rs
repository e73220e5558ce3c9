//! Sockets that do what a test asks of them.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::id,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Instant,
};

use crate::harness::{Trace, patience};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_raw, setsockopt, socket, sockopt,
};

/// A port below the ephemeral ones that no other test, and no other run of the tests, uses.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(next < 400, "too many ports");
    10_000 + (id() % 50) as u16 * 400 + next
}

/// A loopback address of a test's own: 127.x.y.1.
pub(crate) fn free_address() -> Ipv4Addr {
    let [high, low] = free_port().to_be_bytes();
    Ipv4Addr::new(127, high, low, 1)
}

/// A port of its own at 127.0.0.1.
pub(crate) fn place() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// A listener, a connection that its client closes first, and the end of both. [`STORIES`] is what a trace says.
pub(crate) fn converse(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    converse_with(&listener, address);
}

/// A connection to this listener, closed by its client first.
pub(crate) fn converse_with(listener: &TcpListener, address: SocketAddr) {
    let client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    client_closes_first(client, server);
}

/// The end of a connection: FIN from the client, then from the server. The client keeps its descriptor until both have
/// come: without an owner, it would depend on a delayed ACK whether `FIN_WAIT2` becomes an orphan's.
pub(crate) fn client_closes_first(mut client: TcpStream, mut server: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// The client closes, and the server does not. The FIN comes first: a close() that sends it may let go of the socket just
/// while it is acknowledged, and then it waits in `FIN_WAIT2` as a socket, not as a minisock (`tcp_rcv_state_process()`).
pub(crate) fn client_leaves(trace: &mut Trace, client: TcpStream) {
    let port = client.local_addr().unwrap().port();
    client.shutdown(Shutdown::Write).unwrap();
    trace.until("FIN_WAIT2", |line| line.0["new"] == "FIN_WAIT2" && line.port("local") == port);
    drop(client);
    trace.until("the client's end", |line| line.is("connection") && line.port("local") == port);
}

/// The same where the server's end is somebody else's to close; the trace tells when its FIN has come, as the `count`th.
pub(crate) fn close_by_fin(trace: &mut Trace, count: usize, mut client: TcpStream, close_server: impl FnOnce()) {
    client.shutdown(Shutdown::Write).unwrap();
    trace.until_count(count, "clients' FINs", |line| line.role() == "passive" && line.0["new"] == "CLOSE_WAIT");
    close_server();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// A listener's whole life.
pub(crate) const LISTENER: &str = "listener: CLOSE>LISTEN LISTEN>CLOSE end stopped";
/// A client that closes first.
pub(crate) const CLIENT: &str = "active: CLOSE>SYN_SENT SYN_SENT>ESTABLISHED ESTABLISHED>FIN_WAIT1 \
                                 FIN_WAIT1>FIN_WAIT2 FIN_WAIT2>CLOSE end local-fin";
/// A server whose client closes first.
pub(crate) const SERVER: &str = "passive: LISTEN>SYN_RECV SYN_RECV>ESTABLISHED enqueue accept \
                                 ESTABLISHED>CLOSE_WAIT CLOSE_WAIT>LAST_ACK LAST_ACK>CLOSE end peer-fin";
/// What [`converse`] looks like.
pub(crate) const STORIES: [&str; 3] = [LISTENER, CLIENT, SERVER];

/// connect() from a port that is bound first.
pub(crate) fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let client: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&client, sockopt::ReuseAddr, &true).unwrap();
    bind(client.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    connect_raw(client.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    client.into()
}

/// close() sends a RST instead of a FIN.
pub(crate) fn linger_zero(stream: &TcpStream) {
    use nix::libc::linger;
    setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Waits until so many are in the accept queue of an IPv4 listener: connect() returns before its last ACK is there, and the ACKs
/// of several may arrive on different CPUs.
pub(crate) fn until_queued(listener: SocketAddr, count: u32) {
    let SocketAddr::V4(v4) = listener else { panic!("{listener} is not in /proc/net/tcp") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let asked = Instant::now();
    while depth_of(&local) != Some(count) {
        assert!(asked.elapsed() < patience(), "{listener}: {:?} in the accept queue", depth_of(&local));
        thread::yield_now();
    }
}

/// `sk_ack_backlog`, as the calling thread's namespace tells it.
fn depth_of(local: &str) -> Option<u32> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listener = fields.into_iter().find(|fields| fields.get(1) == Some(&local) && fields.get(3) == Some(&"0A"))?;
    u32::from_str_radix(listener[4].split_once(':')?.1, 16).ok()
}
