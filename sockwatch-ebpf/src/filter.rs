//! Decides what passes, before anything is reserved. The filter lies frozen in `.rodata`: the verifier drops
//! the code of every part that is not in use.

use aya_ebpf::{
    Global,
    btf_maps::{HashMap, LruHashMap},
    helpers::generated,
    macros::btf_map,
};
use sockwatch_common::{
    ABSENT, Counter, Filter, MAX_NETNS, MAX_PIDS, MAX_PORT_RANGES, MAX_PREFIXES, PortRange, PortSet, Prefix,
};

use crate::{
    emit::count,
    memory::{Memory, Probed, offset},
    socket::Socket,
};

#[unsafe(no_mangle)]
static FILTER: Global<Filter> = Global::new(Filter::ANY);

/// Sockets of an owner that a process filter asks for, by [`Socket::key`], until their destroy. The agent sizes it, and
/// fills in the sockets that a process had before.
#[btf_map]
static MEMBERS: HashMap<u64, u8, 65536> = HashMap::new();

/// Sockets that reached `CLOSE` with their tuple matching and a process still holding them: a failed connect or a
/// disconnect wipes the tuple before the destroy. Cookies are never used again, so nothing needs to be removed.
#[btf_map]
static CLOSED: LruHashMap<u64, u8, 16384> = LruHashMap::new();

/// A filter's answer. Small integers: the verifier follows them better than an enum's layout.
pub(crate) type Verdict = u32;
/// Submit it.
pub(crate) const PASS: Verdict = 0;
/// Not asked for.
pub(crate) const REJECT: Verdict = 1;
/// The part that decides is not known yet: a port before it is bound, an owner before accept.
pub(crate) const UNKNOWN: Verdict = 2;

fn filter() -> *const Filter {
    (&raw const FILTER).cast()
}

macro_rules! filter {
    ($($field:tt)+) => {{
        // SAFETY: `.rodata` holds a `Filter` for the program's lifetime.
            #[allow(unused_unsafe, reason = "also used within unsafe blocks")]
            let value = unsafe { core::ptr::read_volatile(&raw const (*filter()).$($field)+) };
            value
    }};
}

/// Which parts of the tuple this event cannot know yet.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) local_port: bool,
    pub(crate) remote: bool,
}

/// The whole tuple is known.
pub(crate) const ALL_KNOWN: Known = Known { local_port: true, remote: true };

/// Whether ownership decides: a pid or a cgroup was asked for.
#[inline(always)]
pub(crate) fn by_task() -> bool {
    filter!(pid_count) != 0 || filter!(has_cgroup) != 0
}

/// Whether the tuple decides.
#[inline(always)]
pub(crate) fn by_tuple() -> bool {
    filter!(ports.count) != 0
        || filter!(local_ports.count) != 0
        || filter!(remote_ports.count) != 0
        || filter!(prefix_count) != 0
}

/// Whether the current task is one that the filter asks for.
#[inline(always)]
pub(crate) fn task_matches() -> bool {
    if filter!(has_cgroup) != 0 && ancestor_cgroup(filter!(cgroup_level)) != filter!(cgroup) {
        return false;
    }
    let count = filter!(pid_count);
    if count == 0 {
        return true;
    }
    // SAFETY: the helper has no preconditions.
    let pid = (unsafe { generated::bpf_get_current_pid_tgid() } >> 32) as u32;
    for index in 0..MAX_PIDS {
        if index as u32 >= count {
            break;
        }
        if filter!(pids[index]) == pid {
            return true;
        }
    }
    false
}

/// The current task's cgroup v2, or the one above it at this level; 0 if it has none there.
#[inline(always)]
fn ancestor_cgroup(level: u32) -> u64 {
    if offset!(cgroup_ancestor_ids) == ABSENT {
        // SAFETY: the helper has no preconditions.
        return unsafe { generated::bpf_get_current_ancestor_cgroup_id(level as i32) };
    }
    // The helper is not there for tracing programs.
    // SAFETY: the current task exists, and so does its cgroup; every read is probed.
    unsafe {
        let task = generated::bpf_get_current_task() as *const u8;
        let set: usize = Probed::read(task, offset!(task_cgroups));
        let cgroup: usize = Probed::read(set as *const u8, offset!(css_set_default));
        let cgroup = cgroup as *const u8;
        if Probed::read::<u32>(cgroup, offset!(cgroup_level)) < level {
            return 0;
        }
        Probed::read(cgroup, offset!(cgroup_ancestor_ids) + level * size_of::<u64>() as u32)
    }
}

/// Remembers a socket until its destroy.
#[inline(always)]
pub(crate) fn remember(key: u64) {
    if MEMBERS.insert(key, 1, 0).is_err() {
        count(Counter::MembersFull);
    }
}

/// Remembers that a socket's `CLOSE` passed, for its destroy.
#[inline(always)]
pub(crate) fn note_closed(key: u64) {
    // A full table evicts; it does not fail.
    let _ = CLOSED.insert(key, 1, 0);
}

/// Whether a socket's `CLOSE` passed before its tuple was wiped.
#[inline(always)]
pub(crate) fn closed_before<M: Memory>(socket: &Socket<M>) -> bool {
    socket.remote_port() == 0 && CLOSED.get_ptr(socket.key()).is_some()
}

/// Forgets it again: addresses, unlike cookies, are used again.
#[inline(always)]
pub(crate) fn forget_closed(key: u64) {
    let _ = CLOSED.remove(key);
}

/// Whether a socket was remembered: by its cookie, or by its address if that was before it had one. A birth up to 6.12
/// at least has none yet, and what remembers a socket may be the first to generate one.
#[inline(always)]
pub(crate) fn is_member<M: Memory>(socket: &Socket<M>) -> bool {
    MEMBERS.get_ptr(socket.key()).is_some() || MEMBERS.get_ptr(socket.address()).is_some()
}

