//! Other people's servers, well and ill. Those that are not on this machine are skipped by name; `cargo xtask score` installs them.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    process::Command,
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    server::{Language, Program},
    ward::{Patient, Seen, Ward, clients, close_in_turn},
};
use crate::{diagnose::Verdict, harness::patience, unprivileged::USER, workload::place};

const GET: &[u8] = b"GET /page.txt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

const NODE: Language = Language::Program("node");
const NGINX: Language = Language::Program("nginx");
const REDIS: Language = Language::Program("redis-server");
const POSTGRES: Language = Language::Program("postgres");
const GUNICORN: Language = Language::Module("gunicorn");

/// Of nginx.
const WORKERS: usize = 2;

pub(super) fn patients() -> Vec<Patient> {
    vec![
        Patient::healthy(Language::Python, "http.server", http_server),
        Patient::healthy(NODE, "http", node),
        Patient::healthy(NGINX, "files", nginx),
        Patient::healthy(REDIS, "PING", redis),
        Patient::healthy(POSTGRES, "connections", postgres),
        Patient::healthy(GUNICORN, "threads", |ward| {
            let address = place();
            let command = gunicorn(ward, address, &["--worker-class", "gthread", "--threads", "24"]);
            program(ward, command, address, || browse(address, 12, 5, PAGE.trim_end()))
        }),
        Patient::ill("acceptor-blocked", GUNICORN, "sync", |ward| {
            let address = place();
            let command = gunicorn(ward, address, &["--worker-class", "sync"]);
            let name = if ward.workshop.python_tells { "py::waits_for_upstream" } else { "python" };
            Some(program(ward, command, address, || browse(address, 12, 3, PAGE.trim_end()))?.naming([name]))
        }),
        Patient::ill("acceptor-blocked", Language::Python, "http.server, one after the other", http_server_that_waits),
        Patient::ill("acceptor-busy", NODE, "a page takes 150 ms", node_that_computes),
        Patient::ill("acceptor-blocked", REDIS, "DEBUG SLEEP", redis_that_sleeps),
        Patient::ill("nobody-accepts", NGINX, "stopped workers", nginx_that_is_stopped),
    ]
}

/// Somebody else's server, from when it listens.
fn program(ward: &Ward, command: Command, address: SocketAddr, visit: impl Fn()) -> Option<Verdict> {
    let _program = started(ward, command, address);
    let diagnosis = ward.diagnose_port(address)?;
    visit();
    Some(diagnosis.interrupt())
}

fn started(ward: &Ward, command: Command, address: SocketAddr) -> Program {
    let program = ward.workshop.program(command);
    let asked = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(asked.elapsed() < patience(), "it does not listen");
        thread::yield_now();
    }
    program
}

/// Clients of a web server: each asks for a page that ends with `end` so many times, on a connection each.
fn browse(address: SocketAddr, clients: usize, times: usize, end: &str) {
    let ask = || {
        for _ in 0..times {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(GET).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(" 200 OK") && answer.contains(end), "{answer}");
        }
    };
    thread::scope(|scope| (0..clients).for_each(|_| drop(scope.spawn(ask))));
}

const PAGE: &str = "It is well.\n";

fn http_server(ward: &Ward) -> Option<Verdict> {
    let address = place();
    fs::write(ward.workshop.directory().join("page.txt"), PAGE.repeat(1000)).unwrap();
    let mut command = ward.workshop.python();
    let port = address.port().to_string();
    command.args(["-m", "http.server", &port, "--bind", "127.0.0.1"]).current_dir(ward.workshop.directory());
    program(ward, command, address, || browse(address, 5, 30, PAGE))
}

fn node(ward: &Ward) -> Option<Verdict> {
    let address = place();
    let script = format!(
        "require('http').createServer((_, answer) => answer.end('{}')).listen({}, '127.0.0.1')",
        PAGE.trim_end(),
        address.port()
    );
    let mut command = Command::new("node");
    command.args(["-e", &script]);
    program(ward, command, address, || browse(address, 8, 50, PAGE.trim_end()))
}

