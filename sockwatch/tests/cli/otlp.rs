//! `sockwatch serve --otlp`, without eBPF: what arrives at a receiver, and what does not.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    receiver::{Protocol, Receiver, Reply, text},
    refused_as,
    serve::{Scratch, Service, counted},
};

/// Often: nobody waits for it.
const OFTEN: [&str; 4] = ["--listen", "127.0.0.1:0", "--otlp-interval", "100ms"];

/// A server for the service to see.
struct Server(TcpListener);

impl Server {
    fn new() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Connections with both of their ends. A RST ends both at once: polling sees a TIME_WAIT until it is over.
    fn connect(&self, count: usize) -> Vec<(TcpStream, TcpStream)> {
        let one = |_| {
            let client = TcpStream::connect(self.0.local_addr().unwrap()).unwrap();
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            (client, self.0.accept().unwrap().0)
        };
        (0..count).map(one).collect()
    }
}

/// A service that sees nothing but one port, and pushes.
fn start(server: &Server, receiver: SocketAddr, protocol: Protocol, more: &[&str]) -> Service {
    start_with(server, receiver, protocol, more, &[])
}

fn start_with(
    server: &Server,
    receiver: SocketAddr,
    protocol: Protocol,
    more: &[&str],
    variables: &[(&str, &str)],
) -> Service {
    let (url, port) = (format!("http://{receiver}"), server.port().to_string());
    let of_test = ["--otlp", &url, "--otlp-protocol", protocol.word(), "--port", &port];
    Service::with(&[&OFTEN, of_test.as_slice(), more].concat(), variables)
}

/// Connections that the service has seen, and that are over.
fn see(service: &mut Service, server: &Server, count: usize) {
    let before = ended(service);
    let connections = server.connect(count);
    let established = format!("sockwatch_sockets{{state=\"ESTABLISHED\"}} {}.0\n", 2 * count);
    service.until("connections", |metrics| metrics.contains(&established));
    drop(connections);
    service.until("their ends", |metrics| {
        sum_of(metrics, "sockwatch_connections_ended_total") >= before + 2 * count as u64
    });
}

fn ended(service: &mut Service) -> u64 {
    sum_of(&service.metrics(""), "sockwatch_connections_ended_total")
}

fn sum_of(metrics: &str, name: &str) -> u64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
}

