//! Counts connections by their listeners, where the agent asked for that: no record of each, only of what is rare. All it takes
//! are two hooks, a connection's birth and its accept.

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    helpers::bpf_get_current_pid_tgid,
    macros::btf_map,
};
use sockwatch_common::{
    AcceptorCount, AcceptorKey, BUCKETS, Counter, Histogram, Queued, SPELL_NS, SPELL_STEP_NS, SPELLS, Spell, Tally,
    bucket, is_place, place,
};

use crate::{
    emit::{count, now_ns},
    filter::{self, ALL_KNOWN, Known, PASS, REJECT},
    memory::{Memory, Probed, offset, setting},
    socket::{CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV, Socket, fill_comm},
};

/// Which slot a listener has: by its cookie, or, if no other is there, by its [`place`]. The agent fills it.
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

/// Whether this transition may be a birth, a listener's, or a client's that leaves the queue. Most are none of these.
#[inline(always)]
pub(crate) fn concerns(old: u8, new: u8) -> bool {
    old == LISTEN || new == LISTEN || leaves(old, new)
}

/// Who was not accepted yet goes this way.
#[inline(always)]
fn leaves(old: u8, new: u8) -> bool {
    (new == CLOSE_WAIT || new == CLOSE) && (old == ESTABLISHED || old == CLOSE_WAIT || old == SYN_RECV)
}

/// A transition, before its new state is stored.
#[inline(always)]
pub(crate) fn transition<M: Memory>(socket: &Socket<M>, old: u8, new: u8) {
    if old == LISTEN && new == SYN_RECV {
        born(socket);
    } else if leaves(old, new) && socket.field::<usize>(offset!(sk_socket)) == 0 {
        // Who was accepted has a `struct socket`, until its process closes it: then it has left these states.
        left(socket, old, new);
    }
}

#[inline(always)]
fn born<M: Memory>(child: &Socket<M>) {
    let known = Known { local_port: true, remote: child.remote_port() != 0 };
    let verdict = filter::tuple(child, known);
    if verdict == REJECT {
        return;
    }
    // Before it has a remote end it still has its listener's cookie.
    let cookie = if known.remote { 0 } else { child.raw_cookie() };
    let (netns, port, is_inet6) = (child.netns(), child.local_port(), child.is_inet6());
    let address = if is_inet6 {
        [child.local_v6(0), child.local_v6(1)]
    } else {
        [u64::from(child.field::<u32>(offset!(skc_rcv_saddr))), 0]
    };
    let listener = if cookie == 0 { place(netns, is_inet6, address, port) } else { cookie };
    let anywhere = place(netns, is_inet6, [0; 2], port);
    let queued = Queued {
        born_ns: now_ns(),
        left_ns: 0,
        listener,
        anywhere,
        by_fin: 0,
        is_ours: u32::from(verdict == PASS),
        depth: child.queue_depth(),
        reserved: 0,
    };
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

/// The same of whoever waits in its queue. A place that several listeners share has slot 0: whose it is only its accept tells. A
/// cookie is one listener's: nobody else at its port.
#[inline(always)]
fn slot_of(waiter: &Queued) -> u32 {
    // SAFETY: as above.
    match unsafe { SLOTS.get(waiter.listener) }.copied() {
        Some(slot) => slot,
        None if is_place(waiter.listener) => slot(waiter.anywhere),
        None => 0,
    }
}

#[inline(always)]
fn left<M: Memory>(child: &Socket<M>, old: u8, new: u8) {
    const DEAD: u64 = 1;
    let key = child.address();
    let Some(waiter) = WAITERS.get_ptr_mut(key) else { return };
    // SAFETY: the entry is this connection's, whose transitions come one after the other; a slot is this CPU's own.
    unsafe {
        let Some(tally) = TALLIES.get_ptr_mut(slot_of(&*waiter)) else { return };
        // Who is reset by its client has an error by now, or by a timeout; who goes with its listener is disconnected without one.
        let is_dropped = old == SYN_RECV
            || child.field::<u64>(offset!(skc_flags)) & DEAD != 0
            || new == CLOSE && child.field::<u32>(offset!(sk_err)) == 0;
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

/// A task has taken the child at this address from its queue; `listener` is its listener's cookie, or 0. Returns whether that is
/// all there is to know: the child was seen to be born, and the filter lets it in.
#[inline(always)]
pub(crate) fn took(child: *const u8, listener: u64) -> bool {
    let key = child as u64;
    // SAFETY: the entry is this connection's, which only its acceptor takes out.
    let Some(waiter) = (unsafe { WAITERS.get(key) }).copied() else { return false };
    let slot = if listener == 0 { slot_of(&waiter) } else { slot(listener) };
    if waiter.is_ours == 0 || slot == 0 {
        return false;
    }
    let _was_there = WAITERS.remove(key);
    if !filter::by_task() || filter::task_matches() {
        count_accept(slot, child, Some(waiter));
    }
    true
}

/// The same of any child.
#[inline(always)]
pub(crate) fn accepted<M: Memory>(child: &Socket<M>, listener: u64) {
    if took(child.at, listener) {
        return;
    }
    let key = child.address();
    // SAFETY: as above.
    let waiter = unsafe { WAITERS.get(key) }.copied();
    if waiter.is_some() {
        let _was_there = WAITERS.remove(key);
    }
    if filter::tuple(child, ALL_KNOWN) != PASS || filter::by_task() && !filter::task_matches() {
        return;
    }
    let slot = match &waiter {
        Some(waiter) if listener == 0 => slot_of(waiter),
        _ => slot(listener),
    };
    count_accept(slot, child.at, waiter);
}

#[inline(always)]
fn count_accept(slot: u32, child: *const u8, waiter: Option<Queued>) {
    let Some(tally) = TALLIES.get_ptr_mut(slot) else { return };
    let now_ns = now_ns();
    // SAFETY: the slot is this CPU's own.
    unsafe {
        add(&raw mut (*tally).accepted, 1);
        (&raw mut (*tally).last_accept_ns).write_volatile(now_ns);
        if let Some(waiter) = waiter {
            if waiter.left_ns != 0 {
                let arrival = if waiter.by_fin != 0 { &raw mut (*tally).half_closed } else { &raw mut (*tally).dead };
                add(arrival, 1);
            }
            let wait_ns = now_ns - waiter.born_ns;
            add(&raw mut (*tally).sum_ns, wait_ns);
            put(&raw mut (*tally).waits, wait_ns);
            if wait_ns > (*tally).longest_ns {
                (*tally).longest_ns = wait_ns;
            }
            let depth = u64::from(waiter.depth) + 1;
            if depth > (*tally).deepest {
                (*tally).deepest = depth;
            }
            if wait_ns >= SPELL_NS {
                spell(tally, waiter.born_ns, now_ns);
            }
            handshake(tally, child);
        } else {
            add(&raw mut (*tally).unmeasured, 1);
        }
    }
    count_acceptor(slot);
}

/// The child's first round-trip sample is the time from the first SYN-ACK to its birth, unless one was sent again
/// (`tcp_synack_rtt_meas`). Before accept() nothing is sent that could be acknowledged.
///
/// # Safety
/// `tally` is a slot, and `child` a TCP socket.
#[inline(always)]
unsafe fn handshake(tally: *mut Tally, child: *const u8) {
    // SAFETY: as the caller promised; the reads are probed.
    unsafe {
        let (srtt_us, retransmits): (u32, u32) =
            (Probed::read(child, offset!(srtt_us)), Probed::read(child, offset!(total_retrans)));
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
