//! The peer's link goes down.

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use sockwatch::tcp::state::TcpState;

use super::{
    Lab, Run,
    netns::{NEAR, acting},
    sockets::{at, close, listen, reset},
    stage::Stage,
    watch::{accepted, entered_peer},
};

pub(super) const LAB: Lab = Lab {
    name: "link-down",
    summary: "the client's cable is pulled: ESTABLISHED stays, until keepalive looks",
    story: "Two clients on another host are connected. Then that host's cable is pulled: nothing is sent, so
nothing is missed, and both connections stay ESTABLISHED for ever. The server asked for keepalive on
one of them: that one ends.",
    run: Run::Wired(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let address = at(NEAR, 8080);
    let listener = acting("server", || listen(address, 128))?;
    let mut pairs = Vec::new();
    for count in 1..=2 {
        let client = stage.far()?.acting("client", || TcpStream::connect(address))?;
        let (server, _) = acting("server", || listener.accept())?;
        stage.until_count(count, "accepts", accepted())?;
        pairs.push((client, server));
    }
    let [(lost, mut watched), (other, unwatched)] =
        <[_; 2]>::try_from(pairs).map_err(|_| anyhow::anyhow!("two connections"))?;
    let port = lost.local_addr()?.port();
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(1);
    acting("server", || SockRef::from(&watched).set_tcp_keepalive(&keepalive))?;
    stage.say(format_args!(
        "The cable is pulled. Keepalive on port {port}: after 1 s of silence, one probe, 1 s for its answer."
    ));
    stage.far()?.ip("link set far down")?;
    let began = Instant::now();
    let said = acting("server", || Ok(watched.read(&mut [0]).err()))?;
    let lasted = began.elapsed();
    stage.until("its end", entered_peer(port, TcpState::Close))?;
    let left = stage.listed(8080, TcpState::Established)?;
    stage.say(format_args!(
        "Port {port} is gone; port {} is still ESTABLISHED, and would be tomorrow.",
        left.remote_port
    ));
    stage.say(format_args!("The lab clears away what is left: no cable, no goodbye."));
    close("server", watched)?;
    reset("server", unwatched)?;
    for client in [lost, other] {
        reset("client", client)?;
    }
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!(
        "The server got: {said}, after {:.1} s. Without keepalive it would never have known.",
        lasted.as_secs_f64()
    ))
}
