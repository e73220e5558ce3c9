//! MPTCP.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close},
    stage::Stage,
    watch::{ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "multipath",
    summary: "MPTCP: what the trace shows are its subflows",
    story: "Client and server speak MPTCP. Below the sockets that the processes hold, the kernel opens TCP
connections of its own, the subflows: these are what a TCP trace shows.",
    run: Run::Alone(run),
};

fn socket() -> std::io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))
}

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener: TcpListener = acting("server", || {
        let socket = socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&SERVER.into())?;
        socket.listen(128)?;
        Ok(socket.into())
    })
    .context("cannot run here: this kernel has no MPTCP (sysctl net.mptcp.enabled)")?;
    let mut client: TcpStream = acting("client", || {
        let socket = socket()?;
        socket.connect(&SERVER.into())?;
        Ok(socket.into())
    })?;
    let (mut server, _) = acting("server", || listener.accept())?;
    stage.until("the subflow", entered(Role::Active, TcpState::Established))?;
    acting("client", || client.write_all(b"request"))?;
    acting("server", || server.read(&mut [0; 64]))?;
    stage.say(format_args!("One subflow carries the data. The client closes."));
    acting("client", || client.shutdown(Shutdown::Write))?;
    acting("server", || server.read(&mut [0; 64]))?;
    close("server", server)?;
    acting("client", || client.read(&mut [0]))?;
    // A close() before that would race with the kernel's worker, which closes the subflow.
    stage.until("the subflow's end", ended(Role::Active))?;
    close("client", client)?;
    close("server", listener)?;
    Ok("The processes' sockets (protocol 262) are in no TCP event; their subflows are TCP like any other.".to_owned())
}