/// Forgets a socket; true if it was remembered.
#[inline(always)]
pub(crate) fn forget<M: Memory>(socket: &Socket<M>) -> bool {
    let by_address = MEMBERS.remove(socket.address()).is_ok();
    MEMBERS.remove(socket.key()).is_ok() || by_address
}

/// What namespace, addresses and ports say.
#[inline(always)]
pub(crate) fn tuple<M: Memory>(socket: &Socket<M>, known: Known) -> Verdict {
    if filter!(netns_count) != 0 && !netns_matches(socket.netns()) {
        return REJECT;
    }
    if filter!(prefix_count) != 0 {
        match addresses(socket) {
            true => {}
            false if known.remote => return REJECT,
            false => return UNKNOWN,
        }
    }
    ports(socket, known)
}

#[inline(always)]
fn ports<M: Memory>(socket: &Socket<M>, known: Known) -> Verdict {
    let (either, local, remote) = (filter!(ports.count), filter!(local_ports.count), filter!(remote_ports.count));
    if either == 0 && local == 0 && remote == 0 {
        return PASS;
    }
    // A part that is not known yet must not decide, even if it has a value by now.
    let local_port = if known.local_port { socket.local_port() } else { 0 };
    let remote_port = if known.remote { socket.remote_port() } else { 0 };
    // SAFETY: pointers into `.rodata`.
    let (ports, local_ports, remote_ports) = unsafe {
        (&raw const (*filter()).ports, &raw const (*filter()).local_ports, &raw const (*filter()).remote_ports)
    };
    let mut verdict = PASS;
    if local != 0 && !holds(local_ports, local_port) {
        if known.local_port {
            return REJECT;
        }
        verdict = UNKNOWN;
    }
    if remote != 0 && !holds(remote_ports, remote_port) {
        if known.remote {
            return REJECT;
        }
        verdict = UNKNOWN;
    }
    if either != 0 && !holds(ports, local_port) && !holds(ports, remote_port) {
        if known.local_port && known.remote {
            return REJECT;
        }
        verdict = UNKNOWN;
    }
    verdict
}

/// Whether a port lies in one of the ranges. Without branches on the port: the verifier walks one path, not one per
/// range.
#[inline(always)]
fn holds(set: *const PortSet, port: u16) -> bool {
    let port = i32::from(port);
    let mut hit = 0_i32;
    // SAFETY: `set` points into `.rodata`, the index is below the array's length.
    unsafe {
        let count = core::ptr::read_volatile(&raw const (*set).count);
        for index in 0..MAX_PORT_RANGES {
            if index as u32 >= count {
                break;
            }
            let range = (&raw const (*set).ranges).cast::<PortRange>().add(index);
            let first = i32::from(core::ptr::read_volatile(&raw const (*range).first));
            let last = i32::from(core::ptr::read_volatile(&raw const (*range).last));
            // Negative exactly if the port is below `first` or above `last`.
            hit |= !((port - first) | (last - port));
        }
    }
    hit < 0
}

#[inline(always)]
fn netns_matches(netns: u32) -> bool {
    let count = filter!(netns_count);
    for index in 0..MAX_NETNS {
        if index as u32 >= count {
            break;
        }
        if filter!(netns[index]) == netns {
            return true;
        }
    }
    false
}

/// Whether either address lies in a prefix. IPv4 counts as `::ffff:a.b.c.d`, so v4-mapped sockets match too.
#[inline(always)]
fn addresses<M: Memory>(socket: &Socket<M>) -> bool {
    let (local, remote) = if socket.is_inet6() {
        ((socket.local_v6(0), socket.local_v6(1)), (socket.remote_v6(0), socket.remote_v6(1)))
    } else {
        (mapped(socket.field(offset!(skc_rcv_saddr))), mapped(socket.field(offset!(skc_daddr))))
    };
    let count = filter!(prefix_count);
    let mut hit = 0_u64;
    for index in 0..MAX_PREFIXES {
        if index as u32 >= count {
            break;
        }
        // SAFETY: the index is below the array's length.
        let prefix = unsafe { (&raw const (*filter()).prefixes).cast::<Prefix>().add(index) };
        hit |= lies_in(prefix, local) | lies_in(prefix, remote);
    }
    hit >> 63 != 0
}

/// An IPv4 address, in memory order, as the two words of `::ffff:a.b.c.d` in memory order.
#[inline(always)]
fn mapped(address: u32) -> (u64, u64) {
    if cfg!(target_endian = "little") {
        (0, u64::from(address) << 32 | 0xffff_0000)
    } else {
        (0, 0xffff_0000_0000 | u64::from(address))
    }
}

/// The top bit is set if the address lies in the prefix; without branches, as in [`holds`].
#[inline(always)]
fn lies_in(prefix: *const Prefix, address: (u64, u64)) -> u64 {
    // SAFETY: `prefix` points into `.rodata`.
    unsafe {
        let word = |array: *const [u64; 2], index: usize| core::ptr::read_volatile(array.cast::<u64>().add(index));
        let (network, mask) = (&raw const (*prefix).address, &raw const (*prefix).mask);
        let differs = (address.0 & word(mask, 0) ^ word(network, 0)) | (address.1 & word(mask, 1) ^ word(network, 1));
        // A number and its negative both have a clear top bit only if it is zero.
        !(differs | differs.wrapping_neg())
    }
}

/// Whether a socket past its opening passes: by its tuple, and by its owner if that was asked for.
#[inline(always)]
pub(crate) fn passes<M: Memory>(socket: &Socket<M>) -> bool {
    tuple(socket, ALL_KNOWN) == PASS && (!by_task() || is_member(socket))
}
