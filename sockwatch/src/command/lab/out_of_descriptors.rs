//! accept() without descriptors.

use std::{
    io::Read,
    net::{Shutdown, TcpStream},
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    actor::Actor,
    netns::acting,
    sockets::SERVER,
    stage::Stage,
    watch::{accepted, ended, entered, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "out-of-descriptors",
    summary: "accept() fails with EMFILE while the queue grows: clients are connected and not served",
    story: "The server process has used up its descriptors: accept() fails (EMFILE), and the connection stays in
the queue. Its client is ESTABLISHED and waits. With more descriptors the server takes it, as if
nothing had been.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let mut server = Actor::start("server")?;
    server.tell(&format!("listen {SERVER}"))?;
    let mut client = acting("client", || TcpStream::connect(SERVER))?;
    stage.until("a queued connection", queued())?;
    server.tell("descriptors 3")?;
    let said = server.ask("accept")?;
    let queue = stage.listed(SERVER.port(), TcpState::Listen)?.receive_queue;
    stage.say(format_args!(
        "accept() said: {said}. Still in the queue: {queue}. The limit is raised, and accept() tried again."
    ));
    server.tell("descriptors 100")?;
    server.tell("accept")?;
    stage.until("accept", accepted())?;
    acting("client", || client.shutdown(Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    server.tell("close")?;
    acting("client", || client.read(&mut [0]))?;
    stage.until("the server's end", ended(Role::Passive))?;
    Ok(format!("accept() said: {said}. A server that ignores it spins; one that stops accepting fills its queue."))
}
