//! What the accept system calls and io_uring returned: failures always, the descriptor where another hook saw the
//! accept, and the accept itself where the kernel lets nothing attach to `inet_csk_accept`.
//!
//! EMFILE never reaches `inet_csk_accept`: accept4 reserves the descriptor first.

use aya_ebpf::{
    EbpfContext,
    btf_maps::Array,
    helpers::generated,
    macros::{btf_map, fexit, kretprobe, tracepoint},
    programs::{FExitContext, RetProbeContext, TracePointContext},
};
use sockwatch_common::{Kind, SYSCALL_ACCEPTS_ONLY, SYSCALL_DESCRIPTORS};

use super::{
    accept::{emit_accept, report},
    accept_entry::call,
};
use crate::{
    filter::{self, ALL_KNOWN, PASS},
    memory::{Memory, Probed, offset, setting},
    socket::{LISTEN, Room, Socket},
    tally,
};

/// What the exits of the system calls report: one of the `SYSCALL_*`. The agent knows once it has attached.
#[btf_map]
static ACCEPT_EXITS: Array<u32, 1> = Array::new();

const IPPROTO_MPTCP: u16 = 262;

/// Not failures: nothing to accept (EAGAIN), interrupted (EINTR, ERESTARTSYS to ERESTART_RESTARTBLOCK), cancelled.
const EINTR: i64 = 4;
const EAGAIN: i64 = 11;
const ECANCELED: i64 = 125;
const ERESTARTSYS: i64 = 512;
const ERESTART_RESTARTBLOCK: i64 = 516;