/// A page takes 150 ms of the only thread: meanwhile nobody accepts.
fn node_that_computes(ward: &Ward) -> Option<Seen> {
    let address = place();
    let script = format!(
        "function rendersAPage() {{ const until = Date.now() + 150; let sum = 0;
             while (Date.now() < until) for (let i = 0; i < 1e4; i++) sum += i % 7; return sum; }}
         require('http').createServer((_, answer) => {{ rendersAPage(); answer.end('{}'); }}).listen({}, '127.0.0.1')",
        PAGE.trim_end(),
        address.port()
    );
    let mut command = Command::new("node");
    command.args(["--perf-basic-prof", "--interpreted-frames-native-stack", "-e", &script]);
    command.current_dir(ward.workshop.directory());
    Some(program(ward, command, address, || browse(address, 6, 4, PAGE.trim_end()))?.naming(["rendersAPage"]))
}

/// A worker for each connection, or one thread that does it all; a page takes 60 ms.
fn gunicorn(ward: &Ward, address: SocketAddr, how: &[&str]) -> Command {
    let directory = ward.workshop.directory();
    let application = format!(
        "import time\n\
         def waits_for_upstream():\n    time.sleep(0.06)\n\
         def application(environ, start_response):\n    waits_for_upstream()\n    \
         start_response('200 OK', [('Content-Type', 'text/plain')])\n    return [b'{}']\n",
        PAGE.trim_end()
    );
    fs::write(directory.join("unhurried.py"), application).unwrap();
    let mut command = ward.workshop.python();
    command.args(["-m", "gunicorn", "--workers", "1", "--bind", &address.to_string()]).args(how);
    command.arg("--chdir").arg(directory).arg("unhurried:application");
    command
}

fn http_server_that_waits(ward: &Ward) -> Option<Seen> {
    let address = place();
    let script = format!(
        "import http.server, time\n\
         def asks_the_database():\n    time.sleep(0.06)\n\
         class Handler(http.server.BaseHTTPRequestHandler):\n    \
         def do_GET(self):\n        asks_the_database()\n        self.send_response(200)\n        \
         self.end_headers()\n        self.wfile.write(b'{}')\n\
         class Server(http.server.HTTPServer):\n    request_queue_size = 128\n\
         Server(('127.0.0.1', {}), Handler).serve_forever()\n",
        PAGE.trim_end(),
        address.port()
    );
    let mut command = ward.workshop.python();
    command.args(["-c", &script]);
    let name = if ward.workshop.python_tells { "py::asks_the_database" } else { "python" };
    let visit = || {
        let ask = || (0..3).for_each(|_| ask_once(address));
        thread::scope(|scope| (0..12).for_each(|_| drop(scope.spawn(ask))));
    };
    Some(program(ward, command, address, visit)?.naming([name]))
}

/// One page. BaseHTTPRequestHandler answers as HTTP/1.0 does, and closes.
fn ask_once(address: SocketAddr) {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(GET).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 OK") && answer.ends_with(PAGE.trim_end()), "{answer}");
}

/// Its workers and their parent are stopped, as a debugger would.
fn nginx_that_is_stopped(ward: &Ward) -> Option<Seen> {
    let address = place();
    let nginx = started(ward, nginx_command(ward, address), address);
    // It listens before it has workers.
    let asked = Instant::now();
    while nginx.children().len() < WORKERS {
        assert!(asked.elapsed() < patience(), "its workers do not start");
        thread::yield_now();
    }
    let pids: Vec<_> = [nginx.pid()].into_iter().chain(nginx.children()).collect();
    let tell = |signal| pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), signal).unwrap());
    tell(Signal::SIGSTOP);
    let diagnosis = ward.diagnose(&["--port", &address.port().to_string(), "--duration", "2500ms"])?;
    let waiting = clients(address, 5);
    let verdict = diagnosis.wait();
    tell(Signal::SIGCONT);
    drop(waiting);
    Some(verdict.naming([&address.to_string()]))
}

