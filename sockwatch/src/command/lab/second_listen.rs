//! listen() twice.

use std::net::TcpStream;

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, bind, close, reset},
    stage::Stage,
    watch::{entered, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "second-listen",
    summary: "a second listen() changes the queue's limit, without any event",
    story: "The server says listen(1), then listen(5) on the same socket, as some servers do on reload. The
limit changes at once, the state does not, and no event tells. The next connection's `enqueued`
shows the new limit.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || bind(SERVER))?;
    let mut clients = Vec::new();
    let mut limits = Vec::new();
    for (backlog, count) in [(1, 1), (5, 2)] {
        stage.say(format_args!("listen({backlog}), and a client."));
        acting("server", || listener.listen(backlog))?;
        stage.until("LISTEN", entered(Role::Listener, TcpState::Listen))?;
        limits.push(stage.listed(SERVER.port(), TcpState::Listen)?.send_queue.to_string());
        clients.push(acting("client", || TcpStream::connect(SERVER))?);
        stage.until_count(count, "queued connections", queued())?;
    }
    for client in clients {
        reset("client", client)?;
    }
    stage.until_count(2, "ends", entered(Role::Passive, TcpState::Close))?;
    close("server", listener)?;
    Ok(format!("The limit went {}.", limits.join(" -> ")))
}
