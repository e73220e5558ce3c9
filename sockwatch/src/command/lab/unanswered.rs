//! A SYN that nobody answers.

use std::net::TcpStream;

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::{acting, sysctl},
    sockets::{Deaf, SERVER, bind, close, deafen},
    stage::Stage,
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "unanswered",
    summary: "nobody answers the SYN: it is sent again, then the connect times out",
    story: "All segments to the server are lost, as behind a firewall that drops. The kernel sends the SYN
again, each time after a longer wait. Here tcp_syn_retries is 1: three seconds, instead of the two
minutes of the default.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_syn_retries", 1)?;
    // Only newer kernels have it: several SYNs a second apart before the waits double.
    let _ = sysctl("net/ipv4/tcp_syn_linear_timeouts", 0);
    let listener = acting("server", || {
        let socket = bind(SERVER)?;
        deafen(&socket, Deaf::Wholly)?;
        socket.listen(128)?;
        Ok(socket)
    })?;
    stage.say(format_args!("The client connects to {SERVER}."));
    let said = acting("client", || Ok(TcpStream::connect(SERVER).err()))?;
    let begun = stage.until("SYN_SENT", entered(Role::Active, TcpState::SynSent))?;
    let done = stage.until("the end", entered(Role::Active, TcpState::Close))?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The client got: {said}, after {:.1} s.", (done.at_ns - begun.at_ns) as f64 / 1e9))
}
