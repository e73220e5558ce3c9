//! What runs out when the other end does not answer.

use std::{io::Write, net::TcpStream};

use nix::sys::socket::{setsockopt, sockopt};

use super::{check_near, close_window, connected};
use crate::{
    harness::Trace,
    network::{Network, set},
};

fn keepalive(stream: &TcpStream) {
    setsockopt(stream, sockopt::KeepAlive, &true).unwrap();
    setsockopt(stream, sockopt::TcpKeepIdle, &1).unwrap();
    setsockopt(stream, sockopt::TcpKeepInterval, &1).unwrap();
    setsockopt(stream, sockopt::TcpKeepCount, &2).unwrap();
}

/// Until the client's socket is closed by the kernel.
fn until_closed(trace: &mut Trace) {
    trace.until("the client's end", |line| line.role() == "active" && line.0["new"] == "CLOSE");
}

#[test]
fn keepalive_unanswered() {
    let expected = "active timed-out: server did not answer 2 keepalive probes";
    check_near(
        "keepalive_unanswered",
        &[expected],
        |_| (),
        |network, trace| {
            let (client, _server) = connected(network);
            keepalive(&client);
            network.silence();
            until_closed(trace);
        },
    );
}

#[test]
fn keepalive_within_user_timeout() {
    let expected = "active timed-out: server did not answer within TIME (TCP_USER_TIMEOUT); N probe unanswered";
    check_near(
        "keepalive_within_user_timeout",
        &[expected],
        |_| (),
        |network, trace| {
            let (client, _server) = connected(network);
            keepalive(&client);
            setsockopt(&client, sockopt::TcpUserTimeout, &1500).unwrap();
            network.silence();
            until_closed(trace);
        },
    );
}

#[test]
fn data_unacknowledged_within_user_timeout() {
    let expected =
        "active timed-out: server did not answer within TIME (TCP_USER_TIMEOUT); N retransmissions unanswered";
    check_near(
        "data_unacknowledged_within_user_timeout",
        &[expected],
        |_| (),
        |network, trace| {
            let (mut client, _server) = connected(network);
            setsockopt(&client, sockopt::TcpUserTimeout, &500).unwrap();
            network.silence();
            client.write_all(b"lost").unwrap();
            until_closed(trace);
        },
    );
}

#[test]
fn data_unacknowledged() {
    let expected = "active timed-out: server did not acknowledge; N retransmissions unanswered";
    check_near(
        "data_unacknowledged",
        &[expected],
        |network| set(&network.near, "tcp_retries2", "2"),
        |network, trace| {
            let (mut client, _server) = connected(network);
            network.silence();
            client.write_all(b"lost").unwrap();
            until_closed(trace);
        },
    );
}

/// ICMP does not end what is connected; it is only remembered.
#[test]
fn data_unacknowledged_after_icmp() {
    let expected = "active timed-out: server did not acknowledge; N retransmissions unanswered; ICMP had said host \
                    unreachable (EHOSTUNREACH)";
    let prepare = |network: &Network| set(&network.near, "tcp_retries2", "2");
    check_near("data_unacknowledged_after_icmp", &[expected], prepare, |network, trace| {
        let (mut client, _server) = connected(network);
        network.answer_with("unreachable");
        client.write_all(b"lost").unwrap();
        until_closed(trace);
    });
}

#[test]
fn fin_unacknowledged() {
    let expected =
        "active timed-out: server did not acknowledge; N retransmissions unanswered; no process had it any more";
    let prepare = |network: &Network| set(&network.near, "tcp_orphan_retries", "1");
    check_near("fin_unacknowledged", &[expected], prepare, |network, trace| {
        let (client, _server) = connected(network);
        network.silence();
        drop(client);
        until_closed(trace);
    });
}

#[test]
fn window_closed() {
    let expected = "active timed-out: server kept its window closed; N probes unanswered";
    check_near(
        "window_closed",
        &[expected],
        |network| set(&network.near, "tcp_retries2", "2"),
        |network, trace| {
            let (client, _server) = connected(network);
            close_window(&client);
            network.silence();
            until_closed(trace);
        },
    );
}

#[test]
fn window_closed_to_an_orphan() {
    let expected = "active timed-out: server kept its window closed; N probe unanswered; no process had it any more";
    let prepare = |network: &Network| set(&network.near, "tcp_orphan_retries", "1");
    check_near("window_closed_to_an_orphan", &[expected], prepare, |network, trace| {
        let (client, _server) = connected(network);
        close_window(&client);
        network.silence();
        drop(client);
        until_closed(trace);
    });
}
