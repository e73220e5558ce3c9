//! A process that dies before it has read everything.

use std::io::{Read, Write};

use nix::sys::signal::Signal;
use sockwatch::tcp::connection::Role;

use super::{
    Lab, Run,
    actor::Actor,
    netns::acting,
    sockets::{SERVER, close, listen},
    stage::Stage,
    watch::{accepted, ended},
};

pub(super) const LAB: Lab = Lab {
    name: "killed-unread",
    summary: "a client is killed before it has read everything: the server gets a RST",
    story: "The server sends an answer; the client process is killed before it reads it. As with close(), unread
data turns the FIN into a RST: the server sees `connection reset by peer`.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 128))?;
    let mut client = Actor::start("client")?;
    client.tell(&format!("connect {SERVER}"))?;
    let (mut server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    acting("server", || server.write_all(b"answer"))?;
    client.tell("peek")?;
    stage.say(format_args!("The answer has arrived, unread. The client is killed."));
    client.kill(Signal::SIGKILL)?;
    stage.until("the server's RST", ended(Role::Active))?;
    let said = acting("server", || Ok(server.read(&mut [0]).err()))?;
    close("server", server)?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The server got: {said}. Whether a crash shows as FIN or RST depends on what was unread."))
}
