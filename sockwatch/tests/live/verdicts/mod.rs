//! Who ended a connection and why: each row of the verdict table, made to happen.

mod aborts;
mod connects;
mod payload;
mod queue;
mod timeouts;

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Instant,
};

use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket},
};

use crate::{
    harness::{Ended, Line, Trace, patience, shared},
    network::Network,
    workload::place,
};

/// Traces what `work` does at a port of its own until both ends have finished; each is `role END: why`.
#[track_caller]
fn check(name: &str, expected: &[&str], work: impl FnOnce(&mut Pair)) {
    let Some(machine) = shared(name) else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let mut pair = Pair::new(address, &mut trace);
    work(&mut pair);
    drop(pair);
    trace.until_finished(expected.len());
    assert_endings(&trace.finish(), expected);
}

/// Compares endings, in any order.
#[track_caller]
fn assert_endings(ended: &Ended, expected: &[&str]) {
    let mut found: Vec<_> = ended.lines.iter().filter(|line| line.is_finished_connection()).map(ending).collect();
    let mut expected: Vec<_> = expected.iter().map(|ending| (*ending).to_owned()).collect();
    found.sort();
    expected.sort();
    let stories = ended.stories().join("\n  ");
    assert!(
        found == expected,
        "expected\n  {}\nfound\n  {}\nof\n  {stories}",
        expected.join("\n  "),
        found.join("\n  ")
    );
}

fn ending(line: &Line) -> String {
    let text = |name: &str| line.0[name].as_str().unwrap_or("-");
    format!("{} {}: {}", line.role(), text("end"), mask(text("why")))
}

/// The sentence without what differs from run to run: times, processes, ports.
fn mask(why: &str) -> String {
    const UNITS: [&str; 5] = ["min", "s", "ms", "us", "ns"];
    let bare = |word: &str| word.trim_end_matches([',', ';', ':']).to_owned();
    let words: Vec<_> = why.split(' ').collect();
    let mut masked: Vec<String> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let is_number = word.parse::<f64>().is_ok();
        let next = words.get(index + 1).map(|word| bare(word)).unwrap_or_default();
        let rest = &word[bare(word).len()..];
        if is_number && UNITS.contains(&next.as_str()) && (*word, next.as_str()) != ("60", "s") {
            continue;
        } else if *word == "thread" && masked.last().is_some_and(|last| last == "PROCESS") {
            // Its name tells which test it is.
            continue;
        } else if index > 0 && words[index - 1] == "thread" && masked.last().is_some_and(|last| last == "PROCESS") {
            masked.pop();
            masked.push(format!("PROCESS{rest}"));
        } else if is_number && (next.starts_with("retransmission") || next.starts_with("probe") || next == "of") {
            masked.push("N".into());
        } else if UNITS.contains(&bare(word).as_str()) && (words[index - 1], bare(word).as_str()) != ("60", "s") {
            masked.push(format!("TIME{rest}"));
        } else if bare(word).rsplit_once('/').is_some_and(|(_, pid)| pid.parse::<u32>().is_ok()) {
            masked.push(format!("PROCESS{rest}"));
        } else if bare(word).parse::<SocketAddr>().is_ok() {
            masked.push(format!("ADDRESS{rest}"));
        } else {
            masked.push((*word).to_owned());
        }
    }
    // Tail loss probes come where the kernel thinks it worth while.
    masked.join(" ").replace("at least N of N retransmissions", "N retransmissions")
}

/// A client and the server's end of its connection, both this process's.
struct Pair<'a> {
    _listener: TcpListener,
    client: Option<TcpStream>,
    server: Option<TcpStream>,
    trace: &'a mut Trace,
}

impl<'a> Pair<'a> {
    fn new(address: SocketAddr, trace: &'a mut Trace) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { _listener: listener, client: Some(client), server: Some(server), trace }
    }

    fn client(&mut self) -> &mut TcpStream {
        self.client.as_mut().unwrap()
    }

    fn server(&mut self) -> &mut TcpStream {
        self.server.as_mut().unwrap()
    }

    /// Reads the trace until this end has entered a state.
    fn until(&mut self, role: &str, state: &str) {
        self.trace.until(&format!("{role} in {state}"), |line| line.role() == role && line.0["new"] == state);
    }
}

/// Writes until the other end's window is closed and this end's buffer is full.
fn fill(stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(count) = (&mut &*stream).write(&[0; 65536]) {
        written += count;
    }
    stream.set_nonblocking(false).unwrap();
    written
}

/// The same, with nothing on the way: only the closed window holds the rest back. Step by step, for a receiver that is
/// flooded drops what its window had room for, and that is sent again.
fn close_window(mut stream: &TcpStream) {
    let deadline = Instant::now() + patience();
    loop {
        let info = getsockopt(&stream, Info).unwrap();
        match (info.tcpi_unacked, info.tcpi_snd_wnd) {
            (0, 0) => break,
            (0, window) => stream.write_all(&vec![0; window.min(4096) as usize]).unwrap(),
            _on_its_way => std::thread::yield_now(),
        }
        assert!(Instant::now() < deadline, "the window does not close: {info:?}");
    }
    fill(stream);
}

sockopt_impl!(
    /// `struct tcp_info`.
    Info,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

sockopt_impl!(
    /// Seconds in FIN_WAIT2 without a process.
    Linger2,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_LINGER2,
    libc::c_int
);

sockopt_impl!(
    /// Whether what arrives is acknowledged at once.
    QuickAck,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_QUICKACK,
    libc::c_int
);

fn nonblocking() -> OwnedFd {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap()
}

/// Traces a client's namespace while `work` connects from there.
#[track_caller]
fn check_near<T>(
    name: &str,
    expected: &[&str],
    prepare: impl FnOnce(&Network),
    work: impl FnOnce(&Network, &mut Trace) -> T,
) -> Option<Ended> {
    let machine = shared(name)?;
    let tag = name.split('_').map(|word| &word[..1]).collect::<String>();
    let network = Network::new(&tag);
    prepare(&network);
    let mut trace = Trace::start(machine, &["--netns", &network.near.name]);
    let held = work(&network, &mut trace);
    trace.until_finished(expected.len());
    let ended = trace.finish();
    assert_endings(&ended, expected);
    drop(held);
    Some(ended)
}

/// connect() from the client's namespace, to its end; returns the errno.
fn connect_blocking(network: &Network) -> Option<i32> {
    network.near.run(|| TcpStream::connect(network.server).err().and_then(|error| error.raw_os_error()))
}

/// A connection through the network, both ends of which this process holds.
fn connected(network: &Network) -> (TcpStream, TcpStream) {
    let listener = network.far.run(|| TcpListener::bind(network.server).unwrap());
    let client = network.near.run(|| TcpStream::connect(network.server).unwrap());
    let (server, _) = listener.accept().unwrap();
    (client, server)
}
