//! A client that leaves the accept queue by RST.

use std::{io::Read, net::TcpStream};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close, listen, reset},
    stage::Stage,
    watch::{accepted, entered, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "queue-rst",
    summary: "a client resets while it waits in the accept queue: dead on arrival",
    story: "A client connects, and resets before the server accepts. The connection is closed, `ss` shows it no
more, and yet it is in the queue: accept() returns a descriptor of a dead connection.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 128))?;
    let client = acting("client", || TcpStream::connect(SERVER))?;
    stage.until("a queued connection", queued())?;
    stage.say(format_args!("The client resets."));
    reset("client", client)?;
    stage.until("RST", entered(Role::Passive, TcpState::Close))?;
    let queue = stage.listed(SERVER.port(), TcpState::Listen)?.receive_queue;
    stage.say(format_args!("The connection is closed; the accept queue still holds {queue}. The server accepts."));
    let (mut server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    let said = acting("server", || Ok(server.read(&mut [0]).err()))?;
    close("server", server)?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("accept() succeeded; the first read() said: {said}. A server must expect that."))
}
