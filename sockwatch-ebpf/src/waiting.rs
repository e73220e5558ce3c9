//! The waiting room: what happened to sockets that a filter cannot decide on yet.
//!
//! A connecting socket has no local port at `CLOSE` to `SYN_SENT`, and an accepted child's owner is only known at
//! accept. Their first transitions wait here, outside the ring buffer, and are emitted with their own times
//! once the socket passes; so a matching socket is never half-filtered and others cost no reserve.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
};
use sockwatch_common::{Birth, Close, Counter, Enqueue, Head, Kind, Task};

use crate::{
    emit::{count, now_ns, reserve},
    filter::{self, Known, UNKNOWN},
    memory::{Memory, Probed, offset},
    socket::{CLOSE, LISTEN, SYN_RECV, SYN_SENT, Socket, fill_comm},
};

/// Transitions that a socket can have before it is decided on: birth, established, the client's FIN or RST, close.
const STEPS: usize = 6;

#[repr(C)]
#[derive(Clone, Copy)]
struct Step {
    at_ns: u64,
    old: u8,
    new: u8,
    reserved: [u8; 6],
}

/// One undecided socket.
#[repr(C)]
#[derive(Clone, Copy)]
struct Guest {
    steps: [Step; STEPS],
    count: u32,
    /// The opener of a connecting socket.
    pid: u32,
    tid: u32,
    /// Queue depth and limit at a child's birth.
    depth: u32,
    limit: u32,
    synack_retransmits: u32,
    comm: [u8; 16],
    /// When the child entered the accept queue; 0 if it has not, or nothing told.
    enqueued_ns: u64,
    listener: u64,
    synack_us: u64,
}

/// A guest that has not come. It is filled in place: kernels before 6.8 round every frame of the stack up to 32 bytes, and one
/// built on it would not fit.
static VACANT: Guest = Guest {
    steps: [Step { at_ns: 0, old: 0, new: 0, reserved: [0; 6] }; STEPS],
    count: 0,
    pid: 0,
    tid: 0,
    depth: 0,
    limit: 0,
    synack_retransmits: 0,
    comm: [0; 16],
    enqueued_ns: 0,
    listener: 0,
    synack_us: 0,
};

/// By the socket's address: an entry is removed when the socket is decided on or destroyed. The agent sizes it.
#[btf_map]
static WAITING: LruHashMap<u64, Guest, 16384> = LruHashMap::new();

/// Whether the kernel has shown a child without a remote end (1) or not (0): only then children wait for their tuple.
#[btf_map]
static BARE_BIRTHS: Array<u32, 1> = Array::new();

/// Whether this transition may find an entry: looking costs a hash lookup, so what cannot wait is told apart first.
#[inline(always)]
pub(crate) fn may_hold<M: Memory>(socket: &Socket<M>, old: u8) -> bool {
    if filter::by_task() {
        return true;
    }
    if !filter::by_tuple() {
        return false;
    }
    if old == SYN_SENT {
        // The opening was decided on without the local port; it waits only if that was not enough.
        let known = Known { local_port: false, remote: true };
        return filter::tuple(socket, known) == UNKNOWN;
    }
    old == SYN_RECV && BARE_BIRTHS.get(0).is_some_and(|seen| *seen != 0)
}

/// Not waiting.
pub(crate) const ABSENT: u32 = 0;
/// A child, which waits for its acceptor or its tuple.
pub(crate) const CHILD: u32 = 1;
/// A connecting socket, which waits for its local port.
pub(crate) const OPENER: u32 = 2;

/// What waits for this socket. One lookup: another CPU's accept may dismiss a child at any time.
#[inline(always)]
pub(crate) fn guest<M: Memory>(socket: &Socket<M>) -> u32 {
    match WAITING.get_ptr(socket.address()) {
        // SAFETY: the entry outlives the program's run (RCU).
        Some(guest) if unsafe { (*guest).steps[0].old } == LISTEN => CHILD,
        Some(_) => OPENER,
        None => ABSENT,
    }
}

/// Lets a socket in with its first transition.
#[inline(never)]
pub(crate) fn admit<M: Memory>(socket: &Socket<M>, old: u8, new: u8) {
    if old == LISTEN && socket.remote_port() == 0 && BARE_BIRTHS.set(0, 1, 0).is_err() {
        count(Counter::WaitingRoomFull);
    }
    let _ = WAITING.remove(socket.address());
    // By reference: a value would be copied to the stack first.
    let vacant: &Guest = &VACANT;
    if WAITING.insert(socket.address(), vacant, u64::from(BPF_NOEXIST)).is_err() {
        count(Counter::WaitingRoomFull);
        return;
    }
    let Some(guest) = WAITING.get_ptr_mut(socket.address()) else { return };
    let task = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    // SAFETY: the entry outlives the program's run (RCU); the socket's own lock orders its transitions.
    unsafe {
        (&raw mut (*guest).steps).cast::<Step>().write(Step { at_ns: now_ns(), old, new, reserved: [0; 6] });
        (*guest).count = 1;
        (*guest).pid = (task >> 32) as u32;
        (*guest).tid = task as u32;
        (*guest).depth = socket.field(offset!(sk_ack_backlog));
        (*guest).limit = socket.field(offset!(sk_max_ack_backlog));
        fill_comm(&raw mut (*guest).comm);
    }
}

