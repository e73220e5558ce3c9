//! The last step of a handshake finds the accept queue full.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
};

use socket2::{SockRef, Socket};
use sockwatch::tcp::{
    connection::Role,
    state::TcpState,
    update::{Happening, Update},
};

use super::{
    Lab, Run,
    netns::{acting, sysctl},
    sockets::{Deaf, SERVER, bind, close, deafen, reset},
    stage::Stage,
    watch::{accepted, entered, queued},
};

pub(super) const SILENT: Lab = Lab {
    name: "overflow",
    summary: "the final ACK is dropped at a full queue: the client is ESTABLISHED, the server is not",
    story: "The queue takes one. Two handshakes are under way; their final ACKs are held back, so that both clients are ESTABLISHED
and the server has only requests. Then the second one's data finds the queue full: it is dropped. The client
retransmits to a server that knows nothing of a connection.",
    run: Run::Alone(silent),
};

pub(super) const RESET: Lab = Lab {
    name: "overflow-reset",
    summary: "the same with tcp_abort_on_overflow=1: the client is reset",
    story: "As in lab overflow, but with tcp_abort_on_overflow=1: the client whose final ACK finds the queue full is reset. No
state of the server tells: it never had a socket for it.",
    run: Run::Alone(reset_on_overflow),
};

pub(super) const COOKIES: Lab = Lab {
    name: "syn-cookies",
    summary: "SYN cookies on a full queue: the client is ESTABLISHED, the server has nothing at all",
    story: "The server answers SYNs by cookies (tcp_syncookies=2): it keeps nothing until the final ACK. When that finds the queue
full, the client is ESTABLISHED with a server that has neither a socket nor a request for it.",
    run: Run::Alone(cookies),
};

/// A server with room for one, and two clients that believe to be connected. The first one is.
struct Crowd {
    listener: TcpListener,
    first: TcpStream,
    second: TcpStream,
    /// How many requests the kernel had while the final ACKs were held back.
    requests: usize,
}

fn crowd(stage: &mut Stage) -> anyhow::Result<Crowd> {
    let listener = acting("server", || {
        let socket = bind(SERVER)?;
        deafen(&socket, Deaf::ButForSyn)?;
        socket.listen(0)?;
        Ok(socket)
    })?;
    let mut first = acting("client", || TcpStream::connect(SERVER))?;
    let second = acting("client", || TcpStream::connect(SERVER))?;
    stage.until_count(2, "clients", entered(Role::Active, TcpState::Established))?;
    let of_server = |row: &&super::table::Row| row.local_port == SERVER.port() && row.state == TcpState::SynRecv;
    let requests = stage.until_listed("the table", |rows| Some(rows.iter().filter(of_server).count()))?;
    stage.say(format_args!(
        "Both clients are ESTABLISHED; the server has {requests} requests. Now the first one's data comes through."
    ));
    hear(&listener)?;
    acting("client", || first.write_all(b"first"))?;
    stage.until("a queued connection", queued())?;
    Ok(Crowd { listener: listener.into(), first, second, requests })
}

fn hear(listener: &Socket) -> anyhow::Result<()> {
    acting("server", || listener.detach_filter())
}

fn retransmitted() -> impl Fn(&Update) -> bool {
    |update| matches!(update.happening, Happening::Retransmitted { .. })
}

/// The second one gets in when the first one is accepted. Returns how long it was alone, in milliseconds.
fn wait_outside(stage: &mut Stage, crowd: Crowd) -> anyhow::Result<u64> {
    let Crowd { listener, first, mut second, .. } = crowd;
    stage.say(format_args!("The second one's data finds the queue full."));
    acting("client", || second.write_all(b"second"))?;
    stage.until("a retransmission", retransmitted())?;
    stage.say(format_args!(
        "It was dropped, and so was its retransmission. The server accepts the first one: there is room."
    ));
    let (one, _) = acting("server", || listener.accept())?;
    let begun = stage.until_count(2, "clients", entered(Role::Active, TcpState::Established))?;
    let done = stage.until_count(2, "queued connections", queued())?;
    let (two, _) = acting("server", || listener.accept())?;
    stage.until_count(2, "accepts", accepted())?;
    for server in [one, two] {
        reset("server", server)?;
    }
    stage.until_count(2, "ends", entered(Role::Active, TcpState::Close))?;
    close("client", (first, second))?;
    close("server", listener)?;
    Ok((done.at_ns - begun.at_ns) / 1_000_000)
}

fn silent(stage: &mut Stage) -> anyhow::Result<String> {
    let crowd = crowd(stage)?;
    let alone_ms = wait_outside(stage, crowd)?;
    Ok(format!("The second client was ESTABLISHED {alone_ms} ms before the server had a socket for it."))
}

fn cookies(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_syncookies", 2)?;
    let crowd = crowd(stage)?;
    let requests = crowd.requests;
    let alone_ms = wait_outside(stage, crowd)?;
    Ok(format!(
        "With cookies the server had {requests} requests; for {alone_ms} ms only the second client knew of its connection."
    ))
}

fn reset_on_overflow(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_abort_on_overflow", 1)?;
    let Crowd { listener, first, mut second, .. } = crowd(stage)?;
    stage.say(format_args!("The second one's data finds the queue full: it is answered by a RST."));
    acting("client", || second.write_all(b"second"))?;
    stage.until("the reset", entered(Role::Active, TcpState::Close))?;
    let said = acting("client", || SockRef::from(&second).take_error())?;
    close("client", second)?;
    reset("client", first)?;
    stage.until("the first one's end", entered(Role::Passive, TcpState::Close))?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The second client got: {said}. The server's trace shows no connection of it."))
}
