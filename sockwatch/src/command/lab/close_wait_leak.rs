//! A server that never closes.

use std::{io::Write, net::TcpStream};

use nix::sys::signal::Signal;
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    actor::Actor,
    netns::acting,
    sockets::{SERVER, close, talk},
    stage::Stage,
    watch::{accepted, ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "close-wait-leak",
    summary: "a server forgets to close: CLOSE_WAIT piles up, and its process is the culprit",
    story: "A server process accepts three clients and forgets them. The clients close; the server's ends stay
in CLOSE_WAIT until their process closes them or dies. No timeout helps: only the process can.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let mut server = Actor::start("server")?;
    server.tell(&format!("listen {SERVER}"))?;
    for count in 1..=3 {
        let mut client = acting("client", || TcpStream::connect(SERVER))?;
        server.tell("accept")?;
        stage.until_count(count, "accepts", accepted())?;
        talk(|words| acting("client", || client.write_all(words.as_bytes())), |_| server.tell("read-last"))?;
        close("client", client)?;
        stage.until_count(count, "CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
        stage.until_count(count, "the client's end", ended(Role::Active))?;
    }
    let leaked = stage.until_listed("three in CLOSE_WAIT", |rows| {
        let waiting: Vec<_> = rows.iter().filter(|row| row.state == TcpState::CloseWait).collect();
        (waiting.len() == 3).then(|| waiting.iter().filter(|row| row.inode != 0).count())
    })?;
    let pid = server.pid();
    stage.say(format_args!(
        "{leaked} connections are in CLOSE_WAIT, all of process {pid}. It is killed: the kernel closes for it."
    ));
    server.kill(Signal::SIGKILL)?;
    stage.until_count(3, "their ends", ended(Role::Passive))?;
    Ok(format!("CLOSE_WAIT with a process: {pid} had not called close(). It ended with the process, not by a timeout."))
}
