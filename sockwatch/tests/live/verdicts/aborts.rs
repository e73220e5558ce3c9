//! Who dropped a connection, and FINs that cross.

use std::{
    io::{Read, Write},
    net::Shutdown,
    process::Command,
};

use nix::sys::socket::setsockopt;

use super::{Linger2, QuickAck, check, fill};
use crate::workload::linger_zero;

const SERVER_SENT_AFTER: &str = "active aborted: reset: server sent more after client PROCESS had closed";
const RESET_BY_CLIENT: &str = "passive peer-rst: reset by client, which had closed before, while server had not";

#[test]
fn linger2_below_zero() {
    let client = "active aborted: reset: client PROCESS closed with TCP_LINGER2 below 0";
    check("linger2_below_zero", &[client, RESET_BY_CLIENT], |pair| {
        setsockopt(pair.client(), Linger2, &-1).unwrap();
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.until("active", "FIN_WAIT2");
        pair.client = None;
        pair.until("passive", "CLOSE");
    });
}

/// The same when the FIN is acknowledged only after the close.
#[test]
fn linger2_below_zero_at_close() {
    let client = "active aborted: reset: client PROCESS closed with TCP_LINGER2 below 0";
    check("linger2_below_zero_at_close", &[client, RESET_BY_CLIENT], |pair| {
        setsockopt(pair.client(), Linger2, &-1).unwrap();
        setsockopt(pair.server(), QuickAck, &0).unwrap();
        pair.client = None;
        pair.until("passive", "CLOSE");
    });
}

/// The server's data comes with the acknowledgement of the FIN.
#[test]
fn data_after_close_with_the_ack() {
    check("data_after_close_with_the_ack", &[SERVER_SENT_AFTER, RESET_BY_CLIENT], |pair| {
        setsockopt(pair.server(), QuickAck, &0).unwrap();
        pair.client = None;
        pair.server().write_all(b"more").unwrap();
        pair.until("passive", "CLOSE");
    });
}

/// An orphan that stays a whole socket for some time: TCP_LINGER2 above the 60 s of a minisock.
#[test]
fn data_after_close_to_an_orphan() {
    check("data_after_close_to_an_orphan", &[SERVER_SENT_AFTER, RESET_BY_CLIENT], |pair| {
        setsockopt(pair.client(), Linger2, &90).unwrap();
        pair.client = None;
        pair.until("active", "FIN_WAIT2");
        pair.server().write_all(b"more").unwrap();
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn data_after_shutdown_of_both_directions() {
    let client = "active aborted: reset: server sent more after client PROCESS had shut down both ways";
    check("data_after_shutdown_of_both_directions", &[client, RESET_BY_CLIENT], |pair| {
        pair.client().shutdown(Shutdown::Both).unwrap();
        pair.until("active", "FIN_WAIT2");
        pair.server().write_all(b"more").unwrap();
        pair.until("passive", "CLOSE");
    });
}

/// Windows are closed while both ends close: their FINs wait behind data, and cross once it is read.
#[test]
fn both_close_at_once() {
    let server = "passive both-fin: both ends closed at once; TIME_WAIT on both sides";
    let client = "active local-fin: client PROCESS closed first; 60 s TIME_WAIT on the client's side";
    check("both_close_at_once", &[server, client], |pair| {
        let (to_server, to_client) = (fill(pair.client()), fill(pair.server()));
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.server().read_exact(&mut vec![0; to_server]).unwrap();
        pair.until("passive", "CLOSING");
        pair.client().read_exact(&mut vec![0; to_client]).unwrap();
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn unread_data_in_closing() {
    let server = "passive aborted: reset: server PROCESS closed with 1 unread byte";
    let client = "active peer-rst: reset by server after client PROCESS had sent its FIN (half-closed)";
    check("unread_data_in_closing", &[server, client], |pair| {
        let (to_server, _) = (fill(pair.client()), fill(pair.server()));
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.server().read_exact(&mut vec![0; to_server - 1]).unwrap();
        pair.until("passive", "CLOSING");
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

#[test]
fn unread_data_in_last_ack() {
    let server = "passive aborted: reset: server PROCESS closed with 3 unread bytes";
    let client = "active peer-rst: reset by server after client PROCESS had sent its FIN (half-closed)";
    check("unread_data_in_last_ack", &[server, client], |pair| {
        fill(pair.server());
        pair.client().write_all(b"abc").unwrap();
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "CLOSE_WAIT");
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "LAST_ACK");
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

#[test]
fn linger_zero_in_last_ack() {
    let server = "passive aborted: dropped: server PROCESS closed with SO_LINGER 0";
    let client = "active peer-rst: reset by server after client PROCESS had sent its FIN (half-closed)";
    check("linger_zero_in_last_ack", &[server, client], |pair| {
        fill(pair.server());
        pair.client().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "CLOSE_WAIT");
        pair.server().shutdown(Shutdown::Write).unwrap();
        pair.until("passive", "LAST_ACK");
        linger_zero(pair.server());
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

#[test]
fn disconnected() {
    let client = "active aborted: reset: client PROCESS disconnected (connect to AF_UNSPEC)";
    check("disconnected", &[client, "passive peer-rst: reset by client"], |pair| {
        rustix::net::connect_unspec(pair.client()).unwrap();
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn linger_zero_is_named() {
    let client = "active aborted: reset: client PROCESS closed with SO_LINGER 0";
    check("linger_zero_is_named", &[client, "passive peer-rst: reset by client"], |pair| {
        linger_zero(pair.client());
        pair.client = None;
        pair.until("passive", "CLOSE");
    });
}

#[test]
fn unread_data_is_counted() {
    let server = "passive aborted: reset: server PROCESS closed with 25 unread bytes";
    check("unread_data_is_counted", &[server, "active peer-rst: reset by server"], |pair| {
        pair.client().write_all(&[b'x'; 30]).unwrap();
        pair.server().read_exact(&mut [0; 5]).unwrap();
        pair.server = None;
        pair.until("active", "CLOSE");
    });
}

/// By whichever program a socket is destroyed, the error is the same; `ss -K` is the usual one.
#[test]
fn destroyed_by_ss() {
    let client = "active destroyed: destroyed by PROCESS (ss -K, or a program like it)";
    check("destroyed_by_ss", &[client, "passive peer-rst: reset by client"], |pair| {
        let port = pair.client().local_addr().unwrap().port();
        let output = Command::new("ss").args(["-K", "-tn", &format!("sport = :{port}")]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        pair.until("passive", "CLOSE");
    });
}
