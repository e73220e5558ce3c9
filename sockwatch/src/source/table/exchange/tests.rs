//! Answers of the kernel, made by the crate that asks and read by us.

use netlink_packet_core::Emitable;
use netlink_packet_sock_diag::inet::InetResponseHeader;
use proptest::prelude::*;

use super::*;
use crate::tcp::event::SocketKey;

const ANSWER: Answer = Answer {
    sequence: 1,
    asked: Asked::Details,
    context: Context { netns: 7, filled: Filled { from_ns: 1, to_ns: 2 } },
};

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16 + payload.len()];
    bytes[16..].copy_from_slice(payload);
    let mut buffer = NetlinkBuffer::new(&mut bytes);
    buffer.set_length(16 + payload.len() as u32);
    buffer.set_message_type(kind);
    buffer.set_flags(flags);
    buffer.set_sequence_number(ANSWER.sequence);
    bytes
}

fn header(state: TcpState, cookie: u64) -> InetResponseHeader {
    let mut socket_id = SocketId::new_v4();
    (socket_id.source_port, socket_id.cookie) = (80, cookie.to_ne_bytes());
    InetResponseHeader {
        family: AF_INET,
        state: state as u8,
        timer: None,
        socket_id,
        recv_queue: 3,
        send_queue: 128,
        uid: 1000,
        inode: 55,
    }
}

fn socket(header: &InetResponseHeader) -> Vec<u8> {
    let mut bytes = vec![0; header.buffer_len()];
    header.emit(&mut bytes);
    message(SOCK_DIAG_BY_FAMILY, 0, &bytes)
}

fn read(bytes: &[u8]) -> (Result<Progress, TableError>, Listing) {
    let mut listing = Listing::default();
    (read_datagram(bytes, ANSWER, &mut listing), listing)
}

#[track_caller]
fn check_error(bytes: &[u8], expected: &str) {
    let text = match read(bytes).0 {
        Err(TableError::Torn) => "torn".to_owned(),
        Err(TableError::Refused(error)) => error.kind().to_string(),
        Err(TableError::Malformed(text)) => text,
        Err(TableError::Namespace(error)) => error.to_string(),
        Ok(progress) => format!("{progress:?}"),
    };
    assert!(text.starts_with(expected), "{text:?} does not start with {expected:?}");
}

#[test]
#[cfg(target_endian = "little")]
fn an_answer_of_several_messages_is_read_to_its_end() {
    let (listen, wait) = (header(TcpState::Listen, 42), header(TcpState::TimeWait, u64::MAX - 1));
    let done = message(NLMSG_DONE, 0, &[0; 4]);
    let (progress, listing) = read(&[socket(&listen), message(NLMSG_NOOP, 0, &[]), socket(&wait), done].concat());
    assert_eq!(progress.unwrap(), Progress::Done);
    let [listen, wait] = listing.sockets[..] else { panic!("{listing:?}") };
    assert_eq!(listen.key, SocketKey { netns: 7, cookie: 42 });
    assert_eq!((listen.local.to_string().as_str(), listen.queue), ("0.0.0.0:80", Some((3, 128))));
    assert_eq!((listen.inode, listen.uid), (55, 1000));
    assert_eq!((wait.key.cookie, wait.state, wait.queue), (u64::MAX - 1, TcpState::TimeWait, None));
    assert_eq!(read(&socket(&header(TcpState::Close, 1))).0.unwrap(), Progress::More);
}

#[test]
fn a_socket_without_cookie_or_known_state_is_counted() {
    let mut unknown = header(TcpState::Listen, 42);
    unknown.state = 14;
    let nameless = [header(TcpState::Listen, 0), header(TcpState::Listen, u64::MAX), unknown];
    let (progress, listing) = read(&nameless.map(|header| socket(&header)).concat());
    assert_eq!(progress.unwrap(), Progress::More);
    assert_eq!((listing.sockets.len(), listing.nameless), (0, 3));
}

#[test]
fn interruptions_and_overruns_tear_a_listing() {
    check_error(&message(NLMSG_DONE, NLM_F_DUMP_INTR, &[0; 4]), "torn");
    check_error(&message(NLMSG_OVERRUN, 0, &[]), "torn");
    check_error(&message(NLMSG_ERROR, 0, &(-105_i32).to_ne_bytes()), "torn");
}

#[test]
fn what_the_kernel_refuses_is_its_errno() {
    check_error(&message(NLMSG_ERROR, 0, &(-2_i32).to_ne_bytes()), "entity not found");
    check_error(&message(NLMSG_DONE, 0, &(-1_i32).to_ne_bytes()), "permission denied");
    check_error(&message(NLMSG_ERROR, 0, &i32::MIN.to_ne_bytes()), "");
}

#[test]
fn nonsense_is_an_error() {
    check_error(&message(NLMSG_ERROR, 0, &[0; 4]), "an acknowledgement");
    check_error(&message(NLMSG_ERROR, 0, &[]), "invalid ErrorBuffer");
    check_error(&message(NLMSG_DONE, 0, &[]), "invalid DoneBuffer");
    check_error(&message(77, 0, &[]), "unknown message type 77");
    check_error(&message(SOCK_DIAG_BY_FAMILY, 0, &[2; 20]), "");
    check_error(&[1, 2, 3], "invalid netlink buffer");
    let cut = socket(&header(TcpState::Listen, 1));
    check_error(&cut[..cut.len() - 1], "invalid netlink buffer");
    let mut foreign = message(NLMSG_DONE, 0, &[0; 4]);
    NetlinkBuffer::new(&mut foreign).set_sequence_number(9);
    check_error(&foreign, "answer 9 to request 1");
}

proptest! {
    #[test]
    fn no_bytes_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0_u16..22,
        length in 0_u32..120,
    ) {
        if bytes.len() >= 16 {
            let mut buffer = NetlinkBuffer::new(&mut bytes);
            buffer.set_length(length);
            buffer.set_message_type(kind);
            buffer.set_sequence_number(ANSWER.sequence);
            buffer.set_flags(0);
        }
        drop(read(&bytes));
    }
}
