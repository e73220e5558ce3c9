//! A full accept queue.

use std::net::TcpStream;

use sockwatch::tcp::{connection::Role, state::TcpState};

use super::{
    Lab, Run,
    netns::acting,
    sockets::{SERVER, begin_connect, close, listen, reset},
    stage::Stage,
    watch::{accepted, entered, queued},
};

pub(super) const LAB: Lab = Lab {
    name: "backlog",
    summary: "listen(1) takes two; the third client's SYN is dropped, and sent again after a second",
    story: "The server says listen(1) and does not accept. The queue takes one more than its limit: two clients
are connected. The third one's SYN is dropped without a word; its kernel tries again a second later.
So a full queue shows at clients as connects that take 1, 3, 7 ... seconds.",
    run: Run::Alone(run),
};

fn run(stage: &mut Stage) -> anyhow::Result<String> {
    let listener = acting("server", || listen(SERVER, 1))?;
    let first = acting("client", || TcpStream::connect(SERVER))?;
    let second = acting("client", || TcpStream::connect(SERVER))?;
    stage.until_count(2, "queued connections", queued())?;
    let row = stage.listed(SERVER.port(), TcpState::Listen)?;
    stage.say(format_args!("Queue {} of limit {}. A third client connects.", row.receive_queue, row.send_queue));
    let third = acting("client", || begin_connect(SERVER))?;
    let begun = stage.until_count(3, "SYN_SENT", entered(Role::Active, TcpState::SynSent))?;
    stage.say(format_args!(
        "Its SYN was dropped. Now the server accepts both; the third one's SYN comes again after a second."
    ));
    let (one, _) = acting("server", || listener.accept())?;
    let (two, _) = acting("server", || listener.accept())?;
    stage.until_count(2, "accepts", accepted())?;
    let connected = stage.until_count(3, "the third connection", entered(Role::Active, TcpState::Established))?;
    let (three, _) = acting("server", || listener.accept())?;
    stage.until_count(3, "accepts", accepted())?;
    stage.say(format_args!("The third client waited; the lab is done, and its clients reset what they have."));
    for client in [first, second, third.into()] {
        reset("client", client)?;
    }
    stage.until_count(3, "ends", entered(Role::Passive, TcpState::Close))?;
    close("server", (one, two, three, listener))?;
    Ok(format!(
        "connect() took the third client {:.2} s. Only counters tell of the dropped SYN: the listener's drops,
and ListenOverflows and ListenDrops of the network namespace.",
        (connected.at_ns - begun.at_ns) as f64 / 1e9
    ))
}
