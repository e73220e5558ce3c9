//! What tracing costs those whom no filter matches: every system call, and traffic of other ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contender::{Ready, sockwatch};
use super::statistics::{median, rotated};
use super::tool::Tool;
use super::{Bench, room};

pub(super) const NAME: &str = "bystanders";
/// A filter that nothing here matches.
const UNUSED_PORT: u16 = 1;
const MEASURE_FOR: Duration = Duration::from_millis(700);
const MESSAGE_BYTES: usize = 64;

/// What may be attached while a bystander runs.
struct Neighbour {
    name: &'static str,
    /// `None`: nothing is attached.
    arguments: Option<&'static [&'static str]>,
}

const NEIGHBOURS: &[Neighbour] = &[
    Neighbour { name: "nothing", arguments: None },
    Neighbour { name: "trace --port 1", arguments: Some(&[]) },
    Neighbour { name: "trace --port 1 --no-handshake", arguments: Some(&["--no-handshake"]) },
];

/// Nanoseconds per operation of each bystander, in one turn.
#[derive(Clone, Copy)]
struct Turn {
    system_call_ns: f64,
    round_trip_ns: f64,
}

pub(super) fn run(bench: &Bench) -> Result<()> {
    println!("\nbystanders: what tracing costs those whom no filter matches, {} rounds", bench.rounds);
    let mut turns: Vec<Vec<Turn>> = NEIGHBOURS.iter().map(|_| Vec::new()).collect();
    let order: Vec<usize> = (0..NEIGHBOURS.len()).collect();
    for round in 0..bench.rounds {
        for &at in rotated(&order, round) {
            match room::inside(|| take_turn(bench, &NEIGHBOURS[at])) {
                Ok(turn) => turns[at].push(turn),
                Err(error) => {
                    println!("{}: failed: {error:#}", NEIGHBOURS[at].name);
                    return Ok(());
                }
            }
        }
    }
    print(&turns);
    Ok(())
}

fn take_turn(bench: &Bench, neighbour: &Neighbour) -> Result<Turn> {
    let tool = neighbour.arguments.map(|arguments| {
        let mut command: Command = sockwatch(bench, "trace", UNUSED_PORT);
        command.args(arguments);
        Tool::start(command, &bench.scratch.0.join(NAME), Ready::Announced)
    });
    let tool = tool.transpose()?;
    let turn = Turn { system_call_ns: system_calls(), round_trip_ns: round_trips()? };
    if let Some(tool) = tool {
        tool.end()?;
    }
    Ok(turn)
}

/// The cheapest system call, over and over.
fn system_calls() -> f64 {
    nanoseconds_per(10_000, || {
        std::hint::black_box(std::os::unix::process::parent_id());
        Ok(())
    })
    .expect("parent_id cannot fail")
}

/// Small messages back and forth over one loopback connection.
fn round_trips() -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on the loopback address")?;
    let address = listener.local_addr().context("the listener has no address")?;
    thread::scope(|scope| {
        let echo = scope.spawn(move || echo(&listener));
        let mut stream = TcpStream::connect(address).context("cannot connect to the echo")?;
        stream.set_nodelay(true).context("cannot turn off Nagle's algorithm")?;
        let mut message = [7; MESSAGE_BYTES];
        let time = nanoseconds_per(100, || {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)
        });
        // Its end is the echo's end; without it the scope would wait for ever.
        drop(stream);
        match echo.join() {
            Ok(echoed) => echoed.context("the echo broke")?,
            Err(_panic) => bail!("the echo panicked: see the message above"),
        }
        time.context("the echo broke")
    })
}

fn echo(listener: &TcpListener) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_BYTES];
    loop {
        match stream.read(&mut message)? {
            0 => return Ok(()),
            length => stream.write_all(&message[..length])?,
        }
    }
}

/// Runs `operation` in batches for a fixed time; nanoseconds per operation.
fn nanoseconds_per(batch: u32, mut operation: impl FnMut() -> std::io::Result<()>) -> std::io::Result<f64> {
    let began = Instant::now();
    let mut operations = 0_u64;
    while began.elapsed() < MEASURE_FOR {
        for _ in 0..batch {
            operation()?;
        }
        operations += u64::from(batch);
    }
    Ok(began.elapsed().as_nanos() as f64 / operations as f64)
}

fn print(turns: &[Vec<Turn>]) {
    println!("{:<30} {:>11} {:>6} {:>15} {:>6}", "attached", "getppid ns", "ratio", "round trip ns", "ratio");
    for (neighbour, own) in NEIGHBOURS.iter().zip(turns) {
        let middle = |time: fn(&Turn) -> f64| median(own.iter().map(time)).unwrap_or(f64::NAN);
        let ratio = |time: fn(&Turn) -> f64| {
            let pairs = own.iter().zip(&turns[0]);
            median(pairs.map(|(turn, baseline)| time(turn) / time(baseline))).unwrap_or(f64::NAN)
        };
        let (call, trip) = (|turn: &Turn| turn.system_call_ns, |turn: &Turn| turn.round_trip_ns);
        println!(
            "{:<30} {:>11.1} {:>6.3} {:>15.0} {:>6.3}",
            neighbour.name,
            middle(call),
            ratio(call),
            middle(trip),
            ratio(trip)
        );
    }
    println!("ratio: median of each round's ratio to `nothing`; above 1 is slower");
}
