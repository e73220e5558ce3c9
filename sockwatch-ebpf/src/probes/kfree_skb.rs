//! `kfree_skb`: hot, it fires for every dropped packet of the machine. Only two kinds say something here: a final ACK
//! dropped at a full accept queue, and a segment dropped at a `TIME_WAIT` minisock.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use sockwatch_common::{Head, Kind};

use crate::{
    emit::{now_ns, reserve},
    filter,
    memory::{Direct, Memory, offset, setting},
    socket::{Socket, TIME_WAIT},
};

/// Arguments: (skb, location, reason, receiving socket), the last one from 6.11 on.
#[btf_tracepoint(function = "kfree_skb")]
fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    if setting!(drop_socket_index) != 3 {
        return 0;
    }
    let sk: *const u8 = ctx.arg(3);
    if sk.is_null() {
        return 0;
    }
    let reason: u32 = ctx.arg(2);
    // SAFETY: not null; every socket has the common part.
    let state = unsafe { Direct::read::<u8>(sk, offset!(skc_state)) };
    if state == TIME_WAIT {
        // SAFETY: not null.
        report(&unsafe { Socket::<Direct>::common(sk) }, Kind::TimeWaitDrop, reason);
    } else if reason != 0 && reason == setting!(listen_overflow_reason) {
        // SAFETY: the argument is a socket.
        if let Some(listener) = unsafe { Socket::<Direct>::full(sk) } {
            report(&listener, Kind::ListenOverflow, reason);
        }
    }
    0
}

#[inline(always)]
fn report(socket: &Socket<Direct>, kind: Kind, reason: u32) {
    if !filter::passes(socket) {
        return;
    }
    let (at_ns, cookie, state) = (now_ns(), socket.cookie(), socket.state());
    let Some(mut record) = reserve::<Head>() else { return };
    // SAFETY: the record is reserved for a `Head`.
    unsafe { socket.fill_head(record.as_mut_ptr(), kind as u8, at_ns, cookie, (state, state), reason) };
    record.submit();
}
