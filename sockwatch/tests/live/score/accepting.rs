//! Servers whose connections wait for accept(), for each reason that there is.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use super::{
    server::{LANGUAGES, Language, Server, beside_others},
    ward::{Patient, Seen, Ward, beginners, clients, close_in_turn, until},
};
use crate::{filters::Cgroup, harness::skip, netns::Netns, workload::place};

pub(super) fn patients() -> Vec<Patient> {
    let mut patients = Vec::new();
    for (language, [few, many, ms]) in LANGUAGES.into_iter().zip([[4, 20, 60], [3, 12, 130], [8, 40, 40]]) {
        patients.push(blocked(language, many, ms));
        patients.push(busy(language, many, ms));
        patients.push(never(language, few));
        patients.push(stopped(language, many));
        patients.push(exited(language, many));
        patients.push(slow(language, many, ms));
        patients.push(skewed(language, few, many));
        patients.push(leaving(language, many, ms));
    }
    patients.push(starved(Language::Rust, 8, &["pin"], 20, 6));
    patients.push(starved(Language::Python, 12, &["pin"], 12, 6));
    patients.push(starved(Language::C, 4, &["pin", "nice 10"], 15, 3));
    patients.push(limited(Language::Rust, 20_000, 20, 6));
    patients.push(limited(Language::Python, 10_000, 12, 6));
    patients.push(limited(Language::C, 30_000, 40, 5));
    patients.push(starved_pool(6, 4, 16));
    patients.push(another_wait(Language::C, 6));
    patients.push(another_wait(Language::Python, 3));
    for (language, [backlog, many]) in LANGUAGES.into_iter().zip([[4, 20], [8, 50], [16, 100]]) {
        patients.push(burst(language, backlog, many));
        patients.push(cut(language, backlog, many));
    }
    for (language, limit) in LANGUAGES.into_iter().zip([3, 40, 20]) {
        patients.push(without_descriptors(language, limit));
    }
    patients
}

/// A server that listens, and clients that are all there before it accepts.
fn before_accept(ward: &Ward, language: Language, count: usize) -> (SocketAddr, Server, Vec<TcpStream>) {
    let address = place();
    let mut server = ward.workshop.server(language);
    server.listen(address, 128);
    let clients = clients(address, count);
    until(address.port(), "01", count);
    (address, server, clients)
}

/// Its function that does this, where the language tells.
fn function(ward: &Ward, language: Language, what: &str) -> String {
    let name = match (language, what) {
        (Language::Rust, "block") => "waits_for_the_database",
        (Language::Rust, _) => "renders_a_page",
        (Language::C, "block") => "waits_for_upstream",
        (Language::C, _) => "compresses_the_log",
        (_, "block") if ward.workshop.python_tells => "py::waits_for_the_cache",
        (_, _) if ward.workshop.python_tells => "py::renders_a_template",
        (_, _) => "python",
    };
    name.to_owned()
}

/// Does something before each accept.
fn busy_with(ward: &Ward, language: Language, what: &str, count: usize, ms: usize) -> Option<Seen> {
    let address = place();
    let mut server = ward.workshop.server(language);
    server.listen(address, 128);
    let diagnosis = ward.diagnose_port(address)?;
    close_in_turn(clients(address, count));
    server.tell(&format!("serve {count} {what} {ms}"));
    Some(diagnosis.interrupt().naming([&function(ward, language, what), &server.pid()]))
}

fn blocked(language: Language, count: usize, ms: usize) -> Patient {
    Patient::ill("acceptor-blocked", language, format!("{count} clients, {ms} ms each"), move |ward| {
        busy_with(ward, language, "block", count, ms)
    })
}

fn busy(language: Language, count: usize, ms: usize) -> Patient {
    Patient::ill("acceptor-busy", language, format!("{count} clients, {ms} ms each"), move |ward| {
        busy_with(ward, language, "compute", count, ms)
    })
}

