//! Queue waits: a server that accepts late, and clients that all connect at once.

use std::{
    collections::HashMap,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    harness::{Ended, Trace, alone},
    workload::{place, until_queued},
};

const CLIENTS: i64 = 5;
const DELAY: Duration = Duration::from_millis(50);
const TOLERANCE_NS: i64 = 5_000_000;

/// What the workload itself measured: no shorter and no longer than this was the wait.
struct Measured {
    at_least_ns: i64,
    at_most_ns: i64,
}

/// Connects all clients, then accepts them one by one with a delay before each. By the client's port.
fn accept_late(address: std::net::SocketAddr) -> HashMap<u16, Measured> {
    let listener = TcpListener::bind(address).unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let calling = Instant::now();
            let client = TcpStream::connect(address).unwrap();
            until_queued(address, number as u32 + 1);
            (client.local_addr().unwrap().port(), (client, calling, Instant::now()))
        })
        .collect();
    let clients: HashMap<_, _> = clients.into_iter().collect();
    (0..CLIENTS)
        .map(|_| {
            // The server's delay: what is measured, not synchronisation.
            thread::sleep(DELAY);
            let calling = Instant::now();
            let (_, client) = listener.accept().unwrap();
            let (_, connecting, connected) = &clients[&client.port()];
            let [at_least_ns, at_most_ns] =
                [calling - *connected, connecting.elapsed()].map(|wait| wait.as_nanos() as i64);
            (client.port(), Measured { at_least_ns, at_most_ns })
        })
        .collect()
}

fn check(ended: &Ended, measured: &HashMap<u16, Measured>) {
    let accepts: Vec<_> = ended.all("accept").collect();
    assert_eq!(accepts.len() as i64, CLIENTS, "{:#?}", ended.stories());
    for (index, accept) in accepts.iter().enumerate() {
        let wait_ns = accept.number("wait_ns").unwrap();
        let Measured { at_least_ns, at_most_ns } = measured[&accept.port("remote")];
        let range = at_least_ns - TOLERANCE_NS..=at_most_ns + TOLERANCE_NS;
        assert!(range.contains(&wait_ns), "wait {wait_ns}, measured {at_least_ns} to {at_most_ns}");
        let delays_ns = (index as i64 + 1) * DELAY.as_nanos() as i64;
        assert!(wait_ns >= delays_ns - TOLERANCE_NS, "number {index} waited {wait_ns}");
        let finished = ended
            .all("connection")
            .find(|line| line.identity() == accept.identity())
            .unwrap_or_else(|| panic!("no end of {accept:?}"));
        assert_eq!(finished.number("wait_ns"), Some(wait_ns));
        assert_eq!(finished.number("queue_depth"), Some(index as i64), "{finished:?}");
        assert_eq!(finished.number("queue_limit"), Some(128), "{finished:?}");
    }
}

#[test]
fn waits_are_what_the_server_slept() {
    let Some(machine) = alone("waits_are_what_the_server_slept") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let measured = accept_late(address);
    trace.until_finished(2 * CLIENTS as usize);
    let ended = trace.finish();
    check(&ended, &measured);
    let handshakes: Vec<_> = ended.all("enqueue").map(|line| line.number("handshake_ns")).collect();
    assert_eq!(handshakes.len() as i64, if ended.probes.has("enqueue") { CLIENTS } else { 0 });
    for handshake in handshakes {
        assert!(handshake.is_some_and(|handshake| (1..40_000_000).contains(&handshake)), "{handshake:?}");
    }
}

#[test]
fn without_handshake_times_waits_stay() {
    let Some(machine) = alone("without_handshake_times_waits_stay") else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--no-handshake", "--port", &address.port().to_string()]);
    let measured = accept_late(address);
    trace.until_finished(2 * CLIENTS as usize);
    let ended = trace.finish();
    check(&ended, &measured);
    for line in ended.all("connection").filter(|line| line.role() == "passive") {
        assert!(line.0["handshake_ns"].is_null(), "{line:?}");
    }
}

/// The newcomer's first command brings its own server and clients: the k-th connection waits k delays.
#[test]
fn lab_slow_accept() {
    let Some(_machine) = crate::harness::shared("lab_slow_accept") else { return };
    let mut command = crate::harness::sockwatch();
    let output = command.args(["lab", "slow-accept", "--clients", "3", "--delay", "50ms", "--format", "json"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ended = lines.filter(|line| line["type"] == "connection" && line["socket"]["role"] == "passive");
    let waits_ms: Vec<_> = ended.map(|line| line["wait_ns"].as_i64().unwrap() / 1_000_000).collect();
    assert_eq!(waits_ms.len(), 3, "{waits_ms:?}");
    // The clients connect one after the other, so the later ones begin to wait a little later.
    for (wait_ms, delays) in waits_ms.iter().zip(1..) {
        assert!(*wait_ms > 50 * delays - 25, "{waits_ms:?}");
    }
}
