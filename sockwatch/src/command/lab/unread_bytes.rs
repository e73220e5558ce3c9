//! Bytes pile up in the receive queue, and are drained.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close},
    stage::{Pair, Stage},
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "unread-bytes",
    summary: "25 bytes pile up unread (Recv-Q), then are drained: no state changes",
    story: "The client writes five bytes at a time, and the server does not read. The kernel acknowledges them
and keeps them: Recv-Q grows. No state tells a server that does not read; its receive queue does.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, mut client, mut server } = stage.pair()?;
    let mut piled = Vec::new();
    for written in (5..=25).step_by(5) {
        acting("client", || client.write_all(b"12345"))?;
        let unread = stage.until_listed("the bytes", |rows| {
            let connection = rows.iter().find(|row| row.local_port == SERVER.port() && row.remote_port != 0)?;
            (connection.receive_queue >= written).then_some(connection.receive_queue)
        })?;
        stage.say(format_args!("Written: {written}. Unread at the server: {unread}."));
        piled.push(unread.to_string());
    }
    acting("server", || server.read_exact(&mut [0; 25]))?;
    let left = stage.listed(SERVER.port(), TcpState::Established)?.receive_queue;
    stage.say(format_args!("The server reads all of it. Unread: {left}. Then both close."));
    acting("client", || client.shutdown(Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    close("server", server)?;
    stage.until("the end", entered(Role::Passive, TcpState::Close))?;
    close("client", client)?;
    close("server", listener)?;
    Ok(format!("Unread: {} -> {left} bytes, all of it in ESTABLISHED.", piled.join(" -> ")))
}
