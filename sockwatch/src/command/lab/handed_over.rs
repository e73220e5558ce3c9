//! A connection that changes its process.

use std::{
    io::Read,
    net::{Shutdown, TcpStream},
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    actor::Actor,
    netns::acting,
    sockets::{SERVER, close, listen},
    stage::Stage,
    watch::{accepted, ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "handed-over",
    summary: "one process accepts, another one serves and closes (inetd, systemd's Accept=yes)",
    story: "A superserver accepts, and hands the connection to a process that it starts for it, as inetd does.
No event tells of the handover: the acceptor is one process, and who closes is another.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("superserver", || listen(SERVER, 128))?;
    let mut client = acting("client", || TcpStream::connect(SERVER))?;
    let (server, _) = acting("superserver", || listener.accept())?;
    stage.until("accept", accepted())?;
    let mut service = Actor::holding("service", server)?;
    service.tell("take-stream")?;
    stage.say(format_args!(
        "Process {} has the connection now. It answers; the client closes, then it does.",
        service.pid()
    ));
    service.tell("say answer")?;
    acting("client", || client.read(&mut [0; 64]))?;
    acting("client", || client.shutdown(Shutdown::Write))?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    service.tell("close")?;
    acting("client", || client.read(&mut [0]))?;
    stage.until("the server's end", ended(Role::Passive))?;
    close("client", client)?;
    close("superserver", listener)?;
    Ok("PROCESS of the accept is the superserver; of CLOSE_WAIT>LAST_ACK it is the service.".to_owned())
}
