//! `sockwatch serve` on the running kernel: what it tells is what the test did.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value as Told, logs::v1::LogRecord,
};
use prost::Message;
use serde_json::Value;

use crate::{
    harness::{Machine, Probes, choices, kernel_names, patience, read_lines, shared, skip, sockwatch, summary},
    netns::Netns,
    privileges::{assert_confined, bits},
    workload::{client_closes_first, converse, place},
};

/// Between two scrapes: less often than the service limits one client.
const PAUSE: Duration = Duration::from_millis(150);

/// How long a client waits for accept().
const WAIT: Duration = Duration::from_millis(200);

/// A running service.
pub(crate) struct Service {
    child: Child,
    stderr: Receiver<String>,
    said: Vec<String>,
    address: SocketAddr,
    pub(crate) probes: Probes,
    _machine: Machine,
}

impl Service {
    pub(crate) fn start(machine: Machine, arguments: &[&str]) -> Self {
        let mut command = sockwatch();
        command.args(["serve", "--listen", "127.0.0.1:0", "--source", "ebpf", "--latency", "5ms"]);
        command.args(choices()).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = read_lines(child.stderr.take().unwrap());
        let mut said: Vec<String> = Vec::new();
        let address = loop {
            let line = stderr.recv_timeout(patience());
            said.push(line.unwrap_or_else(|_| panic!("{command:?} did not start: {said:?}")));
            let address = said.last().and_then(|line| line.strip_prefix("serving http://"));
            if let Some(address) = address.and_then(|rest| rest.split('/').next()) {
                break address.parse().unwrap();
            }
        };
        let announced = said.iter().find(|line| line.starts_with("tracing "));
        let probes = announced.map_or_else(Probes::default, |line| Probes::of(line));
        Self { child, stderr, said, address, probes, _machine: machine }
    }

    /// Status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut client = TcpStream::connect(self.address).unwrap();
        write!(client, "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics(body)
    }

    /// Scrapes until it fits.
    pub(crate) fn until(&mut self, what: &str, fits: impl Fn(&Metrics) -> bool) -> Metrics {
        let deadline = Instant::now() + patience();
        loop {
            let metrics = self.metrics();
            if fits(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "no {what}; said {:?}; told:\n{}", self.said, metrics.0);
            self.pause();
        }
    }

    /// Waits a little before it is asked again; what it says meanwhile is noted.
    pub(crate) fn pause(&mut self) {
        self.said.extend(self.stderr.recv_timeout(PAUSE));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until it says a line with these words.
    pub(crate) fn until_said(&mut self, words: &str) {
        let deadline = Instant::now() + patience();
        loop {
            let line = self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("did not say {words}: {:?}", self.said));
            let found = line.contains(words);
            self.said.push(line);
            if found {
                return;
            }
        }
    }

    /// Ends it by SIGTERM: a normal end.
    fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success(), "{:?}", self.said);
        self.said.extend(self.stderr.iter());
    }

    /// Ends it by SIGTERM: a normal end, with a summary that tells of no losses.
    pub(crate) fn finish(mut self) {
        self.end();
        let counts = summary(&self.said);
        assert_eq!((counts["lost"], counts["dropped"]), (0, 0), "{:?}", self.said);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already gone, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A scrape's text.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The only sample of this name whose labels contain all these.
    pub(crate) fn find(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let samples =
            self.0.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let mut found = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
        let value = found.next()?.rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!(found.next().is_none(), "more than one {name} with {labels:?}");
        Some(value)
    }

    #[track_caller]
    fn get(&self, name: &str, labels: &[&str]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?} in:\n{}", self.0))
    }
}

/// Whether this run knows which listener a connection waits for.
fn knows_listeners(service: &Service, name: &str) -> bool {
    let reason = if !service.probes.has("enqueue") {
        "without the enqueue probe a connection's listener is not known"
    } else if !kernel_names("bpf_get_socket_ptr_cookie") {
        "this kernel gives a listener no cookie before it was listed"
    } else {
        return true;
    };
    skip(name, reason);
    false
}

