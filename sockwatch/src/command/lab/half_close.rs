//! One direction is closed, the other goes on.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::close,
    stage::{Pair, Stage},
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "half-close",
    summary: "one direction is closed, the other still carries data",
    story: "The client has no more to say, but goes on listening: shutdown(SHUT_WR). The server answers in
CLOSE_WAIT, which is no leak here. The server's FIN turns the client's end into TIME_WAIT although
its descriptor is still open.",
    run: Run::Alone(run),
};

/// What the server still has to say.
const ANSWER: [u8; 1000] = [b'.'; 1000];

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, mut client, mut server } = stage.pair()?;
    let port = client.local_addr()?.port();
    stage.say(format_args!("The client closes its direction only."));
    acting("client", || client.shutdown(Shutdown::Write))?;
    stage.until("FIN_WAIT2", entered(Role::Active, TcpState::FinWait2))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    stage.say(format_args!("The server answers with {} bytes out of CLOSE_WAIT, then closes.", ANSWER.len()));
    acting("server", || server.write_all(&ANSWER))?;
    let mut answer = Vec::new();
    close("server", server)?;
    acting("client", || client.read_to_end(&mut answer))?;
    stage.listed(port, TcpState::TimeWait)?;
    stage.say(format_args!(
        "The client's end is in TIME_WAIT, its descriptor still open. Now it is closed: nothing happens."
    ));
    close("client", client)?;
    close("server", listener)?;
    Ok(format!(
        "{} bytes arrived after the client's FIN. The state belongs to the connection, not to the descriptor.",
        answer.len()
    ))
}
