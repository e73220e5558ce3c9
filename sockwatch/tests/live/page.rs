//! What the live page of `sockwatch serve` is told, on the running kernel.

use std::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    harness::{patience, shared, skip},
    netns::Netns,
    serve::Service,
    workload::place,
};

/// Asks until it is so.
#[track_caller]
fn until(service: &mut Service, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (status, body) = service.get(path);
        let told: Value = serde_json::from_str(&body).unwrap_or_default();
        if status == 200 && is_so(&told) {
            return told;
        }
        assert!(begun.elapsed() < patience(), "{path}: {status} {body}");
        service.pause();
    }
}

/// Who begins to look in the middle is told what there is; then what happens.
#[test]
fn a_full_queue_from_before_is_told() {
    let test = "a_full_queue_from_before_is_told";
    let Some(machine) = shared(test) else { return };
    let address = place();
    let mut service = Service::start(machine, &["--port", &address.port().to_string(), "--slow", "50ms"]);
    if service.probes.taken("enqueue") == "off" {
        return skip(test, "nothing tells who is in a queue");
    }
    let listener = TcpListener::bind(address).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let sockets = |metrics: &crate::serve::Metrics| metrics.find("sockwatch_sockets", &["state=\"ESTABLISHED\""]);
    service.until("six ends", |metrics| sockets(metrics) == Some(6.0));

    let own = address.to_string();
    let its = |told: &Value| told["listeners"].as_array().into_iter().flatten().find(|it| it["local"] == own).cloned();
    let deep = |depth: u64| move |it: Option<Value>| it.is_some_and(|it| it["depth"] == depth);
    let overview = until(&mut service, "/api/v1/overview", |told| deep(3)(its(told)));
    let id = its(&overview).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(its(&overview).unwrap()["oldest_ns"].as_u64().unwrap() > 0, "{overview}");
    // Nobody accepts: the evidence grows from then on.
    let found = until(&mut service, "/api/v1/overview", |told| told["findings"][0]["name"] == "nobody-accepts");
    assert_eq!(
        (&found["verdict"], &found["findings"][0]["local"]),
        (&"findings".into(), &own.as_str().into()),
        "{found}"
    );

    clients.push(TcpStream::connect(address).unwrap());
    until(&mut service, "/api/v1/overview", |told| deep(4)(its(told)));
    let queued = until(&mut service, "/api/v1/connections?filter=ESTABLISHED&sort=wait", |told| told["fitting"] == 8);
    let first = &queued["connections"][0];
    assert_eq!(first["standing"], "queued", "{queued}");
    let path = format!("/api/v1/connections/{}", first["id"].as_str().unwrap());
    let accepted: Vec<_> = (0..4).map(|_| listener.accept().unwrap()).collect();
    let timeline = until(&mut service, &path, |told| told["acceptor"].is_string());
    assert!(timeline["wait_ns"].as_u64().unwrap() > 50_000_000, "{timeline}");
    let detail = until(&mut service, &format!("/api/v1/listeners/{id}"), |told| told["listener"]["accepted"] == 4);
    let counts = detail["histogram"].as_array().unwrap().iter().map(|octave| octave["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 4, "{detail}");
    // One that is watched is told to its end.
    drop((accepted, clients));
    let end = until(&mut service, &path, |told| told["ended"] == true);
    assert!(end["why"].is_string(), "{end}");
    service.finish();
}

/// A configuration file, gone at the end.
struct Config(std::path::PathBuf);

impl Config {
    fn new(tag: &str, text: &str) -> Self {
        let config = Self(std::env::temp_dir().join(format!("sockwatch-{tag}-{}.toml", std::process::id())));
        config.write(text);
        config
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    /// Another text that the service takes in.
    fn change(&self, service: &mut Service, text: &str) {
        self.write(text);
        service.signal(Signal::SIGHUP);
        service.until_said("read again");
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the filter no longer asks for is not shown either, and comes back with it; what ends meanwhile is not forgotten.
#[test]
fn another_filter_is_in_force_on_the_page() {
    let Some(machine) = shared("another_filter_is_in_force_on_the_page") else { return };
    let (kept, dropped) = (place(), place());
    let both = format!("port = [{}, {}]\n", kept.port(), dropped.port());
    let config = Config::new("page-filter", &both);
    let mut service = Service::start(machine, &["--config", config.0.to_str().unwrap()]);
    let open = |address| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let accepted = listener.accept().unwrap().0;
        (listener, client, accepted)
    };
    let (ours, theirs) = (open(kept), open(dropped));
    let all = until(&mut service, "/api/v1/connections", |told| told["all"] == 4);
    let of = |port: u16| {
        let mut connections = all["connections"].as_array().unwrap().iter();
        let its = |it: &&Value| it["local"].as_str().unwrap().ends_with(&format!(":{port}"));
        format!("/api/v1/connections/{}", connections.find(its).unwrap()["id"].as_str().unwrap())
    };
    let listeners = |told: &Value| told["listeners_open"].clone();
    until(&mut service, "/api/v1/overview", |told| listeners(told) == 2 && told["states"]["ESTABLISHED"] == 4);
    assert_eq!([service.get(&of(kept.port())).0, service.get(&of(dropped.port())).0], [200, 200]);

    config.change(&mut service, &format!("port = [{}]\n", kept.port()));
    let overview = until(&mut service, "/api/v1/overview", |told| told["states"]["ESTABLISHED"] == 2);
    assert_eq!((listeners(&overview), &overview["states"]["LISTEN"]), (1.into(), &1.into()), "{overview}");
    let some = until(&mut service, "/api/v1/connections", |told| told["all"] == 2);
    assert_eq!(some["fitting"], 2, "{some}");
    assert_eq!([service.get(&of(kept.port())).0, service.get(&of(dropped.port())).0], [200, 404]);

    // It ends while nobody asks for it: what is shown then is what there is.
    drop(theirs);
    config.change(&mut service, &both);
    let back = until(&mut service, "/api/v1/overview", |told| told["states"]["TIME_WAIT"] == 1);
    assert_eq!((listeners(&back), &back["states"]["ESTABLISHED"]), (1.into(), &2.into()), "{back}");
    drop(ours);
    until(&mut service, "/api/v1/overview", |told| listeners(told) == 0 && told["states"]["TIME_WAIT"] == 2);
    service.finish();
}

/// The page takes the words that `trace` takes, names of network namespaces and cgroups among them.
#[test]
fn words_that_this_machine_knows_filter_the_page() {
    let Some(machine) = shared("words_that_this_machine_knows_filter_the_page") else { return };
    let (netns, address) = (Netns::new("words"), place());
    let mut service = Service::start(machine, &["--port", &address.port().to_string()]);
    let _both = netns.run(|| {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(address).unwrap();
        (listener.accept().unwrap().0, client, listener)
    });
    let mut fitting = |filter: &str, expected: u64| {
        let path = format!("/api/v1/connections?filter={}", filter.replace(' ', "+"));
        until(&mut service, &path, |told| told["all"] == 2 && told["fitting"] == expected);
    };
    fitting(&format!("netns {}", netns.name), 2);
    fitting(&format!("--netns={}", netns.inode()), 2);
    fitting("netns 1", 0);
    fitting("--cgroup /", 2);
    fitting("--cgroup /no-such-cgroup", 0);
    for (name, status) in [("no-such-name", 400), ("/proc/self/ns/net", 400)] {
        let (told, body) = service.get(&format!("/api/v1/connections?filter=netns+{name}"));
        assert!(told == status && body.contains("nothing here is called so"), "{name}: {told} {body}");
    }
    service.finish();
}

/// Another threshold judges the waits that there were and those that come, and nothing that was seen is lost.
#[test]
fn another_slow_is_in_force_on_the_page() {
    let test = "another_slow_is_in_force_on_the_page";
    let Some(machine) = shared(test) else { return };
    let address = place();
    let config = Config::new("page-slow", &format!("port = {}\nslow = \"1h\"\n", address.port()));
    let mut service = Service::start(machine, &["--config", config.0.to_str().unwrap()]);
    if service.probes.taken("enqueue") == "off" {
        return skip(test, "nothing tells who is in a queue");
    }
    let listener = TcpListener::bind(address).unwrap();
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    until(&mut service, "/api/v1/overview", |told| told["listeners"][0]["depth"] == 10);
    let accepted: Vec<_> = clients.iter().map(|_| listener.accept().unwrap()).collect();
    let before = until(&mut service, "/api/v1/overview", |told| told["listeners"][0]["accepted"] == 10);
    assert_eq!(
        (&before["slow_ns"], &before["verdict"]),
        (&3_600_000_000_000_u64.into(), &"healthy".into()),
        "{before}"
    );
    config.change(&mut service, &format!("port = {}\nslow = \"1ms\"\n", address.port()));
    let after = until(&mut service, "/api/v1/overview", |told| told["verdict"] == "findings");
    assert_eq!((&after["slow_ns"], &after["since_unix_ms"]), (&1_000_000.into(), &before["since_unix_ms"]), "{after}");
    assert_eq!(after["listeners"][0]["accepted"], 10, "{after}");
    drop((listener, clients, accepted));
    service.finish();
}
