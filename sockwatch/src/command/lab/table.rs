//! The kernel's own table of a lab's sockets: queues and timers, which no event tells.

use std::io;

use anyhow::Context;
use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use sockwatch::tcp::state::TcpState;

use super::netlink;

/// `SOCK_DIAG_BY_FAMILY`
const LIST: u16 = 20;
/// `SOCK_DESTROY`
const DESTROY: u16 = 21;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// `struct inet_diag_sockid`
const ID_BYTES: usize = 48;

/// A socket, as `ss` shows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) state: TcpState,
    /// Recv-Q: a listener's queue depth, else bytes that nobody has read.
    pub(super) receive_queue: u32,
    /// Send-Q: a listener's queue limit, else bytes that are not acknowledged.
    pub(super) send_queue: u32,
    /// How long until its timer runs out, in milliseconds; 0 if it has none.
    pub(super) expires_ms: u32,
    /// 0: no process holds it.
    pub(super) inode: u32,
    /// `struct inet_diag_sockid`, as it came.
    id: [u8; ID_BYTES],
}

/// The IPv4 sockets of the calling thread's network namespace.
pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    // All states.
    let request = request(u32::MAX, [0; ID_BYTES]);
    let answers = netlink::ask(NETLINK_SOCK_DIAG, LIST, NLM_F_DUMP, &request);
    let answers = answers.context("cannot list the kernel's sockets")?;
    answers.iter().map(|answer| row(answer).context("a socket that makes no sense")).collect()
}

/// `ss -K`: destroys a socket.
///
/// # Errors
/// EOPNOTSUPP on kernels without `INET_DIAG_DESTROY`.
pub(super) fn destroy(row: &Row) -> io::Result<()> {
    netlink::ask(NETLINK_SOCK_DIAG, DESTROY, netlink_packet_core::NLM_F_ACK, &request(u32::MAX, row.id)).map(|_| ())
}

/// `struct inet_diag_req_v2`
fn request(states: u32, id: [u8; ID_BYTES]) -> Vec<u8> {
    let mut request = vec![AF_INET, IPPROTO_TCP, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

/// `struct inet_diag_msg`
fn row(message: &[u8]) -> Option<Row> {
    let [_family, state, _timer, _retransmits, rest @ ..] = message else { return None };
    let (id, rest) = rest.split_first_chunk::<ID_BYTES>()?;
    let word = |at: usize| Some(u32::from_ne_bytes(*rest.get(4 * at..)?.first_chunk()?));
    Some(Row {
        local_port: u16::from_be_bytes([id[0], id[1]]),
        remote_port: u16::from_be_bytes([id[2], id[3]]),
        state: TcpState::try_from(*state).ok()?,
        expires_ms: word(0)?,
        receive_queue: word(1)?,
        send_queue: word(2)?,
        inode: word(4)?,
        id: *id,
    })
}
