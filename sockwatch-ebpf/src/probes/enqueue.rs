//! A child enters its listener's accept queue: who its listener is, and when its SYN-ACK was first sent.
//!
//! The cold hook is `tcp_v4_syn_recv_sock` and its IPv6 sibling, which hold the child, the listener and the request.
//! Where the kernel refuses it, `sk_data_ready` on the listener tells the same, and fires for all traffic of the machine.

use aya_ebpf::{
    EbpfContext,
    btf_maps::PerCpuArray,
    macros::{btf_map, btf_tracepoint, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FExitContext, ProbeContext, RetProbeContext},
};
use sockwatch_common::{Enqueue, Kind};

use crate::{
    emit::{now_ns, reserve},
    filter::{self, ALL_KNOWN, PASS},
    memory::{Direct, Memory, Probed, offset},
    socket::{LISTEN, Room, SYN_RECV, Socket},
    waiting::{self, CHILD},
};

/// Arguments: (sk, skb, req, dst, req_unhash, own_req), then the child it returns.
#[fexit(function = "tcp_v4_syn_recv_sock")]
fn enqueue_v4_fexit(ctx: FExitContext) -> i32 {
    // SAFETY: the first argument is the listener, the return value a child or null.
    unsafe { created::<Direct>(ctx.arg(0), ctx.arg(2), ctx.arg(6), Family::Inet) };
    0
}

#[fexit(function = "tcp_v6_syn_recv_sock")]
fn enqueue_v6_fexit(ctx: FExitContext) -> i32 {
    // SAFETY: as above.
    unsafe { created::<Direct>(ctx.arg(0), ctx.arg(2), ctx.arg(6), Family::Inet6) };
    0
}

/// 7.2 passes one argument more: opt_child_init.
#[fexit(function = "tcp_v4_syn_recv_sock")]
fn enqueue_v4_fexit_7(ctx: FExitContext) -> i32 {
    // SAFETY: as above.
    unsafe { created::<Direct>(ctx.arg(0), ctx.arg(2), ctx.arg(7), Family::Inet) };
    0
}

#[fexit(function = "tcp_v6_syn_recv_sock")]
fn enqueue_v6_fexit_7(ctx: FExitContext) -> i32 {
    // SAFETY: as above.
    unsafe { created::<Direct>(ctx.arg(0), ctx.arg(2), ctx.arg(7), Family::Inet6) };
    0
}

/// The arguments at entry, for the return probe on the same CPU: both run in softirq, which does not migrate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    listener: u64,
    request: u64,
}

#[btf_map]
static ENTRIES: PerCpuArray<Entry, 1> = PerCpuArray::new();

#[kprobe(function = "tcp_v4_syn_recv_sock")]
fn enqueue_v4_entry(ctx: ProbeContext) -> u32 {
    note_entry(ctx.as_ptr().cast());
    0
}

#[kretprobe(function = "tcp_v4_syn_recv_sock")]
fn enqueue_v4_return(ctx: RetProbeContext) -> u32 {
    returned(ctx.as_ptr().cast(), Family::Inet);
    0
}

#[kprobe(function = "tcp_v6_syn_recv_sock")]
fn enqueue_v6_entry(ctx: ProbeContext) -> u32 {
    note_entry(ctx.as_ptr().cast());
    0
}

#[kretprobe(function = "tcp_v6_syn_recv_sock")]
fn enqueue_v6_return(ctx: RetProbeContext) -> u32 {
    returned(ctx.as_ptr().cast(), Family::Inet6);
    0
}

/// A child that was born on this CPU and whose listener has not been told yet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Newborn {
    child: u64,
    at_ns: u64,
}

#[btf_map]
static NEWBORN: PerCpuArray<Newborn, 1> = PerCpuArray::new();

/// Remembers a child's birth: `sk_data_ready` on its listener follows on the same CPU, in the same softirq.
#[inline(always)]
pub(crate) fn note_birth(child: *const u8) {
    if let Some(newborn) = NEWBORN.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own.
        unsafe { newborn.write_volatile(Newborn { child: child as u64, at_ns: now_ns() }) };
    }
}

/// Fires after the child reached `ESTABLISHED`, before the acceptor is woken. The queue's tail is the child's request,
/// unless the other CPUs have been faster: then the child itself tells its handshake time.
#[btf_tracepoint(function = "sk_data_ready")]
fn enqueue_data_ready(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's argument is a socket.
    if sk.is_null() || unsafe { Direct::read::<u8>(sk, offset!(skc_state)) } != LISTEN {
        return 0;
    }
    // SAFETY: as above.
    let Some(listener) = (unsafe { Socket::<Direct>::full(sk) }) else { return 0 };
    let Some(newborn) = NEWBORN.get_ptr_mut(0) else { return 0 };
    // SAFETY: the slot is this CPU's own; requests lie in type-stable memory, and reads of them and of the child are probed.
    unsafe {
        let Newborn { child, at_ns } = newborn.read_volatile();
        if child == 0 {
            return 0;
        }
        newborn.write_volatile(Newborn { child: 0, at_ns: 0 });
        let request = listener.tcp_field::<usize>(offset!(rskq_accept_tail)) as *const u8;
        let handshake = if Probed::read::<u64>(request, offset!(req_sk)) == child {
            Handshake::of_request(request)
        } else {
            Handshake::of_child(child as *const u8, at_ns)
        };
        let mut room = Room::EMPTY;
        if let Some(child) = Socket::copy(child as *const u8, &mut room) {
            enqueued(&child, &listener, handshake);
        }
    }
    0
}

