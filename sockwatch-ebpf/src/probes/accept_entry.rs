//! What a thread asks of accept(), noted at its entry: at its exit, kernels without `bpf_task_pt_regs` have forgotten it.

use aya_ebpf::{
    EbpfContext,
    btf_maps::LruHashMap,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::{btf_map, kprobe, tracepoint},
    programs::{ProbeContext, TracePointContext},
};

use super::accept_exit::descriptor;
use crate::memory::{Memory, Probed, offset};

/// An accept call that has not returned.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// The listener's.
    pub(crate) descriptor: u64,
    /// Where the caller wants the other end's address; 0 if nowhere, or where nothing reads it.
    pub(crate) peer: u64,
    /// How many bytes of it.
    pub(crate) room: u32,
    reserved: u32,
}

/// By thread. A thread's next call overwrites its last; those of threads that are gone are evicted. The agent sizes it.
#[btf_map]
static CALLS: LruHashMap<u64, Call, 16384> = LruHashMap::new();

#[tracepoint(category = "syscalls", name = "sys_enter_accept4")]
fn accept4_enter(ctx: TracePointContext) -> u32 {
    entered(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_enter_accept")]
fn accept_enter(ctx: TracePointContext) -> u32 {
    entered(&ctx);
    0
}

#[kprobe(function = "__x64_sys_accept4")]
fn accept4_kprobe(ctx: ProbeContext) -> u32 {
    called(&ctx);
    0
}

#[kprobe(function = "__x64_sys_accept")]
fn accept_kprobe(ctx: ProbeContext) -> u32 {
    called(&ctx);
    0
}

/// What the current thread's accept call asked for.
#[inline(always)]
pub(crate) fn call() -> Option<Call> {
    let call = CALLS.get_ptr(bpf_get_current_pid_tgid())?;
    // SAFETY: the entry is this thread's own, and outlives the program's run (RCU).
    Some(unsafe { call.read() })
}

#[inline(always)]
fn note(call: Call) {
    // A full table evicts; it does not fail.
    let _ = CALLS.insert(bpf_get_current_pid_tgid(), call, 0);
}

#[inline(always)]
fn entered(ctx: &TracePointContext) {
    let record = ctx.as_ptr().cast::<u8>().cast_const();
    // SAFETY: the offsets are those of the tracepoint's record; the helper reports a fault instead of faulting.
    unsafe {
        let descriptor = Probed::read(record, offset!(accept_enter_fd));
        let peer = Probed::read(record, offset!(accept_enter_peer));
        let room: u64 = Probed::read(record, offset!(accept_enter_room));
        let room = bpf_probe_read_user(room as *const u32).unwrap_or_default();
        note(Call { descriptor, peer, room, reserved: 0 });
    }
}

/// The function's argument is the caller's `struct pt_regs`.
#[inline(always)]
fn called(ctx: &ProbeContext) {
    // SAFETY: the context is a `struct pt_regs`; reads of it and of the caller's are probed.
    unsafe {
        let regs: usize = Probed::read(ctx.as_ptr().cast::<u8>(), offset!(regs_argument_1));
        note(Call { descriptor: descriptor(regs as *const u8) as u64, peer: 0, room: 0, reserved: 0 });
    }
}
