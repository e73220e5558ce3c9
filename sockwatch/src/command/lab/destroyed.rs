//! `ss -K`.

use std::io::{self, Read};

use anyhow::Context;
use nix::errno::Errno;
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close},
    stage::{Pair, Stage},
    table,
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "destroyed",
    summary: "an administrator destroys a connection (ss -K)",
    story: "Somebody kills the server's end from outside, as `ss -K` does. Its process keeps the descriptor and
gets ECONNABORTED; the client gets a RST.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, mut client, mut server } = stage.pair()?;
    let row = stage.listed(SERVER.port(), TcpState::Established)?;
    stage.say(format_args!("The server's end is destroyed."));
    match table::destroy(&row) {
        Err(error) if is_unsupported(&error) => {
            return Err(error).context("cannot run here: this kernel was built without INET_DIAG_DESTROY");
        }
        other => other.context("cannot destroy the socket")?,
    }
    stage.until("its end", entered(Role::Passive, TcpState::Close))?;
    let of_server = acting("server", || Ok(server.read(&mut [0]).err()))?;
    let of_client = acting("client", || Ok(client.read(&mut [0]).err()))?;
    close("server", server)?;
    close("client", client)?;
    close("server", listener)?;
    let said = |error: Option<io::Error>| error.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The server got: {}. The client got: {}.", said(of_server), said(of_client)))
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)
}