/// One thread, which waits for its standard input and for nothing else.
fn another_wait(language: Language, count: usize) -> Patient {
    Patient::ill("acceptor-blocked", language, format!("waits for another descriptor, {count} clients"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--duration", "1800ms"])?;
        let clients = clients(address, count);
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming(["read", &server.pid()]))
    })
}

fn starved(language: Language, others: usize, before: &'static [&'static str], count: usize, ms: usize) -> Patient {
    let name = format!("{others} others on its CPU, {before:?}, {count} clients, {ms} ms each");
    Patient::ill("acceptor-starved", language, name, move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        before.iter().for_each(|command| server.tell(command));
        let diagnosis = ward.diagnose_port(address)?;
        close_in_turn(clients(address, count));
        beside_others(others, || server.tell(&format!("serve {count} compute {ms}")));
        Some(diagnosis.interrupt().naming([&server.pid()]))
    })
}

/// Its cgroup may use so much CPU time, in µs, each 100 ms.
fn limited(language: Language, quota_us: u32, count: usize, ms: usize) -> Patient {
    let name = format!("{quota_us} µs of CPU time each 100 ms, {count} clients, {ms} ms each");
    Patient::ill("acceptor-starved", language, name, move |ward| {
        let Some(cgroup) = Cgroup::limited("cpu", quota_us) else {
            skip("a patient", "no cgroup that can limit CPU time");
            return None;
        };
        let address = place();
        let mut server = ward.workshop.server(language);
        cgroup.join(server.pid().parse().unwrap());
        server.listen(address, 128);
        let diagnosis = ward.diagnose_port(address)?;
        close_in_turn(clients(address, count));
        server.tell(&format!("serve {count} compute {ms}"));
        Some(diagnosis.interrupt().naming([
            &server.pid(),
            "(cpu.max): it kept threads from running in",
            "raise the limit",
        ]))
    })
}

/// Of its processes most sleep in accept(): the kernel wakes one for each client, and that one gets no CPU.
fn starved_pool(others: usize, processes: usize, count: usize) -> Patient {
    let name = format!("{others} others on its CPU, of {processes} processes one is woken, {count} clients");
    Patient::ill("acceptor-starved", Language::C, name, move |ward| {
        let address = place();
        let mut server = ward.workshop.server(Language::C);
        server.listen(address, 128);
        ["pin", "nice 19"].iter().for_each(|command| server.tell(command));
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--slow", "5ms"])?;
        server.tell(&format!("pool {processes} nothing 0"));
        beside_others(others, || {
            (0..count).for_each(|_| until_closed(&mut TcpStream::connect(address).unwrap()));
        });
        Some(diagnosis.interrupt().naming(["had others to wake"]))
    })
}

/// It has other threads, and none of them accepts.
fn never(language: Language, count: usize) -> Patient {
    Patient::ill("nobody-accepts", language, format!("never, {count} clients"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.tell("idle");
        server.listen(address, 128);
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--duration", "1800ms"])?;
        let clients = clients(address, count);
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming([&server.pid()]))
    })
}

fn stopped(language: Language, count: usize) -> Patient {
    Patient::ill("nobody-accepts", language, format!("stopped, {count} clients"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--duration", "1700ms"])?;
        server.begin_to("forever nothing 0");
        clients(address, count).iter_mut().for_each(until_closed);
        server.stop();
        let clients = clients(address, count);
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming([&server.pid()]))
    })
}

fn until_closed(client: &mut TcpStream) {
    let _end = client.read(&mut [0]);
}

/// The thread that accepted is gone; others stay.
fn exited(language: Language, count: usize) -> Patient {
    Patient::ill("nobody-accepts", language, format!("its thread has ended, {count} clients"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--duration", "1700ms"])?;
        close_in_turn(clients(address, count));
        server.tell(&format!("leave {count}"));
        let clients = clients(address, count);
        let verdict = diagnosis.wait();
        drop(clients);
        Some(verdict.naming([&server.pid()]))
    })
}

