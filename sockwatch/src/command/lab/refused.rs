//! connect() to a port that nobody listens on.

use std::net::TcpStream;

use super::{Lab, Run, netns::acting, sockets::SERVER, stage::Stage};

pub(super) const LAB: Lab = Lab {
    name: "refused",
    summary: "nobody listens: the SYN is answered by a RST",
    story:
        "The client connects to a port that nobody listens on. The kernel there answers the SYN with a RST: the connect
fails at once, unlike one that nobody answers (lab unanswered).",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    stage.say(format_args!("The client connects to {SERVER}."));
    let said = acting("client", || Ok(TcpStream::connect(SERVER).err()))?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The client got: {said}. Somebody is there and says no: a host that is down says nothing."))
}
