use sockwatch::{
    source::table::{Filled, Info, Timer},
    tcp::{event::SocketKey, state},
};

use super::*;

const INFO: Info = Info {
    rtt_us: 0,
    rtt_variation_us: 0,
    unacked_segments: 0,
    retransmitting_segments: 0,
    retransmits: 0,
    unsent_bytes: 0,
    sent_bytes: Some(0),
    received_bytes: 0,
    last_sent_ms: 0,
    last_received_ms: 0,
    last_ack_ms: 0,
};

fn end(text: &str) -> Endpoint {
    let (address, port) = text.rsplit_once(':').unwrap();
    Endpoint { address: address.trim_matches(['[', ']']).parse().unwrap(), port: port.parse().unwrap() }
}

/// A socket as text: `COOKIE STATE LOCAL REMOTE [DEPTH/LIMIT] [inode=N] [netns=N] [tw=MS] [request]
/// [times=SENT,RECEIVED,ACK]`.
fn socket(text: &str) -> (Listed, Details) {
    let mut words = text.split_whitespace();
    let key = SocketKey { netns: 1, cookie: words.next().unwrap().parse().unwrap() };
    let name = words.next().unwrap();
    let state = state::ALL.into_iter().find(|state| state.name() == name).unwrap();
    let (local, remote) = (end(words.next().unwrap()), end(words.next().unwrap()));
    let filled = Filled { from_ns: 1, to_ns: 2 };
    let mut listed = Listed { filled, ..Listed::bare(key, local, remote, state) };
    let mut details = Details { shutdown: Some(0), ..Details::default() };
    for word in words {
        let number = |text: &str| text.parse().unwrap();
        match word.split_once(['=', '/']).unwrap_or((word, "")) {
            ("inode", inode) => listed.inode = number(inode),
            ("netns", netns) => listed.key.netns = number(netns),
            ("tw", ms) => {
                listed.timer = Some(Timer { kind: TimerKind::TimeWait, expires_ms: number(ms), attempts: 0 });
                (listed.minisock, details.shutdown) = (true, None);
            }
            ("request", _) => details.shutdown = None,
            ("times", times) => {
                let times: Vec<u32> = times.split(',').map(number).collect();
                details.info =
                    Some(Info { last_sent_ms: times[0], last_received_ms: times[1], last_ack_ms: times[2], ..INFO });
            }
            (depth, limit) => listed.queue = Some((number(depth), number(limit))),
        }
    }
    (listed, details)
}

/// Joins these sockets, one in a line, with holders `INODE:PID:FD ...`.
pub(in crate::command::list) fn joined(sockets: &str, holders: &str, hidden: Vec<u32>) -> Vec<Entry> {
    let lines = sockets.lines().map(str::trim).filter(|line| !line.is_empty());
    let (sockets, details) = lines.map(socket).unzip();
    let held = holders.split_whitespace().map(|holder| {
        let numbers: Vec<u32> = holder.split(':').map(|number| number.parse().unwrap()).collect();
        (numbers[0], Holder { pid: numbers[1], fd: numbers[2] })
    });
    join(vec![Listing { sockets, details, nameless: 0 }], &Holders::known(held, hidden))
}

fn print(entry: &Entry) -> String {
    let mut line = format!("{} {}", entry.listed.key.cookie, entry.standing.word());
    for Holder { pid, fd } in &entry.holders {
        line += &format!(" {pid}:{fd}");
    }
    if !entry.listeners.is_empty() {
        line += &format!(" of {:?}", entry.listeners);
    }
    if let Some(Queue { sharing, children, requests, dead }) = &entry.queue {
        line += &format!(" sharing {sharing} children {children:?} requests {requests} dead {dead}");
    }
    if let Some(ms) = entry.age_at_least_ms() {
        line += &format!(" age {ms}");
    }
    line
}

#[track_caller]
fn check(sockets: &str, holders: &str, expected: &[&str]) {
    let entries = joined(sockets, holders, Vec::new());
    assert_eq!(entries.iter().map(print).collect::<Vec<_>>(), expected);
}

#[test]
fn queued_children_are_their_listener_s_process_s() {
    check(
        "1 LISTEN 0.0.0.0:80 0.0.0.0:0 3/128 inode=10
         2 ESTABLISHED 10.0.0.1:80 10.0.0.9:5000
         3 CLOSE_WAIT 10.0.0.1:80 10.0.0.9:5001
         4 SYN_RECV 10.0.0.1:80 10.0.0.9:5002 request
         5 ESTABLISHED 10.0.0.1:80 10.0.0.9:5003 inode=11",
        "10:812:6 11:812:9",
        &[
            "1 held 812:6 sharing 1 children {\"CLOSE_WAIT\": 1, \"ESTABLISHED\": 1} requests 1 dead 1",
            "2 queued 812:6 of [1]",
            "3 queued 812:6 of [1]",
            "4 request 812:6 of [1]",
            "5 held 812:9",
        ],
    );
}