#[test]
fn a_wait_is_counted_where_it_belongs() {
    const NAME: &str = "a_wait_is_counted_where_it_belongs";
    let Some(machine) = shared(NAME) else { return };
    let (netns, address) = (Netns::new("serve"), place());
    let mut service = Service::start(machine, &["--port", &address.port().to_string(), "--reconcile", "100ms"]);
    if !knows_listeners(&service, NAME) {
        return;
    }
    let server = netns.run(|| TcpListener::bind(address).unwrap());
    let (inode, local) = (format!("netns=\"{}\"", netns.inode()), format!("listener=\"{address}\""));
    let of_listener = [inode.as_str(), local.as_str()];

    let calling = Instant::now();
    let client = netns.run(|| TcpStream::connect(address).unwrap());
    let connected = Instant::now();
    let waits = service
        .until("a waiting client", |metrics| metrics.find("sockwatch_accept_queue_depth", &of_listener) == Some(1.0));
    assert_eq!(waits.get("sockwatch_accept_queue_limit", &of_listener), 128.0);
    assert_eq!(waits.get("sockwatch_accept_queue_arrivals_total", &of_listener), 1.0);
    assert_eq!(waits.get("sockwatch_accept_queue_accepts_total", &of_listener), 0.0);
    let oldest_s = waits.get("sockwatch_accept_queue_oldest_age_seconds", &of_listener);
    assert!(oldest_s > 0.0 && oldest_s <= calling.elapsed().as_secs_f64(), "{oldest_s}");

    // The server's delay: what is measured, not synchronisation.
    thread::sleep(WAIT.saturating_sub(connected.elapsed()));
    let at_least_s = connected.elapsed().as_secs_f64();
    let (child, _) = server.accept().unwrap();
    let at_most_s = calling.elapsed().as_secs_f64();
    let accepted = service
        .until("an accept", |metrics| metrics.find("sockwatch_accept_queue_accepts_total", &of_listener) == Some(1.0));
    assert_eq!(accepted.get("sockwatch_accept_queue_depth", &of_listener), 0.0);
    assert_eq!(accepted.get("sockwatch_accept_queue_oldest_age_seconds", &of_listener), 0.0);
    assert_eq!(accepted.get("sockwatch_queue_wait_seconds_count", &of_listener), 1.0);
    let sum_s = accepted.get("sockwatch_queue_wait_seconds_sum", &of_listener);
    assert!((at_least_s..=at_most_s).contains(&sum_s), "{at_least_s} {sum_s} {at_most_s}");
    for bound in ["0.1", "0.2", "0.5", "1.0", "2.0", "5.0", "10.0", "20.0"] {
        let (le, bound_s) = (format!("le=\"{bound}\""), bound.parse::<f64>().unwrap());
        let within = accepted.get("sockwatch_queue_wait_seconds_bucket", &[&le, &inode, &local]);
        assert_eq!(within, f64::from(u8::from(sum_s <= bound_s)), "{bound}: {sum_s}");
    }
    assert_eq!(accepted.get("sockwatch_handshake_seconds_count", &of_listener), 1.0);

    client_closes_first(client, child);
    drop(server);
    let ended = service.until("the end of all three", |metrics| {
        metrics.find("sockwatch_connections_ended_total", &["role=\"listener\"", "end=\"stopped\""]) == Some(1.0)
            && metrics.find("sockwatch_connections_ended_total", &["role=\"passive\"", "end=\"peer-fin\""]) == Some(1.0)
            && metrics.find("sockwatch_connections_ended_total", &["role=\"active\"", "end=\"local-fin\""]) == Some(1.0)
    });
    assert_eq!(ended.get("sockwatch_sockets", &["state=\"TIME_WAIT\""]), 1.0);
    assert_eq!(ended.get("sockwatch_sockets", &["state=\"ESTABLISHED\""]), 0.0);
    assert_eq!(ended.get("sockwatch_local_ports_taken", &[&format!("destination=\"{address}\"")]), 1.0);
    // A series outlives its listener.
    assert_eq!(ended.get("sockwatch_accept_queue_accepts_total", &of_listener), 1.0);
    assert_eq!(ended.get("sockwatch_losses_total", &["kind=\"ring_full\""]), 0.0);
    assert!(ended.get("sockwatch_events_total", &[]) > 0.0 && ended.get("sockwatch_read_bytes_total", &[]) > 0.0);
    assert!(ended.get("process_cpu_seconds_total", &[]) > 0.0);
    service.finish();
}

/// Above `tcp_max_tw_buckets` the kernel leaves nothing of what closes first, and the events are the same.
#[test]
fn no_more_time_waits_than_the_kernel_has_room_for() {
    const NAME: &str = "no_more_time_waits_than_the_kernel_has_room_for";
    let Some(machine) = shared(NAME) else { return };
    let (netns, address) = (Netns::new("buckets"), place());
    // A FIN that comes twice is answered by a RST, which must not end any.
    for (name, value) in [("tcp_max_tw_buckets", "5"), ("tcp_rfc1337", "1")] {
        netns.run(|| fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap());
    }
    let mut service = Service::start(machine, &["--port", &address.port().to_string(), "--reconcile", "100ms"]);
    let server = netns.run(|| TcpListener::bind(address).unwrap());
    for so_far in [20.0, 40.0] {
        netns.run(|| {
            for _ in 0..20 {
                let client = TcpStream::connect(address).unwrap();
                client_closes_first(client, server.accept().unwrap().0);
            }
        });
        service.until("as many as in the kernel's table", |metrics| {
            let ended = metrics.find("sockwatch_connections_ended_total", &["role=\"active\"", "end=\"local-fin\""]);
            ended == Some(so_far) && metrics.find("sockwatch_sockets", &["state=\"TIME_WAIT\""]) == Some(5.0)
        });
    }
    service.finish();
}

