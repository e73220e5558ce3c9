//! Connections that end by RST.

use super::*;

/// How one ends.
#[derive(Clone, Copy)]
enum End {
    /// As it should.
    Well,
    /// The server closes with unread data.
    Unread,
    /// The server closes with linger 0.
    Linger,
    /// The client resets it, after some data.
    Client,
    /// The same without any data.
    Check,
}

fn server(ends: impl IntoIterator<Item = End>) -> Story {
    let mut story = Story::new();
    story.listen(0.0, 1, 128, "server");
    for (cookie, end) in (10..).zip(ends) {
        let at_ms = cookie as f64;
        story.arrive(at_ms, cookie, 1);
        story.accept(at_ms + 0.1, cookie, 1, "server");
        let got = CloseEvidence { received_bytes: 100, ..CloseEvidence::default() };
        let ours = CloseEvidence { has_socket: true, shutdown: 3, ..got };
        let evidence = match end {
            End::Well => {
                story.fin(at_ms + 0.2, cookie);
                story.close_second(at_ms + 0.3, cookie, "server");
                continue;
            }
            End::Unread => CloseEvidence { unread_bytes: 5, ..ours },
            End::Linger => CloseEvidence { linger: true, ..ours },
            End::Client => CloseEvidence { error: 104, ..got },
            End::Check => CloseEvidence { error: 104, ..CloseEvidence::default() },
        };
        let closing =
            EventKind::Closing { old: TcpState::Established, current: task("server"), evidence: Some(evidence) };
        story.push(at_ms + 0.4, cookie, closing);
        story.push(at_ms + 0.5, cookie, EventKind::Destroy);
    }
    story
}

fn mixed(bad: usize, end: End, well: usize) -> Story {
    server([end].repeat(bad).into_iter().chain([End::Well].repeat(well)))
}

#[test]
fn a_server_that_leaves_data_unread() {
    let report = mixed(20, End::Unread, 30).check(1_000.0, &["resets"]);
    let finding = &report.findings[0];
    says(
        finding,
        &["127.0.0.1:80: 20 of 50 connections (40 %) ended by RST, because this end closed with unread data"],
    );
    says(finding, &["server/215 closed with 5 unread bytes", "every RST was sent from here", "--local-port 80"]);
    assert_eq!(finding.hurt, 20);
}

#[test]
fn linger_zero() {
    says(&mixed(50, End::Linger, 0).check(1_000.0, &["resets"]).findings[0], &["(100 %)", "SO_LINGER 0"]);
}

#[test]
fn clients_that_abort() {
    let report = mixed(6, End::Client, 60).check(1_000.0, &["resets"]);
    says(&report.findings[0], &["6 of 66", "because the peer sent a RST", "every RST came from the peer"]);
}

#[test]
fn more_reasons_than_one() {
    let ends = [End::Client].repeat(4).into_iter().chain([End::Unread].repeat(9)).chain([End::Check].repeat(3));
    let report = server(ends).check(1_000.0, &["resets"]);
    says(
        &report.findings[0],
        &["13 of 16", "mostly because this end closed with unread data", "4: the peer sent a RST"],
    );
    says(&report.findings[0], &["3 by clients that never sent or got a byte"]);
}

#[test]
fn a_reset_now_and_then() {
    mixed(4, End::Client, 2).check(1_000.0, &[]);
    mixed(9, End::Client, 300).check(1_000.0, &[]);
}

/// Clients of another host's server that reset it themselves, after so many bytes.
fn clients(count: u64, acked_bytes: u64) -> Story {
    let mut story = Story::new();
    let by = task("prober");
    for cookie in 10..10 + count {
        let mut push = |after_ms: f64, kind| {
            let at_ns = BEGAN_NS + ((cookie as f64 + after_ms) * MS as f64) as u64;
            let tuple = Some((Endpoint::v4([10, 0, 0, 1], 20_000 + cookie as u16), Endpoint::v4([10, 0, 0, 2], 80)));
            let key = SocketKey { netns: 1, cookie };
            story.events.push(Event { at_ns, key, skaddr: cookie, tuple, kind, certainty: Certainty::Once });
        };
        push(0.0, EventKind::Opening { new: TcpState::SynSent, by, limit: None });
        push(0.1, EventKind::Transition { old: TcpState::SynSent, new: TcpState::Established, by: None });
        // The SYN counts.
        let acked_bytes = 1 + acked_bytes;
        let evidence =
            CloseEvidence { has_socket: true, shutdown: 3, linger: true, acked_bytes, ..CloseEvidence::default() };
        push(0.2, EventKind::Closing { old: TcpState::Established, current: by, evidence: Some(evidence) });
        push(0.3, EventKind::Destroy);
    }
    story
}

#[test]
fn checks_from_this_host() {
    clients(100, 0).check(1_000.0, &[]);
    says(&clients(100, 7).check(1_000.0, &["resets"]).findings[0], &["100 of 100 connections", "SO_LINGER 0"]);
}

/// A load balancer that looks whether the port is open.
#[test]
fn checks_that_reset_at_once() {
    mixed(100, End::Check, 20).check(1_000.0, &[]);
}