/// Adds a transition to a waiting socket.
#[inline(always)]
pub(crate) fn append<M: Memory>(socket: &Socket<M>, old: u8, new: u8) {
    let Some(guest) = WAITING.get_ptr_mut(socket.address()) else { return };
    // SAFETY: the entry outlives the program's run; the socket's own lock orders its transitions.
    unsafe {
        let at = (*guest).count as usize;
        if at >= STEPS {
            count(Counter::WaitingRoomFull);
            return;
        }
        let step = (&raw mut (*guest).steps).cast::<Step>().add(at);
        step.write(Step { at_ns: now_ns(), old, new, reserved: [0; 6] });
        (*guest).count = at as u32 + 1;
    }
}

/// Notes that a waiting child entered the accept queue.
#[inline(always)]
pub(crate) fn note_enqueue<M: Memory>(socket: &Socket<M>, listener: u64, synack_us: u64, synack_retransmits: u32) {
    let Some(guest) = WAITING.get_ptr_mut(socket.address()) else { return };
    // SAFETY: the entry outlives the program's run.
    unsafe {
        (*guest).enqueued_ns = now_ns();
        (*guest).listener = listener;
        (*guest).synack_us = synack_us;
        (*guest).synack_retransmits = synack_retransmits;
    }
}

/// Forgets a socket that was rejected or destroyed.
#[inline(always)]
pub(crate) fn dismiss<M: Memory>(socket: &Socket<M>) {
    let _ = WAITING.remove(socket.address());
}

/// Emits everything that waited for the socket at this address, then forgets it. Seldom, so probed reads do.
#[inline(never)]
pub(crate) fn release(at: *const u8) {
    // SAFETY: the caller holds the socket; reads of it are probed.
    let Some(socket) = (unsafe { Socket::<Probed>::full(at) }) else { return };
    let socket = &socket;
    let Some(guest) = WAITING.get_ptr(socket.address()) else { return };
    let cookie = socket.cookie();
    for index in 0..STEPS {
        // SAFETY: the entry outlives the program's run (RCU); the index is below the array's length.
        unsafe {
            if index as u32 >= (*guest).count {
                break;
            }
            let step = (&raw const (*guest).steps).cast::<Step>().add(index).read();
            emit_step(socket, guest, step, cookie);
        }
    }
    // SAFETY: as above.
    unsafe { emit_enqueue(socket, guest, cookie) };
    dismiss(socket);
}

/// # Safety
/// `guest` points to a live map entry.
#[inline(always)]
unsafe fn emit_step(socket: &Socket<Probed>, guest: *const Guest, step: Step, cookie: u64) {
    let states = (step.old, step.new);
    // SAFETY: the records are reserved for what is filled; the entry is live.
    unsafe {
        if step.old == LISTEN && step.new == SYN_RECV {
            let Some(mut record) = reserve::<Birth>() else { return };
            let birth = record.as_mut_ptr();
            socket.fill_head(&raw mut (*birth).head, Kind::Birth as u8, step.at_ns, cookie, states, (*guest).depth);
            (&raw mut (*birth).limit).write((*guest).limit);
            (&raw mut (*birth).reserved).write(0);
            record.submit();
        } else if step.new == SYN_SENT {
            let Some(mut record) = reserve::<Task>() else { return };
            let task = record.as_mut_ptr();
            socket.fill_head(&raw mut (*task).head, Kind::TaskTransition as u8, step.at_ns, cookie, states, 0);
            (&raw mut (*task).head.pid).write((*guest).pid);
            (&raw mut (*task).head.tid).write((*guest).tid);
            (&raw mut (*task).comm).write((*guest).comm);
            record.submit();
        } else if step.new == CLOSE {
            let Some(mut record) = reserve::<Close>() else { return };
            let close = record.as_mut_ptr();
            socket.fill_head(&raw mut (*close).head, Kind::Close as u8, step.at_ns, cookie, states, 0);
            fill_comm(&raw mut (*close).comm);
            // The acceptor's view of the socket may be a copy of its common part.
            socket.probed().fill_evidence(close);
            record.submit();
        } else {
            let Some(mut record) = reserve::<Head>() else { return };
            socket.fill_head(record.as_mut_ptr(), Kind::Transition as u8, step.at_ns, cookie, states, 0);
            record.submit();
        }
    }
}

/// # Safety
/// `guest` points to a live map entry.
#[inline(always)]
unsafe fn emit_enqueue(socket: &Socket<Probed>, guest: *const Guest, cookie: u64) {
    // SAFETY: as the caller promised; `emit` hands out a reserved record.
    unsafe {
        if (*guest).enqueued_ns == 0 {
            return;
        }
        let Some(mut record) = reserve::<Enqueue>() else { return };
        let enqueue = record.as_mut_ptr();
        let state = socket.state();
        let head = &raw mut (*enqueue).head;
        socket.fill_head(head, Kind::Enqueue as u8, (*guest).enqueued_ns, cookie, (state, state), (*guest).depth);
        (&raw mut (*enqueue).listener).write((*guest).listener);
        (&raw mut (*enqueue).synack_us).write((*guest).synack_us);
        (&raw mut (*enqueue).limit).write((*guest).limit);
        (&raw mut (*enqueue).synack_retransmits).write((*guest).synack_retransmits);
        record.submit();
    }
}
