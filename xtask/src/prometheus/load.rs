//! Clients that connect all the time, and a server that stops accepting now and then. Each client says when it was connected, by the
//! same clock as the server's: so the server knows how long each has waited for it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{Backlog, listen};

use crate::service::PATIENCE;

/// Clients at once, and how many connections each makes, one after the other.
const CLIENTS: usize = 4;
const EACH: usize = 4000;

/// All connections: fewer than there are local ports, since each leaves one in TIME_WAIT.
pub(super) const CONNECTIONS: usize = CLIENTS * EACH;

/// Between two connections of a client.
const GAP: Duration = Duration::from_millis(2);

/// The server accepts for so long, and then not for so long: one of 13 waits longer than 200 ms.
const WORKS: Duration = Duration::from_secs(1);
const STOPS: Duration = Duration::from_millis(300);

/// What came of it.
pub(super) struct Load {
    /// The wait that 99 of 100 do not exceed, by this process's clock.
    pub(super) p99_s: f64,
    /// Connections in a second.
    pub(super) rate: f64,
}

/// A listener whose queue has room for all that come while nobody accepts.
pub(super) fn server() -> Result<TcpListener> {
    let server = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on loopback")?;
    listen(&server, Backlog::new(4096).context("no such backlog")?).context("cannot have a longer queue")?;
    Ok(server)
}

pub(super) fn run(server: &TcpListener, address: SocketAddr) -> Result<Load> {
    let began = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || connect(address, began))).collect();
        let waits = accept(server, began);
        for client in clients {
            client.join().map_err(|_panic| anyhow!("a client panicked: see the message above"))??;
        }
        let (mut waits, took) = (waits?, began.elapsed());
        waits.sort_unstable();
        // As Prometheus counts: the greatest of all is the p100.
        let p99 = waits.get((waits.len() * 99).div_ceil(100) - 1).context("no waits")?;
        Ok(Load { p99_s: p99.as_secs_f64(), rate: CONNECTIONS as f64 / took.as_secs_f64() })
    })
}

/// One connection after the other; each says when it was there.
fn connect(address: SocketAddr, began: Instant) -> Result<()> {
    for _ in 0..EACH {
        let mut client = TcpStream::connect(address).context("cannot connect on loopback")?;
        let connected_ns = u64::try_from(began.elapsed().as_nanos()).context("too late")?;
        client.write_all(&connected_ns.to_le_bytes()).context("cannot say when it was connected")?;
        thread::sleep(GAP);
    }
    Ok(())
}

/// How long each has waited.
fn accept(server: &TcpListener, began: Instant) -> Result<Vec<Duration>> {
    let (mut waits, mut stopped) = (Vec::new(), Instant::now());
    for _ in 0..CONNECTIONS {
        if stopped.elapsed() >= WORKS {
            thread::sleep(STOPS);
            stopped = Instant::now();
        }
        let (mut child, _) = server.accept().context("cannot accept on loopback")?;
        let accepted = began.elapsed();
        child.set_read_timeout(Some(PATIENCE)).context("cannot limit the time")?;
        let mut connected_ns = [0; 8];
        child.read_exact(&mut connected_ns).context("a client does not say when it was connected")?;
        // It may have come to say so only after it was accepted.
        waits.push(accepted.saturating_sub(Duration::from_nanos(u64::from_le_bytes(connected_ns))));
    }
    Ok(waits)
}
