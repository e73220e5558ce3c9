//! Processes that die with open connections.

use std::io::Read;

use nix::sys::signal::Signal;
use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    actor::Actor,
    netns::acting,
    sockets::{SERVER, close, listen, talk},
    stage::Stage,
    watch::{accepted, ended, entered},
};

pub(super) const LAB: Lab = Lab {
    name: "killed",
    summary: "clients are killed (SIGTERM, SIGKILL): the kernel closes for them, and keeps TIME_WAIT",
    story: "One client process is killed by SIGTERM, another one by SIGKILL. Neither can say goodbye, and yet
the server sees a FIN of both: the kernel closes what a process leaves behind, and keeps the
connection's last state without it.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 128))?;
    for (count, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        let mut client = Actor::start("client")?;
        client.tell(&format!("connect {SERVER}"))?;
        let (mut server, _) = acting("server", || listener.accept())?;
        stage.until_count(count + 1, "accepts", accepted())?;
        let say = |words| client.tell(&format!("say {words}"));
        talk(say, |words| acting("server", || server.read_exact(words)))?;
        stage.say(format_args!("Client {} is killed by {signal}.", client.pid()));
        client.kill(signal)?;
        stage.until_count(count + 1, "its FIN", entered(Role::Passive, TcpState::CloseWait))?;
        stage.until_count(count + 1, "its end", ended(Role::Active))?;
        close("server", server)?;
        stage.until_count(count + 1, "the server's end", ended(Role::Passive))?;
    }
    let left = stage.until_listed("two in TIME_WAIT", |rows| {
        let left: Vec<_> = rows.iter().filter(|row| row.state == TcpState::TimeWait).collect();
        let seconds = |row: &&super::table::Row| format!("{:.1} s", f64::from(row.expires_ms) / 1000.0);
        (left.len() == 2).then(|| left.iter().map(seconds).collect::<Vec<_>>())
    })?;
    close("server", listener)?;
    Ok(format!(
        "Both clients are gone; the kernel keeps their connections in TIME_WAIT, for {} more. It looks the same for both
signals, and as if they had called close(): that is what a dying task does, and all that the trace sees.",
        left.join(" and ")
    ))
}
