//! `tcp_rcv_space_adjust`: data was taken from a connection, or may have been. `tcp_recvmsg_locked` calls it after each copy, a look
//! at the data (`MSG_PEEK`) included; `tcp_read_sock` (splice) and `tcp_read_skb` also where there was nothing. Told once of each
//! connection that was accepted, when something was taken, and only while somebody wants to know how soon that is. MPTCP's own
//! receive path does not come here.

use aya_ebpf::{
    btf_maps::LruHashMap,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use sockwatch_common::FirstRead;

use super::threads;
use crate::{
    emit::now_ns,
    memory::{Direct, Memory, offset},
    socket::Socket,
};

/// Accepted connections that nobody has read from, by address, and their cookies. The agent sizes it.
#[btf_map]
static UNREAD: LruHashMap<u64, u64, 1> = LruHashMap::new();

/// A task has accepted it.
#[inline(always)]
pub(super) fn expect<M: Memory>(child: &Socket<M>, cookie: u64) {
    // The table makes room by itself.
    let _always = UNREAD.insert(child.address(), cookie, 0);
}

/// Argument: the socket, which its reader has locked.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
fn first_read(ctx: BtfTracePointContext) -> i32 {
    let address: *const u8 = ctx.arg(0);
    let Some(expected) = UNREAD.get_ptr(address as u64) else { return 0 };
    // SAFETY: the entry outlives the run; it is a number that is written as a whole.
    let expected = unsafe { *expected };
    // SAFETY: the tracepoint's argument is a socket.
    let Some(socket) = (unsafe { Socket::<Direct>::full(address) }) else { return 0 };
    let (next, read): (u32, u32) = (socket.tcp_field(offset!(rcv_nxt)), socket.tcp_field(offset!(copied_seq)));
    // A FIN counts in both.
    if next.wrapping_sub(read) >= socket.tcp_field::<u64>(offset!(bytes_received)) as u32 {
        return 0;
    }
    let _was_there = UNREAD.remove(address as u64);
    // Another one may be where one that was never read from has been.
    if socket.raw_cookie() == expected {
        threads::tell_read(FirstRead { at_ns: now_ns(), cookie: expected, netns: socket.netns(), reserved: 0 });
    }
    0
}
