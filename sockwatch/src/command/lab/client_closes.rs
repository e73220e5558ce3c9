//! The client closes first.

use std::{io::Read, net::Shutdown, thread::sleep, time::Duration};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::close,
    stage::{Pair, Stage},
    watch::{ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "client-closes",
    summary: "the client closes first: TIME_WAIT stays on its side",
    story: "The client closes first. The server's end goes to CLOSE_WAIT, where it stays until its process
closes, too. Whoever closed first keeps the connection in TIME_WAIT for a minute, without a process.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let Pair { listener, mut client, server } = stage.pair()?;
    let port = client.local_addr()?.port();
    stage.say(format_args!("The client closes: its FIN goes out."));
    acting("client", || client.shutdown(Shutdown::Write))?;
    let waiting = stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    stage.say(format_args!("The server's end is in CLOSE_WAIT. Its process reads the end of the stream, and closes."));
    close("server", server)?;
    acting("client", || client.read(&mut [0]))?;
    let end = stage.until("the server's end", ended(Role::Passive))?;
    let left =
        |stage: &Stage| Ok::<_, anyhow::Error>(f64::from(stage.listed(port, TcpState::TimeWait)?.expires_ms) / 1000.0);
    let at_first = left(stage)?;
    sleep(Duration::from_secs(1));
    let later = left(stage)?;
    close("client", client)?;
    close("server", listener)?;
    Ok(format!(
        "The server's end waited {} us in CLOSE_WAIT for its process. The client's is now in TIME_WAIT, which no state
event tells: the kernel's table shows it at port {port} for {at_first:.1} s more, a second later for {later:.1} s, and
no process has it.",
        (end.at_ns - waiting.at_ns) / 1000,
    ))
}
