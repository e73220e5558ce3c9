//! `inet_csk_accept`: a task takes a child out of the accept queue. Every way to accept passes here: accept,
//! accept4, io_uring of each kind, the kernel's own.

use aya_ebpf::{
    EbpfContext,
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};
use sockwatch_common::{Accept, Kind, NO_FD};

use super::first_read;
use crate::{
    emit::{now_ns, reserve},
    filter::{self, ALL_KNOWN, PASS},
    memory::{Direct, Memory, Probed, offset, setting},
    socket::{Socket, fill_comm},
    tally, waiting,
};

/// 6.10 and later: (sk, struct proto_accept_arg *), then the child.
#[fexit(function = "inet_csk_accept")]
fn accept_fexit_2(ctx: FExitContext) -> i32 {
    // SAFETY: the first argument is the listener, the return value a child or null.
    unsafe { returned(ctx.arg(0), ctx.arg(2)) };
    0
}

/// Before 6.10: (sk, flags, err, kern), then the child.
#[fexit(function = "inet_csk_accept")]
fn accept_fexit_4(ctx: FExitContext) -> i32 {
    // SAFETY: as above.
    unsafe { returned(ctx.arg(0), ctx.arg(4)) };
    0
}

#[kretprobe(function = "inet_csk_accept")]
fn accept_kretprobe(ctx: RetProbeContext) -> u32 {
    // SAFETY: the context is a `struct pt_regs`; reads of it and of the child are probed.
    unsafe {
        let child: usize = Probed::read(ctx.as_ptr().cast::<u8>(), offset!(regs_return));
        if let Some(child) = Socket::<Probed>::full(child as *const u8) {
            report(&child, 0, Kind::Accept, NO_FD);
        }
    }
    0
}

/// No relief stands behind it: up to 6.12 at least a trampoline runs its newest program first, later ones may not.
///
/// # Safety
/// `listener` and `child` are null or sockets.
#[inline(always)]
unsafe fn returned(listener: *const u8, child: *const u8) {
    // SAFETY: as the caller promised.
    unsafe {
        let Some(child) = Socket::<Direct>::full(child) else { return };
        let listener = Socket::<Direct>::full(listener).map_or(0, |listener| listener.cookie());
        report(&child, listener, Kind::Accept, NO_FD);
    }
}

/// Emits what a task accepted. Whoever accepts is an owner, so a process filter decides here.
#[inline(always)]
pub(crate) fn report<M: Memory>(child: &Socket<M>, listener: u64, kind: Kind, value: u32) {
    if tally::is_on() {
        if kind as u8 == Kind::Accept as u8 {
            tally::accepted(child, listener);
        }
        return;
    }
    if filter::tuple(child, ALL_KNOWN) != PASS {
        return;
    }
    if filter::by_task() && !filter::is_member(child) {
        if !filter::task_matches() {
            waiting::dismiss(child);
            return;
        }
        filter::remember(child.key());
        waiting::release(child);
    }
    emit_accept(child, listener, kind, value);
}

/// Emits without asking the filter.
#[inline(always)]
pub(crate) fn emit_accept<M: Memory>(socket: &Socket<M>, listener: u64, kind: Kind, value: u32) {
    let (at_ns, cookie, state) = (now_ns(), socket.cookie(), socket.state());
    if setting!(first_reads) != 0 && kind as u8 == Kind::Accept as u8 && cookie != 0 {
        first_read::expect(socket, cookie);
    }
    let Some(mut record) = reserve::<Accept>() else { return };
    let accept = record.as_mut_ptr();
    // SAFETY: the record is reserved for an `Accept`.
    unsafe {
        socket.fill_head(&raw mut (*accept).head, kind as u8, at_ns, cookie, (state, state), value);
        fill_comm(&raw mut (*accept).comm);
        (&raw mut (*accept).listener).write(listener);
    }
    record.submit();
}
