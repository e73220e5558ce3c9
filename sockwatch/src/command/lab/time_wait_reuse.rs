//! A new connection in place of one in TIME_WAIT.

use std::{
    io::Read,
    net::{Shutdown, SocketAddr, TcpStream},
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, at, bind, close, listen},
    stage::Stage,
    watch::{accepted, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "time-wait-reuse",
    summary: "a SYN from the same port recycles the server's TIME_WAIT at once",
    story: "The server closes first and has the TIME_WAIT. The client comes back from the same port, as behind a
busy NAT: the SYN's sequence number is newer, so the kernel drops the TIME_WAIT and takes the
connection. Nobody waits a minute.",
    run: Run::Alone(run),
};

const CLIENT: SocketAddr = at([127, 0, 0, 1], 40_000);

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 128))?;
    let waiting = || {
        let in_time_wait =
            |rows: &[super::table::Row]| rows.iter().filter(|row| row.state == TcpState::TimeWait).count();
        Ok::<_, anyhow::Error>(in_time_wait(&super::table::rows()?))
    };
    let mut counts = Vec::new();
    for count in 1..=2 {
        stage.say(format_args!("A client connects from {CLIENT}. In TIME_WAIT: {}.", waiting()?));
        let client: TcpStream = acting("client", || {
            let socket = bind(CLIENT)?;
            socket.connect(&SERVER.into())?;
            Ok(socket.into())
        })?;
        let (mut server, _) = acting("server", || listener.accept())?;
        stage.until_count(count, "accepts", accepted())?;
        counts.push(waiting()?.to_string());
        acting("server", || server.shutdown(Shutdown::Write))?;
        stage.until_count(count, "CLOSE_WAIT", entered(Role::Active, TcpState::CloseWait))?;
        close("client", client)?;
        acting("server", || server.read(&mut [0]))?;
        stage.until_count(count, "the server's end", entered(Role::Passive, TcpState::Close))?;
        close("server", server)?;
    }
    let after = waiting()?;
    close("server", listener)?;
    Ok(format!(
        "In TIME_WAIT while the clients were connected: {}; afterwards: {after}. The second connection took the
place of the first one's.",
        counts.join(", then ")
    ))
}
