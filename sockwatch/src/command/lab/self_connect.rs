//! A socket that is connected to itself.

use std::net::TcpStream;

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, bind, close},
    stage::Stage,
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "self-connect",
    summary: "a client is connected to itself: simultaneous open and close in one socket",
    story: "A client connects to a port of its own host that nobody listens on, and the kernel gives it that
very port to connect from. Its SYN meets itself: a simultaneous open. Clients that retry against a
local port of the ephemeral range get there one day, and keep the server from binding.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let client: TcpStream = acting("client", || {
        let socket = bind(SERVER)?;
        socket.connect(&SERVER.into())?;
        Ok(socket.into())
    })?;
    stage.until("ESTABLISHED", entered(Role::Active, TcpState::Established))?;
    let (local, remote) = (client.local_addr()?, client.peer_addr()?);
    stage.say(format_args!("Connected from {local} to {remote}. It closes: its FIN meets itself, too."));
    close("client", client)?;
    Ok("SYN_RECV after SYN_SENT is a simultaneous open, not a server's. CLOSING is its counterpart at the end."
        .to_owned())
}
