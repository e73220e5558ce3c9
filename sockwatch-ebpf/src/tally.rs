//! Counts connections by their listeners, where the agent asked for that: no record of each, only of what is rare. All it takes
//! are two hooks, a connection's birth and its accept.

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    helpers::bpf_get_current_pid_tgid,
    macros::btf_map,
};
use sockwatch_common::{
    AcceptorCount, AcceptorKey, BUCKETS, Counter, Histogram, Queued, SPELL_NS, SPELL_STEP_NS, SPELLS, Spell, Tally,
    bucket, place,
};

use crate::{
    emit::{count, now_ns},
    filter::{self, Known, REJECT},
    memory::{Memory, Probed, offset, setting},
    socket::{CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV, Socket, fill_comm},
};

/// Which slot a listener has: by its cookie, or, of all listeners at a port, by [`place`]. The agent fills it.
#[btf_map]
static SLOTS: HashMap<u64, u32, 1> = HashMap::new();

/// The agent sizes it, and all below.
#[btf_map]
static TALLIES: PerCpuArray<Tally, 1> = PerCpuArray::new();

/// Who waits in an accept queue, by address.
#[btf_map]
static WAITERS: HashMap<u64, Queued, 1> = HashMap::new();

#[btf_map]
static ACCEPTORS: HashMap<AcceptorKey, AcceptorCount, 1> = HashMap::new();

/// Whether connections are only counted.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    setting!(tallies) != 0
}

/// A transition, before its new state is stored: a birth, or a client that leaves the queue.
#[inline(always)]
pub(crate) fn transition<M: Memory>(socket: &Socket<M>, old: u8, new: u8) {
    if old == LISTEN && new == SYN_RECV {
        born(socket);
    } else if (new == CLOSE_WAIT || new == CLOSE) && (old == ESTABLISHED || old == CLOSE_WAIT || old == SYN_RECV) {
        // Who was accepted has a `struct socket`, until its process closes it: then it has left these states.
        if socket.field::<usize>(offset!(sk_socket)) == 0 {
            left(socket, old, new);
        }
    }
}

#[inline(always)]
fn born<M: Memory>(child: &Socket<M>) {
    let known = Known { local_port: true, remote: child.remote_port() != 0 };
    if filter::tuple(child, known) == REJECT {
        return;
    }
    // Before it has a remote end it still has its listener's cookie.
    let cookie = if known.remote { 0 } else { child.raw_cookie() };
    let listener = if cookie == 0 { place(child.netns(), child.local_port()) } else { cookie };
    let queued = Queued { born_ns: now_ns(), left_ns: 0, listener, by_fin: 0, reserved: 0 };
    if WAITERS.insert(child.address(), queued, 0).is_err() {
        count(Counter::QueuedFull);
    }
}

/// A listener's slot, by its cookie or its place; 0 if it has none.
#[inline(always)]
fn slot(listener: u64) -> u32 {
    // SAFETY: the entry is a number that the agent writes as a whole.
    unsafe { SLOTS.get(listener) }.copied().unwrap_or(0)
}

#[inline(always)]
fn left<M: Memory>(child: &Socket<M>, old: u8, new: u8) {
    const DEAD: u64 = 1;
    let key = child.address();
    let Some(waiter) = WAITERS.get_ptr_mut(key) else { return };
    // SAFETY: the entry is this connection's, whose transitions come one after the other; a slot is this CPU's own.
    unsafe {
        let Some(tally) = TALLIES.get_ptr_mut(slot((*waiter).listener)) else { return };
        let is_dropped = old == SYN_RECV || child.field::<u64>(offset!(skc_flags)) & DEAD != 0;
        if is_dropped {
            // Never queued, or gone with its listener.
            if old != SYN_RECV {
                add(&raw mut (*tally).removed, 1);
            }
            let _was_there = WAITERS.remove(key);
            return;
        }
        let now_ns = now_ns();
        let by_fin = new == CLOSE_WAIT;
        (*waiter).by_fin = u32::from(by_fin);
        if (*waiter).left_ns == 0 {
            (*waiter).left_ns = now_ns;
            add(if by_fin { &raw mut (*tally).by_fin } else { &raw mut (*tally).by_rst }, 1);
            put(&raw mut (*tally).left, now_ns - (*waiter).born_ns);
        }
    }
}

