//! A router says that there is no way.

use std::net::{SocketAddr, TcpStream};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::{acting, gateway},
    sockets::at,
    stage::Stage,
    watch::entered,
};

pub(super) const LAB: Lab = Lab {
    name: "unreachable",
    summary: "a router answers the SYN by ICMP: no route to host",
    story: "The client's SYN reaches a router, which knows no way and says so by ICMP. The kernel takes such an
answer for a rumour while connect() is still at work, sends the SYN again a second later, and
believes the next one.",
    run: Run::Wired(run),
};

/// Behind the router.
const NOWHERE: SocketAddr = at([10, 9, 9, 9], 80);

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    gateway(stage.far()?, "10.9.9.0/24")?;
    stage.say(format_args!("The client connects to {NOWHERE}."));
    let said = acting("client", || Ok(TcpStream::connect(NOWHERE).err()))?;
    let begun = stage.until("SYN_SENT", entered(Role::Active, TcpState::SynSent))?;
    let done = stage.until("the end", entered(Role::Active, TcpState::Close))?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!(
        "The client got: {said}, after {:.2} s: sooner than a timeout, and later than a refusal.",
        (done.at_ns - begun.at_ns) as f64 / 1e9
    ))
}
