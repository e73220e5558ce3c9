//! The server closes first.

use std::{io::Read, net::Shutdown};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close},
    stage::{Pair, Stage},
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "server-closes",
    summary: "the server closes first: TIME_WAIT stays on its side, at its port",
    story: "The server closes first, as HTTP servers without keep-alive do. TIME_WAIT is on its side now: a busy
server collects one for each connection, and a restart without SO_REUSEADDR cannot bind for a
minute.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, client, mut server } = stage.pair()?;
    stage.say(format_args!("The server closes: its FIN goes out."));
    acting("server", || server.shutdown(Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Active, TcpState::CloseWait))?;
    stage.say(format_args!("The client's end is in CLOSE_WAIT; its process closes, too."));
    close("client", client)?;
    acting("server", || server.read(&mut [0]))?;
    let time_wait = stage.listed(SERVER.port(), TcpState::TimeWait)?;
    close("server", server)?;
    close("server", listener)?;
    Ok(format!(
        "Port {} has a socket in TIME_WAIT for {:.1} s more, at the server's own port.",
        SERVER.port(),
        f64::from(time_wait.expires_ms) / 1000.0
    ))
}
