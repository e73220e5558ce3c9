//! `tcp_destroy_sock`: the socket's TCP state is torn down. Every birth has exactly one destroy; after it the
//! address may be another socket's within microseconds.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use sockwatch_common::{Kind, Stub};

use crate::{
    emit::{emit, now_ns},
    filter::{self, ALL_KNOWN, PASS},
    memory::{Direct, Memory, Probed},
    socket::Socket,
    waiting,
};

#[btf_tracepoint(function = "tcp_destroy_sock")]
fn destroy_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(ctx.arg(0)) } {
        destroy(&socket);
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
        destroy(&socket);
    }
    0
}

#[inline(always)]
fn destroy<M: Memory>(socket: &Socket<M>) {
    if filter::by_task() || filter::by_tuple() {
        waiting::dismiss(socket);
        let member = filter::forget(socket.key());
        let passes = !filter::by_task() && filter::tuple(socket, ALL_KNOWN) == PASS;
        if !member && !passes {
            return;
        }
    } else if filter::tuple(socket, ALL_KNOWN) != PASS {
        return;
    }
    let (at_ns, cookie, state) = (now_ns(), socket.cookie(), socket.state());
    // SAFETY: `emit` hands out a reserved `Stub`.
    emit::<Stub>(|stub| unsafe { socket.fill_stub(stub, Kind::Destroy, at_ns, cookie, (state, state)) });
}
