//! What the threads of a few processes do: `sched_switch`, `sched_wakeup`, and samples of what runs. Attached only while somebody
//! wants to know what keeps a thread from accept().
//!
//! A thread's state is kept from the switch that takes it off its CPU to the one that brings it back, since only then is it known
//! how long that was, and only what was long is worth its stacks. Its own stack can only be read while it is the current
//! task, so it is copied whenever it leaves; its kernel stack stands still until it is back. Short pauses are summed up: a thread
//! that switches a hundred thousand times a second is told of a thousand times.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    btf_maps::{Array, HashMap, RingBuf},
    helpers::generated,
    macros::{btf_map, btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use sockwatch_common::{
    Counter, FirstRead, KERNEL_FRAMES, LONG_PAUSE_NS, Pause, Stacked, ThreadKind, USER_STACK_BYTES,
};

use crate::{
    emit::{count, now_ns},
    memory::{Direct, Memory, Probed, offset, setting},
};

/// The processes that are watched. The agent fills it.
#[btf_map]
static WATCHED: HashMap<u32, u8, 1> = HashMap::new();

/// What is known of their threads.
#[btf_map]
static THREADS: HashMap<u32, Stacked, 1> = HashMap::new();

/// A thread of which nothing is known: too large for a program's stack.
#[btf_map]
static BLANK_THREAD: Array<Stacked, 1> = Array::new();

/// [`Pause`]s, with stacks if they were long, and [`FirstRead`]s. One for all CPUs: only a few threads write to it, and who
/// reads first from a connection.
#[btf_map]
static PAUSES: RingBuf<(), 4096> = RingBuf::new();

/// `TASK_DEAD`.
const DEAD: u32 = 0x80;

const KERNEL_BYTES: u32 = (8 * KERNEL_FRAMES) as u32;

/// Arguments: (preempt, prev, next).
#[btf_tracepoint(function = "sched_switch")]
fn thread_switch(ctx: BtfTracePointContext) -> i32 {
    let (previous, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    let is_preempted = ctx.arg::<u64>(0) as u8 != 0;
    if is_watched(previous) {
        leave(previous, is_preempted);
    }
    if is_watched(next) {
        enter(next);
    }
    0
}

/// Argument: the task.
#[btf_tracepoint(function = "sched_wakeup")]
fn thread_wakeup(ctx: BtfTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    if is_watched(task)
        && let Some(thread) = THREADS.get_ptr_mut(tid(task))
    {
        // SAFETY: the entry outlives the run; a thread that is woken stands still.
        let pause = unsafe { &mut (*thread).pause };
        if pause.on_ns == 0 && pause.state != 0 && pause.woken_ns == 0 {
            pause.woken_ns = now_ns();
        }
    }
    0
}

/// Each CPU, so many times a second, if it is not idle.
#[perf_event]
fn thread_sample(ctx: PerfEventContext) -> u32 {
    // SAFETY: the helper has no preconditions.
    let ids = unsafe { generated::bpf_get_current_pid_tgid() };
    let (pid, tid) = ((ids >> 32) as u32, ids as u32);
    if WATCHED.get_ptr(pid).is_none() {
        return 0;
    }
    let Some(mut record) = PAUSES.reserve_untyped::<Stacked>(0) else {
        count(Counter::ThreadsLost);
        return 0;
    };
    let at_ns = now_ns();
    // SAFETY: the record is reserved for a `Stacked`; what is not filled is told by the lengths.
    unsafe {
        let stacked: *mut Stacked = record.as_mut_ptr();
        let pause = &mut (*stacked).pause;
        (pause.off_ns, pause.woken_ns, pause.on_ns) = (at_ns, 0, at_ns);
        (pause.pid, pause.tid, pause.kind, pause.state, pause.number) = (pid, tid, ThreadKind::Sample as u32, 0, 0);
        let kernel = (&raw mut (*stacked).kernel).cast();
        let taken = generated::bpf_get_stack(ctx.as_ptr(), kernel, KERNEL_BYTES, 0);
        pause.kernel_bytes = if taken > 0 { taken as u32 } else { 0 };
        // 5.10 has neither helper.
        let has_helpers = setting!(has_task_pt_regs) != 0;
        let task = if has_helpers { generated::bpf_get_current_task_btf() } else { core::ptr::null_mut() };
        own_stack(stacked, task.cast());
    }
    record.submit(u64::from(BPF_RB_NO_WAKEUP));
    0
}

#[inline(always)]
fn is_watched(task: *const u8) -> bool {
    // SAFETY: the tracepoint's argument is a task.
    let pid: u32 = unsafe { Direct::read(task, offset!(task_tgid)) };
    WATCHED.get_ptr(pid).is_some()
}

#[inline(always)]
fn tid(task: *const u8) -> u32 {
    // SAFETY: the tracepoint's argument is a task.
    unsafe { Direct::read(task, offset!(task_pid)) }
}

/// The current task leaves its CPU.
#[inline(always)]
fn leave(task: *const u8, is_preempted: bool) {
    let tid = tid(task);
    let Some(thread) = known_or_new(tid) else {
        return count(Counter::ThreadsFull);
    };
    // SAFETY: the entry outlives the run, and the thread leaves one CPU at a time. The tracepoint's argument is a task.
    unsafe {
        let pause = &mut (*thread).pause;
        let now_ns = now_ns();
        if pause.on_ns != 0 {
            pause.ran_ns += now_ns - pause.on_ns;
        }
        (pause.off_ns, pause.woken_ns, pause.on_ns) = (now_ns, 0, 0);
        (pause.pid, pause.tid) = (Direct::read(task, offset!(task_tgid)), tid);
        let state = Direct::read::<u32>(task, offset!(task_state));
        pause.state = if is_preempted { 0 } else { state };
        if pause.state & DEAD != 0 {
            pause.kind = ThreadKind::Gone as u32;
            tell(thread, size_of::<Pause>());
            let _gone = THREADS.remove(tid);
            return;
        }
        pause.kind = ThreadKind::Pause as u32;
        own_stack(thread, task.cast_mut().cast());
    }
}

/// The next task on this CPU.
#[inline(always)]
fn enter(task: *const u8) {
    let tid = tid(task);
    let Some(thread) = known_or_new(tid) else {
        return count(Counter::ThreadsFull);
    };
    let now_ns = now_ns();
    // SAFETY: the entry outlives the run, and the thread enters one CPU at a time. The tracepoint's argument is a task.
    unsafe {
        let pause = &mut (*thread).pause;
        if pause.off_ns == 0 {
            (pause.pid, pause.tid) = (Direct::read(task, offset!(task_tgid)), tid);
            pause.kind = ThreadKind::Pause as u32;
        }
        pause.on_ns = now_ns;
        // Of an instant that was not seen this is long ago.
        if now_ns - pause.since_ns >= LONG_PAUSE_NS {
            pause.number = pause.number.wrapping_add(1);
            if pause.off_ns != 0 && now_ns - pause.off_ns >= LONG_PAUSE_NS {
                let kernel = (&raw mut (*thread).kernel).cast();
                let taken = generated::bpf_get_task_stack(task.cast_mut().cast(), kernel, KERNEL_BYTES, 0);
                pause.kernel_bytes = if taken > 0 { taken as u32 } else { 0 };
                tell(thread, size_of::<Stacked>());
            } else {
                tell(thread, size_of::<Pause>());
            }
            (pause.since_ns, pause.ran_ns, pause.blocked_ns, pause.starved_ns) = (now_ns, 0, 0, 0);
        } else {
            let could_run_ns = if pause.state == 0 {
                pause.off_ns
            } else if pause.woken_ns != 0 {
                // The waker's clock is another CPU's.
                pause.woken_ns.min(now_ns)
            } else {
                now_ns
            };
            pause.blocked_ns += could_run_ns - pause.off_ns;
            pause.starved_ns += now_ns - could_run_ns;
        }
        pause.off_ns = 0;
    }
}

#[inline(always)]
fn known_or_new(tid: u32) -> Option<*mut Stacked> {
    if let Some(thread) = THREADS.get_ptr_mut(tid) {
        return Some(thread);
    }
    let blank = BLANK_THREAD.get(0)?;
    let _full = THREADS.insert(tid, blank, 0);
    THREADS.get_ptr_mut(tid)
}

/// Hands out the first bytes of what is known of a thread.
///
/// # Safety
/// `thread` is an entry of the map, and has so many bytes.
#[inline(always)]
unsafe fn tell(thread: *mut Stacked, bytes: usize) {
    let ring = (&raw const PAUSES).cast_mut().cast();
    // SAFETY: as the caller promised.
    let told = unsafe { generated::bpf_ringbuf_output(ring, thread.cast(), bytes as u64, u64::from(BPF_RB_NO_WAKEUP)) };
    if told < 0 {
        count(Counter::ThreadsLost);
    }
}

/// Hands out that somebody was read from.
#[inline(always)]
pub(super) fn tell_read(read: FirstRead) {
    match PAUSES.reserve_untyped::<FirstRead>(0) {
        Some(mut record) => {
            // SAFETY: the record is reserved for it.
            unsafe { record.as_mut_ptr().write(read) };
            record.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(Counter::ThreadsLost),
    }
}

/// Copies the registers of the current task's own code, and its stack.
///
/// # Safety
/// `into` may be written, and `task` is the current task.
#[inline(always)]
unsafe fn own_stack(into: *mut Stacked, task: *mut aya_ebpf::bindings::task_struct) {
    // SAFETY: as the caller promised; all reads are probed.
    unsafe {
        let pause = &mut (*into).pause;
        pause.user_bytes = 0;
        if setting!(has_task_pt_regs) == 0 {
            pause.syscall = -1;
            (pause.ip, pause.sp, pause.bp, pause.lr) = (0, 0, 0, 0);
            return;
        }
        let registers = generated::bpf_task_pt_regs(task) as *const u8;
        pause.ip = Probed::read(registers, offset!(regs_ip));
        pause.sp = Probed::read(registers, offset!(regs_sp));
        pause.bp = Probed::read(registers, offset!(regs_bp));
        pause.lr = Probed::read(registers, offset!(regs_lr));
        pause.syscall = Probed::read(registers, offset!(regs_syscall));
        let (stack, sp) = ((&raw mut (*into).user).cast::<u8>(), pause.sp);
        let mut bytes = 0;
        if copy::<{ USER_STACK_BYTES as u32 }>(stack, sp) {
            bytes = USER_STACK_BYTES as u32;
        } else {
            // It ends before.
            append::<2048>(stack, sp, &mut bytes);
            append::<1024>(stack, sp, &mut bytes);
            append::<512>(stack, sp, &mut bytes);
            append::<256>(stack, sp, &mut bytes);
        }
        pause.user_bytes = bytes;
    }
}

/// # Safety
/// `BYTES` more may be written at `stack`.
#[inline(always)]
unsafe fn append<const BYTES: u32>(stack: *mut u8, sp: u64, bytes: &mut u32) {
    // SAFETY: as the caller promised.
    if unsafe { copy::<BYTES>(stack.add(*bytes as usize), sp + u64::from(*bytes)) } {
        *bytes += BYTES;
    }
}

/// # Safety
/// `BYTES` may be written at `to`.
#[inline(always)]
unsafe fn copy<const BYTES: u32>(to: *mut u8, from: u64) -> bool {
    // SAFETY: as the caller promised; the helper reports a fault instead of faulting.
    unsafe { generated::bpf_probe_read_user(to.cast(), BYTES, from as *const _) == 0 }
}
