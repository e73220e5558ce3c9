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
    table::Row,
    watch::{self, accepted, entered},
};

pub(super) const SILENT: Lab = Lab {
    name: "overflow",
    summary: "the final ACK is dropped at a full queue: the client is ESTABLISHED, the server is not",
    story: "The queue takes three, and two are in it. Two more handshakes are under way; their final ACKs are
lost, so that both clients are ESTABLISHED and the server has only requests. The third client's data
takes the last place, the fourth one's finds the queue full and is dropped. That client retransmits
to a server that knows nothing of its connection.",
    run: Run::Alone(silent),
};

pub(super) const RESET: Lab = Lab {
    name: "overflow-reset",
    summary: "the same with tcp_abort_on_overflow=1: the client is reset",
    story: "As in lab overflow, but with tcp_abort_on_overflow=1: the client that finds the queue full is reset.
No state of the server tells: it never had a socket for it.",
    run: Run::Alone(reset_on_overflow),
};

pub(super) const COOKIES: Lab = Lab {
    name: "syn-cookies",
    summary: "SYN cookies on a full queue: the client is ESTABLISHED, the server has nothing at all",
    story: "The server answers SYNs by cookies (tcp_syncookies=2): it keeps nothing until the final ACK. When
that finds the queue full, the client is ESTABLISHED with a server that has neither a socket nor a
request for it.",
    run: Run::Alone(cookies),
};

/// How many connections are in the queue before; with a limit as high it takes one more.
const WAITING: usize = 2;

/// A server with room for one, and two clients that believe to be connected. The first one is.
struct Crowd {
    listener: TcpListener,
    /// Those that are in the queue.
    queued: Vec<TcpStream>,
    second: TcpStream,
    /// How many requests the kernel had when the final ACKs were lost.
    requests: usize,
}

fn crowd(stage: &mut Stage) -> anyhow::Result<Crowd> {
    let listener = acting("server", || {
        let socket = bind(SERVER)?;
        socket.listen(WAITING as i32)?;
        Ok(socket)
    })?;
    let mut queued = Vec::new();
    for _ in 0..WAITING {
        queued.push(acting("client", || TcpStream::connect(SERVER))?);
    }
    stage.until_count(WAITING, "queued connections", watch::queued())?;
    acting("server", || deafen(&listener, Deaf::ButForSyn))?;
    let mut first = acting("client", || TcpStream::connect(SERVER))?;
    let second = acting("client", || TcpStream::connect(SERVER))?;
    stage.until_count(WAITING + 2, "clients", entered(Role::Active, TcpState::Established))?;
    let of_server = |row: &&Row| row.local_port == SERVER.port() && row.state == TcpState::SynRecv;
    let requests = stage.until_listed("the table", |rows| Some(rows.iter().filter(of_server).count()))?;
    stage.say(format_args!(
        "Four clients are ESTABLISHED, {WAITING} are in the queue; the server has {requests} requests."
    ));
    stage.say(format_args!("The third one sends, and takes the last place."));
    hear(&listener)?;
    acting("client", || first.write_all(b"first"))?;
    stage.until_count(WAITING + 1, "queued connections", watch::queued())?;
    queued.push(first);
    Ok(Crowd { listener: listener.into(), queued, second, requests })
}

fn hear(listener: &Socket) -> anyhow::Result<()> {
    acting("server", || listener.detach_filter())
}

fn retransmitted() -> impl Fn(&Update) -> bool {
    |update| matches!(update.happening, Happening::Retransmitted { .. })
}

/// The last one gets in when the others are accepted. Returns how long it was alone, in milliseconds.
fn wait_outside(stage: &mut Stage, crowd: Crowd) -> anyhow::Result<u64> {
    let Crowd { listener, queued: mut clients, mut second, .. } = crowd;
    stage.say(format_args!("The fourth one sends, and finds the queue full."));
    acting("client", || second.write_all(b"second"))?;
    stage.until("a retransmission", retransmitted())?;
    stage.say(format_args!("It was dropped, and so was its retransmission. The server accepts: there is room."));
    let all = WAITING + 2;
    let mut servers = Vec::new();
    for count in 1..all {
        servers.push(acting("server", || listener.accept())?);
        stage.until_count(count, "accepts", accepted())?;
    }
    let begun = stage.until_count(all, "clients", entered(Role::Active, TcpState::Established))?;
    let done = stage.until_count(all, "queued connections", watch::queued())?;
    servers.push(acting("server", || listener.accept())?);
    stage.until_count(all, "accepts", accepted())?;
    for (server, _) in servers {
        reset("server", server)?;
    }
    stage.until_count(all, "ends", entered(Role::Active, TcpState::Close))?;
    clients.push(second);
    close("client", clients)?;
    close("server", listener)?;
    Ok((done.at_ns - begun.at_ns) / 1_000_000)
}

fn silent(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_syncookies", 0)?;
    let crowd = crowd(stage)?;
    let alone_ms = wait_outside(stage, crowd)?;
    Ok(format!("The fourth client was ESTABLISHED {alone_ms} ms before the server had a socket for it."))
}

fn cookies(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_syncookies", 2)?;
    let crowd = crowd(stage)?;
    let requests = crowd.requests;
    let alone_ms = wait_outside(stage, crowd)?;
    Ok(format!(
        "With cookies the server had {requests} requests. For {alone_ms} ms only the fourth client knew of its
connection."
    ))
}

fn reset_on_overflow(stage: &mut Stage) -> anyhow::Result<String> {
    sysctl("net/ipv4/tcp_syncookies", 0)?;
    sysctl("net/ipv4/tcp_abort_on_overflow", 1)?;
    let Crowd { listener, queued, mut second, .. } = crowd(stage)?;
    stage.say(format_args!("The fourth one sends, finds the queue full, and is answered by a RST."));
    acting("client", || second.write_all(b"second"))?;
    stage.until("the reset", entered(Role::Active, TcpState::Close))?;
    let said = acting("client", || SockRef::from(&second).take_error())?;
    close("client", second)?;
    let count = queued.len();
    for client in queued {
        reset("client", client)?;
    }
    stage.until_count(count, "the others' ends", entered(Role::Passive, TcpState::Close))?;
    close("server", listener)?;
    let said = said.map_or_else(|| "no error".to_owned(), |error| error.to_string());
    Ok(format!("The fourth client got: {said}. The server's trace shows no connection of it."))
}
