//! `tcp_destroy_sock`: the socket's TCP state is torn down. Every birth has exactly one destroy; after it the
//! address may be another socket's within microseconds.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use sockwatch_common::{Kind, RecordedSocket, Stub};

use crate::{
    children,
    emit::{now_ns, reserve},
    filter::{self, ALL_KNOWN, PASS},
    memory::{Direct, Memory, Probed, offset},
    record::{Places, Record},
    relief::{By, Post, event, is_left, take},
    socket::{CLOSE, Socket},
    waiting,
};

#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroy_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(ctx.arg(0)) } {
        take(Post::Destroy, event(&socket, 0, 0));
        destroy(&socket, By::First);
    }
    0
}

#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroy_relief(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(ctx.arg(0)) }
        && is_left(Post::Destroy, event(&socket, 0, 0))
    {
        destroy(&socket, By::Relief);
    }
    0
}

/// skaddr is at 8 from 5.10 to 7.2.
#[tracepoint(category = "tcp", name = "tcp_destroy_sock")]
fn destroy_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset lies within the tracepoint's record.
    let sk = unsafe { ctx.read_at::<usize>(8) }.unwrap_or_default();
    // SAFETY: `skaddr` is a socket; reads of it are probed.
    if let Some(socket) = unsafe { Socket::<Probed>::full(sk as *const u8) } {
        destroy(&socket, By::First);
    }
    0
}

/// The same where the record is all that can be read.
#[tracepoint(category = "tcp", name = "tcp_destroy_sock")]
fn destroy_recorded(ctx: TracePointContext) -> u32 {
    let mut record = Record::EMPTY;
    if !record.copy(&ctx) {
        return 0;
    }
    let places = Places {
        address: offset!(destroy_address),
        local_port: offset!(destroy_local_port),
        remote_port: offset!(destroy_remote_port),
        local: offset!(destroy_local),
        remote: offset!(destroy_remote),
    };
    let mut room = RecordedSocket::NONE;
    let socket = record.socket(places, CLOSE, &mut room).socket();
    children::leave(socket.address());
    destroy(&socket, By::First);
    if filter::by_tuple() {
        filter::forget_closed(socket.key());
    }
    0
}

#[inline(always)]
fn destroy<M: Memory>(socket: &Socket<M>, by: By) {
    if filter::by_task() {
        waiting::dismiss(socket);
        if !filter::forget(socket) {
            return;
        }
    } else if filter::tuple(socket, ALL_KNOWN) != PASS && !(filter::by_tuple() && filter::closed_before(socket)) {
        return;
    }
    let (at_ns, cookie, state) = (now_ns(), socket.cookie(), socket.state());
    let Some(mut record) = reserve::<Stub>() else { return };
    // SAFETY: the record is reserved for a `Stub`.
    unsafe { socket.fill_stub(record.as_mut_ptr(), by.mark(Kind::Destroy), at_ns, cookie, (state, state)) };
    record.submit();
}
