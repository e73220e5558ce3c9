//! Against the running kernel: loopback sockets, and what its table says of them.

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    process::id,
};

use super::*;
use crate::{
    source::table::{
        own_netns,
        tests::{own_address, pair, wait_for, wait_until_gone},
    },
    tcp::{
        event::EventKind,
        filter::{Cgroup, Ports},
    },
};

fn poll_of(listener: &TcpListener, pids: Vec<u32>) -> Poll {
    let address = listener.local_addr().unwrap();
    let (ports, prefixes) =
        (vec![Ports(address.port()..=address.port())], vec![address.ip().to_string().parse().unwrap()]);
    let filter = Filter { ports, prefixes, pids, ..Filter::default() };
    Poll::new(filter, SHORTEST_INTERVAL).unwrap()
}

/// The states that one more listing tells, sorted, with `gone` for what is unlisted.
fn told(poll: &mut Poll) -> Vec<&'static str> {
    let mut events = Vec::new();
    poll.drain(&mut events).unwrap();
    let word = |event: &Event| match event.kind {
        EventKind::Listed { state, .. } => state.name(),
        EventKind::Unlisted { .. } => "gone",
        ref other => panic!("{other:?}"),
    };
    let mut words: Vec<_> = events.iter().map(word).collect();
    words.sort_unstable();
    words
}

#[tokio::test(flavor = "current_thread")]
async fn next_lists_at_once_and_then_by_the_interval() {
    let (listener, client, _server) = pair(&own_address());
    let mut poll = poll_of(&listener, vec![]);
    let mut events = Vec::new();
    let first = poll.next(&mut events).await.unwrap();
    assert_eq!(events.len(), 3, "{events:?}");
    let unknown = |event: &Event| matches!(event.kind, EventKind::Listed { interval_ns: u64::MAX, .. });
    assert!(events.iter().all(unknown), "{events:?}");

    drop(client);
    events.clear();
    let second = poll.next(&mut events).await.unwrap();
    assert!(second.now_ns > first.now_ns && second.losses == Losses::default());
    assert!(!events.is_empty());
    for event in events {
        let (EventKind::Listed { interval_ns, .. } | EventKind::Unlisted { interval_ns }) = event.kind else {
            panic!()
        };
        assert_eq!(interval_ns, second.now_ns - first.now_ns);
        assert_eq!(event.at_ns + WINDOW_NS, second.now_ns);
    }
}

#[test]
fn polling_tells_differences_only() {
    let (listener, client, server) = pair(&own_address());
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    let mut poll = poll_of(&listener, vec![]);
    assert_eq!(told(&mut poll), ["ESTABLISHED", "ESTABLISHED", "LISTEN"]);
    assert_eq!(told(&mut poll), [""; 0]);
    client.shutdown(Shutdown::Write).unwrap();
    wait_for(client_end, server_end, TcpState::FinWait2);
    assert_eq!(told(&mut poll), ["CLOSE_WAIT", "FIN_WAIT2"]);
    drop((server, listener));
    wait_for(client_end, server_end, TcpState::TimeWait);
    wait_until_gone(server_end, client_end);
    assert_eq!(told(&mut poll), ["TIME_WAIT", "gone", "gone"]);
}

#[test]
fn a_process_filter_follows_what_it_held_to_its_end() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server_end, client_end) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
    wait_for(server_end, client_end, TcpState::Established);
    let mut poll = poll_of(&listener, vec![id()]);
    assert_eq!(told(&mut poll), ["ESTABLISHED", "LISTEN"], "nobody holds the queued child yet");
    let server = listener.accept().unwrap().0;
    assert_eq!(told(&mut poll), ["ESTABLISHED", "LISTEN"], "the child, and the listener's depth");
    drop(client);
    drop(server);
    wait_for(client_end, server_end, TcpState::TimeWait);
    wait_until_gone(server_end, client_end);
    assert_eq!(told(&mut poll), ["TIME_WAIT", "gone"], "the minisock has no inode");

    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let nothing = told(&mut poll_of(&listener, vec![child.id()]));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(nothing, [""; 0], "std opens sockets with CLOEXEC");
}

#[test]
fn filters_that_polling_cannot_serve_say_why() {
    let refused = |filter| match Poll::new(filter, SHORTEST_INTERVAL) {
        Err(SourceError::Read { what, error }) => format!("{what}: {error}"),
        Err(SourceError::Unsupported(why)) => why,
        other => panic!("{other:?}"),
    };
    let cgroup = Filter { cgroup: Some(Cgroup { id: 1, level: 1 }), ..Filter::default() };
    assert!(refused(cgroup).starts_with("cannot show the sockets of a cgroup by polling"));
    let own = own_netns().unwrap();
    assert!(Poll::new(Filter { netns: vec![own], ..Filter::default() }, Duration::ZERO).is_ok());
    assert!(refused(Filter { netns: vec![own, 1], ..Filter::default() }).contains("nsenter"));
    // Above the largest pid_max (2^22).
    assert!(refused(Filter { pids: vec![1 << 23], ..Filter::default() }).contains("/proc/8388608/fd"));
}
