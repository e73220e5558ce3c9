//! Clients that leave the accept queue by FIN.

use std::net::{Shutdown, TcpStream};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, close, listen},
    stage::Stage,
    watch::{accepted, ended, entered, fin_acknowledged, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "queue-fin",
    summary: "clients leave the accept queue: CLOSE_WAIT without a process",
    story: "Two clients connect and close before the server accepts. Their connections stay in the accept queue,
in CLOSE_WAIT, and `ss -p` shows no process for them: only the listener's process can help. It
accepts the first one; the second one goes with the listener.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 128))?;
    for count in 1..=2 {
        let client = acting("client", || TcpStream::connect(SERVER))?;
        stage.until_count(count, "queued connections", queued())?;
        // In two steps, for the reason at `talk`: what is said here would stay unread.
        acting("client", || client.shutdown(Shutdown::Write))?;
        stage.until_count(count, "FIN_WAIT2", fin_acknowledged())?;
        close("client", client)?;
        stage.until_count(count, "CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
        stage.until_count(count, "the client's end", ended(Role::Active))?;
    }
    let ownerless = stage.until_listed("two in CLOSE_WAIT", |rows| {
        let waiting: Vec<_> = rows.iter().filter(|row| row.state == TcpState::CloseWait).collect();
        (waiting.len() == 2).then(|| waiting.iter().filter(|row| row.inode == 0).count())
    })?;
    stage.say(format_args!(
        "{ownerless} connections are in CLOSE_WAIT without a process (inode 0). The server accepts one, and closes it."
    ));
    let (server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    close("server", server)?;
    stage.until("its end", ended(Role::Passive))?;
    stage.say(format_args!("The server closes its listener: the other one is aborted."));
    close("server", listener)?;
    stage.until_count(2, "the other's end", ended(Role::Passive))?;
    Ok("CLOSE_WAIT without a process means: look at the listener of that port, it does not accept.".to_owned())
}
