//! Servers that are well, under load: nothing may be found.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    thread,
};

use super::{
    server::Language,
    ward::{Patient, Ward, clients},
};
use crate::{
    diagnose::Verdict,
    workload::{free_port, linger_zero, place},
};

const LINE: &[u8] = b"How do you do?\n";

pub(super) fn patients() -> Vec<Patient> {
    let ours = |language, name, how: &'static [&'static str], visit: fn(SocketAddr)| {
        Patient::healthy(language, name, move |ward| ours(ward, language, how, place(), visit))
    };
    vec![
        ours(Language::Rust, "bursts within the limit", &["forever nothing 0"], bursts),
        ours(Language::Python, "slow handlers in threads", &["echo 150"], |address| many_at_once(address, 20, 2, 3)),
        ours(Language::C, "prefork", &["echo 4"], |address| many_at_once(address, 4, 40, 5)),
        ours(Language::Rust, "a pool of threads", &["echo 4"], |address| many_at_once(address, 4, 40, 5)),
        ours(Language::C, "an event loop with keep-alive", &["events"], |address| many_at_once(address, 30, 1, 100)),
        ours(Language::Python, "a thread for each connection", &["echo 0"], |address| many_at_once(address, 8, 15, 5)),
        ours(Language::C, "many short connections", &["forever nothing 0"], |address| short(address, 3000)),
        ours(Language::Python, "many short connections", &["forever nothing 0"], |address| short(address, 1000)),
        ours(Language::C, "health checks", &["events"], health_checks),
        ours(Language::Rust, "clients that half-close", &["echo 2"], half_closing),
        ours(Language::Python, "clients that half-close", &["echo 0"], half_closing),
        ours(Language::C, "bursts into an event loop", &["events"], bursts),
        Patient::healthy(Language::Rust, "IPv6", |ward| {
            let address = (Ipv6Addr::LOCALHOST, free_port()).into();
            ours_at(ward, Language::Rust, address, |address| many_at_once(address, 3, 50, 5))
        }),
        Patient::healthy(Language::C, "sockets that share an address", |ward| shared(ward, Language::C, 3)),
        Patient::healthy(Language::Python, "sockets that share an address", |ward| shared(ward, Language::Python, 2)),
    ]
}

fn ours_at(ward: &Ward, language: Language, address: SocketAddr, visit: fn(SocketAddr)) -> Option<Verdict> {
    ours(ward, language, &["echo 4"], address, visit)
}

/// One of ours; it does the last command for ever.
fn ours(
    ward: &Ward,
    language: Language,
    how: &[&str],
    address: SocketAddr,
    visit: impl Fn(SocketAddr),
) -> Option<Verdict> {
    let mut server = ward.workshop.server(language);
    server.listen(address, 128);
    let diagnosis = ward.diagnose_port(address)?;
    how.iter().for_each(|command| server.tell(command));
    visit(address);
    Some(diagnosis.interrupt())
}

/// Says something, and hears the same, so often.
fn talk(client: &mut TcpStream, times: usize) {
    for _ in 0..times {
        client.write_all(LINE).unwrap();
        let mut answer = [0; LINE.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, LINE);
    }
}

/// So many clients at the same time; each comes several times, and says something several times.
fn many_at_once(address: SocketAddr, clients: usize, visits: usize, times: usize) {
    let visit = || (0..visits).for_each(|_| talk(&mut TcpStream::connect(address).unwrap(), times));
    thread::scope(|scope| (0..clients).for_each(|_| drop(scope.spawn(visit))));
}

/// 100 of 128 that may wait, again and again; each is closed.
fn bursts(address: SocketAddr) {
    for _ in 0..10 {
        for mut client in clients(address, 100) {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    }
}

fn short(address: SocketAddr, count: usize) {
    for _ in 0..count {
        assert_eq!(TcpStream::connect(address).unwrap().read(&mut [0]).unwrap(), 0);
    }
}

/// Between real clients, some that connect, and leave without a word.
fn health_checks(address: SocketAddr) {
    for number in 0..200 {
        let check = TcpStream::connect(address).unwrap();
        if number % 2 == 0 {
            linger_zero(&check);
        }
        drop(check);
        talk(&mut TcpStream::connect(address).unwrap(), 1);
    }
}

fn half_closing(address: SocketAddr) {
    for _ in 0..200 {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(LINE).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, LINE);
    }
}

/// Workers with a socket each (`SO_REUSEPORT`).
fn shared(ward: &Ward, language: Language, workers: usize) -> Option<Verdict> {
    let address = place();
    let mut servers: Vec<_> = (0..workers).map(|_| ward.workshop.server(language)).collect();
    let listen = format!("listen {} {} 128 share", address.ip(), address.port());
    servers.iter_mut().for_each(|server| server.tell(&listen));
    let diagnosis = ward.diagnose_port(address)?;
    servers.iter_mut().for_each(|server| server.tell("forever nothing 0"));
    (0..5).for_each(|_| {
        clients(address, 100).iter_mut().for_each(|client| assert_eq!(client.read(&mut [0]).unwrap(), 0))
    });
    Some(diagnosis.interrupt())
}
