//! TCP_DEFER_ACCEPT.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, bind, close},
    stage::Stage,
    watch::{accepted, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "defer-accept",
    summary: "TCP_DEFER_ACCEPT: the server has no connection until data comes",
    story: "The listener asks for connections with data only (TCP_DEFER_ACCEPT, as nginx's `deferred`). The
client's final ACK is dropped: it is ESTABLISHED, the server keeps a request. The connection is born
when the first bytes come.",
    run: Run::Alone(run),
};

sockopt_impl!(
    /// How many seconds the kernel waits for data before it hands a connection out.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    libc::c_int
);

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || {
        let socket = bind(SERVER)?;
        setsockopt(&socket, DeferAccept, &5)?;
        socket.listen(128)?;
        Ok(TcpListener::from(socket))
    })?;
    let mut client = acting("client", || TcpStream::connect(SERVER))?;
    let connected = stage.until("the client", entered(Role::Active, TcpState::Established))?;
    let request = stage.listed(SERVER.port(), TcpState::SynRecv)?;
    stage.say(format_args!("The client is ESTABLISHED; the server's table says {}. The client sends.", request.state));
    acting("client", || client.write_all(b"request"))?;
    let born = stage.until("the birth", entered(Role::Passive, TcpState::Established))?;
    let (mut server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    acting("server", || server.read(&mut [0; 64]))?;
    acting("client", || client.shutdown(std::net::Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    close("server", server)?;
    acting("client", || client.read(&mut [0]))?;
    close("client", client)?;
    close("server", listener)?;
    Ok(format!(
        "The server's connection was born {} ms after the client's: its handshake time is mostly the client's silence.",
        (born.at_ns - connected.at_ns) / 1_000_000
    ))
}
