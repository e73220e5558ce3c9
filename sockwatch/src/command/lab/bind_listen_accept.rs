//! bind, listen, connect, accept: one system call at a time.

use std::net::{TcpListener, TcpStream};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, bind, close},
    stage::Stage,
    watch::{accepted, entered, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "bind-listen-accept",
    summary: "one system call at a time: which of them the kernel needs the process for",
    story:
        "A server comes up one system call at a time, and a client connects before the server calls accept(). The kernel
finishes the handshake alone: accept() only picks up what has been ready in the queue.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let bound = acting("server", || bind(SERVER))?;
    stage.say(format_args!("socket(), bind(): no TCP state yet, no event; a client would be refused."));
    stage.say(format_args!("listen(): from now on the kernel answers SYNs."));
    acting("server", || bound.listen(128))?;
    let listener = TcpListener::from(bound);
    stage.until("LISTEN", entered(Role::Listener, TcpState::Listen))?;
    let before = stage.listed(SERVER.port(), TcpState::Listen)?.receive_queue;
    stage.say(format_args!("Accept queue: {before}. A client connects; the server's process sleeps."));
    let client = acting("client", || TcpStream::connect(SERVER))?;
    let ready = stage.until("a queued connection", queued())?;
    let waiting = stage.listed(SERVER.port(), TcpState::Listen)?.receive_queue;
    stage.say(format_args!("Accept queue: {waiting}. Both ends are ESTABLISHED, and nobody has called accept()."));
    stage.say(format_args!("accept(): picks it up."));
    let (server, _) = acting("server", || listener.accept())?;
    let taken = stage.until("accept", accepted())?;
    let after = stage.listed(SERVER.port(), TcpState::Listen)?.receive_queue;
    stage.say(format_args!("Accept queue: {after}. The client closes, then the server."));
    acting("client", || client.shutdown(std::net::Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    close("server", server)?;
    stage.until("LAST_ACK", entered(Role::Passive, TcpState::Close))?;
    close("client", client)?;
    close("server", listener)?;
    Ok(format!(
        "The accept queue went {before} -> {waiting} -> {after}. The connection was ready {} ms before accept().",
        (taken.at_ns - ready.at_ns) / 1_000_000
    ))
}
