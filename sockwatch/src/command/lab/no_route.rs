//! connect() without a route.

use std::net::TcpStream;

use super::{Lab, Run, netns::acting, sockets::at, stage::Stage};

pub(super) const LAB: Lab = Lab {
    name: "no-route",
    summary: "no route: connect() fails before TCP begins, and there is nothing to trace",
    story: "The client connects to an address that no route leads to. connect() fails before the socket leaves
its first state: no TCP event tells of it. What a trace does not show may still have happened.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    // TEST-NET-1 of RFC 5737.
    let nowhere = at([192, 0, 2, 1], 80);
    stage.say(format_args!("The client connects to {nowhere}."));
    let said = acting("client", || Ok(TcpStream::connect(nowhere).err()))?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The client got: {said}. No event: look for such failures in the program's log, not in TCP."))
}
