//! FIN_WAIT2 without a process.

use std::{
    io::{Read, Write},
    time::Instant,
};

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::{acting, sysctl},
    sockets::{close, talk},
    stage::{Pair, Stage},
    watch::{ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "orphan",
    summary: "FIN_WAIT2 without a process lasts tcp_fin_timeout; then the peer's data meets a RST",
    story: "The client closes and is gone; the server does not close. The kernel keeps the client's end in
FIN_WAIT2 without a process, for tcp_fin_timeout (60 s by default, one second here), then forgets
it. The server does not learn of it until it writes: a RST.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_fin_timeout", 1)?;
    let Pair { listener, mut client, mut server } = stage.pair()?;
    let port = client.local_addr()?.port();
    let say = |words: &str| acting("client", || client.write_all(words.as_bytes()));
    talk(say, |words| acting("server", || server.read_exact(words)))?;
    stage.say(format_args!("The client closes; the server does not."));
    close("client", client)?;
    stage.until("CLOSE_WAIT", entered(Role::Passive, TcpState::CloseWait))?;
    stage.until("the client's end", ended(Role::Active))?;
    let began = Instant::now();
    let orphan = stage.listed(port, TcpState::FinWait2)?;
    let left = f64::from(orphan.expires_ms) / 1000.0;
    stage.say(format_args!("The kernel's table has it in FIN_WAIT2, without a process, for {left:.1} s more."));
    stage.until_listed("the orphan's end", |rows| rows.iter().all(|row| row.local_port != port).then_some(()))?;
    let lasted = began.elapsed();
    stage.say(format_args!("It is gone: its timer ended it, of which the kernel tells no event. The server writes."));
    acting("server", || server.write_all(b"late"))?;
    stage.until("the server's end", entered(Role::Passive, TcpState::Close))?;
    close("server", server)?;
    close("server", listener)?;
    Ok(format!("The orphan lasted {:.1} s. tcp_fin_timeout is about this, not about TIME_WAIT.", lasted.as_secs_f64()))
}