#[test]
fn a_listener_at_the_child_s_own_address_comes_first() {
    check(
        "1 LISTEN 0.0.0.0:80 0.0.0.0:0 0/128 inode=10
         2 LISTEN 10.0.0.1:80 0.0.0.0:0 1/128 inode=11
         3 LISTEN [::]:80 [::]:0 1/128 inode=12
         4 ESTABLISHED 10.0.0.1:80 10.0.0.9:5000
         5 ESTABLISHED [::ffff:10.0.0.1]:80 [::ffff:10.0.0.9]:5001
         6 ESTABLISHED 10.0.0.1:81 10.0.0.9:5000
         7 ESTABLISHED 10.0.0.1:80 10.0.0.9:5000 netns=2",
        "10:1:3 11:2:3 12:3:3",
        &[
            "1 held 1:3 sharing 1 children {} requests 0 dead 0",
            "2 held 2:3 sharing 1 children {\"ESTABLISHED\": 1} requests 0 dead 0",
            "3 held 3:3 sharing 1 children {\"ESTABLISHED\": 1} requests 0 dead 0",
            "4 queued 2:3 of [2]",
            "5 queued 3:3 of [3]",
            "6 queued",
            "7 queued",
        ],
    );
}

#[test]
fn holders_of_one_listener_and_listeners_of_one_address() {
    check(
        "1 LISTEN 0.0.0.0:80 0.0.0.0:0 1/128 inode=10
         2 ESTABLISHED 10.0.0.1:80 10.0.0.9:5000
         3 LISTEN 0.0.0.0:81 0.0.0.0:0 1/128 inode=11
         4 LISTEN 0.0.0.0:81 0.0.0.0:0 2/128 inode=12
         5 ESTABLISHED 10.0.0.1:81 10.0.0.9:5000",
        "10:3:6 10:2:6 11:4:3 12:5:3",
        &[
            "1 held 2:6 3:6 sharing 1 children {\"ESTABLISHED\": 1} requests 0 dead 0",
            "2 queued 2:6 3:6 of [1]",
            "3 held 4:3 sharing 2 children {\"ESTABLISHED\": 1} requests 0 dead 2",
            "4 held 5:3 sharing 2 children {\"ESTABLISHED\": 1} requests 0 dead 2",
            "5 queued 4:3 5:3 of [3, 4]",
        ],
    );
}

#[test]
fn what_no_process_holds_says_why() {
    let sockets = "1 FIN_WAIT1 10.0.0.1:1 10.0.0.9:80
                   2 FIN_WAIT2 10.0.0.1:2 10.0.0.9:80
                   3 FIN_WAIT2 10.0.0.1:3 10.0.0.9:80 tw=50000
                   4 TIME_WAIT 10.0.0.1:4 10.0.0.9:80 tw=50000
                   5 ESTABLISHED 10.0.0.1:5 10.0.0.9:80 inode=7
                   6 SYN_RECV 10.0.0.1:6 10.0.0.9:80
                   7 SYN_SENT 10.0.0.1:7 10.0.0.9:80";
    let words = ["1 orphan", "2 orphan", "3 minisock", "4 minisock age 10000", "5 unseen", "6 queued", "7 unseen"];
    check(sockets, "", &words);
    let standings: Vec<_> = joined(sockets, "", vec![9]).iter().map(|entry| entry.standing).collect();
    assert_eq!((standings[4], standings[6]), (Standing::Hidden, Standing::Hidden));
    assert_eq!((standings[0], standings[3], standings[5]), (Standing::Orphan, Standing::Minisock, Standing::Queued));
}

#[test]
fn ages_are_told_where_a_time_proves_them() {
    check(
        "1 ESTABLISHED 10.0.0.1:1 10.0.0.9:80 times=100,300,200
         2 CLOSE_WAIT 10.0.0.1:2 10.0.0.9:80 times=100,300,200
         3 FIN_WAIT1 10.0.0.1:3 10.0.0.9:80 times=100,300,200
         4 SYN_SENT 10.0.0.1:4 10.0.0.9:80 times=100,300,200",
        "",
        &["1 queued age 300", "2 queued age 200", "3 orphan", "4 unseen"],
    );
}
