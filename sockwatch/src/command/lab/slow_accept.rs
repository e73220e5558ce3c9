//! A server that sleeps before each accept: connections wait in the accept queue while the kernel has long finished
//! their handshakes. The newcomer's first command: it works for every user, on loopback, by polling where eBPF is
//! refused.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use sockwatch::tcp::{
    filter::Ports,
    update::{Happening, Update},
};

use super::{
    Lab, Run,
    running::{collect, show},
};
use crate::{
    cli::{FilterArgs, Format, LabArgs, SourceName, Time},
    command::{
        filter::resolve,
        signals::Stop,
        start,
        trace::{clock, summary},
    },
};

pub(super) const LAB: Lab = Lab {
    name: "slow-accept",
    summary: "a server that accepts late: connections wait in its accept queue",
    story:
        "Clients connect at once to a server that sleeps before each accept. The kernel finishes every handshake at once
(SHAKE) and queues the connection, which then waits for the process (WAIT). The clients see nothing of it.",
    run: Run::Here(slow_accept),
};

/// How long the trace goes on after the experiment if it has not seen everything.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the server sleeps before each accept, unless told otherwise.
const DELAY: Duration = Duration::from_millis(200);
/// How many clients there are, unless told otherwise.
const CLIENTS: u32 = 5;

/// A server that sleeps before each accept; clients that all connect at once.
fn slow_accept(_lab: &Lab, args: &LabArgs) -> anyhow::Result<ExitCode> {
    start::prepare();
    let (clients, delay) = (args.clients.unwrap_or(CLIENTS), args.delay.unwrap_or(DELAY));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let server = listener.local_addr()?;
    if args.format == Format::Text {
        explain(clients, delay, server)?;
    }
    let resolved = resolve(&FilterArgs { port: vec![Ports(server.port()..=server.port())], ..FilterArgs::default() })?;
    let totals = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let clock = clock(Time::Relative);
        let collect = collect(args, SourceName::Auto);
        let mut source = start::source(&collect, &resolved)?;
        source.announce(&collect);
        let (tap, updates) = mpsc::channel();
        let experiment = Experiment::start(listener, clients, delay, updates)?;
        let finished = async {
            tokio::select! {
                () = stop.wait() => {}
                _ = experiment.finished => {}
            }
        };
        let totals = show(&mut source, args, clock, tap, finished).await?;
        summary(&totals, source.bytes());
        anyhow::Ok(totals)
    })?;
    if totals.connections < u64::from(clients) {
        return Err(anyhow!("only {} of {clients} connections were seen to their end", totals.connections));
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(clients: u32, delay: Duration, server: SocketAddr) -> io::Result<()> {
    let delay = delay.as_millis();
    writeln!(
        io::stdout(),
        "{clients} clients connect at once to {server}. Its thread slow-accept sleeps {delay} ms before each accept.
The kernel finishes every handshake at once (SHAKE, microseconds) and queues the connection;
the k-th one then waits k times {delay} ms for the process to pick it up (WAIT). The clients see nothing of it.
"
    )
}

/// The running server and clients.
struct Experiment {
    finished: tokio::sync::oneshot::Receiver<()>,
}

impl Experiment {
    fn start(
        listener: TcpListener,
        clients: u32,
        delay: Duration,
        updates: mpsc::Receiver<Update>,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let (connected, all_connected) = mpsc::channel();
        let (finish, finished) = tokio::sync::oneshot::channel();
        let client = thread::Builder::new().name("clients".into());
        let client =
            client.spawn(move || connect_all(address, clients, &connected)).context("cannot start a thread")?;
        let server = thread::Builder::new().name("slow-accept".into());
        let serve = move || {
            accept_late(&listener, &all_connected, delay);
            drop(listener);
            let _ = client.join();
            // Both ends of every connection, and the listener.
            wait_for_ends(&updates, 2 * clients as usize + 1);
            // Nobody waits any more if the trace was interrupted.
            let _ = finish.send(());
        };
        server.spawn(serve).context("cannot start a thread")?;
        Ok(Self { finished })
    }
}

/// Connects all clients, then hangs up as each is accepted: the server closes first.
fn connect_all(server: SocketAddr, clients: u32, connected: &mpsc::Sender<()>) {
    let mut streams = Vec::new();
    for _ in 0..clients {
        let Ok(stream) = TcpStream::connect(server) else { break };
        streams.push(stream);
        if connected.send(()).is_err() {
            return;
        }
    }
    for mut stream in streams {
        // Waits for the server's FIN.
        let _ = io::copy(&mut stream, &mut io::sink());
    }
}

/// Accepts as many connections as clients connected, sleeping before each: the sleep is the experiment.
fn accept_late(listener: &TcpListener, connected: &mpsc::Receiver<()>, delay: Duration) {
    for () in connected {
        thread::sleep(delay);
        let Ok((mut stream, _)) = listener.accept() else { return };
        // Closed only once the client has closed: without an owner, it would depend on a delayed ACK whether FIN_WAIT2
        // becomes an orphan's.
        if stream.shutdown(Shutdown::Write).is_ok() {
            let _ = stream.read(&mut [0]);
        }
    }
}

/// Waits until the trace has shown so many ends; by polling it may never.
fn wait_for_ends(updates: &mpsc::Receiver<Update>, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut ended = 0;
    while ended < count {
        let Ok(update) = updates.recv_timeout(deadline.saturating_duration_since(Instant::now())) else { return };
        ended += usize::from(matches!(update.happening, Happening::Ended(_)));
    }
}
