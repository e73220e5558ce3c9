//! Both ends close at once.

use std::net::{Shutdown, TcpStream};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::{NEAR, acting, hold, release},
    sockets::{at, close, listen},
    stage::Stage,
    watch::{accepted, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "both-close",
    summary: "both ends close at once: CLOSING, and TIME_WAIT on both sides",
    story: "Client and server close before either has the other's FIN: the two FINs cross on the cable, which is
held meanwhile. Both ends go through CLOSING, and both keep a TIME_WAIT.",
    run: Run::Wired(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let address = at(NEAR, 8080);
    let listener = acting("server", || listen(address, 128))?;
    let client = stage.far()?.acting("client", || TcpStream::connect(address))?;
    let (server, _) = acting("server", || listener.accept())?;
    stage.until("accept", accepted())?;
    stage.say(format_args!("The cable is held. Both close: each FIN waits at its own end."));
    hold(stage.far()?)?;
    acting("server", || server.shutdown(Shutdown::Write))?;
    stage.far()?.acting("client", || client.shutdown(Shutdown::Write))?;
    stage.until("the server's FIN", entered(Role::Passive, TcpState::FinWait1))?;
    stage.until("the client's FIN", entered(Role::Active, TcpState::FinWait1))?;
    stage.say(format_args!("The cable is released: the FINs cross."));
    release(stage.far()?)?;
    stage.until("the server's end", entered(Role::Passive, TcpState::Close))?;
    stage.until("the client's end", entered(Role::Active, TcpState::Close))?;
    close("client", client)?;
    close("server", server)?;
    close("server", listener)?;
    Ok("CLOSING lasts as long as a segment's way: seeing it in `ss` means that ACKs get lost.".to_owned())
}
