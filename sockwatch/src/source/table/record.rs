//! The bytes of one socket in a listing: `struct inet_diag_msg` and the attributes behind it (`inet_sk_diag_fill`,
//! `inet_twsk_diag_fill`, `inet_req_diag_fill`; the same from 5.8 to 6.18 at least). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, INET_DIAG_INFO, INET_DIAG_MARK, INET_DIAG_SHUTDOWN, INET_DIAG_SKMEMINFO,
};

use super::{Details, Filled, Info, Listed, TableError, Timer, TimerKind};
use crate::tcp::{endpoint::Endpoint, event::SocketKey, state::TcpState};

/// `sizeof(struct inet_diag_msg)`
const RECORD_BYTES: usize = 72;
/// `INET_DIAG_CGROUP_ID` (`include/uapi/linux/inet_diag.h`, 5.8).
const INET_DIAG_CGROUP_ID: u16 = 21;

/// What a message is about, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) netns: u32,
    pub(super) filled: Filled,
}

/// A socket's record; `None` if it has no cookie or an unknown state.
pub(super) fn listed(payload: &[u8], context: Context) -> Result<Option<Listed>, TableError> {
    let Some(record) = payload.first_chunk::<RECORD_BYTES>() else {
        return Err(TableError::Malformed(format!("a socket of {} bytes", payload.len())));
    };
    let family = record[0];
    let end = |port_at, address_at| {
        let address = address(family, bytes(record, address_at))?;
        Ok::<_, TableError>(Endpoint { address, port: u16::from_be_bytes(bytes(record, port_at)) })
    };
    let (local, remote) = (end(4, 8)?, end(6, 24)?);
    let word = |at| u32::from_ne_bytes(bytes(record, at));
    let (Ok(state), Some(cookie)) = (TcpState::try_from(record[1]), cookie(word(44), word(48))) else {
        return Ok(None);
    };
    let timer = timer(record[2], word(52), record[3]);
    let (receive, send) = (word(56), word(60));
    let queue = (state == TcpState::Listen).then_some((receive, send));
    Ok(Some(Listed {
        key: SocketKey { netns: context.netns, cookie },
        inode: word(68),
        uid: word(64),
        local,
        remote,
        state,
        queue,
        minisock: timer.is_some_and(|timer| timer.kind == TimerKind::TimeWait),
        timer,
        receive_queue_bytes: if queue.is_some() { 0 } else { receive },
        send_queue_bytes: if queue.is_some() { 0 } else { send },
        filled: context.filled,
    }))
}

/// What the attributes behind the record say.
pub(super) fn details(payload: &[u8]) -> Result<Details, TableError> {
    let mut details = Details::default();
    for attribute in NlasIterator::new(payload.get(RECORD_BYTES..).unwrap_or_default()) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            INET_DIAG_SHUTDOWN => details.shutdown = value.first().copied(),
            INET_DIAG_MARK => details.mark = word(value, 0),
            INET_DIAG_CGROUP_ID => details.cgroup = long(value, 0),
            // `SK_MEMINFO_BACKLOG`, `SK_MEMINFO_DROPS`
            INET_DIAG_SKMEMINFO => (details.backlog_bytes, details.drops) = (word(value, 7 * 4), word(value, 8 * 4)),
            INET_DIAG_INFO => details.info = info(value),
            // The kernel tells more than was asked for, and newer ones tell more than this one.
            _unused => {}
        }
    }
    Ok(details)
}

/// Of `struct tcp_info` (`include/uapi/linux/tcp.h`), which only ever grows at its end. `None` where the kernel fills
/// in nothing of a connection: a listener has no states' times there.
fn info(value: &[u8]) -> Option<Info> {
    let state = TcpState::try_from(*value.first()?).ok()?;
    if let TcpState::Listen | TcpState::Close | TcpState::BoundInactive = state {
        return None;
    }
    Some(Info {
        unacked_segments: word(value, 24)?,
        retransmitting_segments: word(value, 36)?,
        last_sent_ms: word(value, 44)?,
        last_received_ms: word(value, 52)?,
        last_ack_ms: word(value, 56)?,
        rtt_us: word(value, 68)?,
        rtt_variation_us: word(value, 72)?,
        retransmits: word(value, 100)?,
        // `tcpi_bytes_acked` would count the SYN of whoever connected, and nothing here tells who did.
        sent_bytes: long(value, 200).zip(long(value, 208)).map(|(sent, again)| sent.saturating_sub(again)),
        received_bytes: long(value, 128)?,
        unsent_bytes: word(value, 144)?,
    })
}

fn timer(kind: u8, expires_ms: u32, attempts: u8) -> Option<Timer> {
    let kind = match kind {
        0 => return None,
        1 => TimerKind::Retransmit,
        2 => TimerKind::KeepAlive,
        3 => TimerKind::TimeWait,
        4 => TimerKind::ZeroWindowProbe,
        other => TimerKind::Unknown(other),
    };
    // Kernels before 5.13 wrap when the timer is due and has not run yet.
    let expires_ms = if expires_ms > i32::MAX.unsigned_abs() { 0 } else { expires_ms };
    Some(Timer { kind, expires_ms, attempts })
}

fn address(family: u8, bytes: [u8; 16]) -> Result<IpAddr, TableError> {
    let [a, b, c, d, ..] = bytes;
    match family {
        AF_INET => Ok(Ipv4Addr::new(a, b, c, d).into()),
        AF_INET6 => Ok(Ipv6Addr::from_octets(bytes).into()),
        other => Err(TableError::Malformed(format!("a socket of family {other}"))),
    }
}

