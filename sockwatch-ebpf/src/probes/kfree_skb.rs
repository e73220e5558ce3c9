//! `kfree_skb`: hot, it fires for every dropped packet of the machine. Only two kinds say something here: a final ACK
//! dropped at a full accept queue, and a segment consumed at a minisock.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use sockwatch_common::{Head, Kind};

use crate::{
    emit::{now_ns, reserve},
    filter,
    memory::{Direct, Memory, Probed, offset, setting},
    socket::{CLOSE, Socket, TIME_WAIT},
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
        let (minisock, now) = unsafe { (Socket::<Direct>::common(sk), substate(sk)) };
        report(&minisock, Kind::MinisockSegment, (TIME_WAIT, now), reason);
    } else if reason != 0 && reason == setting!(listen_overflow_reason) {
        // SAFETY: the argument is a socket.
        if let Some(listener) = unsafe { Socket::<Direct>::full(sk) } {
            let state = listener.state();
            report(&listener, Kind::ListenOverflow, (state, state), reason);
        }
    }
    0
}

/// The state that a minisock is in, after the segment was looked at: `skc_state` is `TIME_WAIT` for an orphan's `FIN_WAIT2`, too.
/// `CLOSE` if the segment ended it: it was taken out of the hash table.
///
/// # Safety
/// `sk` is a minisock and not null.
#[inline(always)]
unsafe fn substate(sk: *const u8) -> u8 {
    // SAFETY: as the caller promised; the verifier takes the pointer for a `struct sock`, so the reads are probed.
    let (hashed, state) =
        unsafe { (Probed::read::<usize>(sk, offset!(skc_hashed)), Probed::read::<u8>(sk, offset!(tw_substate))) };
    if hashed == 0 { CLOSE } else { state }
}

#[inline(always)]
fn report(socket: &Socket<Direct>, kind: Kind, states: (u8, u8), reason: u32) {
    if !filter::passes(socket) {
        return;
    }
    let (at_ns, cookie) = (now_ns(), socket.cookie());
    let Some(mut record) = reserve::<Head>() else { return };
    // SAFETY: the record is reserved for a `Head`.
    unsafe { socket.fill_head(record.as_mut_ptr(), kind as u8, at_ns, cookie, states, reason) };
    record.submit();
}
