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
use sockwatch_common::{Counter, Evidence, Kind, STEPS, Step, Wait, Waited};

use crate::{
    emit::{count, now_ns, reserve},
    filter::{self, Known, UNKNOWN},
    memory::{Memory, Probed},
    socket::{LISTEN, SYN_RECV, SYN_SENT, Socket, fill_comm},
};

/// A guest that has not come. It is filled in place: kernels before 6.8 round every frame of the stack up to 32 bytes, and one
/// built on it would not fit.
static VACANT: Wait = Wait::NOTHING;

/// By the socket's address: an entry is removed when the socket is decided on or destroyed. The agent sizes it.
#[btf_map]
static WAITING: LruHashMap<u64, Wait, 16384> = LruHashMap::new();

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
        Some(guest) if unsafe { (*guest).steps[0].old_state } == LISTEN => CHILD,
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
    let vacant: &Wait = &VACANT;
    if WAITING.insert(socket.address(), vacant, u64::from(BPF_NOEXIST)).is_err() {
        count(Counter::WaitingRoomFull);
        return;
    }
    let Some(guest) = WAITING.get_ptr_mut(socket.address()) else { return };
    let task = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    // SAFETY: the entry outlives the program's run (RCU); the socket's own lock orders its transitions.
    unsafe {
        (&raw mut (*guest).steps).cast::<Step>().write(step(old, new));
        (*guest).count = 1;
        (*guest).pid = (task >> 32) as u32;
        (*guest).tid = task as u32;
        (*guest).depth = socket.queue_depth();
        (*guest).limit = socket.queue_limit();
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
        (&raw mut (*guest).steps).cast::<Step>().add(at).write(step(old, new));
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

#[inline(always)]
fn step(old_state: u8, new_state: u8) -> Step {
    Step { at_ns: now_ns(), old_state, new_state, reserved: [0; 6] }
}

/// Emits everything that waited for this socket, then forgets it.
#[inline(always)]
pub(crate) fn release<M: Memory>(socket: &Socket<M>) {
    if M::READS_SOCKETS { release_at(socket.at) } else { release_recorded(socket) }
}

/// Seldom, so probed reads do.
#[inline(never)]
fn release_at(at: *const u8) {
    // SAFETY: the caller holds the socket; reads of it are probed.
    if let Some(socket) = unsafe { Socket::<Probed>::full(at) } {
        emit_guest(&socket);
    }
}

#[inline(never)]
fn release_recorded<M: Memory>(socket: &Socket<M>) {
    emit_guest(socket);
}

/// One record for all of it: with a record for each step, the verifier of 6.1 walked 740,000 instructions.
#[inline(always)]
fn emit_guest<M: Memory>(socket: &Socket<M>) {
    let Some(guest) = WAITING.get_ptr(socket.address()) else { return };
    if let Some(mut record) = reserve::<Waited>() {
        let waited = record.as_mut_ptr();
        let state = socket.state();
        // SAFETY: the record is reserved for a `Waited`; the entry outlives the program's run (RCU).
        unsafe {
            let head = &raw mut (*waited).head;
            let known = u32::from(M::READS_SOCKETS);
            socket.fill_head(head, Kind::Waited as u8, now_ns(), socket.cookie(), (state, state), known);
            (&raw mut (*waited).wait).write(*guest);
            if M::READS_SOCKETS {
                socket.fill_evidence(&raw mut (*waited).evidence);
            } else {
                (&raw mut (*waited).evidence).write(Evidence::NONE);
            }
        }
        record.submit();
    }
    dismiss(socket);
}
