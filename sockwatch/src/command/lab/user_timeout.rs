//! TCP_USER_TIMEOUT.

use std::{
    io::{Read, Write},
    time::Duration,
};

use socket2::SockRef;
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{Deaf, close, deafen, reset},
    stage::{Pair, Stage},
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "user-timeout",
    summary: "data is not acknowledged: TCP_USER_TIMEOUT ends the connection",
    story: "The server no longer hears the client. The client sends; the kernel retransmits, by default for a
quarter of an hour. TCP_USER_TIMEOUT says how long is enough: half a second here.",
    run: Run::Alone(run),
};

const ENOUGH: Duration = Duration::from_millis(500);

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, mut client, server } = stage.pair()?;
    acting("client", || SockRef::from(&client).set_tcp_user_timeout(Some(ENOUGH)))?;
    let server = socket2::Socket::from(server);
    acting("server", || deafen(&server, Deaf::Wholly))?;
    let begun = stage.until("ESTABLISHED", entered(Role::Active, TcpState::Established))?;
    stage.say(format_args!("The server is deaf from now on. The client sends, and waits for an answer."));
    acting("client", || client.write_all(b"request"))?;
    let said = acting("client", || Ok(client.read(&mut [0]).err()))?;
    let done = stage.until("the end", entered(Role::Active, TcpState::Close))?;
    close("client", client)?;
    reset("server", server.into())?;
    stage.until("the server's end", entered(Role::Passive, TcpState::Close))?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The client got: {said}, {:.2} s after it had connected.", (done.at_ns - begun.at_ns) as f64 / 1e9))
}
