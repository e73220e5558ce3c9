//! What `sockwatch diagnose` finds beyond the accept queue: each finding made on purpose, in a namespace of its own or on a
//! port of its own. Only the server's ends are looked at (`--local-port`): their clients misbehave on purpose, too.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};

use crate::{
    diagnose::{Diagnosis, Verdict, begin_connecting, listener},
    netns::Netns,
    network::Network,
    puppet::Puppet,
    workload::place,
};

/// A run over what happens at a server's port, for so long or until it is interrupted.
fn start(name: &str, address: SocketAddr, duration: &str) -> Option<Diagnosis> {
    Diagnosis::start(name, &["--local-port", &address.port().to_string(), "--duration", duration])
}

/// A server's connections and their clients.
fn connections(server: &TcpListener, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let address = server.local_addr().unwrap();
    let connect = |_| {
        let client = TcpStream::connect(address).unwrap();
        (server.accept().unwrap().0, client)
    };
    (0..count).map(connect).collect()
}

#[track_caller]
fn says(verdict: &Verdict, name: &str, words: &[&str]) {
    let said = verdict.is(name);
    words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in {said}"));
}

/// The server closes, and its clients do not.
#[test]
fn clients_that_do_not_close() {
    const CLIENTS: usize = 12;
    let address = place();
    let Some(diagnosis) = start("clients_that_do_not_close", address, "3s") else { return };
    let server = listener(address, 128);
    let (accepted, clients): (Vec<_>, Vec<_>) = connections(&server, CLIENTS).into_iter().unzip();
    drop(accepted);
    let verdict = diagnosis.wait();
    says(&verdict, "orphan-fin-wait2", &["12 connections closed here wait for a FIN", "127.0.0.1 12"]);
    drop(clients);
}

/// More is written than the clients' windows take, and then closed, before anybody looks.
#[test]
fn clients_that_do_not_take_the_answer() {
    let address = place();
    let server = listener(address, 128);
    let (accepted, clients): (Vec<_>, Vec<_>) = connections(&server, 4).into_iter().unzip();
    for mut stream in accepted {
        stream.set_nonblocking(true).unwrap();
        loop {
            match stream.write(&[0; 1 << 16]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let Some(diagnosis) = start("clients_that_do_not_take_the_answer", address, "3s") else { return };
    let verdict = diagnosis.wait();
    says(&verdict, "stuck-fin-wait1", &["4 connections closed here cannot end", "windows are closed"]);
    drop((server, clients));
}

/// Of two processes that accept from one socket, one leaves it all to the other. Nobody looks at threads: a recording can tell it, too.
#[test]
fn a_worker_that_hardly_accepts() {
    const CLIENTS: usize = 40;
    let address = place();
    let words = ["--local-port", &address.port().to_string(), "--no-blame", "--slow", "1us"];
    let Some(diagnosis) = Diagnosis::start("a_worker_that_hardly_accepts", &words) else { return };
    let server = listener(address, 128);
    let mut workers = [Puppet::sharing(&server), Puppet::sharing(&server)];
    workers.iter_mut().for_each(|worker| worker.tell("inherit"));
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    workers[0].tell("accept");
    (1..CLIENTS).for_each(|_| workers[1].tell("accept"));
    let verdict = diagnosis.interrupt();
    let took = format!("/{}: 39 accepted", workers[1].pid());
    says(&verdict, "worker-skew", &["1 of 2 processes that accept from this socket took next to nothing", &took]);
    drop((clients, server));
}

/// It accepts, and does not read.
#[test]
fn a_server_that_does_not_read() {
    let address = place();
    let Some(diagnosis) = start("a_server_that_does_not_read", address, "3s") else { return };
    let server = listener(address, 128);
    let mut pairs = connections(&server, 5);
    pairs.iter_mut().for_each(|(_, client)| client.write_all(&[7; 100]).unwrap());
    let verdict = diagnosis.wait();
    let pid = std::process::id().to_string();
    says(
        &verdict,
        "slow-reader",
        &["5 connections are not read by", &pid, "500 bytes", "5 were accepted and never read"],
    );
}

/// It closes with data that it has not read.
#[test]
fn a_server_that_resets() {
    const CLIENTS: usize = 8;
    let address = place();
    let Some(diagnosis) = start("a_server_that_resets", address, "15s") else { return };
    let server = listener(address, 128);
    for (stream, mut client) in connections(&server, CLIENTS) {
        client.write_all(b"hello").unwrap();
        // Until it is there.
        assert_eq!(stream.peek(&mut [0; 5]).unwrap(), 5);
        drop(stream);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let verdict = diagnosis.interrupt();
    says(&verdict, "resets", &["8 of 8 connections (100 %) ended by RST", "closed with 5 unread bytes"]);
}

sockopt_impl!(
    /// How many seconds the kernel waits for data before it hands a connection out.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    libc::c_int
);

/// Clients that send nothing: each is accepted when the listener has waited long enough for it.
#[test]
fn a_listener_that_defers() {
    let address = place();
    let Some(diagnosis) = start("a_listener_that_defers", address, "30s") else { return };
    let server = listener(address, 128);
    setsockopt(&server, DeferAccept, &1).unwrap();
    let clients = [(); 4].map(|()| TcpStream::connect(address).unwrap());
    let accepted = [(); 4].map(|()| server.accept().unwrap());
    let verdict = diagnosis.interrupt();
    says(&verdict, "defer-accept", &["4 of 4 handshakes", "TCP_DEFER_ACCEPT of this listener is 1 s"]);
    drop((clients, accepted));
}

/// SYN-ACKs go to an address on the cable that nobody has.
#[test]
fn syns_that_nobody_follows_up() {
    let network = Network::new("flood");
    network.far.ip(&["neigh", "replace", "10.77.0.1", "lladdr", "02:00:00:00:00:99", "dev", "far", "nud", "permanent"]);
    let arguments = ["--netns", &network.far.name, "--duration", "3s"];
    let Some(diagnosis) = Diagnosis::start("syns_that_nobody_follows_up", &arguments) else { return };
    let server = network.far.run(|| listener(network.server, 8));
    let clients = network.near.run(|| (0..60).map(|_| begin_connecting(network.server)).collect::<Vec<_>>());
    let verdict = diagnosis.wait();
    says(&verdict, "syn-flood", &["hardly anybody answers", "(the backlog)"]);
    drop((clients, server));
}

/// All of it at once, as it should be: answers that are read, ends that are closed by both, in a namespace of its own.
#[test]
fn a_server_whose_clients_behave() {
    let (netns, address) = (&Netns::new("behave"), place());
    let Some(diagnosis) =
        Diagnosis::start("a_server_whose_clients_behave", &["--netns", &netns.name, "--slow", "500ms"])
    else {
        return;
    };
    netns.run(|| {
        let server = listener(address, 128);
        for _ in 0..20 {
            for (mut stream, mut client) in connections(&server, 10) {
                client.write_all(b"question").unwrap();
                assert_eq!(stream.read(&mut [0; 8]).unwrap(), 8);
                stream.write_all(b"answer").unwrap();
                drop(stream);
                let mut answer = String::new();
                client.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "answer");
            }
        }
    });
    let verdict = diagnosis.interrupt();
    assert_eq!((verdict.code, &verdict.report["verdict"]), (Some(0), &"healthy".into()), "{:#}", verdict.report);
}