#[test]
fn a_service_that_sees_events_is_healthy() {
    let Some(machine) = shared("a_service_that_sees_events_is_healthy") else { return };
    // Without a filter its own clients are seen: that proves that events come.
    let mut service = Service::start(machine, &[]);
    let (status, body) = service.get("/healthz");
    let health: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &health["status"], &health["source"]), (200, &"ok".into(), &"ebpf".into()), "{body}");
    assert!(health["events"].as_u64().unwrap() > 0, "{body}");
    assert_confined(service.child.id());
    // Other tests' floods are seen, too: something may be lost.
    service.end();
}

/// A receiver of OTLP by HTTP that takes everything; the messages that come.
fn receiver() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, (sender, messages)) = (listener.local_addr().unwrap(), channel());
    thread::spawn(move || {
        let mut client = BufReader::new(listener.accept().unwrap().0);
        // Until the service closes it.
        while let Some(message) = request(&mut client) {
            client.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    (address, messages)
}

/// The next request's body.
fn request(client: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        client.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).ok()?;
    Some(body)
}

/// A listener's end is told to a receiver, by a thread that may do next to nothing.
#[test]
fn what_has_ended_is_pushed() {
    let Some(machine) = shared("what_has_ended_is_pushed") else { return };
    let ((receiver, messages), address) = (receiver(), place());
    let (url, port) = (format!("http://{receiver}"), address.port().to_string());
    let push = ["--otlp", &url, "--otlp-interval", "100ms", "--otlp-signal", "logs", "--local-port", &port];
    let service = Service::start(machine, &push);
    converse(address);
    let is_ours = |record: &LogRecord| {
        let value = |name: &str| record.attributes.iter().find(|it| it.key == name)?.value.clone()?.value;
        value("server.port") == Some(Told::IntValue(address.port().into()))
            && value("server.address") == Some(Told::StringValue(address.ip().to_string()))
    };
    loop {
        let message = messages.recv_timeout(patience()).unwrap_or_else(|_| panic!("nothing of ours came"));
        let request = ExportLogsServiceRequest::decode(message.as_slice()).unwrap();
        let mut scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        if scopes.any(|scope| scope.log_records.iter().any(is_ours)) {
            break;
        }
    }
    let statuses = assert_confined(service.child.id());
    assert!(bits(&statuses["otlp"], "CapEff").is_empty(), "{statuses:?}");
    service.finish();
}

/// SIGHUP takes another filter, and what was counted stays.
#[test]
fn another_filter_keeps_what_was_counted() {
    let Some(machine) = shared("another_filter_keeps_what_was_counted") else { return };
    let (first, second) = (place(), place());
    let file = std::env::temp_dir().join(format!("sockwatch-serve-{}.toml", std::process::id()));
    fs::write(&file, format!("port = [{}, {}]\n", first.port(), second.port())).unwrap();
    let mut service = Service::start(machine, &["--config", file.to_str().unwrap()]);
    let ended = |metrics: &Metrics| metrics.find("sockwatch_connections_ended_total", &["role=\"active\""]);
    converse(first);
    converse(second);
    service.until("two connections", |metrics| ended(metrics) == Some(2.0));

    fs::write(&file, format!("port = [{}]\n", first.port())).unwrap();
    service.signal(Signal::SIGHUP);
    service.until_said("read again");
    assert!(service.said.iter().any(|line| line.contains("keep the filter")), "{:?}", service.said);
    // The later one is counted, and the one before it is not.
    converse(second);
    converse(first);
    let metrics = service.until("a third connection", |metrics| ended(metrics) >= Some(3.0));
    assert_eq!(ended(&metrics), Some(3.0));

    fs::write(&file, "port = [0]\n").unwrap();
    service.signal(Signal::SIGHUP);
    service.until_said("the settings stay as they were");
    assert!(service.said.iter().any(|line| line.contains(".toml:1: port = \"0\"")), "{:?}", service.said);
    converse(first);
    service.until("a fourth connection", |metrics| ended(metrics) == Some(4.0));
    service.finish();
    fs::remove_file(file).unwrap();
}
