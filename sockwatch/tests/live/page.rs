//! What the live page of `sockwatch serve` is told, on the running kernel.

use std::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use serde_json::Value;

use crate::{
    harness::{patience, shared, skip},
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