/// How long a receiver stays down besides what the test needs: for those who have a minute, `SOCKWATCH_OTLP_DOWN=60`.
fn down() -> Duration {
    let seconds = std::env::var("SOCKWATCH_OTLP_DOWN").map_or(0, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// What the service says at its end of what became of all records.
fn fates(said: &[String]) -> HashMap<String, u64> {
    let line = said.iter().find_map(|line| line.strip_prefix("sockwatch: otlp: "));
    let words = line.unwrap_or_else(|| panic!("{said:?}")).split(' ');
    words.map(|word| word.split_once('=').unwrap()).map(|(fate, count)| (fate.into(), count.parse().unwrap())).collect()
}

/// Every record is accounted for, and so says the receiver.
#[track_caller]
fn check_sums(said: &[String], receiver: &Receiver) -> HashMap<String, u64> {
    let fates = fates(said);
    let ended = receiver.sum("sockwatch.connections_ended", None);
    assert_eq!(fates.values().sum::<u64>(), ended, "{fates:?}");
    let arrived = fates["delivered"] + fates["rejected"];
    assert_eq!(receiver.records.len() as u64, arrived, "{fates:?} {:?}", receiver.records);
    fates
}

#[test]
fn a_connection_arrives_as_a_record_and_in_the_metrics() {
    for protocol in Protocol::ALL {
        let (server, mut receiver) = (Server::new(), Receiver::start(protocol));
        let secret = [("SOCKWATCH_OTLP_HEADER", "authorization=Bearer secret")];
        let service = start_with(&server, receiver.address, protocol, &[], &secret);
        let connections = server.connect(1);
        let client = connections[0].0.local_addr().unwrap().port().to_string();
        receiver.until("connection in the metrics", |receiver| {
            receiver.sum("sockwatch.sockets", Some(("network.connection.state", "established"))) == 2
        });
        drop(connections);
        receiver.until("record", |receiver| receiver.records.len() >= 2);
        let said = service.farewell(Signal::SIGTERM);
        receiver.drain();
        let fates = check_sums(&said, &receiver);
        assert_eq!(fates["delivered"], receiver.records.len() as u64, "{protocol:?}: {fates:?}");

        let resource = receiver.metrics[0].resource_metrics[0].resource.as_ref().unwrap();
        assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("sockwatch"));
        let mut ends = [0; 2];
        for record in &receiver.records {
            let told = |name: &str| text(&record.attributes, name).unwrap_or_default();
            if told("sockwatch.role") == "listener" {
                continue;
            }
            assert_eq!(told("network.transport"), "tcp");
            let (local, peer, server) =
                (told("network.local.port"), told("network.peer.port"), server.port().to_string());
            ends[0] += usize::from((&local, &peer) == (&client, &server));
            ends[1] += usize::from((&local, &peer) == (&server, &client));
        }
        assert_eq!(ends, [1, 1], "{:?}", receiver.records);
        // All figures of one series have the same start, which is before they were read.
        let starts = |receiver: &Receiver| {
            let points = receiver.points("sockwatch.events");
            (points[0].start_time_unix_nano, points[0].time_unix_nano)
        };
        let (start_ns, at_ns) = starts(&receiver);
        receiver.metrics.truncate(1);
        let (first_start_ns, first_at_ns) = starts(&receiver);
        assert!(start_ns == first_start_ns && start_ns < first_at_ns && first_at_ns < at_ns, "{start_ns} {at_ns}");
        assert!(receiver.authorizations.iter().all(|value| value.as_deref() == Some("Bearer secret")));
        assert!(said.iter().all(|line| !line.contains("secret")), "{said:?}");
    }
}

/// While nobody listens everything goes on; when somebody does, what was kept comes, and the rest is counted.
#[test]
fn a_receiver_that_comes_late_gets_what_there_was_room_for() {
    for protocol in Protocol::ALL {
        // Bound, so that nobody else is there; it does not listen yet.
        let place = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        place.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = place.local_addr().unwrap().as_socket().unwrap();
        let server = Server::new();
        let mut service = start(&server, address, protocol, &["--otlp-queue", "3"]);
        service.until_has_said("does not take metrics: cannot connect");
        see(&mut service, &server, 4);
        let began = Instant::now();
        while began.elapsed() < down() {
            see(&mut service, &server, 4);
            service.recover();
        }
        let metrics = service.metrics("");
        let all = sum_of(&metrics, "sockwatch_connections_ended_total");
        assert_eq!(sum_of(&metrics, "sockwatch_otlp_records_waiting"), 3);
        assert_eq!(counted(&metrics, "sockwatch_otlp_records_total{outcome=\"queue_full\"}"), all - 3);
        assert_eq!(counted(&metrics, "sockwatch_otlp_records_total{outcome=\"delivered\"}"), 0);
        assert!(counted(&metrics, "sockwatch_otlp_requests_total{signal=\"metrics\",outcome=\"failed\"}") > 0);
        let health = service.ask("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(health.contains("HTTP/1.1 200") && health.contains("\"waiting\":3"), "{health}");

        place.listen(16).unwrap();
        let mut receiver = Receiver::at(place.into(), protocol);
        receiver.until("what was kept", |receiver| receiver.records.len() >= 3);
        service.until_has_said("takes logs again");
        // Now there is room.
        see(&mut service, &server, 1);
        receiver.until("what came later", |receiver| receiver.records.len() >= 5);
        let said = service.farewell(Signal::SIGTERM);
        receiver.drain();
        let fates = check_sums(&said, &receiver);
        assert_eq!((fates["queue_full"], fates["unsent"]), (all - 3, 0), "{fates:?}");
    }
}

