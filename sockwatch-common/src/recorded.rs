//! What is left of a socket where the kernel has no BTF.

use crate::Plain;

/// How much of a classic tracepoint's record the programs read.
pub const RECORD_BYTES: usize = 96;

/// What stands for a number that the kernel side does not know.
pub const UNKNOWN: u32 = u32::MAX;

/// A socket as the record of a classic tracepoint tells it, in the form that the programs read sockets in: fields have
/// the kernel's widths and byte orders, and offsets of their own in [`crate::Offsets`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct RecordedSocket {
    /// Local address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u16; 8],
    /// Remote address, likewise.
    pub remote: [u16; 8],
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Local port, host byte order, 0 where it is not known yet: `skc_num`.
    pub local_port: u16,
    /// Remote port, network byte order: `skc_dport`.
    pub remote_port_be: u16,
    /// `skc_state`.
    pub state: u8,
    /// Padding.
    pub reserved: u8,
}

impl RecordedSocket {
    /// Nothing known.
    pub const NONE: Self =
        Self { local: [0; 8], remote: [0; 8], family: 0, local_port: 0, remote_port_be: 0, state: 0, reserved: 0 };

    /// Where in an IPv6 address that holds an IPv4 one its four bytes lie.
    pub const V4_IN_V6: usize = 12;
}

// SAFETY: integers only; the size asserted below is the sum of the fields' sizes.
unsafe impl Plain for RecordedSocket {}

const _: () = assert!(size_of::<RecordedSocket>() == 40);
