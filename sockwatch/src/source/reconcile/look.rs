//! What a listing with details says of each socket, in the words of a diagnosis.

use std::collections::HashSet;

use super::owners::Owners;
use crate::{
    diagnosis::look::{Flow, Kept, Look, Row, Timer, TimerKind},
    source::table::{self, Details, Listed},
    tcp::{event::Task, filter::Filter, state::TcpState},
};

/// Of more sockets none is judged: their rows would take more memory than all else.
const MOST_ROWS: usize = 1 << 18;

/// A socket with its details.
pub(super) type Closer = (Listed, Details);

/// Those that are ours, and who holds them. What nobody holds is its listener's.
pub(super) fn look(mut sockets: Vec<Closer>, at_ns: u64, owners: &Owners, filter: &Filter) -> Look {
    if !owners.are_everyone() {
        let held = |(listed, details): &Closer| {
            owners.own(listed.inode) || filter.cgroup.is_some_and(|cgroup| details.cgroup == Some(cgroup.id))
        };
        let ours = sockets.iter().filter(|it| it.0.state == TcpState::Listen && held(it));
        let ours: HashSet<_> = ours.map(|(listed, _)| (listed.key.netns, listed.local)).collect();
        sockets.retain(|socket| {
            let Listed { key, local, inode, .. } = socket.0;
            let addresses = [local, local.at_any_address()];
            held(socket) || inode == 0 && addresses.iter().any(|address| ours.contains(&(key.netns, *address)))
        });
    }
    // Nothing is asked of what has ended well.
    sockets.retain(|(listed, _)| listed.state != TcpState::TimeWait);
    if sockets.len() > MOST_ROWS {
        sockets.retain(|(listed, _)| listed.state == TcpState::Listen);
    }
    let holders = owners.of(sockets.iter().map(|(listed, _)| listed.inode));
    let holder = |listed: &Listed| holders.get(&listed.inode).and_then(|holders| holders.first()).copied();
    let rows = sockets.iter().map(|(listed, details)| row(listed, details, holder(listed)));
    Look { at_ns, rows: rows.collect() }
}

fn row(listed: &Listed, details: &Details, holder: Option<Task>) -> Row {
    let flow = |info: &table::Info| Flow {
        received_bytes: listed.received_bytes(info),
        last_received_ms: info.last_received_ms,
        last_ack_ms: info.last_ack_ms,
        last_sent_ms: info.last_sent_ms,
    };
    Row {
        key: listed.key,
        inode: listed.inode,
        local: listed.local,
        remote: listed.remote,
        state: listed.state,
        kept: kept(listed, details, holder),
        unread_bytes: listed.unread_bytes(),
        unacked_bytes: listed.unacked_bytes(),
        timer: listed.timer.map(timer),
        flow: details.info.as_ref().map(flow),
    }
}

fn timer(timer: table::Timer) -> Timer {
    let kind = match timer.kind {
        table::TimerKind::Retransmit => TimerKind::Retransmit,
        table::TimerKind::ZeroWindowProbe => TimerKind::ZeroWindowProbe,
        table::TimerKind::KeepAlive => TimerKind::KeepAlive,
        table::TimerKind::TimeWait | table::TimerKind::Unknown(_) => TimerKind::Other,
    };
    Timer { kind, expires_ms: timer.expires_ms, attempts: timer.attempts }
}

/// By what the table tells; a request has no attributes of a whole socket (`inet_req_diag_fill`), and Fast Open queues a child
/// in `SYN_RECV`.
fn kept(listed: &Listed, details: &Details, holder: Option<Task>) -> Kept {
    use TcpState::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, SynRecv};
    match (listed.state, holder) {
        _ if listed.minisock => Kept::Minisock,
        (_, Some(task)) => Kept::By(task),
        (SynRecv, None) if listed.inode == 0 && details.shutdown.is_none() => Kept::Request,
        (SynRecv | Established | CloseWait, None) if listed.inode == 0 => Kept::Queued,
        (FinWait1 | FinWait2 | Closing | LastAck, None) if listed.inode == 0 => Kept::Orphan,
        (_other, None) => Kept::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{
        endpoint::Endpoint,
        event::{Comm, SocketKey},
    };

    /// What keeps a socket in this state, of this inode.
    #[track_caller]
    fn check(state: TcpState, inode: u32, shutdown: Option<u8>, expected: Kept) {
        let key = SocketKey { netns: 1, cookie: 1 };
        let (local, remote) = (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([10, 0, 0, 2], 5000));
        let listed = Listed { inode, ..Listed::bare(key, local, remote, state) };
        let holder = Task { pid: 7, tid: 7, comm: Comm::from("server") };
        let holder = (expected == Kept::By(holder)).then_some(holder);
        assert_eq!(kept(&listed, &Details { shutdown, ..Details::default() }, holder), expected, "{state}");
    }

    #[test]
    fn what_keeps_a_socket() {
        let holder = Task { pid: 7, tid: 7, comm: Comm::from("server") };
        check(TcpState::Established, 9, Some(0), Kept::By(holder));
        check(TcpState::Established, 9, Some(0), Kept::Unseen);
        check(TcpState::Established, 0, Some(0), Kept::Queued);
        check(TcpState::FinWait1, 0, Some(3), Kept::Orphan);
        check(TcpState::SynRecv, 0, None, Kept::Request);
        check(TcpState::SynRecv, 0, Some(0), Kept::Queued);
    }

    /// How many rows come of so many sockets in a state.
    #[track_caller]
    fn check_rows(state: TcpState, sockets: usize, expected: usize) {
        let key = SocketKey { netns: 1, cookie: 1 };
        let (local, remote) = (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([10, 0, 0, 2], 5000));
        let sockets = vec![(Listed::bare(key, local, remote, state), Details::default()); sockets];
        let filter = Filter::default();
        let look = look(sockets, 7, &Owners::new(&filter), &filter);
        assert_eq!((look.rows.len(), look.at_ns), (expected, 7));
    }

    #[test]
    fn rows_are_bounded() {
        check_rows(TcpState::Established, 3, 3);
        check_rows(TcpState::TimeWait, 3, 0);
        check_rows(TcpState::Established, MOST_ROWS, MOST_ROWS);
        check_rows(TcpState::Established, MOST_ROWS + 1, 0);
    }

    /// A process's own sockets, and what waits at its listeners.
    #[test]
    fn of_a_process_only_its_own() {
        let key = |cookie| SocketKey { netns: 1, cookie };
        let (local, remote) = (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([10, 0, 0, 2], 5000));
        let stranger = Listed { inode: 9, ..Listed::bare(key(1), local, remote, TcpState::Established) };
        let queued = Listed::bare(key(2), local, remote, TcpState::Established);
        let filter = Filter { pids: vec![1 << 23], ..Filter::default() };
        let sockets = vec![(stranger, Details::default()), (queued, Details::default())];
        let look = look(sockets, 0, &Owners::new(&filter), &filter);
        assert!(look.rows.is_empty(), "{look:?}");
    }

    #[test]
    fn a_minisock_is_nobody_s() {
        let key = SocketKey { netns: 1, cookie: 1 };
        let (local, remote) = (Endpoint::v4([10, 0, 0, 1], 80), Endpoint::v4([10, 0, 0, 2], 5000));
        let listed = Listed { minisock: true, ..Listed::bare(key, local, remote, TcpState::FinWait2) };
        assert_eq!(kept(&listed, &Details::default(), None), Kept::Minisock);
    }
}
