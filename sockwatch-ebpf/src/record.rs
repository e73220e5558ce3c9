//! Classic tracepoints' records: all that a kernel without BTF tells of a socket.

use aya_ebpf::{EbpfContext, helpers::generated, programs::TracePointContext};
use sockwatch_common::{ABSENT, RECORD_BYTES, RecordedSocket};

use crate::{memory::Recorded, socket::Socket};

const INET: u16 = 2;
const INET6: u16 = 10;

/// The beginning of a record, copied with one helper call: programs may not read it at offsets that they learn at load.
pub(crate) struct Record([u64; RECORD_BYTES / 8]);

/// Where a record holds its socket.
pub(crate) struct Places {
    pub(crate) address: u32,
    pub(crate) local_port: u32,
    pub(crate) remote_port: u32,
    pub(crate) local: u32,
    pub(crate) remote: u32,
}

impl Record {
    pub(crate) const EMPTY: Self = Self([0; RECORD_BYTES / 8]);

    /// Copies the record; false if it cannot be read.
    #[inline(always)]
    pub(crate) fn copy(&mut self, ctx: &TracePointContext) -> bool {
        // Behind a shorter record lies the rest of the kernel's buffer for records.
        // SAFETY: the helper writes as many bytes as `self` has, and reports a fault instead of faulting.
        unsafe { generated::bpf_probe_read_kernel((&raw mut self.0).cast(), RECORD_BYTES as u32, ctx.as_ptr()) == 0 }
    }

    /// Two bytes: all that every field's alignment allows to read from the stack at once.
    #[inline(always)]
    pub(crate) fn half(&self, offset: u32) -> u16 {
        if offset == ABSENT {
            return 0;
        }
        // SAFETY: the agent takes no offset that is odd, or beyond the copy; the verifier checks it.
        unsafe { (&raw const self.0).cast::<u8>().add(offset as usize).cast::<u16>().read_volatile() }
    }

    /// Four bytes.
    #[inline(always)]
    pub(crate) fn word(&self, offset: u32) -> u32 {
        let (first, second) = (u32::from(self.half(offset)), u32::from(self.half(offset + 2)));
        if cfg!(target_endian = "little") { first | second << 16 } else { first << 16 | second }
    }

    #[inline(always)]
    fn long(&self, offset: u32) -> u64 {
        let (first, second) = (u64::from(self.word(offset)), u64::from(self.word(offset + 4)));
        if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
    }

    /// The record's socket, in `room`. The family is told by the addresses, unless the caller knows better: 5.10 records
    /// none beside most of them.
    #[inline(always)]
    pub(crate) fn socket<'a>(&self, places: Places, state: u8, room: &'a mut RecordedSocket) -> Recording<'a> {
        for index in 0..8 {
            room.local[index] = self.half(places.local + 2 * index as u32);
            room.remote[index] = self.half(places.remote + 2 * index as u32);
        }
        room.local_port = self.half(places.local_port);
        room.remote_port_be = self.half(places.remote_port).to_be();
        room.state = state;
        room.family = if is_mapped(&room.local) { INET } else { INET6 };
        Recording { address: self.long(places.address), room }
    }
}

/// A recorded socket that may still be mended.
pub(crate) struct Recording<'a> {
    pub(crate) address: u64,
    pub(crate) room: &'a mut RecordedSocket,
}

impl Recording<'_> {
    #[inline(always)]
    pub(crate) fn socket(&self) -> Socket<Recorded> {
        Socket::recorded(self.room, self.address)
    }
}

/// `::ffff:a.b.c.d`: the form in which records show IPv4.
#[inline(always)]
fn is_mapped(address: &[u16; 8]) -> bool {
    address[0] | address[1] | address[2] | address[3] | address[4] == 0 && address[5] == 0xffff
}