fn nginx(ward: &Ward) -> Option<Verdict> {
    let address = place();
    program(ward, nginx_command(ward, address), address, || browse(address, 8, 50, PAGE))
}

fn nginx_command(ward: &Ward, address: SocketAddr) -> Command {
    let directory = ward.workshop.directory();
    fs::write(directory.join("page.txt"), PAGE).unwrap();
    let root = directory.display();
    let configuration = format!(
        "daemon off; user root; pid {root}/nginx.pid; error_log stderr; worker_processes {WORKERS};
         events {{ worker_connections 512; }}
         http {{ access_log off; server {{ listen {address}; root {root}; }} }}"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(file);
    command
}

fn redis_command(ward: &Ward, address: SocketAddr) -> Command {
    let mut command = Command::new("redis-server");
    let port = address.port().to_string();
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--enable-debug-command", "yes"]).current_dir(ward.workshop.directory());
    command
}

/// One client's command keeps the only thread from all others.
fn redis_that_sleeps(ward: &Ward) -> Option<Seen> {
    let address = place();
    let redis = started(ward, redis_command(ward, address), address);
    let diagnosis = ward.diagnose_port(address)?;
    let mut sleeper = TcpStream::connect(address).unwrap();
    let mut answer = [0; 5];
    for _ in 0..3 {
        sleeper.write_all(b"DEBUG SLEEP 0.4\r\n").unwrap();
        close_in_turn(clients(address, 5));
        sleeper.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }
    Some(diagnosis.interrupt().naming([&redis.pid().to_string()]))
}

fn redis(ward: &Ward) -> Option<Verdict> {
    let address = place();
    let command = redis_command(ward, address);
    let ask = || {
        for _ in 0..30 {
            let mut client = TcpStream::connect(address).unwrap();
            for _ in 0..20 {
                client.write_all(b"PING\r\n").unwrap();
                let mut answer = [0; 7];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"+PONG\r\n");
            }
        }
    };
    program(ward, command, address, || {
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(ask))));
    })
}

/// A fresh cluster of an ordinary user's: it does not run as root. Each client has a backend forked for it.
fn postgres(ward: &Ward) -> Option<Verdict> {
    let address = place();
    let data = ward.workshop.directory().join("postgres");
    fs::create_dir(&data).unwrap();
    chown(&data, Some(USER), Some(USER)).unwrap();
    let as_user = |name: &str| {
        let mut command = Command::new(ward.workshop.program_path(name).unwrap());
        command.arg("-D").arg(&data).current_dir("/").uid(USER).gid(USER);
        command
    };
    let made = as_user("initdb").args(["--username", "postgres", "--auth", "trust", "--no-sync"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = as_user("postgres");
    let port = address.port().to_string();
    command.args(["-h", "127.0.0.1", "-p", &port, "-c", "fsync=off", "-k"]).arg(&data);
    let visit = || (0..10).for_each(|_| converse_with_postgres(address));
    program(ward, command, address, || thread::scope(|scope| (0..6).for_each(|_| drop(scope.spawn(visit)))))
}

/// Protocol 3.0: a start-up message, an empty query, and the end.
fn converse_with_postgres(address: SocketAddr) {
    const READY: u8 = b'Z';
    let mut client = TcpStream::connect(address).unwrap();
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = (8 + parameters.len()) as u32;
    client.write_all(&[&length.to_be_bytes(), &196_608_u32.to_be_bytes(), &parameters[..]].concat()).unwrap();
    let mut until_ready = || loop {
        let (mut head, mut length) = ([0; 1], [0; 4]);
        client.read_exact(&mut head).unwrap();
        client.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut body).unwrap();
        assert_ne!(head[0], b'E', "{}", String::from_utf8_lossy(&body));
        if head[0] == READY {
            return;
        }
    };
    until_ready();
    client.write_all(b"Q\0\0\0\x0dSELECT 1\0").unwrap();
    let mut answer = [0; 1];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], b'T');
    client.write_all(b"X\0\0\0\x04").unwrap();
    // Its backend closes.
    let _rest = client.read_to_end(&mut Vec::new());
}
