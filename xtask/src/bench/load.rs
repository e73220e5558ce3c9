//! The load: a bounded number of loopback connections, each opened, accepted and closed, as fast as it goes.
//!
//! Every CPU gets a pair of threads, one that connects and one that accepts. The client closes at once and the
//! server after reading the end, so every connection makes the same ten transitions. Each lap of a pair has a
//! listener on an address of its own: ports of closed connections stay taken for 60 s per pair of addresses.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Connections of a lap: well below the 28,232 ephemeral ports.
const LAP: u64 = 10_000;
/// Connections under way per pair: below the accept queue's 128, so that no SYN is ever dropped.
const UNDER_WAY: u64 = 64;
/// A load that takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The listeners' port
    #[arg(long)]
    port: u16,
    /// How many connections to open, accept and close
    #[arg(long)]
    connections: u64,
}

/// What a load did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Connections opened, accepted and closed.
    pub(crate) connections: u64,
    /// Listeners opened and closed on the way.
    pub(crate) listeners: u64,
    /// From the first listener to the last close.
    pub(crate) seconds: f64,
}

impl Load {
    pub(crate) fn connections_per_second(&self) -> f64 {
        self.connections as f64 / self.seconds
    }
}

/// Runs the load in this process and prints what [`super::output::load`] reads.
pub(crate) fn run(options: &Options) -> Result<()> {
    let load = connect_and_accept(options.port, options.connections)?;
    println!("connections={} listeners={} seconds={:.6}", load.connections, load.listeners, load.seconds);
    Ok(())
}

fn connect_and_accept(port: u16, connections: u64) -> Result<Load> {
    let pairs = super::cpus()?.min(200) as u64;
    let (done, ended) = channel();
    let began = Instant::now();
    for pair in 0..pairs {
        let share = connections / pairs + u64::from(pair < connections % pairs);
        start_pair(pair, port, share, &done);
    }
    drop(done);
    let (accepted, listeners) = collect(&ended)?;
    let seconds = began.elapsed().as_secs_f64();
    if accepted != connections {
        bail!("only {accepted} of {connections} connections were accepted: look for listeners on port {port}");
    }
    Ok(Load { connections, listeners, seconds })
}

/// What a thread did: connections accepted and listeners used; a connecting thread counts neither.
type Done = Result<(u64, u64)>;

/// Adds up what the threads report. The threads are not joined: after an error the process ends, and they with it.
fn collect(ended: &Receiver<Done>) -> Result<(u64, u64)> {
    let (mut accepted, mut listeners) = (0, 0);
    loop {
        match ended.recv_timeout(DEADLINE) {
            Ok(done) => {
                let (more_accepted, more_listeners) = done?;
                accepted += more_accepted;
                listeners += more_listeners;
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok((accepted, listeners)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => bail!("the load hangs: try fewer --connections"),
        }
    }
}

fn start_pair(pair: u64, port: u16, connections: u64, done: &Sender<Done>) {
    let accepted = Arc::new(AtomicU64::new(0));
    let (lap_ready, laps) = channel();
    let (accepting, connecting) = (done.clone(), done.clone());
    let seen = Arc::clone(&accepted);
    // A failed send means that the load has already failed.
    thread::spawn(move || {
        let _ = accepting.send(accept_laps(pair, port, connections, &lap_ready, &accepted));
    });
    thread::spawn(move || {
        let _ = connecting.send(connect_laps(&laps, &seen));
    });
}

/// A listener's address and how many connections it waits for.
struct Lap {
    address: SocketAddrV4,
    connections: u64,
}

fn accept_laps(pair: u64, port: u16, connections: u64, ready: &Sender<Lap>, accepted: &AtomicU64) -> Done {
    let mut listeners = 0;
    let mut left = connections;
    while left > 0 {
        let lap = Lap { address: lap_address(pair, listeners, port), connections: left.min(LAP) };
        left -= lap.connections;
        listeners += 1;
        accept_lap(lap, ready, accepted)?;
    }
    Ok((connections, listeners))
}

fn accept_lap(lap: Lap, ready: &Sender<Lap>, accepted: &AtomicU64) -> Result<()> {
    let Lap { address, connections } = lap;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}: is it in use?"))?;
    if ready.send(lap).is_err() {
        bail!("nobody connects to {address}: see the other error");
    }
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().with_context(|| format!("cannot accept on {address}"))?;
        // Waiting for the client's end first gives every connection the same order of states.
        let read = stream.read(&mut [0]).with_context(|| format!("connection to {address} broke"))?;
        if read != 0 {
            bail!("somebody else talks to {address}: stop it and run this again");
        }
        drop(stream);
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn connect_laps(laps: &Receiver<Lap>, accepted: &AtomicU64) -> Done {
    let mut connected = 0;
    for lap in laps {
        for _ in 0..lap.connections {
            while connected - accepted.load(Ordering::Relaxed) >= UNDER_WAY {
                thread::yield_now();
            }
            let stream = TcpStream::connect(lap.address)
                .with_context(|| format!("cannot connect to {}: wait a minute for free ports", lap.address))?;
            drop(stream);
            connected += 1;
        }
    }
    Ok((0, 0))
}

/// 127.x.y.z with x for the pair and y.z for its lap; never 127.0.0.1, which others use.
fn lap_address(pair: u64, lap: u64, port: u16) -> SocketAddrV4 {
    let [.., second] = pair.to_be_bytes();
    let [.., third, fourth] = lap.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, second.saturating_add(1), third, fourth.wrapping_add(1)), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_counted() {
        let load = connect_and_accept(7921, 101).unwrap();
        assert_eq!(load.connections, 101);
        assert_eq!(load.listeners, (super::super::cpus().unwrap() as u64).min(101));
        assert!(load.connections_per_second() > 0.0);
    }

    #[test]
    fn laps_have_addresses_of_their_own() {
        assert_eq!(lap_address(0, 0, 1).to_string(), "127.1.0.1:1");
        assert_eq!(lap_address(1, 0, 1).to_string(), "127.2.0.1:1");
        assert_eq!(lap_address(1, 257, 1).to_string(), "127.2.1.2:1");
    }
}
