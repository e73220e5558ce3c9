//! Connections that end in the accept queue.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use super::assert_endings;
use crate::{
    harness::{Trace, shared},
    workload::{client_leaves, linger_zero, place},
};

const CLIENT_RESET: &str = "active aborted: reset: client PROCESS closed with SO_LINGER 0";

/// Traces what `work` does with a listener and a client that nobody has accepted.
#[track_caller]
fn check(name: &str, expected: &[&str], work: impl FnOnce(TcpListener, TcpStream, &mut Trace)) {
    let Some(machine) = shared(name) else { return };
    let address = place();
    let mut trace = Trace::start(machine, &["--port", &address.port().to_string()]);
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(address).unwrap();
    trace.until_queued(1);
    work(listener, client, &mut trace);
    trace.until_finished(expected.len());
    assert_endings(&trace.finish(), expected);
}

#[test]
fn reset_in_the_queue() {
    let child = "passive peer-rst: reset by client, after TIME in the accept queue; nobody accepted it";
    check("reset_in_the_queue", &[CLIENT_RESET, child], |listener, client, trace| {
        linger_zero(&client);
        drop(client);
        trace.until("RST", |line| line.role() == "passive" && line.0["new"] == "CLOSE");
        drop(listener);
    });
}

#[test]
fn accepted_after_the_reset() {
    let child =
        "passive peer-rst: reset by client, after TIME in the accept queue; accepted after TIME, dead on arrival";
    check("accepted_after_the_reset", &[CLIENT_RESET, child], |listener, client, trace| {
        linger_zero(&client);
        drop(client);
        trace.until("RST", |line| line.role() == "passive" && line.0["new"] == "CLOSE");
        drop(listener.accept().unwrap());
    });
}

#[test]
fn listener_closed_by_a_process() {
    let child = "passive unqueued: reset: its listener was closed by PROCESS; nobody had accepted it in TIME";
    let client_reset = "active peer-rst: reset by server";
    check("listener_closed_by_a_process", &[client_reset, child], |listener, mut client, _| {
        drop(listener);
        client.read(&mut [0]).unwrap_err();
    });
}

#[test]
fn client_gives_up_in_the_queue() {
    let child = "passive unqueued: reset: its listener was closed by PROCESS; nobody had accepted it in TIME; client had \
                 sent its FIN after TIME";
    let gone = "active orphaned: client PROCESS closed first; server has not closed: FIN_WAIT2 without a process";
    check("client_gives_up_in_the_queue", &[gone, child], |listener, client, trace| {
        client_leaves(trace, client);
        drop(listener);
    });
}

/// Accepted in CLOSE_WAIT: what the client sent is there, and then the end of file.
#[test]
fn accepted_after_the_fin() {
    let child = "passive peer-fin: client closed first; TIME_WAIT on the client's side; server PROCESS closed TIME later; \
                 accepted after TIME in the accept queue, when client had sent its FIN";
    let gone = "active orphaned: client PROCESS closed first; server has not closed: FIN_WAIT2 without a process";
    check("accepted_after_the_fin", &[gone, child], |listener, mut client, trace| {
        client.write_all(b"too late").unwrap();
        client_leaves(trace, client);
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(server.read_to_end(&mut Vec::new()).unwrap(), 8);
        drop(server);
    });
}
