//! `inet_sock_set_state`: every state transition. The tracepoint fires before the new state is stored.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use sockwatch_common::{Birth, Close, Head, Kind, Task};

use crate::{
    emit::{emit, now_ns},
    filter::{self, Known, PASS, REJECT, UNKNOWN, Verdict},
    memory::{Direct, Memory, Probed, offset},
    socket::{Socket, fill_comm},
    waiting,
};

const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const CLOSE: u8 = 7;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;

/// `SOCK_DEAD` in `sk_flags`: no process holds the socket any more.
const DEAD: u64 = 1;

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state_btf(ctx: BtfTracePointContext) -> i32 {
    let (sk, old, new): (*const u8, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    // SAFETY: the tracepoint's first argument is a socket.
    if let Some(socket) = unsafe { Socket::<Direct>::full(sk) } {
        transition(&socket, old as u8, new as u8);
    }
    0
}

/// The classic tracepoint's layout has been the same from 5.10 to 7.2: skaddr at 8, states at 16 and 20.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn set_state_classic(ctx: TracePointContext) -> u32 {
    // SAFETY: the offsets lie within the tracepoint's record.
    let (sk, old, new) = unsafe {
        (
            ctx.read_at::<usize>(8).unwrap_or_default(),
            ctx.read_at::<i32>(16).unwrap_or_default(),
            ctx.read_at::<i32>(20).unwrap_or_default(),
        )
    };
    // SAFETY: `skaddr` is a socket; reads of it are probed.
    if let Some(socket) = unsafe { Socket::<Probed>::full(sk as *const u8) } {
        transition(&socket, old as u8, new as u8);
    }
    0
}

#[inline(always)]
fn transition<M: Memory>(socket: &Socket<M>, old: u8, new: u8) {
    match judge(socket, old, new) {
        PASS => submit(socket, old, new),
        UNKNOWN => waiting::admit(socket, old, new),
        _ => {}
    }
}

/// What the filter says of this transition. `UNKNOWN` is a first transition that has to wait.
#[inline(always)]
fn judge<M: Memory>(socket: &Socket<M>, old: u8, new: u8) -> Verdict {
    let opening = old == CLOSE && (new == SYN_SENT || new == LISTEN);
    let birth = old == LISTEN && new == SYN_RECV;
    // A connecting socket's port may not be bound yet; before about 5.14 a child has no remote end at its birth.
    let known = Known {
        local_port: !(new == SYN_SENT && socket.local_port() == 0),
        remote: !(birth && socket.remote_port() == 0),
    };
    let verdict = filter::tuple(socket, known);
    if verdict == REJECT {
        return REJECT;
    }
    if filter::by_tuple() && new == CLOSE && socket.field::<u64>(offset!(skc_flags)) & DEAD == 0 {
        // A failed connect or a disconnect wipes the tuple before the socket is destroyed.
        filter::remember(socket.key());
    }
    if opening {
        return judge_opening(socket, verdict);
    }
    if birth {
        return if filter::by_task() { UNKNOWN } else { verdict };
    }
    judge_later(socket, old, new)
}

/// connect() and listen() run in their owner's context: this is where a process filter decides.
#[inline(always)]
fn judge_opening<M: Memory>(socket: &Socket<M>, verdict: Verdict) -> Verdict {
    if filter::by_task() {
        if !filter::task_matches() {
            return REJECT;
        }
        if verdict == PASS {
            filter::remember(socket.key());
        }
    }
    verdict
}

/// Transitions after the first: a waiting socket is decided on, or waits on.
#[inline(always)]
fn judge_later<M: Memory>(socket: &Socket<M>, old: u8, new: u8) -> Verdict {
    if filter::by_task() && filter::is_member(socket.key()) {
        return PASS;
    }
    if waiting::may_hold(old) && waiting::holds(socket) {
        if filter::by_task() && waiting::is_child(socket) {
            waiting::append(socket, old, new);
            return REJECT;
        }
        if filter::by_task() {
            filter::remember(socket.key());
        }
        waiting::release(socket);
        return PASS;
    }
    if filter::by_task() { REJECT } else { PASS }
}

/// Whether the current task made this transition: connect, listen, close or shutdown. Elsewhere current is whoever
/// the softirq interrupted.
#[inline(always)]
fn made_by_task(old: u8, new: u8) -> bool {
    old == new || (old == CLOSE && (new == SYN_SENT || new == LISTEN)) || new == FIN_WAIT1 || new == LAST_ACK
}

#[inline(always)]
fn submit<M: Memory>(socket: &Socket<M>, old: u8, new: u8) {
    let (at_ns, states) = (now_ns(), (old, new));
    let birth = old == LISTEN && new == SYN_RECV;
    // A child without a remote end yet gets its request's cookie later: generating one now would give it two.
    let cookie = if birth && socket.remote_port() == 0 { socket.raw_cookie() } else { socket.cookie() };
    // SAFETY: `emit` hands out a reserved record of the type that is filled.
    unsafe {
        if new == CLOSE {
            emit::<Close>(|close| {
                socket.fill_head(&raw mut (*close).head, Kind::Close, at_ns, cookie, states, 0);
                fill_comm(&raw mut (*close).comm);
                socket.fill_evidence(close);
            });
        } else if birth {
            emit::<Birth>(|birth| {
                let depth = socket.field(offset!(sk_ack_backlog));
                socket.fill_head(&raw mut (*birth).head, Kind::Birth, at_ns, cookie, states, depth);
                (&raw mut (*birth).limit).write(socket.field(offset!(sk_max_ack_backlog)));
                (&raw mut (*birth).reserved).write(0);
            });
        } else if made_by_task(old, new) {
            emit::<Task>(|task| {
                let backlog = if new == LISTEN { socket.field(offset!(sk_max_ack_backlog)) } else { 0 };
                socket.fill_head(&raw mut (*task).head, Kind::TaskTransition, at_ns, cookie, states, backlog);
                fill_comm(&raw mut (*task).comm);
            });
        } else {
            emit::<Head>(|head| socket.fill_head(head, Kind::Transition, at_ns, cookie, states, 0));
        }
    }
}
