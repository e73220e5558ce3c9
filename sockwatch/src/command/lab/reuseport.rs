//! Several listeners at one port.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
};

use anyhow::{Context, bail};
use nix::sys::stat::fstat;
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::{acting, sysctl},
    sockets::{SERVER, close, socket},
    stage::Stage,
    table,
    watch::{accepted, entered, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "reuseport",
    summary: "SO_REUSEPORT: each listener has its own queue, and takes it to the grave",
    story: "Two listeners share a port (SO_REUSEPORT). The kernel chooses a queue by the client's address,
whatever its length. The listener of a queued connection is closed, as in a worker's restart: the
client is reset although another listener is there.",
    run: Run::Alone(run),
};

pub(super) const MIGRATE: Lab = Lab {
    name: "reuseport-migrate",
    summary: "the same with tcp_migrate_req=1: the connection moves to the other listener",
    story: "As in lab reuseport, but with tcp_migrate_req=1 (5.14 and later): when the listener is closed, the
connection moves to the queue of the other one, and is accepted there. The client sees nothing.",
    run: Run::Alone(migrate),
};

/// Two listeners, and a client in the queue of the first.
struct Shared {
    chosen: TcpListener,
    other: TcpListener,
    client: TcpStream,
}

fn shared(stage: &mut Stage) -> anyhow::Result<Shared> {
    let listen = || {
        let socket = socket()?;
        socket.set_reuse_port(true)?;
        socket.bind(&SERVER.into())?;
        socket.listen(128)?;
        Ok(TcpListener::from(socket))
    };
    let (one, two) = (acting("server-1", listen)?, acting("server-2", listen)?);
    let client = acting("client", || TcpStream::connect(SERVER))?;
    stage.until("a queued connection", queued())?;
    let chosen = stage.until_listed("a queue of one", |rows| {
        let full = rows.iter().find(|row| row.state == TcpState::Listen && row.receive_queue == 1)?;
        Some(u64::from(full.inode))
    })?;
    let inode = fstat(&one).context("cannot look at a socket")?.st_ino;
    let (chosen, other) = if inode == chosen { (one, two) } else { (two, one) };
    Ok(Shared { chosen, other, client })
}

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Shared { chosen, other, mut client } = shared(stage)?;
    stage.say(format_args!("One of them has the connection in its queue, and is closed."));
    close("server", chosen)?;
    let said = acting("client", || Ok(client.read(&mut [0]).err()))?;
    stage.until("its end", entered(Role::Passive, TcpState::Close))?;
    close("client", client)?;
    close("server", other)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The client got: {said}. A queue belongs to its listener, not to the port."))
}

fn migrate(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_migrate_req", 1)?;
    let Shared { chosen, other, mut client } = shared(stage)?;
    stage.say(format_args!("One of them has the connection in its queue, and is closed. The other one accepts it."));
    let at = chosen.local_addr()?.port();
    close("server", chosen)?;
    if !table::rows()?.iter().any(|row| row.local_port == at && row.state == TcpState::Established) {
        bail!("cannot run here: this kernel has tcp_migrate_req, and resets what waits for accept() all the same");
    }
    let (mut server, _) = acting("server", || other.accept())?;
    stage.until("accept", accepted())?;
    acting("client", || client.shutdown(std::net::Shutdown::Write))?;
    acting("server", || server.read(&mut [0]))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    close("server", server)?;
    acting("client", || client.read(&mut [0]))?;
    close("client", client)?;
    close("server", other)?;
    Ok("The connection outlived its listener. No state event tells of the move.".to_owned())
}