#[tracepoint(category = "syscalls", name = "sys_exit_accept4")]
fn accept4_exit(ctx: TracePointContext) -> u32 {
    syscall_exit(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept")]
fn accept_exit(ctx: TracePointContext) -> u32 {
    syscall_exit(&ctx);
    0
}

/// The system call's own function: cold, unlike its tracepoint, which slows every system call of every task.
#[fexit(function = "__x64_sys_accept4")]
fn accept4_fexit(ctx: FExitContext) -> i32 {
    // SAFETY: the argument is the caller's `struct pt_regs`; reads of it are probed.
    exited(SYSCALL_DESCRIPTORS, ctx.arg::<i64>(1), || unsafe { descriptor(ctx.arg(0)) });
    0
}

#[fexit(function = "__x64_sys_accept")]
fn accept_fexit(ctx: FExitContext) -> i32 {
    // SAFETY: as above.
    exited(SYSCALL_DESCRIPTORS, ctx.arg::<i64>(1), || unsafe { descriptor(ctx.arg(0)) });
    0
}

#[kretprobe(function = "__x64_sys_accept4")]
fn accept4_kretprobe(ctx: RetProbeContext) -> u32 {
    syscall_return(&ctx);
    0
}

#[kretprobe(function = "__x64_sys_accept")]
fn accept_return_kretprobe(ctx: RetProbeContext) -> u32 {
    syscall_return(&ctx);
    0
}

/// `IORING_OP_ACCEPT` of single-shot accepts; multishot completions carry no request, direct descriptors no fd.
#[tracepoint(category = "io_uring", name = "io_uring_complete")]
fn accept_io_uring(ctx: TracePointContext) -> u32 {
    const IORING_OP_ACCEPT: u8 = 13;
    let record = ctx.as_ptr().cast::<u8>().cast_const();
    // SAFETY: the offsets are those of the tracepoint's record; reads of the request are probed.
    unsafe {
        let request: usize = Probed::read(record, offset!(io_complete_req));
        if request == 0 || Probed::read::<u8>(request as *const u8, offset!(req_opcode)) != IORING_OP_ACCEPT {
            return 0;
        }
        let result: i32 = Probed::read(record, offset!(io_complete_res));
        let file: usize = Probed::read(request as *const u8, offset!(req_file));
        if result < 0 {
            if is_failure(i64::from(result)) {
                failed(i64::from(result), address_of_file(file as *const u8));
            }
        } else {
            succeeded(reports(), result, || -1);
        }
    }
    0
}

#[inline(always)]
fn syscall_exit(ctx: &TracePointContext) {
    let record = ctx.as_ptr().cast::<u8>().cast_const();
    // SAFETY: the offset is that of the tracepoint's record.
    let result: i64 = unsafe { Probed::read(record, offset!(accept_exit_ret)) };
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "accept returns {}", result);
    exited(reports(), result, current_descriptor);
}

#[inline(always)]
fn syscall_return(ctx: &RetProbeContext) {
    // SAFETY: the context is a `struct pt_regs`; reads of it are probed.
    let result: i64 = unsafe { Probed::read(ctx.as_ptr().cast::<u8>(), offset!(regs_return)) };
    exited(SYSCALL_DESCRIPTORS, result, current_descriptor);
}

#[inline(always)]
fn reports() -> u32 {
    ACCEPT_EXITS.get(0).copied().unwrap_or(SYSCALL_DESCRIPTORS)
}

/// The first argument of the current system call, noted at its entry where the kernel cannot tell; -1 where nothing is.
#[inline(always)]
fn current_descriptor() -> i32 {
    if setting!(has_task_pt_regs) == 0 {
        return call().map_or(-1, |call| call.descriptor as i32);
    }
    // SAFETY: the current task exists; reads of its registers are probed.
    unsafe {
        let task = generated::bpf_get_current_task_btf();
        descriptor(generated::bpf_task_pt_regs(task) as *const u8)
    }
}

/// # Safety
/// `regs` is a `struct pt_regs`.
#[inline(always)]
pub(crate) unsafe fn descriptor(regs: *const u8) -> i32 {
    // SAFETY: as the caller promised; the read is probed.
    unsafe { Probed::read::<u64>(regs, offset!(regs_syscall_argument_1)) as i32 }
}

#[inline(always)]
fn exited(reports: u32, result: i64, listener: impl Fn() -> i32) {
    if result >= 0 {
        succeeded(reports, result as i32, listener);
    } else if reports != SYSCALL_ACCEPTS_ONLY && is_failure(result) {
        failed(result, address_of_descriptor(listener()));
    }
}

#[inline(always)]
fn succeeded(reports: u32, descriptor: i32, listener: impl Fn() -> i32) {
    // SAFETY: reads are probed, and what is no child is in no queue.
    if tally::is_on() && (reports == SYSCALL_DESCRIPTORS || tally::took(unsafe { likely_address(descriptor) }, 0)) {
        return;
    }
    let mut room = Room::EMPTY;
    // SAFETY: the address comes from the descriptor's file; reads of it are probed.
    let Some(child) = (unsafe { Socket::copy(address_of_descriptor(descriptor), &mut room) }) else { return };
    let kind = if reports == SYSCALL_DESCRIPTORS { Kind::AcceptReturn } else { Kind::Accept };
    // The listener is known from the enqueue, or by its port: looking it up here would double the cost. Where connections are
    // counted this is one of several listeners at one place.
    let listener = if tally::is_on() { cookie_of_descriptor(listener()) } else { 0 };
    report(&child, listener, kind, descriptor as u32);
}

/// The cookie of the socket behind a descriptor; 0 if it is none.
#[inline(always)]
fn cookie_of_descriptor(descriptor: i32) -> u64 {
    // SAFETY: the address comes from the descriptor's file; reads of it are probed.
    let socket = unsafe { Socket::<Probed>::full(address_of_descriptor(descriptor)) };
    socket.map_or(0, |socket| socket.raw_cookie())
}

/// Nothing to accept, or interrupted, is no failure.
#[inline(always)]
fn is_failure(result: i64) -> bool {
    let errno = -result;
    errno != EAGAIN && errno != EINTR && errno != ECANCELED && !(ERESTARTSYS..=ERESTART_RESTARTBLOCK).contains(&errno)
}

#[inline(always)]
fn failed(result: i64, listener: *const u8) {
    // SAFETY: the address comes from a file; reads of it are probed.
    let listener = unsafe { Socket::<Probed>::full(listener) };
    let Some(listener) = listener else { return };
    if listener.state() != LISTEN || filter::tuple(&listener, ALL_KNOWN) != PASS {
        return;
    }
    if filter::by_task() && !filter::task_matches() && !filter::is_member(&listener) {
        return;
    }
    emit_accept(&listener, listener.raw_cookie(), Kind::AcceptReturn, result as u32);
}

/// The same of a descriptor that was a socket's a moment ago, with half of the reads.
///
/// # Safety
/// What comes of it must be checked.
#[inline(always)]
unsafe fn likely_address(descriptor: i32) -> *const u8 {
    // SAFETY: every read is probed.
    unsafe {
        let task = generated::bpf_get_current_task() as *const u8;
        let files: usize = Probed::read(task, offset!(task_files));
        let table: usize = Probed::read(files as *const u8, offset!(files_fdt));
        let descriptors: usize = Probed::read(table as *const u8, offset!(fdt_fd));
        let file: usize = Probed::read(descriptors as *const u8, descriptor as u32 * size_of::<usize>() as u32);
        let socket: usize = Probed::read(file as *const u8, offset!(file_private_data));
        Probed::read::<usize>(socket as *const u8, offset!(socket_sk)) as *const u8
    }
}

/// The address of the socket behind a descriptor of the current task; null if it is none.
#[inline(always)]
fn address_of_descriptor(descriptor: i32) -> *const u8 {
    if descriptor < 0 {
        return core::ptr::null();
    }
    // SAFETY: the chain starts at the current task, whose files cannot go away under it; every read is probed.
    unsafe {
        let task = generated::bpf_get_current_task() as *const u8;
        let files: usize = Probed::read(task, offset!(task_files));
        let table: usize = Probed::read(files as *const u8, offset!(files_fdt));
        let limit: u32 = Probed::read(table as *const u8, offset!(fdt_max_fds));
        if descriptor as u32 >= limit {
            return core::ptr::null();
        }
        let descriptors: usize = Probed::read(table as *const u8, offset!(fdt_fd));
        let file: usize = Probed::read(descriptors as *const u8, descriptor as u32 * size_of::<usize>() as u32);
        address_of_file(file as *const u8)
    }
}

/// The address of the socket behind a file. Other files' private data is told apart by `socket->file` pointing back.
///
/// # Safety
/// `file` is a `struct file` or null.
#[inline(always)]
unsafe fn address_of_file(file: *const u8) -> *const u8 {
    // SAFETY: as the caller promised; every read is probed.
    unsafe {
        let socket: usize = Probed::read(file, offset!(file_private_data));
        if socket == 0 || Probed::read::<usize>(socket as *const u8, offset!(socket_file)) != file as usize {
            return core::ptr::null();
        }
        first_subflow(Probed::read::<usize>(socket as *const u8, offset!(socket_sk)) as *const u8)
    }
}

/// What an accept queue holds of an MPTCP connection; any other socket is its own.
///
/// # Safety
/// `sk` is a `struct sock` or null.
#[inline(always)]
unsafe fn first_subflow(sk: *const u8) -> *const u8 {
    // SAFETY: as the caller promised; every read is probed.
    unsafe {
        if Probed::read::<u16>(sk, offset!(sk_protocol)) != IPPROTO_MPTCP {
            return sk;
        }
        Probed::read::<usize>(sk, offset!(mptcp_first)) as *const u8
    }
}
