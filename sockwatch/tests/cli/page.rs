//! The live page of `sockwatch serve` and what it reads, without eBPF.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::serve::{PATIENCE, Scratch, Service, TOKEN, counted, read_all, refused, status};

/// A request by the service's address.
fn ask(service: &Service, path: &str, headers: &str) -> String {
    service.ask(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n", service.address))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[track_caller]
fn read(service: &Service, path: &str, expected: u16) -> Value {
    let answer = ask(service, path, "");
    assert_eq!(status(&answer), expected, "{path}: {answer}");
    serde_json::from_str(body(&answer)).unwrap()
}

/// Every answer is as the service itself describes it.
#[test]
fn answers_are_as_described() {
    let service = Service::start(&["--listen", "127.0.0.1:0"]);
    let description = read(&service, "/api/openapi.json", 200);
    let committed = include_str!("../../../docs/openapi.json");
    assert_eq!(description, serde_json::from_str::<Value>(committed).unwrap());
    let check = |path: &str, kind: &str| {
        let described = &description["paths"][kind]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(described.is_object(), "{kind}: {described}");
        let mut schema = described.clone();
        schema["components"] = description["components"].clone();
        let answer = read(&service, path, 200);
        let errors: Vec<_> =
            jsonschema::validator_for(&schema).unwrap().iter_errors(&answer).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{path}: {errors:?}");
        answer
    };
    let overview = check("/api/v1/overview", "/api/v1/overview");
    assert_eq!((&overview["version"], &overview["source"]), (&json!(1), &json!("poll")), "{overview}");
    check("/api/v1/history", "/api/v1/history");
    let own = service.address.to_string();
    let listener = overview["listeners"].as_array().unwrap().iter().find(|it| it["local"] == own).unwrap();
    let path = format!("/api/v1/listeners/{}", listener["id"].as_str().unwrap());
    let detail = check(&path, "/api/v1/listeners/{id}");
    assert_eq!(detail["listener"]["local"], own);
    // A client that stays.
    let client = TcpStream::connect(service.address).unwrap();
    let port = client.local_addr().unwrap().port();
    let path = format!("/api/v1/connections?filter=--local-port+{port}&sort=state&order=asc&limit=1");
    let connections = (0..10).map(|_| check(&path, "/api/v1/connections")).find(|told| told["fitting"] == 1).unwrap();
    let connection = &connections["connections"][0];
    assert_eq!((&connection["state"], &connection["remote"]), (&json!("ESTABLISHED"), &json!(own)), "{connection}");
    let path = format!("/api/v1/connections/{}", connection["id"].as_str().unwrap());
    let timeline = check(&path, "/api/v1/connections/{id}");
    assert_eq!(timeline["states"].as_array().unwrap().last().unwrap()["state"], "ESTABLISHED", "{timeline}");
    service.finish(Signal::SIGTERM);
}

#[test]
fn mistakes_are_said() {
    let service = Service::start(&["--listen", "127.0.0.1:0"]);
    let check = |path: &str, code, words: &str| {
        let error = read(&service, path, code)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{path}: {error}");
    };
    check("/api/v2/overview", 404, "/api/openapi.json");
    check("/api/v1/listeners/1-2", 404, "gone");
    check("/api/v1/listeners/x", 400, "not an id of a listener");
    check("/api/v1/connections?limit=many", 400, "1 to 1000");
    check("/api/v1/connections?filter=port+http", 400, "1 to 65535");
    // A page of somebody else's that calls this machine by its own name.
    for path in ["/api/v1/overview", "/metrics"] {
        let foreign = service.ask(&format!("GET {path} HTTP/1.1\r\nhost: example.org\r\n\r\n"));
        assert_eq!((status(&foreign), foreign.contains("localhost")), (403, true), "{foreign}");
    }
    let words = vec!["x"; 65].join("+");
    check(&format!("/api/v1/connections?filter={words}"), 400, "more than 64 words");
    service.finish(Signal::SIGTERM);
}

/// The page is anybody's, what it reads is not.
#[test]
fn the_page_asks_for_the_token() {
    let token = Scratch::new("page-token", TOKEN, 0o600);
    let service = Service::start(&["--listen", "127.0.0.1:0", "--token-file", token.path()]);
    let page = ask(&service, "/", "");
    assert!(status(&page) == 200 && page.contains("content-security-policy: default-src 'none'"), "{page}");
    for path in ["/page.js", "/page.css", "/common.js", "/common.css", "/uPlot.js", "/uPlot.css", "/uPlot.LICENSE"] {
        assert!(page.contains(path), "{path}");
        assert_eq!(status(&ask(&service, path, "")), 200, "{path}");
    }
    for path in ["/api/v1/overview", "/api/v1/live", "/api/openapi.json"] {
        assert_eq!(status(&ask(&service, path, "")), 401, "{path}");
    }
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(status(&ask(&service, "/api/v1/overview", &right)), 200);
    service.finish(Signal::SIGTERM);
}

/// Events come until the client goes; nine cannot look at once.
#[test]
fn events_come_each_second() {
    let service = Service::start(&["--listen", "127.0.0.1:0"]);
    let open = || {
        let mut client = TcpStream::connect(service.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(client, "GET /api/v1/live HTTP/1.1\r\nhost: {}\r\n\r\n", service.address).unwrap();
        BufReader::new(client)
    };
    let next = |client: &mut BufReader<TcpStream>| -> Value {
        let mut lines = client.lines().map(Result::unwrap);
        lines.find(|line| line == "event: overview").unwrap();
        let data = lines.next().unwrap();
        serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()
    };
    let mut clients: Vec<_> = (0..8).map(|_| open()).collect();
    let first: Vec<_> = clients.iter_mut().map(next).collect();
    let second = next(&mut clients[0]);
    assert!(second["at_unix_ms"].as_u64() > first[0]["at_unix_ms"].as_u64(), "{second}");
    let mut ninth = String::new();
    open().read_line(&mut ninth).unwrap();
    assert_eq!(status(&ninth), 503);
    assert_eq!(counted(&service.metrics(""), &refused("clients")), 1);
    // It notices that they are gone when it has something to tell them.
    drop(clients);
    let mut again = String::new();
    while status(&again) != 200 {
        again.clear();
        service.recover();
        open().read_line(&mut again).unwrap();
    }
    // One that looks does not keep it from ending.
    let _looking = open();
    service.finish(Signal::SIGTERM);
}

/// Whoever looks with a token that counts no longer is told nothing more; who has the new one is.
#[test]
fn another_token_ends_what_is_open() {
    let token = Scratch::new("revoked-token", TOKEN, 0o600);
    let mut service = Service::start(&["--listen", "127.0.0.1:0", "--token-file", token.path()]);
    let address = service.address;
    let open = |token: &str| {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers = format!("host: {address}\r\nauthorization: Bearer {token}\r\n");
        write!(client, "GET /api/v1/live HTTP/1.1\r\n{headers}\r\n").unwrap();
        let mut client = BufReader::new(client);
        until_event(&mut client);
        client
    };
    let mut old = open(TOKEN);
    // The same token, read again, changes nothing.
    service.signal(Signal::SIGHUP);
    service.until_said("read again");
    until_event(&mut old);
    until_event(&mut old);
    token.write("another-token-0123456789");
    service.signal(Signal::SIGHUP);
    service.until_said("read again");
    let mut new = open("another-token-0123456789");
    // The one that was on its way, at most.
    let rest = read_all(&mut old);
    assert!(rest.matches("event: overview").count() <= 2, "{rest}");
    until_event(&mut new);
    let headers = "authorization: Bearer another-token-0123456789\r\n";
    assert_eq!(counted(&service.metrics(headers), &refused("token")), 1);
    service.finish(Signal::SIGTERM);
}

/// Reads to the next event's beginning.
fn until_event(client: &mut BufReader<TcpStream>) {
    client.lines().map(Result::unwrap).find(|line| line == "event: overview").unwrap();
}
