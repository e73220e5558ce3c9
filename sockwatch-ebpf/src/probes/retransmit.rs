//! `tcp_retransmit_skb` and `tcp_retransmit_synack`: the network, or the other end, was slow.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use sockwatch_common::{Head, Kind, RecordedSocket};

use crate::{
    emit::{now_ns, reserve},
    filter::{self, ALL_KNOWN, PASS},
    memory::{Direct, Memory, offset},
    record::{Places, Record},
    socket::Socket,
};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's first argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(ctx.arg(0)) } {
        retransmitted(&socket);
    }
    0
}

/// The same where the record is all that can be read.
#[tracepoint(category = "tcp", name = "tcp_retransmit_skb")]
fn retransmit_skb_recorded(ctx: TracePointContext) -> u32 {
    let mut record = Record::EMPTY;
    if record.copy(&ctx) {
        let places = Places {
            address: offset!(retransmit_address),
            local_port: offset!(retransmit_local_port),
            remote_port: offset!(retransmit_remote_port),
            local: offset!(retransmit_local),
            remote: offset!(retransmit_remote),
        };
        let state = record.word(offset!(retransmit_state)) as u8;
        let mut room = RecordedSocket::NONE;
        retransmitted(&record.socket(places, state, &mut room).socket());
    }
    0
}

#[inline(always)]
fn retransmitted<M: Memory>(socket: &Socket<M>) {
    if !filter::passes(socket) {
        return;
    }
    let (at_ns, cookie, state) = (now_ns(), socket.cookie(), socket.state());
    let Some(mut record) = reserve::<Head>() else { return };
    // SAFETY: the record is reserved for a `Head`.
    unsafe { socket.fill_head(record.as_mut_ptr(), Kind::Retransmit as u8, at_ns, cookie, (state, state), 0) };
    record.submit();
}

/// Arguments: (listener, request). The tuple is the request's, the identity the listener's.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    let request: *const u8 = ctx.arg(1);
    // SAFETY: the tracepoint's first argument is a socket.
    let Some(listener) = (unsafe { Socket::<Direct>::full(ctx.arg(0)) }) else { return 0 };
    if request.is_null() {
        return 0;
    }
    // SAFETY: not null; a request begins with the common part of a socket.
    let request = unsafe { Socket::<Direct>::common(request) };
    if filter::tuple(&request, ALL_KNOWN) != PASS || (filter::by_task() && !filter::is_member(&listener)) {
        return 0;
    }
    let (at_ns, cookie, state) = (now_ns(), listener.cookie(), listener.state());
    let Some(mut record) = reserve::<Head>() else { return 0 };
    let head = record.as_mut_ptr();
    // SAFETY: the record is reserved for a `Head`.
    unsafe {
        request.fill_head(head, Kind::SynAckRetransmit as u8, at_ns, cookie, (state, state), 0);
        (&raw mut (*head).stub.skaddr).write(listener.address());
    }
    record.submit();
    0
}
