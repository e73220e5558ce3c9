//! close() while the SYN is not answered.

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{Deaf, SERVER, begin_connect, bind, close, deafen},
    stage::Stage,
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "given-up",
    summary: "a client closes while its connect is not answered",
    story: "The server does not answer; the client's own timeout is shorter than the kernel's, as in most HTTP
clients. It closes in SYN_SENT: no error, no RST, nothing on the wire.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || {
        let socket = bind(SERVER)?;
        deafen(&socket, Deaf::Wholly)?;
        socket.listen(128)?;
        Ok(socket)
    })?;
    let client = acting("client", || begin_connect(SERVER))?;
    stage.until("SYN_SENT", entered(Role::Active, TcpState::SynSent))?;
    stage.say(format_args!("The SYN was lost. The client gives up."));
    close("client", client)?;
    stage.until("the end", entered(Role::Active, TcpState::Close))?;
    close("server", listener)?;
    Ok("The client ended its own connect: `given-up`, while `timed-out` is the kernel's doing.".to_owned())
}
