//! The few netlink requests of labs, by bytes. Each goes to the calling thread's network namespace.

use std::io;

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;
/// `RTM_NEWLINK`
const NEW_LINK: u16 = 16;
/// `RTM_NEWNEIGH`
const NEW_NEIGHBOUR: u16 = 28;
/// `RTM_DELNEIGH`
const DELETE_NEIGHBOUR: u16 = 29;
/// `NUD_PERMANENT`
const PERMANENT: u16 = 0x80;
/// `NDA_DST`
const ADDRESS: u16 = 1;
/// `NDA_LLADDR`
const HARDWARE_ADDRESS: u16 = 2;
/// `AF_INET`
const INET: u8 = 2;
/// `IFF_UP`
const UP: u32 = 1;
/// The loopback of every network namespace has it.
const LOOPBACK_INDEX: u32 = 1;

/// Sends a request and returns the payloads of what is answered before its end or acknowledgement.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn ask(protocol: isize, kind: u16, flags: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    let length = (HEADER_BYTES + payload.len()) as u32;
    let mut request = Vec::with_capacity(HEADER_BYTES + payload.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and sender.
    request.extend([0; 8]);
    request.extend(payload);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_DONE => {
                    let code = DoneBuffer::new_checked(message.payload()).map_err(io::Error::other)?.code();
                    return if code < 0 { Err(refusal(code)) } else { Ok(answers) };
                }
                NLMSG_ERROR => {
                    return match ErrorBuffer::new_checked(message.payload()).map_err(io::Error::other)?.code() {
                        Some(code) => Err(refusal(code.get())),
                        None => Ok(answers),
                    };
                }
                _answer => answers.push(message.payload().to_vec()),
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn refusal(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Brings the loopback of the calling thread's network namespace up.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn loopback_up() -> io::Result<()> {
    // `struct ifinfomsg`: family, padding and type, then the index, the flags, and which of them to change.
    let mut message = vec![0; 4];
    for word in [LOOPBACK_INDEX, UP, UP] {
        message.extend(word.to_ne_bytes());
    }
    ask(NETLINK_ROUTE, NEW_LINK, NLM_F_ACK, &message).map(|_| ())
}

/// Says where a neighbour of an interface is, for good.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn set_neighbour(interface: u32, address: [u8; 4], hardware: [u8; 6]) -> io::Result<()> {
    let mut message = neighbour(interface, address);
    attribute(&mut message, HARDWARE_ADDRESS, &hardware);
    ask(NETLINK_ROUTE, NEW_NEIGHBOUR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &message).map(|_| ())
}

/// Forgets where it is.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn forget_neighbour(interface: u32, address: [u8; 4]) -> io::Result<()> {
    ask(NETLINK_ROUTE, DELETE_NEIGHBOUR, NLM_F_ACK, &neighbour(interface, address)).map(|_| ())
}

/// `struct ndmsg` with an address.
fn neighbour(interface: u32, address: [u8; 4]) -> Vec<u8> {
    let mut message = vec![INET, 0, 0, 0];
    message.extend(interface.to_ne_bytes());
    message.extend(PERMANENT.to_ne_bytes());
    // Flags and type.
    message.extend([0; 2]);
    attribute(&mut message, ADDRESS, &address);
    message
}

/// `struct nlattr`, padded.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
