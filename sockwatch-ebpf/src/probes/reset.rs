//! `tcp_send_reset` and `tcp_receive_reset`: who reset a connection.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use sockwatch_common::{Head, Kind, RecordedSocket};

use crate::{
    emit::{now_ns, reserve},
    filter,
    memory::{Direct, Memory, offset, setting},
    record::{Places, Record},
    socket::{CLOSE, NEW_SYN_RECV, Socket, TIME_WAIT},
};

/// Arguments: (sk, skb) and, where the kernel has it, the reason. The socket is null for a reset without one,
/// and may be a minisock.
#[btf_tracepoint(function = "tcp_send_reset")]
fn send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    if sk.is_null() {
        return 0;
    }
    let reason: u32 = if setting!(reset_reason_index) == 2 { ctx.arg(2) } else { 0 };
    // SAFETY: not null; every socket has the common part.
    let state = unsafe { Direct::read::<u8>(sk, offset!(skc_state)) };
    if state == TIME_WAIT || state == NEW_SYN_RECV {
        // SAFETY: not null.
        report(&unsafe { Socket::<Direct>::common(sk) }, Kind::ResetSent, reason);
        return 0;
    }
    // SAFETY: the tracepoint's argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(sk) } {
        report(&socket, Kind::ResetSent, reason);
    }
    0
}

#[btf_tracepoint(function = "tcp_receive_reset")]
fn receive_reset(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(ctx.arg(0)) } {
        report(&socket, Kind::ResetReceived, 0);
    }
    0
}

/// The same where the record is all that can be read. It tells no state, and nobody reads one.
#[tracepoint(category = "tcp", name = "tcp_receive_reset")]
fn receive_reset_recorded(ctx: TracePointContext) -> u32 {
    let mut record = Record::EMPTY;
    if record.copy(&ctx) {
        let places = Places {
            address: offset!(reset_address),
            local_port: offset!(reset_local_port),
            remote_port: offset!(reset_remote_port),
            local: offset!(reset_local),
            remote: offset!(reset_remote),
        };
        let mut room = RecordedSocket::NONE;
        report(&record.socket(places, CLOSE, &mut room).socket(), Kind::ResetReceived, 0);
    }
    0
}

#[inline(always)]
fn report<M: Memory>(socket: &Socket<M>, kind: Kind, value: u32) {
    if !filter::passes(socket) {
        return;
    }
    let (at_ns, cookie, state) = (now_ns(), socket.cookie(), socket.state());
    let Some(mut record) = reserve::<Head>() else { return };
    // SAFETY: the record is reserved for a `Head`.
    unsafe { socket.fill_head(record.as_mut_ptr(), kind as u8, at_ns, cookie, (state, state), value) };
    record.submit();
}
