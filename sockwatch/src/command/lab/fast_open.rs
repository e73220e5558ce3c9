//! TCP Fast Open.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
};

use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::{acting, sysctl},
    sockets::{SERVER, close, listen, socket},
    stage::Stage,
    watch::{accepted, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "fast-open",
    summary: "TCP Fast Open: data in the SYN, and a connection in the queue before the handshake ends",
    story: "Client and server have Fast Open: the SYN carries data. The server's connection is born by the SYN
and queued at once, in SYN_RECV; accept() may take it before the handshake is over.",
    run: Run::Alone(run),
};

/// Client (1), server (2), both without a cookie (4, 0x200), for every listener (0x400).
const FAST_OPEN: u32 = 0x607;

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_fastopen", FAST_OPEN)?;
    let listener = acting("server", || listen(SERVER, 128))?;
    let mut client: TcpStream = acting("client", || {
        let socket = socket()?;
        setsockopt(&socket, TcpFastOpenConnect, &true)?;
        socket.connect(&SERVER.into())?;
        Ok(socket.into())
    })?;
    stage.until("LISTEN", entered(Role::Listener, TcpState::Listen))?;
    stage.say(format_args!("connect() has returned, and nothing was sent: no event. The client writes."));
    acting("client", || client.write_all(b"request"))?;
    stage.until("the birth", entered(Role::Passive, TcpState::SynRecv))?;
    let (mut server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    let mut bytes = [0; 64];
    let read = acting("server", || server.read(&mut bytes))?;
    stage.until("the handshake's end", entered(Role::Passive, TcpState::Established))?;
    acting("client", || client.shutdown(Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    close("server", server)?;
    acting("client", || client.read(&mut [0]))?;
    close("client", client)?;
    close("server", listener)?;
    Ok(format!("{read} bytes came with the SYN: the request was there one round trip earlier."))
}
