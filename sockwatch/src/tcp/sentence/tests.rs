//! Text in, text out: a connection and what its socket held at `CLOSE`, the sentence.

use super::*;
use crate::tcp::{
    close::{Before, verdict},
    connection::{Connection, Queued, Span},
    endpoint::Endpoint,
    event::{Comm, SocketKey, Task},
    queue::QueueFigures,
    state::{ALL, TcpState},
};

/// `PART STATE MS, STATE MS, ...: WORDS`. The words are fields of the socket (`done`, `error=104`), `by=NAME` for who closed
/// it, `accepted=MS` for when it left the accept queue, and RSTs: `received`, or `sent` after
/// the `CLOSE` or `sent_before` it.
fn connection(text: &str) -> Connection {
    let (timeline, words) = text.split_once(':').unwrap();
    let (part, timeline) = timeline.split_once(' ').unwrap();
    let role = match part {
        "client" => Role::Active,
        "server" => Role::Passive,
        "listener" => Role::Listener,
        _ => Role::Unknown,
    };
    let key = SocketKey { netns: 1, cookie: 5 };
    let tuple = (Endpoint::v4([127, 0, 0, 1], 5000), Endpoint::v4([127, 0, 0, 1], 81));
    let mut connection = Connection::new(key, role, tuple, TcpState::Close, 0);
    for step in timeline.split(", ") {
        let (name, lasted) = step.split_once(' ').unwrap();
        let state = ALL.into_iter().find(|state| state.name() == name).unwrap();
        let lasted_ns = lasted.parse::<u64>().ok().map(|lasted| lasted * MS);
        connection.spans.push(Span { state, lasted_ns });
    }
    let life_ns = connection.spans.iter().map(|span| span.lasted_ns).sum::<Option<u64>>();
    connection.birth_seen = life_ns.is_some();
    connection.ended_ns = Some(life_ns.unwrap_or(1000 * MS));
    connection.queued = (role == Role::Passive).then(|| Queued { at_ns: Some(0), ..Queued::default() });
    let mut evidence = CloseEvidence::default();
    let mut reset_sent = false;
    for word in words.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, "0"));
        let number = || value.parse::<i64>().unwrap();
        match name {
            "done" => evidence.done = true,
            "dead" => evidence.dead = true,
            "acked" => evidence.all_acked = true,
            "held" => evidence.has_socket = true,
            "linger" => evidence.linger = true,
            "closed" => (evidence.has_socket, evidence.shutdown) = (true, 3),
            "shutdown" => evidence.shutdown = number() as u8,
            "linger2" => evidence.linger2 = number() as i32,
            "unread" => evidence.unread_bytes = number() as u32,
            "error" => evidence.error = number() as u16,
            "soft" => evidence.soft_error = number() as u16,
            "syns" => evidence.segments_out = number() as u32,
            "probes" => evidence.probes = number() as u8,
            "again" => connection.retransmits = number() as u32,
            "retransmits" => evidence.retransmits = number() as u8,
            "user_timeout" => evidence.user_timeout_ms = number() as u32,
            "by" => connection.ownership.closer = Some(Task { pid: 12, tid: 13, comm: Comm::from(value) }),
            "accepted" => connection.queued.as_mut().unwrap().accepted_ns = Some(number() as u64 * MS),
            "received" => connection.resets.received = 1,
            "sent" => reset_sent = true,
            "sent_before" => connection.resets.sent = 1,
            other => panic!("{other}"),
        }
    }
    let last = connection.spans.last().unwrap().state;
    let before = Before { queued: connection.is_queued(), reset_sent: connection.resets.sent > 0, ..Before::default() };
    connection.ending = Some(verdict(last, &evidence, before));
    connection.evidence = Some(evidence);
    if reset_sent {
        connection.note_reset_sent(connection.ended_ns.unwrap());
    }
    connection
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(sentence(&connection(text), None).unwrap(), expected);
}

#[test]
fn fins() {
    check(
        "client SYN_SENT 1, ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 2: done acked by=curl",
        "client curl/12 closed first; 60 s TIME_WAIT on the client's side",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 5, CLOSE_WAIT 3200, LAST_ACK 1: done acked by=nginx accepted=2",
        "client closed first; TIME_WAIT on the client's side; server nginx/12 closed 3.2 s later",
    );
    check(
        "unknown ESTABLISHED ?, FIN_WAIT1 1, FIN_WAIT2 2: done acked",
        "this end closed first; 60 s TIME_WAIT on this side",
    );
    check(
        "unknown CLOSE_WAIT ?, LAST_ACK 2: done acked by=nginx",
        "the other end closed first; TIME_WAIT on the other side",
    );
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, CLOSING 2: done acked",
        "both ends closed at once; TIME_WAIT on both sides",
    );
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 2: dead acked by=curl",
        "client curl/12 closed first; server has not closed: FIN_WAIT2 without a process",
    );
}