/// A task has taken a child from its queue; `listener` is its listener's cookie, or 0.
#[inline(always)]
pub(crate) fn accepted<M: Memory>(child: &Socket<M>, listener: u64) {
    let key = child.address();
    // SAFETY: the entry is this connection's, which only its acceptor takes out.
    let waiter = unsafe { WAITERS.get(key) }.copied();
    if waiter.is_some() {
        let _was_there = WAITERS.remove(key);
    }
    if filter::by_task() && !filter::task_matches() {
        return;
    }
    let known = match waiter {
        Some(waiter) if listener == 0 => slot(waiter.listener),
        _ => slot(listener),
    };
    let slot = if known == 0 { slot(place(child.netns(), child.local_port())) } else { known };
    let Some(tally) = TALLIES.get_ptr_mut(slot) else { return };
    let (now_ns, state) = (now_ns(), child.state());
    // SAFETY: the slot is this CPU's own.
    unsafe {
        add(&raw mut (*tally).accepted, 1);
        (&raw mut (*tally).last_accept_ns).write_volatile(now_ns);
        if state == CLOSE_WAIT {
            add(&raw mut (*tally).half_closed, 1);
        } else if state == CLOSE {
            add(&raw mut (*tally).dead, 1);
        }
        match waiter {
            Some(waiter) => {
                let wait_ns = now_ns - waiter.born_ns;
                add(&raw mut (*tally).sum_ns, wait_ns);
                put(&raw mut (*tally).waits, wait_ns);
                if wait_ns > (*tally).longest_ns {
                    (*tally).longest_ns = wait_ns;
                }
                if wait_ns >= SPELL_NS {
                    spell(tally, waiter.born_ns, now_ns);
                }
                handshake(tally, child);
            }
            None => add(&raw mut (*tally).unmeasured, 1),
        }
    }
    count_acceptor(slot);
}

/// The child's first round-trip sample is the time from the first SYN-ACK to its birth, unless one was sent again
/// (`tcp_synack_rtt_meas`). Before accept() nothing is sent that could be acknowledged.
///
/// # Safety
/// `tally` is a slot.
#[inline(always)]
unsafe fn handshake<M: Memory>(tally: *mut Tally, child: &Socket<M>) {
    // SAFETY: the child is a TCP socket, whose reads are probed.
    unsafe {
        let (srtt_us, retransmits): (u32, u32) =
            (Probed::read(child.at, offset!(srtt_us)), Probed::read(child.at, offset!(total_retrans)));
        if retransmits != 0 {
            add(&raw mut (*tally).retransmitted, 1);
        } else if srtt_us != 0 {
            put(&raw mut (*tally).handshakes, u64::from(srtt_us >> 3) * 1000);
        }
    }
}

/// # Safety
/// `tally` is a slot.
#[inline(always)]
unsafe fn spell(tally: *mut Tally, from_ns: u64, to_ns: u64) {
    // SAFETY: as the caller promised; the index is masked.
    unsafe {
        let number = (*tally).spells;
        let last_ns = (*tally).recent[(number.wrapping_sub(1) % SPELLS as u64) as usize].to_ns;
        if to_ns >= last_ns + SPELL_STEP_NS {
            (*tally).recent[(number % SPELLS as u64) as usize] = Spell { from_ns, to_ns };
            (&raw mut (*tally).spells).write_volatile(number + 1);
        }
    }
}

#[inline(always)]
fn count_acceptor(slot: u32) {
    let ids = bpf_get_current_pid_tgid();
    let key = AcceptorKey { slot, tid: ids as u32 };
    if let Some(acceptor) = ACCEPTORS.get_ptr_mut(key) {
        // SAFETY: the entry outlives the run, and a thread accepts one connection at a time.
        return unsafe { add(&raw mut (*acceptor).accepted, 1) };
    }
    let mut acceptor = AcceptorCount { accepted: 1, pid: (ids >> 32) as u32, reserved: 0, comm: [0; 16] };
    // SAFETY: it is ours.
    unsafe { fill_comm(&raw mut acceptor.comm) };
    if ACCEPTORS.insert(key, acceptor, 0).is_err() {
        count(Counter::AcceptorsFull);
    }
}

/// # Safety
/// `counter` may be written, and is this CPU's or this thread's own.
#[inline(always)]
unsafe fn add(counter: *mut u64, by: u64) {
    // SAFETY: as the caller promised.
    unsafe { counter.write_volatile(counter.read_volatile().wrapping_add(by)) };
}

/// # Safety
/// `histogram` is this CPU's own.
#[inline(always)]
unsafe fn put(histogram: *mut Histogram, ns: u64) {
    let index = bucket(ns);
    // The compiler knows its bounds and would leave out the check, which the verifier wants to see.
    // SAFETY: a local variable.
    let index = unsafe { core::ptr::read_volatile(&raw const index) };
    if index < BUCKETS {
        // SAFETY: as the caller promised, and the index is within.
        unsafe {
            let slot = histogram.cast::<u32>().add(index);
            slot.write_volatile(slot.read_volatile().wrapping_add(1));
        }
    }
}
