//! Accepts where the kernel has no BTF: `inet_csk_accept` returns the child's address; the system calls tell its remote
//! end, if their caller asks for it.

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_probe_read_user,
    macros::{kretprobe, tracepoint},
    programs::{RetProbeContext, TracePointContext},
};
use sockwatch_common::{Counter, Kind, NO_FD};

use super::{
    accept::report,
    accept_entry::{Call, call},
};
use crate::{
    children::{self, Remote},
    emit::count,
    filter::{self, Known, UNKNOWN},
    memory::{Memory, Probed, offset},
    socket::Socket,
};

const INET: u16 = 2;
const INET6: u16 = 10;

#[kretprobe(function = "inet_csk_accept")]
fn accept_recorded_kretprobe(ctx: RetProbeContext) -> u32 {
    // SAFETY: the context is a `struct pt_regs`; reads of it are probed.
    let child: u64 = unsafe { Probed::read(ctx.as_ptr().cast::<u8>(), offset!(regs_return)) };
    if child != 0 {
        accepted(child, NO_FD);
    }
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept4")]
fn accept4_recorded_exit(ctx: TracePointContext) -> u32 {
    exited(&ctx);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_accept")]
fn accept_recorded_exit(ctx: TracePointContext) -> u32 {
    exited(&ctx);
    0
}

#[inline(always)]
fn exited(ctx: &TracePointContext) {
    let record = ctx.as_ptr().cast::<u8>().cast_const();
    // SAFETY: the offset is that of the tracepoint's record.
    let result: i64 = unsafe { Probed::read(record, offset!(accept_exit_ret)) };
    if result < 0 {
        return;
    }
    // A call that was entered before the trace is not noted.
    match call().map_or(Peer::NotAsked, |call| peer(&call)) {
        Peer::Other => {}
        // Perhaps another kind of socket's: a loss only while a child waits.
        Peer::NotAsked if children::any() => unmatched(),
        Peer::NotAsked => {}
        Peer::Tcp(remote) => match children::with_remote(&remote) {
            Some(0) => unmatched(),
            Some(child) => accepted(child, result as u32),
            None => unfound(),
        },
    }
}

/// What the system call told its caller of the other end.
enum Peer {
    /// The caller asked for nothing, or for less than there is.
    NotAsked,
    /// Not an Internet address.
    Other,
    Tcp(Remote),
}

#[inline(always)]
fn peer(call: &Call) -> Peer {
    if call.peer == 0 {
        return Peer::NotAsked;
    }
    let at = call.peer as *const u8;
    // SAFETY: the helper reports a fault instead of faulting. The sizes are those up to the address's end in `struct
    // sockaddr_in` and `struct sockaddr_in6`; the kernel wrote no more than the caller had room for.
    unsafe {
        let Ok([family, port_be]) = bpf_probe_read_user(at.cast::<[u16; 2]>()) else { return Peer::NotAsked };
        let mut remote = Remote { address: [0; 8], family, port_be, reserved: 0 };
        match family {
            INET if call.room >= 8 => {
                let Ok([high, low]) = bpf_probe_read_user(at.add(4).cast::<[u16; 2]>()) else { return Peer::NotAsked };
                remote.address = [0, 0, 0, 0, 0, 0xffff, high, low];
            }
            INET6 if call.room >= 24 => {
                let Ok(address) = bpf_probe_read_user(at.add(8).cast::<[u16; 8]>()) else { return Peer::NotAsked };
                remote.address = address;
            }
            INET | INET6 => return Peer::NotAsked,
            _ => return Peer::Other,
        }
        Peer::Tcp(remote)
    }
}

#[inline(always)]
fn accepted(address: u64, value: u32) {
    let Some(child) = children::get(address) else { return unfound() };
    let socket = Socket::recorded(&child, address);
    // An acceptor that was looking already may be faster than the transition that tells the remote end.
    let known = Known { local_port: true, remote: socket.remote_port() != 0 };
    if filter::tuple(&socket, known) == UNKNOWN {
        unmatched();
    } else {
        report(&socket, 0, Kind::Accept, value);
    }
    children::leave(address);
}

/// Not a child that we know: born before the trace, or not asked for by its ends, which nobody can tell any more.
#[inline(always)]
fn unfound() {
    if !filter::by_tuple() {
        unmatched();
    }
}

#[inline(always)]
fn unmatched() {
    if !filter::by_task() || filter::task_matches() {
        count(Counter::AcceptsUnmatched);
    }
}
