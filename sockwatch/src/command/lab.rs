//! `sockwatch lab`: experiments with real sockets on loopback, traced.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use sockwatch::tcp::filter::Ports;

use super::{
    filter::resolve,
    signals::Stop,
    start,
    trace::{clock, show, summary},
};
use crate::cli::{CollectArgs, FilterArgs, Format, LabArgs, LabName, Reconcile, ShowArgs, SourceName, Time};

/// How long the trace goes on after the experiment if it has not seen everything.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &LabArgs) -> anyhow::Result<ExitCode> {
    match args.name {
        LabName::SlowAccept => slow_accept(args),
    }
}

/// A server that sleeps before each accept; clients that all connect at once.
fn slow_accept(args: &LabArgs) -> anyhow::Result<ExitCode> {
    start::prepare();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let server = listener.local_addr()?;
    if args.format == Format::Text {
        explain(args, server)?;
    }
    let resolved = resolve(&FilterArgs { port: vec![Ports(server.port()..=server.port())], ..FilterArgs::default() })?;
    let collect = CollectArgs {
        source: SourceName::Auto,
        latency: Duration::from_millis(20),
        interval: Duration::from_millis(20),
        reconcile: Reconcile::Off,
        buffer: None,
        no_handshake: false,
        probe: Vec::new(),
        with_empty_probe: false,
    };
    let totals = start::runtime()?.block_on(async {
        let stop = Stop::register()?;
        let clock = clock(Time::Relative);
        let mut source = start::source(&collect, &resolved)?;
        let experiment = Experiment::start(listener, args.clients, args.delay)?;
        let shown = shown(args);
        let finished = async {
            tokio::select! {
                () = stop.wait() => {}
                // Both ends of every connection are closed by then; the count ends the trace once all of that is seen.
                _ = experiment.finished => tokio::time::sleep(PATIENCE).await,
            }
        };
        let totals = show(&mut source, &shown, clock, Box::new(io::stdout()), finished).await?;
        summary(&totals, source.bytes());
        anyhow::Ok(totals)
    })?;
    if totals.connections < u64::from(args.clients) {
        return Err(anyhow!("only {} of {} connections were seen to their end", totals.connections, args.clients));
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(args: &LabArgs, server: SocketAddr) -> io::Result<()> {
    let (clients, delay) = (args.clients, args.delay.as_millis());
    writeln!(
        io::stdout(),
        "{clients} clients connect at once to {server}. Its thread slow-accept sleeps {delay} ms before each accept.
The kernel finishes every handshake at once (SHAKE, microseconds) and queues the connection;
the k-th one then waits k times {delay} ms for the process to pick it up (WAIT). The clients see nothing of it.
"
    )
}

fn shown(args: &LabArgs) -> ShowArgs {
    ShowArgs {
        transitions: false,
        connections: false,
        why: false,
        format: args.format,
        time: Time::Relative,
        duration: None,
        count: Some(2 * u64::from(args.clients)),
        output: None,
    }
}

/// The running server and clients.
struct Experiment {
    finished: tokio::sync::oneshot::Receiver<()>,
}

impl Experiment {
    fn start(listener: TcpListener, clients: u32, delay: Duration) -> anyhow::Result<Self> {
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
        let Ok((stream, _)) = listener.accept() else { return };
        drop(stream);
    }
}
