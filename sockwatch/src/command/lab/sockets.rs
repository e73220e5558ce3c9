//! Sockets that do what a lab asks of them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::netns::acting;

/// Where the server is, where there is no cable.
pub(super) const SERVER: SocketAddr = at([127, 0, 0, 1], 8080);

pub(super) const fn at([a, b, c, d]: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

/// Says something, and has the other end read it. The FIN of a close() is acknowledged some 40 ms later then, when the
/// process has let go of the socket. Else the ACK may come just while it does, and the socket waits in `FIN_WAIT2` as a
/// socket: no minisock takes its place (`tcp_rcv_state_process()`).
pub(super) fn talk(
    say: impl FnOnce(&'static str) -> anyhow::Result<()>,
    read: impl FnOnce(&mut [u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const GREETING: &str = "hello";
    say(GREETING)?;
    read(&mut [0; GREETING.len()])
}

/// A socket of no state yet.
pub(super) fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}

/// A bound socket; its address may still be in TIME_WAIT.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket()?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listener whose accept queue takes `backlog` and one more.
pub(super) fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = bind(address)?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Sends the SYN, and does not wait for the answer.
pub(super) fn begin_connect(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket()?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Closes on a thread of this name.
pub(super) fn close<T: Send>(name: &str, socket: T) -> anyhow::Result<()> {
    acting(name, move || {
        drop(socket);
        Ok(())
    })
}

/// Closes by RST.
pub(super) fn reset(name: &str, stream: TcpStream) -> anyhow::Result<()> {
    acting(name, move || Socket::from(stream).set_linger(Some(std::time::Duration::ZERO)))
}

/// Which segments a socket's filter lets in; the others are as if lost on their way.
#[derive(Clone, Copy)]
pub(super) enum Deaf {
    /// None.
    Wholly,
    /// SYNs only.
    ButForSyn,
}

/// Makes a socket deaf. The filter (`SO_ATTACH_FILTER`) sees segments from their TCP header on.
pub(super) fn deafen(socket: &Socket, deaf: Deaf) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    match deaf {
        Deaf::Wholly => socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]),
        Deaf::ButForSyn => socket.attach_filter(&[
            SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
            SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ]),
    }
}
