//! SO_LINGER with 0 seconds.

use std::io::Read;

use super::{
    Lab, Run,
    netns::acting,
    sockets::{close, reset},
    stage::{Pair, Stage},
};

pub(super) const LAB: Lab = Lab {
    name: "linger-zero",
    summary: "close() with SO_LINGER 0 resets: no TIME_WAIT, and what was sent may be lost",
    story:
        "The client sets SO_LINGER to 0 seconds and closes: a RST, no FIN, no TIME_WAIT. It is a popular way to avoid
TIME_WAIT, and throws away what the server has not read yet.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, client, mut server } = stage.pair()?;
    stage.say(format_args!("The client closes by RST."));
    reset("client", client)?;
    let said = acting("server", || Ok(server.read(&mut [0]).err()))?;
    close("server", server)?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The server got: {said}. Neither side has a TIME_WAIT."))
}
