//! FIN_WAIT1 without a process.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpListener,
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, bind, close, socket},
    stage::Stage,
    watch::{accepted, ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "orphan-sending",
    summary: "FIN_WAIT1 without a process: data is still under way to a peer that does not read",
    story: "The client sends more than the server's receive buffer takes, and closes. The server does not read:
its window is zero, so neither the rest nor the FIN can go. The kernel keeps both without a process,
and asks the server now and then. When the server reads, all arrives.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener: TcpListener = acting("server", || {
        let socket = bind(SERVER)?;
        // The accepted sockets inherit it.
        socket.set_recv_buffer_size(4096)?;
        socket.listen(128)?;
        Ok(socket.into())
    })?;
    let mut client = acting("client", || {
        let socket = socket()?;
        socket.connect(&SERVER.into())?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })?;
    let (mut server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    let written = acting("client", || {
        let mut written = 0;
        loop {
            match client.write(&[b'.'; 4096]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(written),
                Err(error) => return Err(error),
            }
        }
    })?;
    stage.say(format_args!("The client has written {written} bytes; no more fits. It closes."));
    close("client", client)?;
    stage.until("FIN_WAIT1", entered(Role::Active, TcpState::FinWait1))?;
    let stuck = stage.until_listed("the orphan", |rows| {
        rows.iter().find(|row| row.state == TcpState::FinWait1 && row.inode == 0).map(|row| row.send_queue)
    })?;
    stage.say(format_args!("{stuck} bytes, and the FIN, wait without a process. The server reads."));
    let mut read = Vec::new();
    acting("server", || server.read_to_end(&mut read))?;
    stage.until("the client's end", ended(Role::Active))?;
    close("server", server)?;
    stage.until("the server's end", ended(Role::Passive))?;
    close("server", listener)?;
    Ok(format!("{} of {written} bytes arrived, {stuck} of them after the client's process had closed.", read.len()))
}
