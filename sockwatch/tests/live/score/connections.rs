//! Servers and clients whose connections are ill before or after accept(): the network, a leak, a peer that does not read.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use super::{
    server::{LANGUAGES, Language, Server},
    ward::{Patient, Ward, beginners, clients, until},
};
use crate::{
    diagnose::listener,
    netns::Netns,
    network::{Network, set},
    workload::{linger_zero, place},
};

pub(super) fn patients() -> Vec<Patient> {
    let mut patients = Vec::new();
    for (language, [few, many]) in LANGUAGES.into_iter().zip([[4, 12], [5, 30], [7, 60]]) {
        patients.push(late_handshakes(language, few));
        patients.push(deferred(language, few));
        patients.push(flooded(language, many + 30));
        patients.push(kept(language, few));
        patients.push(left_in_the_queue(language, few));
        patients.push(unread(language, many, few * 100));
        patients.push(not_closed_by_peers(language, many));
        patients.push(not_taken_by_peers(language, few));
        patients.push(gone_without_a_word(language, few));
    }
    patients.push(closed_unread(Language::Rust, 8));
    patients.push(closed_hard(Language::Python, 12));
    patients.push(reset_by_clients(Language::C, 20));
    patients.push(ports_in_time_wait(Language::Rust, 400, 5));
    patients.push(ports_kept(Language::Python, 300, 8));
    patients.push(no_port_left(Language::C, 100));
    patients
}

/// A server that has accepted so many, and their clients.
fn accepted(ward: &Ward, language: Language, address: SocketAddr, count: usize) -> (Server, Vec<TcpStream>) {
    let mut server = ward.workshop.server(language);
    server.listen(address, 128);
    let clients = clients(address, count);
    server.tell(&format!("take {count}"));
    (server, clients)
}

/// The first SYN-ACKs are lost: they go to an address that nobody has.
fn late_handshakes(language: Language, count: usize) -> Patient {
    Patient::ill("slow-handshake", language, format!("{count} SYN-ACKs are lost"), move |ward| {
        let network = Network::new("late");
        let wrong = ["10.77.0.1", "lladdr", "02:00:00:00:00:99", "dev", "far", "nud", "permanent"];
        network.far.ip(&[&["neigh", "replace"], &wrong[..]].concat());
        let mut server = ward.workshop.server_in(&network.far, language);
        server.listen(network.server, 128);
        let diagnosis = ward.diagnose(&["--netns", &network.far.name])?;
        let clients = network.near.run(|| beginners(network.server, count));
        network.far.run(|| until(network.server.port(), "03", count));
        network.far.ip(&["neigh", "del", "10.77.0.1", "dev", "far"]);
        server.tell(&format!("take {count}"));
        let verdict = diagnosis.interrupt();
        drop(clients);
        Some(verdict.naming([&format!("{count} of {count} handshakes took a second or more")]))
    })
}

/// Clients that are silent for longer than a second.
fn deferred(language: Language, count: usize) -> Patient {
    Patient::ill("defer-accept", language, format!("{count} silent clients"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        server.tell("defer 1");
        let diagnosis = ward.diagnose_server(address, "30s")?;
        let clients = clients(address, count);
        server.tell(&format!("take {count}"));
        let verdict = diagnosis.interrupt();
        drop(clients);
        Some(verdict.naming(["TCP_DEFER_ACCEPT of this listener is 1 s"]))
    })
}

/// SYN-ACKs never arrive, and many SYNs come.
fn flooded(language: Language, count: usize) -> Patient {
    Patient::ill("syn-flood", language, format!("{count} SYNs, a backlog of 8"), move |ward| {
        let network = Network::new("flood");
        let wrong = ["10.77.0.1", "lladdr", "02:00:00:00:00:99", "dev", "far", "nud", "permanent"];
        network.far.ip(&[&["neigh", "replace"], &wrong[..]].concat());
        let mut server = ward.workshop.server_in(&network.far, language);
        server.listen(network.server, 8);
        let diagnosis = ward.diagnose(&["--netns", &network.far.name, "--duration", "2s"])?;
        let clients = network.near.run(|| beginners(network.server, count));
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming(["hardly anybody answers"]))
    })
}

