//! `sockwatch serve` without eBPF: its settings, who is let in and who is not.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::refused_as;

/// Whatever takes longer is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Until an address may ask again for as much as it can at once.
const RECOVERY: Duration = Duration::from_secs(3);

/// Between two scrapes.
const PAUSE: Duration = Duration::from_millis(150);

pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// A file that is gone when the test is.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(tag: &str, text: &str, mode: u32) -> Self {
        let scratch = Self(std::env::temp_dir().join(format!("sockwatch-cli-{}-{tag}", std::process::id())));
        scratch.write(text);
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(mode)).unwrap();
        scratch
    }

    pub(crate) fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A service that polls.
pub(crate) struct Service {
    child: Child,
    stderr: Receiver<String>,
    pub(crate) said: Vec<String>,
    pub(crate) address: SocketAddr,
}

impl Service {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::with(arguments, &[])
    }

    pub(crate) fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockwatch"));
        command.args(["serve", "--source", "poll", "--interval", "10ms"]).args(arguments);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, stderr) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut service = Self { child, stderr, said: Vec::new(), address };
        let line = service.until_said("serving http");
        let address = line.split("://").nth(1).and_then(|rest| rest.split('/').next());
        service.address = address.unwrap().parse().unwrap();
        service
    }

    /// Waits for a line with these words.
    pub(crate) fn until_said(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("did not say {words}: {:?}", self.said));
            self.said.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// The same, unless it has said so already.
    pub(crate) fn until_has_said(&mut self, words: &str) {
        if !self.said.iter().any(|line| line.contains(words)) {
            self.until_said(words);
        }
    }

    /// Sends this, and reads until the end. What was read before a reset counts.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        read_all(&mut client)
    }

    /// The status of a request with these headers.
    pub(crate) fn status(&self, line: &str, headers: &str) -> u16 {
        status(&self.ask(&format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")))
    }

    pub(crate) fn metrics(&self, headers: &str) -> String {
        let answer = self.ask(&format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"));
        assert_eq!(status(&answer), 200, "{answer}");
        answer
    }

    /// Lets the limit of requests forget us: nothing is said meanwhile.
    pub(crate) fn recover(&self) {
        assert!(self.stderr.recv_timeout(RECOVERY).is_err());
    }

    /// Scrapes until it fits, less often than the service limits one client.
    pub(crate) fn until(&mut self, what: &str, fits: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics("");
            if fits(&metrics) {
                return;
            }
            assert!(Instant::now() < deadline, "no {what}; said {:?}; told:\n{metrics}", self.said);
            self.said.extend(self.stderr.recv_timeout(PAUSE));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn finish(self, signal: Signal) {
        self.farewell(signal);
    }

    /// Ends it; everything that it said.
    pub(crate) fn farewell(mut self, signal: Signal) -> Vec<String> {
        self.signal(signal);
        assert!(self.child.wait().unwrap().success(), "{:?}", self.said);
        self.said.extend(self.stderr.iter());
        std::mem::take(&mut self.said)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already gone, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes until the end, or until it is cut off.
pub(crate) fn read_all(client: &mut impl Read) -> String {
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match client.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof].contains(&error.kind()) => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(answer).unwrap()
}

/// 0 if there is none.
pub(crate) fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").map_or(0, |rest| rest[..3].parse().unwrap())
}

#[track_caller]
pub(crate) fn counted(metrics: &str, sample: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in {metrics}")).parse().unwrap()
}

pub(crate) fn refused(reason: &str) -> String {
    format!("sockwatch_http_refused_total{{reason=\"{reason}\"}}")
}

#[test]
fn a_scraper_gets_the_text_that_it_asks_for() {
    let service = Service::start(&["--listen", "127.0.0.1:0"]);
    let classic = service.metrics("");
    assert!(classic.contains("content-type: text/plain; version=0.0.4"), "{classic}");
    assert!(classic.contains("# TYPE sockwatch_events_total counter\n") && !classic.contains("# EOF"), "{classic}");
    let open = service.metrics("accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
    assert!(open.contains("# TYPE sockwatch_events counter\n") && open.ends_with("# EOF\n"), "{open}");
    assert!(open.contains("source=\"poll\""), "{open}");
    let health = service.ask("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(status(&health) == 200 && health.contains("\"status\":\"ok\""), "{health}");
    // The service's own listener is one of those that there are.
    assert!(open.contains("sockwatch_sockets{state=\"LISTEN\"}"), "{open}");
    for (line, expected) in [("GET /", 200), ("GET /nothing", 404), ("POST /metrics", 405), ("HEAD /metrics", 200)] {
        assert_eq!(service.status(line, ""), expected, "{line}");
    }
    service.finish(Signal::SIGTERM);
}

#[test]
fn strangers_are_kept_out() {
    let token = Scratch::new("token", TOKEN, 0o600);
    let mut service = Service::start(&["--listen", "127.0.0.1:0", "--token-file", token.path()]);
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    let denied = service.ask("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(status(&denied) == 401 && denied.contains("www-authenticate: Bearer"), "{denied}");
    assert!(!denied.contains("sockwatch_"), "{denied}");
    for wrong in ["authorization: Bearer wrong\r\n", "authorization: Basic eA==\r\n"] {
        assert_eq!(service.status("GET /metrics", wrong), 401, "{wrong}");
        assert_eq!(service.status("GET /healthz", wrong), 401, "{wrong}");
    }
    assert_eq!(service.status("GET /healthz", &right), 200);
    let large = format!("x: {}\r\n", "x".repeat(9000));
    assert!([400, 431].contains(&service.status("GET /metrics", &large)));
    assert_eq!(status(&service.ask("nonsense\r\n\r\n")), 400);
    let metrics = service.metrics(&right);
    assert_eq!(counted(&metrics, &refused("token")), 5);
    assert_eq!(counted(&metrics, &refused("header")), 1);
    assert_eq!(counted(&metrics, &refused("malformed")), 1);
    assert_eq!(counted(&metrics, "sockwatch_http_requests_total{path=\"/metrics\",code=\"401\"}"), 3);

    // Another token from now on.
    token.write("another-token-0123456789");
    service.signal(Signal::SIGHUP);
    service.until_said("read again");
    assert_eq!(service.status("GET /healthz", &right), 401);
    assert_eq!(service.status("GET /healthz", "authorization: Bearer another-token-0123456789\r\n"), 200);
    service.finish(Signal::SIGINT);
}

#[test]
fn too_much_is_refused_and_counted() {
    let service = Service::start(&["--listen", "127.0.0.1:0"]);
    // A flood: some are answered, the others told to come again.
    let statuses: Vec<_> = (0..100).map(|_| service.status("GET /nothing", "")).collect();
    let limited = statuses.iter().filter(|status| **status == 429).count();
    assert!(statuses.iter().all(|status| [404, 429].contains(status)), "{statuses:?}");
    assert!(statuses[..20].iter().all(|status| *status == 404) && limited > 0, "{statuses:?}");
    service.recover();
    assert_eq!(counted(&service.metrics(""), &refused("rate")), limited as u64);

    // Who sends nothing is cut off; meanwhile others are answered.
    let began = Instant::now();
    let mut slow = TcpStream::connect(service.address).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost:").unwrap();
    assert_eq!(service.status("GET /healthz", ""), 200);
    read_all(&mut slow);
    assert!(began.elapsed() >= Duration::from_secs(4) && began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(counted(&service.metrics(""), &refused("slow")), 1);

    // Too many at once: the next one is sent away, until they go.
    let crowd: Vec<_> = (0..64).map(|_| TcpStream::connect(service.address).unwrap()).collect();
    let mut next = TcpStream::connect(service.address).unwrap();
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(status(&read_all(&mut next)), 503);
    drop(crowd);
    service.recover();
    let metrics = service.metrics("");
    assert_eq!(counted(&metrics, &refused("clients")), 1);
    service.finish(Signal::SIGTERM);
}

#[test]
fn the_command_line_beats_the_environment_and_that_the_file() {
    let file = Scratch::new("order.toml", "listen = \"127.0.0.3:0\"\nmax-listeners = 0\n", 0o600);
    // A wrong value is wrong even where another counts.
    refused_as(&["serve", "--config", file.path(), "--max-listeners", "1"], &[".toml:2: max-listeners", "1 to 10000"]);
    file.write("listen = \"127.0.0.3:0\"\nmax-listeners = 7\n");
    let ip = |service: &Service| service.address.ip().to_string();
    let service = Service::with(&["--config", file.path()], &[]);
    assert_eq!(ip(&service), "127.0.0.3");
    let service = Service::with(&["--config", file.path()], &[("SOCKWATCH_LISTEN", "127.0.0.2:0")]);
    assert_eq!(ip(&service), "127.0.0.2");
    let variables = [("SOCKWATCH_LISTEN", "127.0.0.2:0"), ("SOCKWATCH_CONFIG", file.path())];
    let service = Service::with(&["--listen", "127.0.0.1:0"], &variables);
    assert_eq!(ip(&service), "127.0.0.1");
    let service = Service::with(&[], &[("SOCKWATCH_CONFIG", file.path())]);
    assert_eq!(ip(&service), "127.0.0.3");
}

#[test]
fn a_bad_file_at_sighup_changes_nothing() {
    let file = Scratch::new("reload.toml", "listen = \"127.0.0.1:0\"\n", 0o600);
    let mut service = Service::start(&["--config", file.path()]);
    file.write("listen = \"127.0.0.1:0\"\nprt = 80\n");
    service.signal(Signal::SIGHUP);
    let said = service.until_said("stay as they were");
    assert!(said.contains("reload.toml:2: there is no setting `prt`; `port` is meant"), "{said}");
    assert_eq!(service.status("GET /healthz", ""), 200);
    file.write("listen = \"127.0.0.2:0\"\nport = [80]\n");
    service.signal(Signal::SIGHUP);
    service.until_said("--listen changes with the next start only");
    service.until_said("read again");
    assert_eq!(service.status("GET /healthz", ""), 200);
    service.finish(Signal::SIGTERM);
}

#[test]
fn wrong_settings_end_it_at_once() {
    refused_as(&["serve", "--listen", "here"], &["--listen", "127.0.0.1:29798"]);
    refused_as(&["serve", "--listen", "0.0.0.0:29798"], &["--token-file", "127.0.0.1"]);
    refused_as(&["serve", "--listen", "[::]:29798"], &["--token-file"]);
    refused_as(&["serve", "--max-listeners", "many"], &["--max-listeners", "1 to 10000"]);
    refused_as(&["serve", "--config", "/no/such/file"], &["--config /no/such/file"]);
    refused_as(&["serve", "--token-file", "/no/such/file"], &["--token-file /no/such/file", "openssl rand"]);
    let open = Scratch::new("open-token", TOKEN, 0o644);
    refused_as(&["serve", "--token-file", open.path()], &["644", "chmod 640"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused_as(&["serve", "--listen", &address], &["cannot listen", &address, "--listen"]);
    let file = Scratch::new("wrong.toml", "port = [80, \"http\"]\n", 0o600);
    refused_as(&["serve", "--config", file.path()], &["wrong.toml:1: port = \"http\"", "1 to 65535"]);
}
