//! Who ended a connection and why: each row of the verdict table, made to happen.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt},
};

use crate::{
    harness::{Ended, Line, Trace, patience, shared},
    network::{Network, set},
    workload::{linger_zero, place},
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
pub(crate) fn assert_endings(ended: &Ended, expected: &[&str]) {
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
        if is_number && UNITS.contains(&next.as_str()) && *word != "60" {
            continue;
        } else if is_number && (next.starts_with("retransmission") || next.starts_with("probe")) {
            masked.push("N".into());
        } else if UNITS.contains(&bare(word).as_str()) && words[index - 1] != "60" {
            masked.push(format!("TIME{rest}"));
        } else if bare(word).rsplit_once('/').is_some_and(|(_, pid)| pid.parse::<u32>().is_ok()) {
            masked.push(format!("PROCESS{rest}"));
        } else if bare(word).parse::<SocketAddr>().is_ok() {
            masked.push(format!("ADDRESS{rest}"));
        } else {
            masked.push((*word).to_owned());
        }
    }
    masked.join(" ")
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

/// The same, until nothing is on the way any more: only the closed window holds the rest back.
fn close_window(stream: &TcpStream) {
    fill(stream);
    let deadline = Instant::now() + patience();
    // What is sent between the two is in the first and not in the second.
    while outstanding(stream, libc::TIOCOUTQ) != outstanding(stream, SIOCOUTQNSD) {
        assert!(Instant::now() < deadline, "the window does not close");
        std::thread::yield_now();
    }
}

/// Bytes written and not yet sent.
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// How many bytes the kernel still has to send, or to see acknowledged.
fn outstanding(stream: &TcpStream, request: libc::Ioctl) -> i32 {
    let mut bytes = 0;
    #[expect(unsafe_code, reason = "nix has no function for these requests")]
    // SAFETY: both requests write an integer, which lives during the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), request, &raw mut bytes) };
    Errno::result(result).unwrap();
    bytes
}

fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    let size = size_of::<i32>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "nix does not know all options")]
    // SAFETY: the option's value is an integer that lives during the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    Errno::result(result).unwrap();
}

/// connect() to no family at all.
fn disconnect(socket: &impl AsRawFd) {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let size = size_of::<libc::sockaddr>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "nix has no address without a family")]
    // SAFETY: the address lives during the call, and the size is its own.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, size) };
    Errno::result(result).unwrap();
}

fn nonblocking() -> OwnedFd {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap()
}

const SERVER_SENT_AFTER: &str = "active aborted: reset: server sent more after client PROCESS had closed";
const RESET_BY_CLIENT: &str = "passive peer-rst: reset by client, which had closed before, while server had not";

#[test]
fn linger2_below_zero() {
    let client = "active aborted: reset: client PROCESS closed with TCP_LINGER2 below 0";
    check("linger2_below_zero", &[client, RESET_BY_CLIENT], |pair| {
        set_option(pair.client(), libc::IPPROTO_TCP, libc::TCP_LINGER2, -1);
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.until("active", "FIN_WAIT2");
        pair.client = None;
        pair.until("passive", "CLOSE");
    });
}