/// When a handshake began.
#[derive(Clone, Copy)]
struct Handshake {
    /// When the first SYN-ACK was sent, in microseconds; 0 if unknown.
    synack_us: u64,
    retransmits: u32,
}

impl Handshake {
    /// # Safety
    /// `request` is a `struct tcp_request_sock`, or was one.
    #[inline(always)]
    unsafe fn of_request(request: *const u8) -> Self {
        // SAFETY: reads of it are probed.
        unsafe {
            Self {
                synack_us: Probed::read(request, offset!(snt_synack)),
                retransmits: u32::from(Probed::read::<u8>(request, offset!(req_num_retrans))),
            }
        }
    }

    /// The child's first round-trip sample is the time from the first SYN-ACK to its birth, if no SYN-ACK was
    /// retransmitted (`tcp_synack_rtt_meas`).
    ///
    /// # Safety
    /// `child` is a TCP socket, or was one.
    #[inline(always)]
    unsafe fn of_child(child: *const u8, born_ns: u64) -> Self {
        // SAFETY: reads of it are probed.
        let (srtt_us, retransmits) = unsafe {
            (Probed::read::<u32>(child, offset!(srtt_us)) >> 3, Probed::read::<u32>(child, offset!(total_retrans)))
        };
        let known = retransmits == 0 && srtt_us != 0;
        Self { synack_us: if known { born_ns / 1000 - u64::from(srtt_us) } else { 0 }, retransmits }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Inet,
    Inet6,
}

#[inline(always)]
fn note_entry(regs: *const u8) {
    let Some(entry) = ENTRIES.get_ptr_mut(0) else { return };
    // SAFETY: the context is a `struct pt_regs`, and reads of it are probed; the slot is this CPU's own.
    unsafe {
        (*entry).listener = Probed::read(regs, offset!(regs_argument_1));
        (*entry).request = Probed::read(regs, offset!(regs_argument_3));
    }
}

#[inline(always)]
fn returned(regs: *const u8, family: Family) {
    let Some(entry) = ENTRIES.get_ptr(0) else { return };
    // SAFETY: as above; reads of the three pointers are probed.
    unsafe {
        let child: usize = Probed::read(regs, offset!(regs_return));
        created::<Probed>((*entry).listener as *const u8, (*entry).request as *const u8, child as *const u8, family);
    }
}

/// # Safety
/// `listener` and `child` are null or sockets, `request` is null or a request, of the kind that `M` reads.
#[inline(always)]
unsafe fn created<M: Memory>(listener: *const u8, request: *const u8, child: *const u8, family: Family) {
    // SAFETY: as the caller promised.
    let (listener, child) = unsafe {
        let Some(child) = Socket::<M>::full(child) else { return };
        let Some(listener) = Socket::<M>::full(listener) else { return };
        (listener, child)
    };
    // The IPv6 function hands v4-mapped children to the IPv4 one, whose probe has reported them.
    if family == Family::Inet6 && is_v4_mapped(&child) {
        return;
    }
    // SAFETY: a request, whose reads are probed.
    enqueued(&child, &listener, unsafe { Handshake::of_request(request) });
}

#[inline(always)]
fn is_v4_mapped<M: Memory>(child: &Socket<M>) -> bool {
    let low = child.remote_v6(1);
    let prefix = if cfg!(target_endian = "little") { low as u32 } else { (low >> 32) as u32 };
    child.remote_v6(0) == 0 && u32::from_be(prefix) == 0xffff
}

#[inline(always)]
fn enqueued<C: Memory, L: Memory>(child: &Socket<C>, listener: &Socket<L>, handshake: Handshake) {
    if filter::tuple(child, ALL_KNOWN) != PASS {
        return;
    }
    let Handshake { synack_us, retransmits: synack_retransmits } = handshake;
    let parent = listener.cookie();
    let (at_ns, cookie, state) = (now_ns(), child.cookie(), child.state());
    if filter::by_task() && !filter::is_member(child) {
        if !filter::is_member(listener) {
            waiting::note_enqueue(child, parent, synack_us, synack_retransmits);
            return;
        }
        filter::remember(child.key());
        waiting::release(child);
    } else if waiting::may_hold(child, SYN_RECV) && waiting::guest(child) == CHILD {
        // A birth that waited for its tuple comes first.
        waiting::release(child);
    }
    let Some(mut record) = reserve::<Enqueue>() else { return };
    let enqueue = record.as_mut_ptr();
    // SAFETY: the record is reserved for an `Enqueue`.
    unsafe {
        let depth = listener.field(offset!(sk_ack_backlog));
        child.fill_head(&raw mut (*enqueue).head, Kind::Enqueue as u8, at_ns, cookie, (state, state), depth);
        (&raw mut (*enqueue).listener).write(parent);
        (&raw mut (*enqueue).synack_us).write(synack_us);
        (&raw mut (*enqueue).limit).write(listener.field(offset!(sk_max_ack_backlog)));
        (&raw mut (*enqueue).synack_retransmits).write(synack_retransmits);
    }
    record.submit();
}
