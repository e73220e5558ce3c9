//! Asking the kernel for its table, and reading its answer. Works unprivileged.

use std::io;

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkMessage,
};
use netlink_packet_sock_diag::{
    SOCK_DIAG_BY_FAMILY, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::{
    Asked, Filled, Listing, Namespace, TableError, own_netns,
    record::{self, Context},
};
use crate::{monotonic::now_ns, tcp::state::TcpState};

/// More would not be a listing that is read within a poll's interval.
const MOST_SOCKETS: usize = 1 << 20;
/// The kernel fills up to 32 KiB of it (`netlink_recvmsg`, `max_recvmsg_len`).
const BUFFER_BYTES: usize = 64 * 1024;
/// `MSG_TRUNC`.
const TRUNC: i32 = 0x20;

/// The table of one network namespace: a netlink socket within it. While it is open it keeps the namespace alive (see
/// [`Namespace`]).
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    netns: u32,
    /// The last request's.
    sequence: u32,
    buffer: Vec<u8>,
}

impl Table {
    /// The table of the calling thread's namespace; other threads, in whichever namespace, may list it then.
    ///
    /// # Errors
    /// [`TableError::Refused`] if the kernel refuses a netlink socket, [`TableError::Namespace`] without `/proc`.
    pub fn own() -> Result<Self, TableError> {
        Ok(Self::new(open_socket()?, own_netns()?))
    }

    /// The table of another namespace. Takes `CAP_SYS_ADMIN` unless it is the caller's; listing takes nothing.
    ///
    /// # Errors
    /// [`TableError::Namespace`] if it cannot be entered, and as [`Self::own`].
    pub fn of(namespace: &Namespace) -> Result<Self, TableError> {
        Ok(Self::new(namespace.enter(open_socket)??, namespace.inode()))
    }