#[test]
fn resets_from_the_other_end() {
    check("client ESTABLISHED 5: error=104 acked received", "reset by server");
    check(
        "server SYN_RECV 0, ESTABLISHED 5: error=104 received accepted=1",
        "reset by client; not all that server sent was acknowledged",
    );
    check(
        "client ESTABLISHED 5, CLOSE_WAIT 7: error=32 received",
        "reset by server, which had closed before, while client had not",
    );
    let fin_wait = "client ESTABLISHED 5, FIN_WAIT2 7: error=104 by=curl";
    check(&format!("{fin_wait} dead shutdown=3"), "reset by server after client curl/12 had closed");
    check(&format!("{fin_wait} closed"), "reset by server after client curl/12 had shut down both ways");
    check(
        &format!("{fin_wait} held shutdown=2"),
        "reset by server after client curl/12 had sent its FIN (half-closed)",
    );
    let mut without_evidence = connection(fin_wait);
    without_evidence.evidence = None;
    assert_eq!(sentence(&without_evidence, None).unwrap(), "reset by server after client curl/12 had sent its FIN");
    check("unknown CLOSE_WAIT 5, LAST_ACK 7: error=104", "reset by the other end after both had sent their FIN");
}

#[test]
fn resets_from_this_end() {
    check(
        "server SYN_RECV 0, ESTABLISHED 5: closed unread=25 accepted=1",
        "reset: server process closed with 25 unread bytes",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 5, CLOSE_WAIT 5: closed done unread=2 accepted=1 by=nginx",
        "reset: server nginx/12 closed with 1 unread byte",
    );
    check("client ESTABLISHED 5: closed linger by=curl", "reset: client curl/12 closed with SO_LINGER 0");
    check("unknown ESTABLISHED ?: closed linger by=curl", "reset: this end (curl/12) closed with SO_LINGER 0");
    check("client LAST_ACK 5: closed linger", "dropped: client closed with SO_LINGER 0");
    check("client ESTABLISHED 5: held by=curl", "reset: client curl/12 disconnected (connect to AF_UNSPEC)");
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 2: dead linger2=-1 by=curl",
        "reset: client curl/12 closed with TCP_LINGER2 below 0",
    );
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 0: dead sent by=curl",
        "reset: server sent more after client curl/12 had closed",
    );
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 0: error=104 dead shutdown=3 sent",
        "reset: server sent more after client had closed",
    );
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 0: error=104 closed sent received",
        "reset: server sent more after client had shut down both ways",
    );
    check("client ESTABLISHED 5: dead", "reset by client, without a process");
}

#[test]
fn connects_that_fail() {
    check("client SYN_SENT 0: error=111 syns=1 received", "refused: nobody listened on 127.0.0.1:81 (RST)");
    check(
        "client SYN_SENT 0: error=111 syns=2 soft=111",
        "refused: ICMP said that the port of 127.0.0.1:81 is unreachable",
    );
    check(
        "client SYN_SENT 0: error=111 syns=1",
        "refused by 127.0.0.1:81; no RST was seen: perhaps ICMP, port unreachable",
    );
    check("client SYN_SENT 131000: error=110 syns=7", "127.0.0.1:81 did not answer 7 SYNs in 2 min 11 s");
    check(
        "client SYN_SENT 1500: error=110 syns=2 user_timeout=1500",
        "127.0.0.1:81 did not answer 2 SYNs in 1.5 s; TCP_USER_TIMEOUT was 1.5 s",
    );
    check("client SYN_SENT 1500: error=110 syns=2 user_timeout=9000", "127.0.0.1:81 did not answer 2 SYNs in 1.5 s");
    check(
        "client SYN_SENT 1000: error=113 soft=113 syns=2",
        "127.0.0.1:81 not reached: ICMP answered 2 SYNs with host unreachable (EHOSTUNREACH)",
    );
    check(
        "client SYN_SENT 1000: error=101 syns=1",
        "127.0.0.1:81 not reached: ICMP answered 1 SYN with network unreachable (ENETUNREACH)",
    );
    check("client SYN_SENT 0: held", "connect to 127.0.0.1:81 failed on this host before a SYN was sent");
    check(
        "client SYN_SENT 250: closed syns=1 by=curl",
        "client curl/12 gave up connecting after 250 ms; 1 SYN unanswered",
    );
    check(
        "client SYN_SENT 250: closed syns=1 by=curl soft=113",
        "client curl/12 gave up connecting after 250 ms; 1 SYN unanswered; ICMP had said host unreachable (EHOSTUNREACH)",
    );
}

