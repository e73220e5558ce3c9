//! Children that nobody has accepted yet, for kernels without BTF: there an accept tells its child's address or its remote
//! end, and nothing else of it.
//!
//! Two children may share a remote end (two listeners, two network namespaces): then it tells neither, and their accepts
//! are counted, never guessed.

use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    helpers::generated,
    macros::btf_map,
};
use sockwatch_common::{Counter, RecordedSocket};

use crate::{
    emit::count,
    filter::{self, Known, REJECT},
    memory::Recorded,
    socket::{LISTEN, SYN_RECV, Socket},
};

/// By the child's address. The agent sizes it.
#[btf_map]
static CHILDREN: LruHashMap<u64, RecordedSocket, 16384> = LruHashMap::new();

/// By their remote ends. The agent sizes it.
#[btf_map]
static REMOTES: LruHashMap<Remote, Claim, 16384> = LruHashMap::new();

/// How many there are, as the sum of what each CPU has counted: the BPF target has no atomic addition in Rust, and on one
/// CPU programs of classic tracepoints and kprobes never interrupt each other. What the tables evict stays counted. The
/// agent sizes it.
#[btf_map]
static QUEUED: Array<i64, 1> = Array::new();

/// CPUs beyond this do not count.
const MAX_CPUS: u32 = 256;

/// A remote end.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Remote {
    /// In network order; IPv4 as `::ffff:a.b.c.d`.
    pub(crate) address: [u16; 8],
    pub(crate) family: u16,
    pub(crate) port_be: u16,
    pub(crate) reserved: u32,
}

/// Whose remote end it is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Claim {
    /// The child's address; 0 once several have claimed it.
    child: u64,
    claims: u64,
}

/// Follows a child from its birth on, until [`leave`].
#[inline(always)]
pub(crate) fn follow(socket: &Socket<Recorded>, old: u8, new: u8) {
    if old == LISTEN && new == SYN_RECV {
        let known = Known { local_port: true, remote: socket.remote_port() != 0 };
        if filter::tuple(socket, known) != REJECT {
            born(socket);
        }
    } else if old == SYN_RECV {
        // Up to 6.12 at least, the birth told no remote end. A child that was accepted meanwhile is not here any more.
        if let Some(child) = CHILDREN.get_ptr_mut(socket.address()) {
            // SAFETY: the entry outlives the program's run (RCU); the socket's own lock orders its transitions.
            unsafe {
                if (*child).remote_port_be == 0 {
                    *child = *socket.recording();
                    claim(&*child, socket.address());
                }
            }
        }
    }
}

#[inline(always)]
fn born(socket: &Socket<Recorded>) {
    if CHILDREN.insert(socket.address(), socket.recording(), 0).is_err() {
        count(Counter::WaitingRoomFull);
        return;
    }
    add_queued(1);
    if socket.remote_port() != 0 {
        claim(socket.recording(), socket.address());
    }
}

#[inline(always)]
fn add_queued(change: i64) {
    // SAFETY: the helper has no preconditions; the slot is this CPU's own.
    unsafe {
        if let Some(queued) = QUEUED.get_ptr_mut(generated::bpf_get_smp_processor_id()) {
            *queued += change;
        }
    }
}

/// Whether any child waits for its accept.
#[inline(always)]
pub(crate) fn any() -> bool {
    let mut sum = 0;
    for cpu in 0..MAX_CPUS {
        let Some(queued) = QUEUED.get(cpu) else { break };
        sum += *queued;
    }
    sum > 0
}

#[inline(always)]
fn remote_of(child: &RecordedSocket) -> Remote {
    Remote { address: child.remote, family: child.family, port_be: child.remote_port_be, reserved: 0 }
}

#[inline(always)]
fn claim(child: &RecordedSocket, address: u64) {
    let remote = &remote_of(child);
    match REMOTES.get_ptr_mut(remote) {
        // SAFETY: the entry outlives the program's run (RCU).
        Some(claim) => unsafe {
            (*claim).child = 0;
            (*claim).claims += 1;
        },
        None => {
            if REMOTES.insert(remote, Claim { child: address, claims: 1 }, 0).is_err() {
                count(Counter::WaitingRoomFull);
            }
        }
    }
}

/// The child of this address, if it waits for its accept. A copy: what an evicting table holds may become another's.
#[inline(always)]
pub(crate) fn get(address: u64) -> Option<RecordedSocket> {
    // SAFETY: the entry outlives the program's run (RCU).
    CHILDREN.get_ptr(address).map(|child| unsafe { *child })
}

/// The address of the only child with this remote end; `None` if there is none, or 0 if there are several.
#[inline(always)]
pub(crate) fn with_remote(remote: &Remote) -> Option<u64> {
    // SAFETY: the entry outlives the program's run (RCU).
    REMOTES.get_ptr(remote).map(|claim| unsafe { (*claim).child })
}

/// Forgets a child that was accepted or destroyed.
#[inline(always)]
pub(crate) fn leave(address: u64) {
    let Some(child) = get(address) else { return };
    if CHILDREN.remove(address).is_err() {
        return;
    }
    add_queued(-1);
    let remote = &remote_of(&child);
    let Some(claim) = REMOTES.get_ptr_mut(remote) else { return };
    // SAFETY: the entry outlives the program's run (RCU).
    let claims = unsafe { (*claim).claims };
    if claims > 1 {
        // SAFETY: as above.
        unsafe { (*claim).claims = claims - 1 };
    } else {
        let _ = REMOTES.remove(remote);
    }
}