/// Its clients close, and it does not.
fn kept(language: Language, count: usize) -> Patient {
    Patient::ill("close-wait-leak", language, format!("{count} clients"), move |ward| {
        let address = place();
        let diagnosis = ward.diagnose_server(address, "2s")?;
        let (server, clients) = accepted(ward, language, address, count);
        drop(clients);
        let verdict = diagnosis.wait();
        Some(verdict.naming([&server.pid(), &format!("keeps {count} connections")]))
    })
}

/// Its clients close before it accepts, and it never does.
fn left_in_the_queue(language: Language, count: usize) -> Patient {
    let patient = Patient::ill("nobody-accepts", language, format!("{count} clients"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.tell("idle");
        server.listen(address, 128);
        let diagnosis = ward.diagnose_server(address, "1700ms")?;
        drop(clients(address, count));
        Some(diagnosis.wait().naming([]))
    });
    patient.and("close-wait-unaccepted")
}

fn unread(language: Language, count: usize, bytes: usize) -> Patient {
    Patient::ill("slow-reader", language, format!("{count} clients with {bytes} bytes each"), move |ward| {
        let address = place();
        let diagnosis = ward.diagnose_server(address, "1700ms")?;
        let (server, mut clients) = accepted(ward, language, address, count);
        clients.iter_mut().for_each(|client| client.write_all(&vec![7; bytes]).unwrap());
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming([&server.pid(), &format!("{count} connections are not read")]))
    })
}

fn not_closed_by_peers(language: Language, count: usize) -> Patient {
    Patient::ill("orphan-fin-wait2", language, format!("{count} clients"), move |ward| {
        let address = place();
        let diagnosis = ward.diagnose_server(address, "1700ms")?;
        let (mut server, clients) = accepted(ward, language, address, count);
        server.tell("close");
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming([&format!("{count} connections closed here")]))
    })
}

/// More is written than they take, and then closed.
fn not_taken_by_peers(language: Language, count: usize) -> Patient {
    Patient::ill("stuck-fin-wait1", language, format!("{count} clients"), move |ward| {
        let address = place();
        let (mut server, clients) = accepted(ward, language, address, count);
        server.tell("flood");
        server.tell("close");
        let diagnosis = ward.diagnose_server(address, "1700ms")?;
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming([&format!("{count} connections closed here cannot end"), "windows are closed"]))
    })
}

/// Its clients hear nothing any more, and nothing is heard of them, while it sends to them.
fn gone_without_a_word(language: Language, count: usize) -> Patient {
    Patient::ill("dead-peer", language, format!("{count} clients"), move |ward| {
        let network = Network::new("dead");
        let mut server = ward.workshop.server_in(&network.far, language);
        server.listen(network.server, 128);
        let clients = network.near.run(|| clients(network.server, count));
        server.tell(&format!("take {count}"));
        let nobody = ["10.77.0.1", "lladdr", "02:00:00:00:00:99", "dev", "far", "nud", "permanent"];
        network.far.ip(&[&["neigh", "replace"], &nobody[..]].concat());
        server.tell("flood");
        let verdict = ward.diagnose_netns(&network.far, "7s")?.wait();
        drop(clients);
        Some(verdict.naming([&server.pid(), &format!("the peers of {count} open connections")]))
    })
}