#[test]
fn timeouts() {
    check("client ESTABLISHED 9: error=110 acked probes=9", "server did not answer 9 keepalive probes");
    check(
        "client ESTABLISHED 9: error=110 acked probes=2 user_timeout=500",
        "server did not answer within 500 ms (TCP_USER_TIMEOUT); 2 probes unanswered",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 9: error=110 retransmits=3 user_timeout=500 accepted=1",
        "client did not answer within 500 ms (TCP_USER_TIMEOUT); 3 retransmissions unanswered",
    );
    // Tail loss probes count among those of the connection alone, and so do those that were answered.
    check(
        "server SYN_RECV 0, ESTABLISHED 9: error=110 retransmits=2 again=3 user_timeout=500 accepted=1",
        "client did not answer within 500 ms (TCP_USER_TIMEOUT); at least 2 of 3 retransmissions unanswered",
    );
    check(
        "client ESTABLISHED 9: error=110 retransmits=15 again=15",
        "server did not acknowledge; 15 retransmissions unanswered",
    );
    check(
        "client ESTABLISHED 9: error=113 soft=113 retransmits=15",
        "server did not acknowledge; 15 retransmissions unanswered; ICMP had said host unreachable (EHOSTUNREACH)",
    );
    check(
        "unknown FIN_WAIT1 9: error=110 retransmits=8 dead",
        "the other end did not acknowledge; 8 retransmissions unanswered; no process had it any more",
    );
    check("client ESTABLISHED 9: error=110 probes=15", "server kept its window closed; 15 probes unanswered");
    check("client FIN_WAIT1 9: error=110 dead", "server kept its window closed; no process had it any more");
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 60000: dead acked by=curl sent_before",
        "client curl/12 closed first; server did not close in 60 s: reset, after FIN_WAIT2 without a process",
    );
}

#[test]
fn accept_queues() {
    check(
        "server SYN_RECV 0, ESTABLISHED 3200: error=104 acked received",
        "reset by client, after 3.2 s in the accept queue; nobody accepted it",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 3200: error=104 acked received accepted=4000",
        "reset by client, after 3.2 s in the accept queue; accepted after 4 s, dead on arrival",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 3200, CLOSE_WAIT 100, LAST_ACK 0: done acked accepted=3250 by=nginx",
        "client closed first; TIME_WAIT on the client's side; server nginx/12 closed 100 ms later; accepted \
         after 3.2 s in the accept queue, when client had sent its FIN",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 5000: acked by=nginx",
        "reset: its listener was closed by nginx/12; nobody had accepted it in 5 s",
    );
    check(
        "server SYN_RECV 0, ESTABLISHED 3200, CLOSE_WAIT 100: acked done",
        "reset: its listener was closed; nobody had accepted it in 3.3 s; client had sent its FIN after 3.2 s",
    );
}

#[test]
fn a_thread_is_named_with_its_process() {
    let check = |text, expected: &str| {
        assert_eq!(sentence(&connection(text), Some("nginx".into())).unwrap(), expected);
    };
    check(
        "client ESTABLISHED 5, FIN_WAIT1 1, FIN_WAIT2 2: done acked by=pool-1",
        "client nginx/12 thread pool-1 closed first; 60 s TIME_WAIT on the client's side",
    );
    check("listener LISTEN 5000: by=pool-1", "listener closed by nginx/12 thread pool-1");
    check("client ESTABLISHED 5: error=104 acked received", "reset by server");
}

#[test]
fn a_listener_s_queue() {
    let check = |drops, overflows, expected: &str| {
        let mut listener = connection("listener LISTEN 5000: by=nginx");
        let totals = Totals { accepted: 4, drops, overflows, ..Totals::default() };
        listener.accept_queue = Some(Box::new(QueueFigures { totals, ..QueueFigures::default() }));
        let expected = format!("listener closed by nginx/12; 4 connections accepted{expected}");
        assert_eq!(sentence(&listener, None).unwrap(), expected);
    };
    check(Some(0), 0, "");
    check(None, 1, "; 1 last ACK found its queue full");
    check(Some(1), 2, "; 2 last ACKs found its queue full");
    check(Some(18), 0, "; 18 packets dropped (SYNs or last ACKs)");
    check(Some(18), 2, "; 18 packets dropped, 2 of them last ACKs that found its queue full");
}

#[test]
fn others() {
    check("listener LISTEN 5000: by=nginx", "listener closed by nginx/12");
    check("client ESTABLISHED 1: error=103 by=ss", "destroyed by ss/12 (ss -K, or a program like it)");
    let mut vanished = connection("unknown ESTABLISHED 1:");
    vanished.ending = Some(Ending::Vanished);
    assert_eq!(sentence(&vanished, None).unwrap(), "no longer in the kernel's socket table");
    vanished.ending = None;
    assert_eq!(sentence(&vanished, None), None);
}

#[test]
fn durations_are_spoken() {
    let check = |nanoseconds, expected| assert_eq!(Spoken(nanoseconds).to_string(), expected);
    check(0, "0 ns");
    check(65_432, "65 us");
    check(1_000_000, "1 ms");
    check(3_210_000_000, "3.2 s");
    check(99_900_000_000, "99 s");
    check(125_000_000_000, "2 min 5 s");
}