/// Nobody looks why.
fn slow(language: Language, count: usize, ms: usize) -> Patient {
    Patient::ill("slow-accept", language, format!("{count} clients, {ms} ms each, without blame"), move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--no-blame"])?;
        close_in_turn(clients(address, count));
        server.tell(&format!("serve {count} block {ms}"));
        Some(diagnosis.interrupt().naming([&server.pid()]))
    })
}

/// Processes with a socket each (`SO_REUSEPORT`), one of which does something else.
fn skewed(language: Language, workers: usize, count: usize) -> Patient {
    Patient::ill("worker-skew", language, format!("one of {workers} workers, {count} clients each"), move |ward| {
        let address = place();
        let mut servers: Vec<_> = (0..workers).map(|_| ward.workshop.server(language)).collect();
        let listen = format!("listen {} {} 128 share", address.ip(), address.port());
        servers.iter_mut().for_each(|server| server.tell(&listen));
        let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--duration", "1700ms"])?;
        let (last, others) = servers.split_last_mut().unwrap();
        others.iter_mut().for_each(|server| server.tell("forever nothing 0"));
        last.tell("forever block 200");
        close_in_turn(clients(address, workers * count));
        Some(diagnosis.wait().naming([&last.pid()]))
    })
}

/// Half of the clients give up before the server comes to them.
fn leaving(language: Language, count: usize, ms: usize) -> Patient {
    let name = format!("{count} clients, {ms} ms each");
    let patient = Patient::ill("acceptor-blocked", language, name, move |ward| {
        let address = place();
        let mut server = ward.workshop.server(language);
        server.listen(address, 128);
        let diagnosis = ward.diagnose_server(address, "30s")?;
        let mut clients = clients(address, count);
        server.begin_to(&format!("serve {count} block {ms}"));
        // Their timeout.
        thread::sleep(Duration::from_millis(200));
        clients.truncate(count / 2);
        close_in_turn(clients);
        server.ends();
        Some(diagnosis.interrupt().naming([&function(ward, language, "block")]))
    });
    patient.and("clients-leave")
}

/// More clients at once than the queue holds, and a server that then takes them at once.
fn overflow(ward: &Ward, language: Language, netns: &Netns, backlog: usize, count: usize) -> Option<Seen> {
    let address = place();
    let mut server = ward.workshop.server_in(netns, language);
    server.listen(address, backlog);
    let diagnosis = ward.diagnose_netns(netns, "1700ms")?;
    close_in_turn(netns.run(|| beginners(address, count)).into_iter().map(TcpStream::from));
    server.tell("forever nothing 0");
    Some(diagnosis.wait().naming([]))
}

fn burst(language: Language, backlog: usize, count: usize) -> Patient {
    Patient::ill("queue-too-small", language, format!("{count} clients, a backlog of {backlog}"), move |ward| {
        let netns = Netns::new("burst");
        let mut seen = overflow(ward, language, &netns, backlog, count)?;
        seen.names.push(format!("overflowed at {backlog}"));
        Some(seen)
    })
}

fn cut(language: Language, somaxconn: usize, count: usize) -> Patient {
    Patient::ill("somaxconn", language, format!("{count} clients, no more than {somaxconn}"), move |ward| {
        let netns = Netns::new("cut");
        netns.run(|| std::fs::write("/proc/sys/net/core/somaxconn", somaxconn.to_string()).unwrap());
        let mut seen = overflow(ward, language, &netns, 1024, count)?;
        seen.names.push(format!("overflowed at {somaxconn}"));
        Some(seen)
    })
}

/// It keeps what it accepts.
fn without_descriptors(language: Language, limit: usize) -> Patient {
    Patient::ill("descriptor-limit", language, format!("no more than {limit}"), move |ward| {
        let (address, mut server, clients) = before_accept(ward, language, limit + 2);
        let diagnosis = ward.diagnose_port(address)?;
        server.tell(&format!("descriptors {limit}"));
        server.tell("exhaust 4");
        let verdict = diagnosis.interrupt();
        drop(clients);
        Some(verdict.naming([&server.pid(), "EMFILE"]))
    })
}