/// Two words, the low one first whatever the byte order (`sock_diag_save_cookie`). The kernel makes one for each socket
/// that it lists, requests and minisocks included; without one (0 or `INET_DIAG_NOCOOKIE`) there would be no key.
fn cookie(low: u32, high: u32) -> Option<u64> {
    let cookie = u64::from(high) << 32 | u64::from(low);
    (cookie != 0 && cookie != u64::MAX).then_some(cookie)
}

/// The bytes of a record from `at` on, which lie within it.
fn bytes<const N: usize>(record: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| record[at + index])
}

/// The word at `at`, if the value is so long.
fn word(value: &[u8], at: usize) -> Option<u32> {
    value.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// The same for eight bytes.
fn long(value: &[u8], at: usize) -> Option<u64> {
    value.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXT: Context = Context { netns: 7, filled: Filled { from_ns: 1, to_ns: 2 } };

    /// A record with these words at these places.
    fn record(first: [u8; 4], words: &[(usize, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&first);
        for (at, word) in [(44, 1)].iter().chain(words) {
            bytes[*at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn read(first: [u8; 4], words: &[(usize, u32)]) -> Listed {
        listed(&record(first, words), CONTEXT).unwrap().unwrap()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn timers_have_a_kind_a_time_and_attempts() {
        let timer = |kind, expires| read([2, 1, kind, 3], &[(52, expires)]).timer;
        let expected = |kind, expires_ms| Some(Timer { kind, expires_ms, attempts: 3 });
        assert_eq!(timer(0, 99), None);
        assert_eq!(timer(1, 99), expected(TimerKind::Retransmit, 99));
        assert_eq!(timer(2, 7_200_000), expected(TimerKind::KeepAlive, 7_200_000));
        assert_eq!(timer(4, u32::MAX), expected(TimerKind::ZeroWindowProbe, 0));
        assert_eq!(timer(9, 1), expected(TimerKind::Unknown(9), 1));
    }

    #[test]
    fn a_minisock_is_known_by_its_timer() {
        let orphan = read([2, TcpState::FinWait2 as u8, 3, 0], &[(52, 59_500)]);
        assert_eq!((orphan.minisock, orphan.state), (true, TcpState::FinWait2));
        assert_eq!(orphan.timer.map(|timer| timer.expires_ms), Some(59_500));
        assert!(!read([2, TcpState::FinWait2 as u8, 2, 0], &[]).minisock);
    }

    /// What the kernel counts and what of it is payload.
    #[track_caller]
    fn check_bytes(state: TcpState, counted: (u32, u32), payload: (u32, u32), has_unread_fin: bool) {
        let socket = read([2, state as u8, 0, 0], &[(56, counted.0), (60, counted.1)]);
        assert_eq!((socket.unread_bytes(), socket.unacked_bytes()), payload, "{state}");
        assert_eq!(socket.has_unread_fin(), has_unread_fin, "{state}");
    }

    #[test]
    fn marks_are_not_payload() {
        use TcpState::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynSent, TimeWait};
        check_bytes(Established, (10, 20), (10, 20), false);
        check_bytes(SynSent, (0, 1), (0, 0), false);
        check_bytes(FinWait1, (10, 21), (10, 20), false);
        check_bytes(FinWait2, (10, 0), (10, 0), false);
        check_bytes(Closing, (1, 1), (0, 0), true);
        check_bytes(CloseWait, (11, 20), (10, 20), true);
        check_bytes(CloseWait, (0, 20), (0, 20), false);
        check_bytes(LastAck, (0, 1), (0, 0), false);
        check_bytes(TimeWait, (0, 0), (0, 0), false);
        check_bytes(Listen, (3, 128), (0, 0), false);
        assert_eq!(read([2, Listen as u8, 0, 0], &[(56, 3), (60, 128)]).queue, Some((3, 128)));
    }

    #[test]
    fn attributes_tell_details() {
        let mut bytes = record([2, 1, 0, 0], &[]);
        bytes.extend(attribute(INET_DIAG_SHUTDOWN, &[2]));
        bytes.extend(attribute(INET_DIAG_CGROUP_ID, &4242_u64.to_ne_bytes()));
        bytes.extend(attribute(999, &[1, 2, 3]));
        let memory: Vec<u8> = (0..9_u32).flat_map(u32::to_ne_bytes).collect();
        bytes.extend(attribute(INET_DIAG_SKMEMINFO, &memory));
        let mut tcp_info = vec![0; 240];
        tcp_info[0] = TcpState::Established as u8;
        tcp_info[68..72].copy_from_slice(&250_u32.to_ne_bytes());
        bytes.extend(attribute(INET_DIAG_INFO, &tcp_info));
        let told = details(&bytes).unwrap();
        assert_eq!((told.shutdown, told.cgroup, told.mark), (Some(2), Some(4242), None));
        assert_eq!((told.backlog_bytes, told.drops), (Some(7), Some(8)));
        assert_eq!(told.info.map(|info| info.rtt_us), Some(250));
        tcp_info[0] = TcpState::Listen as u8;
        assert_eq!(info(&tcp_info), None);
        assert_eq!(details(&record([2, 1, 0, 0], &[])).unwrap(), Details::default());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(listed(&bytes, CONTEXT));
            drop(details(&bytes));
        }
    }
}