#[track_caller]
fn until_reset(client: &mut TcpStream) {
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn closed_unread(language: Language, count: usize) -> Patient {
    Patient::ill("resets", language, format!("{count} closed with unread bytes"), move |ward| {
        let address = place();
        let diagnosis = ward.diagnose_server(address, "30s")?;
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        let mut clients = clients(address, count);
        // It is there before it accepts.
        clients.iter_mut().for_each(|client| client.write_all(b"hello").unwrap());
        server.tell(&format!("take {count}"));
        server.tell("close");
        clients.iter_mut().for_each(until_reset);
        Some(diagnosis.interrupt().naming(["closed with 5 unread bytes"]))
    })
}

fn closed_hard(language: Language, count: usize) -> Patient {
    Patient::ill("resets", language, format!("{count} closed with SO_LINGER 0"), move |ward| {
        let address = place();
        let diagnosis = ward.diagnose_server(address, "30s")?;
        let (mut server, mut clients) = accepted(ward, language, address, count);
        server.tell("abort");
        clients.iter_mut().for_each(until_reset);
        Some(diagnosis.interrupt().naming(["closed with SO_LINGER 0"]))
    })
}

/// They have got an answer, and another one is on its way.
fn reset_by_clients(language: Language, count: usize) -> Patient {
    Patient::ill("resets", language, format!("{count} clients that reset"), move |ward| {
        let address = place();
        let diagnosis = ward.diagnose_server(address, "30s")?;
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        server.tell("events");
        for mut client in clients(address, count) {
            client.write_all(b"hello").unwrap();
            assert_eq!(client.read(&mut [0; 5]).unwrap(), 5);
            linger_zero(&client);
        }
        // It comes to this one when it has seen the resets.
        let mut last = TcpStream::connect(address).unwrap();
        last.write_all(b"hello").unwrap();
        assert_eq!(last.read(&mut [0; 5]).unwrap(), 5);
        Some(diagnosis.interrupt().naming(["the peer sent a RST"]))
    })
}

/// A namespace with so few ports, in which none is taken again before its time.
fn few_ports(count: usize) -> Netns {
    let netns = Netns::new("few-ports");
    set(&netns, "ip_local_port_range", &format!("20000 {}", 20000 + count - 1));
    set(&netns, "tcp_tw_reuse", "0");
    netns
}

/// Its client is ill: it takes half of the ports, one every few milliseconds, and closes first.
fn ports_in_time_wait(language: Language, ports: usize, every_ms: usize) -> Patient {
    Patient::ill("port-exhaustion", language, format!("{ports} ports, one in {every_ms} ms"), move |ward| {
        let (netns, address, count) = (few_ports(ports), place(), ports / 2);
        let mut client = ward.workshop.server_in(&netns, language);
        let diagnosis = ward.diagnose(&["--netns", &netns.name])?;
        let listener = netns.run(|| listener(address, 128));
        let (ip, port) = (address.ip(), address.port());
        thread::scope(|scope| {
            let closing = scope.spawn(|| {
                for _ in 0..count {
                    let (mut stream, _) = listener.accept().unwrap();
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                }
            });
            client.tell(&format!("connect {ip} {port} {count} {every_ms}"));
            closing.join().unwrap();
        });
        Some(diagnosis.interrupt().naming([&format!("of {ports} ports are taken"), &client.pid()]))
    })
}

/// The same without closing any.
fn ports_kept(language: Language, ports: usize, every_ms: usize) -> Patient {
    Patient::ill("port-exhaustion", language, format!("{ports} ports kept, one in {every_ms} ms"), move |ward| {
        let (netns, address, count) = (few_ports(ports), place(), ports / 2);
        let mut client = ward.workshop.server_in(&netns, language);
        let diagnosis = ward.diagnose(&["--netns", &netns.name])?;
        let listener = netns.run(|| listener(address, 128));
        let (ip, port) = (address.ip(), address.port());
        let kept = thread::scope(|scope| {
            let accepting = scope.spawn(|| (0..count).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>());
            client.tell(&format!("connect {ip} {port} {count} {every_ms} keep"));
            accepting.join().unwrap()
        });
        let verdict = diagnosis.interrupt();
        drop(kept);
        Some(verdict.naming([&format!("of {ports} ports are taken"), &client.pid()]))
    })
}

/// It connects until no port is left, and goes on.
fn no_port_left(language: Language, ports: usize) -> Patient {
    Patient::ill("port-exhaustion", language, format!("{ports} ports, and none left"), move |ward| {
        let (netns, address) = (few_ports(ports), place());
        let mut client = ward.workshop.server_in(&netns, language);
        let diagnosis = ward.diagnose(&["--netns", &netns.name])?;
        let listener = netns.run(|| listener(address, 128));
        let (ip, port) = (address.ip(), address.port());
        let kept = thread::scope(|scope| {
            let accepting = scope.spawn(|| (0..ports).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>());
            client.tell(&format!("fail {ip} {port} {}", ports + 20));
            accepting.join().unwrap()
        });
        let verdict = diagnosis.interrupt();
        drop(kept);
        Some(verdict.naming(["connect() failed 20 times", &format!("{ports} of {ports} ports taken"), &client.pid()]))
    })
}