/// The same when the FIN is acknowledged only after the close.
#[test]
fn linger2_below_zero_at_close() {
    let client = "active aborted: reset: client PROCESS closed with TCP_LINGER2 below 0";
    check("linger2_below_zero_at_close", &[client, RESET_BY_CLIENT], |pair| {
        set_option(pair.client(), libc::IPPROTO_TCP, libc::TCP_LINGER2, -1);
        set_option(pair.server(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0);
        pair.client = None;
        pair.until("passive", "CLOSE");
    });
}

/// The server's data comes with the acknowledgement of the FIN.
#[test]
fn data_after_close_with_the_ack() {
    check("data_after_close_with_the_ack", &[SERVER_SENT_AFTER, RESET_BY_CLIENT], |pair| {
        set_option(pair.server(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0);
        pair.client = None;
        pair.server().write_all(b"more").unwrap();
        pair.until("passive", "CLOSE");
    });
}

/// An orphan that stays a whole socket for some time: TCP_LINGER2 above the 60 s of a minisock.
#[test]
fn data_after_close_to_an_orphan() {
    check("data_after_close_to_an_orphan", &[SERVER_SENT_AFTER, RESET_BY_CLIENT], |pair| {
        set_option(pair.client(), libc::IPPROTO_TCP, libc::TCP_LINGER2, 90);
        pair.client = None;
        pair.until("active", "FIN_WAIT2");
        pair.server().write_all(b"more").unwrap();
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn data_after_shutdown_of_both_directions() {
    let client = "active aborted: reset: server sent more after client PROCESS had shut down both ways";
    check("data_after_shutdown_of_both_directions", &[client, RESET_BY_CLIENT], |pair| {
        pair.client().shutdown(Shutdown::Both).unwrap();
        pair.until("active", "FIN_WAIT2");
        pair.server().write_all(b"more").unwrap();
        pair.until("passive", "CLOSE");
    });
}

/// Windows are closed while both ends close: their FINs wait behind data, and cross once it is read.
#[test]
fn both_close_at_once() {
    let server = "passive both-fin: both ends closed at once; TIME_WAIT on both sides";
    let client = "active local-fin: client PROCESS closed first; 60 s TIME_WAIT on the client's side";
    check("both_close_at_once", &[server, client], |pair| {
        let (to_server, to_client) = (fill(pair.client()), fill(pair.server()));
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.server().read_exact(&mut vec![0; to_server]).unwrap();
        pair.until("passive", "CLOSING");
        pair.client().read_exact(&mut vec![0; to_client]).unwrap();
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn unread_data_in_closing() {
    let server = "passive aborted: reset: server PROCESS closed with 1 unread byte";
    let client = "active peer-rst: reset by server after client PROCESS had closed";
    check("unread_data_in_closing", &[server, client], |pair| {
        let (to_server, _) = (fill(pair.client()), fill(pair.server()));
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.server().read_exact(&mut vec![0; to_server - 1]).unwrap();
        pair.until("passive", "CLOSING");
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

#[test]
fn unread_data_in_last_ack() {
    let server = "passive aborted: reset: server PROCESS closed with 3 unread bytes";
    let client = "active peer-rst: reset by server after client PROCESS had closed";
    check("unread_data_in_last_ack", &[server, client], |pair| {
        fill(pair.server());
        pair.client().write_all(b"abc").unwrap();
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "CLOSE_WAIT");
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "LAST_ACK");
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

#[test]
fn linger_zero_in_last_ack() {
    let server = "passive aborted: dropped: server PROCESS closed with SO_LINGER 0";
    let client = "active peer-rst: reset by server after client PROCESS had closed";
    check("linger_zero_in_last_ack", &[server, client], |pair| {
        fill(pair.server());
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "CLOSE_WAIT");
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "LAST_ACK");
        linger_zero(pair.server());
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

#[test]
fn disconnected() {
    let client = "active aborted: reset: client PROCESS disconnected (connect to AF_UNSPEC)";
    check("disconnected", &[client, "passive peer-rst: reset by client"], |pair| {
        disconnect(pair.client());
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn linger_zero_is_named() {
    let client = "active aborted: reset: client PROCESS closed with SO_LINGER 0";
    check("linger_zero_is_named", &[client, "passive peer-rst: reset by client"], |pair| {
        linger_zero(pair.client());
        pair.client = None;
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn unread_data_is_counted() {
    let server = "passive aborted: reset: server PROCESS closed with 25 unread bytes";
    check("unread_data_is_counted", &[server, "active peer-rst: reset by server"], |pair| {
        pair.client().write_all(&[b'x'; 30]).unwrap();
        pair.server().read_exact(&mut [0; 5]).unwrap();
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

/// The name of the error is the same whichever way a socket was destroyed; `ss -K` is the usual one.
#[test]
fn destroyed_by_ss() {
    let client = "active destroyed: destroyed by PROCESS (ss -K, or a program like it)";
    check("destroyed_by_ss", &[client, "passive peer-rst: reset by client"], |pair| {
        let port = pair.client().local_addr().unwrap().port();
        let output =
            std::process::Command::new("ss").args(["-K", "-tn", &format!("sport = :{port}")]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        pair.until("passive", "CLOSE");
    });
}

/// Traces a client's namespace while `work` connects from there.
#[track_caller]
fn check_near<T>(
    name: &str,
    expected: &[&str],
    prepare: impl FnOnce(&Network),
    work: impl FnOnce(&Network, &mut Trace) -> T,
) {
    let Some(machine) = shared(name) else { return };
    let tag = name.split('_').map(|word| &word[..1]).collect::<String>();
    let network = Network::new(&tag);
    prepare(&network);
    let mut trace = Trace::start(machine, &["--netns", &network.near.name]);
    let held = work(&network, &mut trace);
    trace.until_finished(expected.len());
    assert_endings(&trace.finish(), expected);
    drop(held);
}

/// connect() from the client's namespace, to its end; returns the errno.
fn connect_blocking(network: &Network) -> Option<i32> {
    network.near.run(|| TcpStream::connect(network.server).err().and_then(|error| error.raw_os_error()))
}

/// The first answer comes while connect() still holds the socket, and is only remembered; the second one ends it.
#[test]
fn icmp_answers_the_syn() {
    let expected = "active unreached: ADDRESS not reached: ICMP answered 2 SYNs with host unreachable (EHOSTUNREACH)";
    check_near(
        "icmp_answers_the_syn",
        &[expected],
        |network| network.answer_with("unreachable"),
        |network, _| {
            assert_eq!(connect_blocking(network), Some(libc::EHOSTUNREACH));
        },
    );
}

#[test]
fn icmp_says_no_network() {
    let expected = "active unreached: ADDRESS not reached: ICMP answered 2 SYNs with network unreachable (ENETUNREACH)";
    let prepare = |network: &Network| {
        network.answer_with("unreachable");
        network.far.ip(&["route", "del", "unreachable", "10.77.9.9"]);
    };
    check_near("icmp_says_no_network", &[expected], prepare, |network, _| {
        assert_eq!(connect_blocking(network), Some(libc::ENETUNREACH));
    });
}

/// A client that does not wait, asks for the error at once, and goes: the kernel forgets it when it is asked.
#[test]
fn icmp_error_is_read_away() {
    let expected = "active given-up: client PROCESS gave up connecting after TIME; 1 SYN unanswered";
    check_near(
        "icmp_error_is_read_away",
        &[expected],
        |network| network.answer_with("unreachable"),
        |network, _| {
            network.near.run(|| {
                let client = nonblocking();
                let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
                assert_eq!(getsockopt(&client, sockopt::SocketError).unwrap(), libc::EHOSTUNREACH);
            });
        },
    );
}

#[test]
fn icmp_error_is_left() {
    let expected = "active given-up: client PROCESS gave up connecting after TIME; 1 SYN unanswered; ICMP had said \
                    host unreachable (EHOSTUNREACH)";
    check_near(
        "icmp_error_is_left",
        &[expected],
        |network| network.answer_with("unreachable"),
        |network, _| {
            network.near.run(|| {
                let client = nonblocking();
                let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
            });
        },
    );
}

/// A neighbour that does not answer ARP: this host itself says that it cannot be reached.
#[test]
fn nobody_answers_arp() {
    let expected = "active unreached: ADDRESS not reached: ICMP answered 1 SYN with host unreachable (EHOSTUNREACH)";
    let Some(machine) = shared("nobody_answers_arp") else { return };
    let network = Network::new("arp");
    let mut trace = Trace::start(machine, &["--netns", &network.near.name]);
    network.near.run(|| {
        let error = TcpStream::connect(("10.77.0.3", 80)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    });
    trace.until_finished(1);
    let ended = trace.finish();
    assert_endings(&ended, &[expected]);
}

#[test]
fn syn_unanswered() {
    let expected = "active timed-out: ADDRESS did not answer 2 SYNs in TIME";
    let prepare = |network: &Network| {
        network.silence();
        set(&network.near, "tcp_syn_retries", "1");
        set(&network.near, "tcp_syn_linear_timeouts", "0");
    };
    check_near("syn_unanswered", &[expected], prepare, |network, _| {
        assert_eq!(connect_blocking(network), Some(libc::ETIMEDOUT));
    });
}

#[test]
fn syn_unanswered_within_user_timeout() {
    let expected = "active timed-out: ADDRESS did not answer 2 SYNs in TIME; TCP_USER_TIMEOUT was TIME";
    check_near("syn_unanswered_within_user_timeout", &[expected], Network::silence, |network, _| {
        network.near.run(|| {
            let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            set_option(&client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1500);
            let result = connect(client.as_raw_fd(), &SockaddrStorage::from(network.server));
            assert_eq!(result, Err(Errno::ETIMEDOUT));
        });
    });
}

/// A connection through the network, both ends of which this process holds.
fn connected(network: &Network) -> (TcpStream, TcpStream) {
    let listener = network.far.run(|| TcpListener::bind(network.server).unwrap());
    let client = network.near.run(|| TcpStream::connect(network.server).unwrap());
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

fn keepalive(stream: &TcpStream) {
    set_option(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    for (name, value) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1), (libc::TCP_KEEPCNT, 2)] {
        set_option(stream, libc::IPPROTO_TCP, name, value);
    }
}

/// Until the client's socket is closed by the kernel.
fn until_closed(trace: &mut Trace) {
    trace.until("the client's end", |line| line.role() == "active" && line.0["new"] == "CLOSE");
}

#[test]
fn keepalive_unanswered() {
    let expected = "active timed-out: server did not answer 2 keepalive probes";
    check_near(
        "keepalive_unanswered",
        &[expected],
        |_| (),
        |network, trace| {
            let (client, _server) = connected(network);
            keepalive(&client);
            network.silence();
            until_closed(trace);
        },
    );
}

#[test]
fn keepalive_within_user_timeout() {
    let expected = "active timed-out: server did not answer within TIME (TCP_USER_TIMEOUT); N probe unanswered";
    check_near(
        "keepalive_within_user_timeout",
        &[expected],
        |_| (),
        |network, trace| {
            let (client, _server) = connected(network);
            keepalive(&client);
            set_option(&client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1500);
            network.silence();
            until_closed(trace);
        },
    );
}

#[test]
fn data_unacknowledged_within_user_timeout() {
    let expected =
        "active timed-out: server did not answer within TIME (TCP_USER_TIMEOUT); N retransmissions unanswered";
    check_near(
        "data_unacknowledged_within_user_timeout",
        &[expected],
        |_| (),
        |network, trace| {
            let (mut client, _server) = connected(network);
            set_option(&client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500);
            network.silence();
            client.write_all(b"lost").unwrap();
            until_closed(trace);
        },
    );
}

#[test]
fn data_unacknowledged() {
    let expected = "active timed-out: server did not acknowledge; N retransmissions unanswered";
    check_near(
        "data_unacknowledged",
        &[expected],
        |network| set(&network.near, "tcp_retries2", "2"),
        |network, trace| {
            let (mut client, _server) = connected(network);
            network.silence();
            client.write_all(b"lost").unwrap();
            until_closed(trace);
        },
    );
}

/// ICMP does not end what is connected; it is only remembered.
#[test]
fn data_unacknowledged_after_icmp() {
    let expected = "active timed-out: server did not acknowledge; N retransmissions unanswered; ICMP had said host \
                    unreachable (EHOSTUNREACH)";
    let prepare = |network: &Network| set(&network.near, "tcp_retries2", "2");
    check_near("data_unacknowledged_after_icmp", &[expected], prepare, |network, trace| {
        let (mut client, _server) = connected(network);
        network.answer_with("unreachable");
        client.write_all(b"lost").unwrap();
        until_closed(trace);
    });
}

#[test]
fn fin_unacknowledged() {
    let expected =
        "active timed-out: server did not acknowledge; N retransmissions unanswered; no process had it any more";
    let prepare = |network: &Network| set(&network.near, "tcp_orphan_retries", "1");
    check_near("fin_unacknowledged", &[expected], prepare, |network, trace| {
        let (client, _server) = connected(network);
        network.silence();
        drop(client);
        until_closed(trace);
    });
}

#[test]
fn window_closed() {
    let expected = "active timed-out: server kept its window closed; N probes unanswered";
    check_near(
        "window_closed",
        &[expected],
        |network| set(&network.near, "tcp_retries2", "2"),
        |network, trace| {
            let (client, _server) = connected(network);
            close_window(&client);
            network.silence();
            until_closed(trace);
        },
    );
}

#[test]
fn window_closed_to_an_orphan() {
    let expected = "active timed-out: server kept its window closed; N probe unanswered; no process had it any more";
    let prepare = |network: &Network| set(&network.near, "tcp_orphan_retries", "1");
    check_near("window_closed_to_an_orphan", &[expected], prepare, |network, trace| {
        let (client, _server) = connected(network);
        close_window(&client);
        network.silence();
        drop(client);
        until_closed(trace);
    });
}

/// No port is left: connect() fails before anything is sent.
#[test]
fn no_port_is_free() {
    let expected = "active given-up: connect to ADDRESS failed on this host before a SYN was sent";
    let prepare = |network: &Network| set(&network.near, "ip_local_port_range", "40000 40000");
    check_near("no_port_is_free", &[expected], prepare, |network, _| {
        let held = connected(network);
        assert_eq!(connect_blocking(network), Some(libc::EADDRNOTAVAIL));
        held
    });
}