#[test]
fn answers_are_understood() {
    for protocol in Protocol::ALL {
        let (server, mut receiver) = (Server::new(), Receiver::start(protocol));
        let mut service = start(&server, receiver.address, protocol, &["--otlp-signal", "logs"]);
        receiver.reply([Reply::Later, Reply::Reject(1)]);
        see(&mut service, &server, 1);
        service.until_has_said("does not take logs: ");
        service.until_has_said("rejects some logs, which are dropped: too old");
        receiver.until("both ends", |receiver| receiver.records.len() >= 2);
        receiver.reply([Reply::Refuse]);
        see(&mut service, &server, 1);
        service.until_has_said("refuses logs, which are dropped: ");
        let metrics = service.metrics("");
        let requests =
            |outcome: &str| format!("sockwatch_otlp_requests_total{{signal=\"logs\",outcome=\"{outcome}\"}}");
        assert_eq!((counted(&metrics, &requests("later")), counted(&metrics, &requests("refused"))), (1, 1));
        assert_eq!(sum_of(&metrics, "sockwatch_otlp_requests_total{signal=\"metrics\""), 0, "nobody asked for them");
        let fates = fates(&service.farewell(Signal::SIGTERM));
        receiver.drain();
        assert!(fates["rejected"] == 1 && fates["refused"] > 0 && fates["unsent"] == 0, "{fates:?}");
        assert_eq!(receiver.records.len() as u64, fates["delivered"] + fates["rejected"], "{fates:?}");
        assert!(receiver.metrics.is_empty());
    }
}

/// It takes connections and says nothing: the end does not wait for it.
#[test]
fn a_receiver_that_hangs_keeps_nothing_waiting() {
    let (server, silent) = (Server::new(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let mut service = start(&server, silent.local_addr().unwrap(), Protocol::Http, &[]);
    see(&mut service, &server, 1);
    assert_eq!(service.status("GET /healthz", ""), 200);
    let all = ended(&mut service);
    let fates = fates(&service.farewell(Signal::SIGTERM));
    assert!(fates["unsent"] >= all && fates["delivered"] == 0, "{fates:?}");
}

#[test]
fn wrong_settings_end_it_at_once_and_print_no_secret() {
    refused_as(&["serve", "--otlp", "https://a", "--otlp-ca", "/no/such/file"], &["--otlp-ca /no/such/file"]);
    refused_as(&["serve", "--otlp", "http://a:1", "--otlp-ca", "/dev/null"], &["not encrypted", "https://"]);
    refused_as(&["serve", "--otlp", "127.0.0.1:4318"], &["--otlp", "http://127.0.0.1:4318"]);
    refused_as(&["serve", "--otlp", "http://collector"], &["--otlp", "4318", "4317"]);
    refused_as(&["serve", "--otlp-interval", "1ms"], &["--otlp-interval", "between 100ms and 10m"]);
    refused_as(&["serve", "--otlp-protocol", "json"], &["--otlp-protocol", "http, grpc"]);
    refused_as(&["serve", "--otlp-queue", "0"], &["--otlp-queue", "1 to 1000000"]);
    refused_as(&["serve", "--otlp-header", "a=b"], &["--otlp-header", "no --otlp"]);
    let url = ["serve", "--otlp", "http://127.0.0.1:4317/v1", "--otlp-protocol", "grpc"];
    refused_as(&url, &["gRPC has no path", "http://127.0.0.1:4317"]);
    let wrong = "otlp = \"http://127.0.0.1:4318\"\notlp-header = [\"autho rization=secret\"]\n";
    let file = Scratch::new("otlp.toml", wrong, 0o600);
    let said = refused_as(&["serve", "--config", file.path()], &["--otlp-header", "a name that no header can have"]);
    assert!(!said.contains("secret"), "{said}");
    let said = refused_as(&["serve", "--otlp", "http://me:secret@127.0.0.1:4318"], &["no part of it"]);
    assert!(!said.contains("secret"), "{said}");
    let file = Scratch::new("otlp-url.toml", "otlp = \"ftp://a:1\"\n", 0o600);
    refused_as(&["serve", "--config", file.path()], &["otlp-url.toml:1: otlp = \"ftp://a:1\": not a URL"]);
}