    fn new(socket: Socket, netns: u32) -> Self {
        Self { socket, netns, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }

    /// The namespace's inode number.
    pub fn netns(&self) -> u32 {
        self.netns
    }

    /// Lists all TCP sockets, requests and minisocks included. Tries a torn listing once more.
    ///
    /// # Errors
    /// As [`list`](super::list).
    pub fn list(&mut self, asked: Asked) -> Result<Listing, TableError> {
        match self.read(asked) {
            Err(TableError::Torn) => self.read(asked),
            whole => whole,
        }
    }

    fn read(&mut self, asked: Asked) -> Result<Listing, TableError> {
        let mut listing = Listing::default();
        // Of two families only one can be asked for at a time: SOCK_DIAG_BY_FAMILY knows no AF_UNSPEC.
        for family in [AF_INET, AF_INET6] {
            let result = self.read_family(family, asked, &mut listing);
            if result.is_err() {
                // Nothing of an unfinished answer may be in the next one's way.
                self.drain();
            }
            result?;
        }
        Ok(listing)
    }

    fn read_family(&mut self, family: u8, asked: Asked, listing: &mut Listing) -> Result<(), TableError> {
        let first_filled = self.ask(family, asked)?;
        self.receive(first_filled, asked, listing)
    }

    /// Sends a request. The kernel writes the first datagram of its answer meanwhile.
    fn ask(&mut self, family: u8, asked: Asked) -> io::Result<Filled> {
        self.sequence = self.sequence.wrapping_add(1);
        let from_ns = now_ns();
        ask(&self.socket, family, asked, self.sequence)?;
        Ok(Filled { from_ns, to_ns: now_ns() })
    }

    /// Receives an answer. The kernel writes each datagram while the one before is received.
    fn receive(&mut self, mut filled: Filled, asked: Asked, listing: &mut Listing) -> Result<(), TableError> {
        loop {
            self.buffer.clear();
            let from_ns = now_ns();
            // With MSG_TRUNC the length is the datagram's, so that a cut one shows.
            let length = self.socket.recv_from(&mut self.buffer, TRUNC)?.0;
            let next_filled = Filled { from_ns, to_ns: now_ns() };
            if length > self.buffer.len() {
                return Err(TableError::Malformed(format!("{length} bytes in a buffer of {}", self.buffer.len())));
            }
            let answer = Answer { sequence: self.sequence, asked, context: Context { netns: self.netns, filled } };
            if read_datagram(&self.buffer, answer, listing)? == Progress::Done {
                return Ok(());
            }
            filled = next_filled;
        }
    }

    /// Takes what is left of an answer. An error is one of the listing that is given up.
    fn drain(&mut self) {
        // No listing has more parts: each but the last holds at least one socket.
        for _ in 0..MOST_SOCKETS {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

fn open_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    // The kernel makes each part of its answer while the part before it is read, so there is never anything to wait
    // for: an answer without an end becomes an error instead of a hang.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Which answer is awaited, and what it does not say.
#[derive(Clone, Copy, Debug)]
struct Answer {
    sequence: u32,
    asked: Asked,
    context: Context,
}

/// How far an answer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

fn ask(socket: &Socket, family: u8, asked: Asked, sequence: u32) -> io::Result<()> {
    // SYN_RECV includes NEW_SYN_RECV (`inet_diag_dump_icsk`).
    let (extensions, states) = match asked {
        Asked::Sockets => (ExtensionFlags::empty(), StateFlags::all()),
        Asked::Listeners => (ExtensionFlags::SKMEMINFO, StateFlags::LISTEN),
        Asked::Details => (
            ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO,
            StateFlags::all() | StateFlags::from_bits_retain(1 << TcpState::BoundInactive as u32),
        ),
    };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions,
        states,
        socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(|_| ())
}

fn read_datagram(mut bytes: &[u8], answer: Answer, listing: &mut Listing) -> Result<Progress, TableError> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes)?;
        if read_message(&message, answer, listing)? == Progress::Done {
            return Ok(Progress::Done);
        }
        let length = (message.length() as usize).next_multiple_of(usize::from(NLMSG_ALIGNTO));
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(Progress::More)
}

fn read_message(message: &NetlinkBuffer<&[u8]>, answer: Answer, listing: &mut Listing) -> Result<Progress, TableError> {
    if message.sequence_number() != answer.sequence {
        return Err(TableError::Malformed(format!(
            "answer {} to request {}",
            message.sequence_number(),
            answer.sequence
        )));
    }
    if message.flags() & NLM_F_DUMP_INTR != 0 {
        return Err(TableError::Torn);
    }
    match message.message_type() {
        SOCK_DIAG_BY_FAMILY => {
            if listing.sockets.len() == MOST_SOCKETS {
                return Err(io::Error::other(format!("more than {MOST_SOCKETS} are too many to poll")).into());
            }
            add_socket(message.payload(), answer, listing)?;
            Ok(Progress::More)
        }
        NLMSG_DONE => match DoneBuffer::new_checked(message.payload())?.code() {
            0.. => Ok(Progress::Done),
            error => Err(io::Error::from_raw_os_error(error.saturating_neg()).into()),
        },
        NLMSG_ERROR => match ErrorBuffer::new_checked(message.payload())?.code() {
            Some(error) => Err(io::Error::from_raw_os_error(error.get().saturating_neg()).into()),
            None => Err(TableError::Malformed("an acknowledgement that was not asked for".to_owned())),
        },
        NLMSG_NOOP => Ok(Progress::More),
        NLMSG_OVERRUN => Err(TableError::Torn),
        other => Err(TableError::Malformed(format!("unknown message type {other}"))),
    }
}

fn add_socket(payload: &[u8], answer: Answer, listing: &mut Listing) -> Result<(), TableError> {
    let Some(mut socket) = record::listed(payload, answer.context)? else {
        listing.nameless += 1;
        return Ok(());
    };
    match answer.asked {
        Asked::Sockets => {}
        Asked::Listeners | Asked::Details => {
            listing.details.push(record::details(payload)?);
            // Bound sockets are listed on request, and keep their state's name (`inet_diag_dump_icsk`, 6.18).
            if socket.state == TcpState::Close && socket.inode != 0 && socket.remote.is_unspecified() {
                socket.state = TcpState::BoundInactive;
            }
        }
    }
    listing.sockets.push(socket);
    Ok(())
}

#[cfg(test)]
mod tests;
