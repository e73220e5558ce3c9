//! Records as the probes write them: connections over loopback, both ends traced, the client closes first.

use sockwatch_common::{Accept, Birth, Close, Enqueue, Evidence, Head, Kind, Plain, Stub, Task};

/// Both ends of a connection.
pub(crate) const RECORDS_PER_CONNECTION: u64 = 14;
/// Of the stream's own time: some 300,000 minisocks wait at once.
pub(crate) const CONNECTIONS_PER_SECOND: u64 = 5_000;

/// Connections that are under way at the same time.
const TOGETHER: u64 = 50;
const STEP_NS: u64 = 1_000_000_000 / CONNECTIONS_PER_SECOND / RECORDS_PER_CONNECTION;

const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;

const COMM: [u8; 16] = *b"benchmark\0\0\0\0\0\0\0";
/// `SOCK_DEAD` and `SOCK_DONE`.
const DEAD: u16 = 1;
const DONE: u16 = 2;

/// Which connection comes next, and when.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) now_ns: u64,
    connections: u64,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    cookie: u64,
    local: ([u8; 4], u16),
    remote: ([u8; 4], u16),
}

impl Stream {
    /// So many whole connections. They overlap, and as from two CPUs the odd ones come after the even ones.
    pub(crate) fn portion(&mut self, connections: u64, records: &mut Vec<Vec<u8>>) {
        for _ in 0..connections / TOGETHER {
            let ends: Vec<_> = (0..TOGETHER).map(|_| self.next()).collect();
            for parity in 0..2 {
                for record in 0..RECORDS_PER_CONNECTION {
                    for (index, (client, server)) in (0..).zip(&ends).filter(|(index, _)| index % 2 == parity) {
                        let at_ns = self.now_ns + (record * TOGETHER + index) * STEP_NS;
                        records.push(nth(record, client, server, at_ns));
                    }
                }
            }
            self.now_ns += TOGETHER * RECORDS_PER_CONNECTION * STEP_NS;
        }
    }

    /// One connection, up to its accept.
    pub(crate) fn open_half(&mut self, records: &mut Vec<Vec<u8>>) {
        self.some(0..6, records);
    }

    /// One connection, and its end.
    pub(crate) fn close_half(&mut self, records: &mut Vec<Vec<u8>>) {
        self.some(0..RECORDS_PER_CONNECTION, records);
    }

    fn some(&mut self, numbers: std::ops::Range<u64>, records: &mut Vec<Vec<u8>>) {
        let (client, server) = self.next();
        for record in numbers {
            self.now_ns += 1;
            records.push(nth(record, &client, &server, self.now_ns));
        }
    }

    fn next(&mut self) -> (End, End) {
        self.connections += 1;
        let number = self.connections;
        let [.., high, low] = (number / 50_000).to_be_bytes();
        let client = ([127, 1, high, low], 10_000 + (number % 50_000) as u16);
        let server = ([127, 0, 0, 1], 8080);
        let end = |cookie, local, remote| End { cookie, local, remote };
        (end(2 * number, client, server), end(2 * number + 1, server, client))
    }
}

/// The record of this number in a connection's life.
fn nth(number: u64, client: &End, server: &End, at_ns: u64) -> Vec<u8> {
    match number {
        0 => task(client, CLOSE, SYN_SENT, at_ns),
        1 => head(client, Kind::Transition, SYN_SENT, ESTABLISHED, at_ns).as_bytes().to_vec(),
        2 => {
            let head = head(server, Kind::Birth, LISTEN, SYN_RECV, at_ns);
            Birth { head, limit: 128, reserved: 0 }.as_bytes().to_vec()
        }
        3 => head(server, Kind::Transition, SYN_RECV, ESTABLISHED, at_ns).as_bytes().to_vec(),
        4 => {
            let head = head(server, Kind::Enqueue, ESTABLISHED, ESTABLISHED, at_ns);
            let synack_us = at_ns / 1000;
            Enqueue { head, listener: 1, synack_us, limit: 128, synack_retransmits: 0 }.as_bytes().to_vec()
        }
        5 => {
            let head = head(server, Kind::Accept, ESTABLISHED, ESTABLISHED, at_ns);
            Accept { head, comm: COMM, listener: 1 }.as_bytes().to_vec()
        }
        6 => task(client, ESTABLISHED, FIN_WAIT1, at_ns),
        7 => head(server, Kind::Transition, ESTABLISHED, CLOSE_WAIT, at_ns).as_bytes().to_vec(),
        8 => head(client, Kind::Transition, FIN_WAIT1, FIN_WAIT2, at_ns).as_bytes().to_vec(),
        9 => task(server, CLOSE_WAIT, LAST_ACK, at_ns),
        10 => close(client, FIN_WAIT2, DEAD | DONE, at_ns),
        11 => stub(client, Kind::Destroy, CLOSE, CLOSE, at_ns).as_bytes().to_vec(),
        12 => close(server, LAST_ACK, DEAD, at_ns),
        _last => stub(server, Kind::Destroy, CLOSE, CLOSE, at_ns).as_bytes().to_vec(),
    }
}

fn stub(end: &End, kind: Kind, old_state: u8, new_state: u8, at_ns: u64) -> Stub {
    let skaddr = 0xffff_8880_0000_0000 | end.cookie << 6;
    let (cookie, netns) = (end.cookie, 4_026_531_840);
    Stub { at_ns, cookie, skaddr, netns, kind: kind as u8, family: 2, old_state, new_state }
}

fn head(end: &End, kind: Kind, old_state: u8, new_state: u8, at_ns: u64) -> Head {
    let sixteen = |[a, b, c, d]: [u8; 4]| [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Head {
        stub: stub(end, kind, old_state, new_state, at_ns),
        pid: 100,
        tid: 101,
        local_port: end.local.1,
        remote_port: end.remote.1,
        value: 3,
        local: sixteen(end.local.0),
        remote: sixteen(end.remote.0),
    }
}

fn task(end: &End, old_state: u8, new_state: u8, at_ns: u64) -> Vec<u8> {
    let head = head(end, Kind::TaskTransition, old_state, new_state, at_ns);
    Task { head, comm: COMM }.as_bytes().to_vec()
}

fn close(end: &End, old_state: u8, flags: u16, at_ns: u64) -> Vec<u8> {
    let head = head(end, Kind::Close, old_state, CLOSE, at_ns);
    let evidence = Evidence { flags, acked_bytes: 100, received_bytes: 200, ..Evidence::NONE };
    Close { head, comm: COMM, evidence }.as_bytes().to_vec()
}
