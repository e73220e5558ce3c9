//! `inet_sock_set_state`: every state transition. The tracepoint fires before the new state is stored.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};
use sockwatch_common::{Birth, Close, Head, Kind, RecordedSocket, Task};

use super::enqueue::note_birth;
use crate::{
    children,
    emit::{now_ns, reserve},
    filter::{self, ALL_KNOWN, Known, PASS, REJECT, UNKNOWN, Verdict},
    memory::{Direct, Memory, Probed, TCP, offset},
    record::{Places, Record},
    relief::{By, Post, event, is_left, take},
    socket::{CLOSE, FIN_WAIT1, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT, Socket, fill_comm},
    tally,
    waiting::{self, ABSENT, CHILD},
};

/// `SOCK_DEAD` in `sk_flags`: no process holds the socket any more.
const DEAD: u64 = 1;

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state_btf(ctx: BtfTracePointContext) -> i32 {
    if tally::is_on() && !tally::concerns(ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8) {
        return 0;
    }
    if let Some((socket, old, new)) = arguments(&ctx) {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(&ctx, "cookie {} state {} to {}", socket.raw_cookie(), old, new);
        // Counting goes without relief.
        if !tally::is_on() {
            take(Post::State, event(&socket, old, new));
        }
        transition(&socket, old, new, By::First);
    }
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state_relief(ctx: BtfTracePointContext) -> i32 {
    if let Some((socket, old, new)) = arguments(&ctx)
        && is_left(Post::State, event(&socket, old, new))
    {
        transition(&socket, old, new, By::Relief);
    }
    0
}

#[inline(always)]
fn arguments(ctx: &BtfTracePointContext) -> Option<(Socket<Direct>, u8, u8)> {
    let (sk, old, new): (*const u8, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    // SAFETY: the tracepoint's first argument is a socket.
    Some((unsafe { Socket::<Direct>::full(sk) }?, old as u8, new as u8))
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
        transition(&socket, old as u8, new as u8, By::First);
    }
    0
}

/// The same where the record is all that can be read.
#[tracepoint(category = "sock", name = "inet_sock_set_state")]
fn set_state_recorded(ctx: TracePointContext) -> u32 {
    let mut record = Record::EMPTY;
    if !record.copy(&ctx) || record.half(offset!(state_protocol)) != TCP {
        return 0;
    }
    let (old, new) = (record.word(offset!(state_old)) as u8, record.word(offset!(state_new)) as u8);
    let places = Places {
        address: offset!(state_address),
        local_port: offset!(state_local_port),
        remote_port: offset!(state_remote_port),
        local: offset!(state_local),
        remote: offset!(state_remote),
    };
    let mut room = RecordedSocket::NONE;
    let recording = record.socket(places, new, &mut room);
    recording.room.family = record.half(offset!(state_family));
    if new == SYN_SENT {
        // The record tells `inet_sport`, which may be a former life's.
        recording.room.local_port = 0;
    }
    let socket = recording.socket();
    children::follow(&socket, old, new);
    transition(&socket, old, new, By::First);
    0
}

#[inline(always)]
fn transition<M: Memory>(socket: &Socket<M>, old: u8, new: u8, by: By) {
    if tally::is_on() && !is_of_listener(old, new) {
        return tally::transition(socket, old, new);
    }
    if old == LISTEN && new == SYN_RECV {
        note_birth(socket.at);
    }
    match judge(socket, old, new) {
        PASS => submit(socket, old, new, by),
        UNKNOWN => waiting::admit(socket, old, new),
        _ => {}
    }
}

/// Whether a listener begins or ends.
#[inline(always)]
fn is_of_listener(old: u8, new: u8) -> bool {
    new == LISTEN || (old == LISTEN && new == CLOSE)
}

/// What the filter says of this transition. `UNKNOWN` is a first transition that has to wait.
#[inline(always)]
fn judge<M: Memory>(socket: &Socket<M>, old: u8, new: u8) -> Verdict {
    if old == CLOSE && (new == SYN_SENT || new == LISTEN) {
        // A connecting socket's port may not be bound yet.
        let known = Known { local_port: new == LISTEN || bound_port(socket) != 0, remote: true };
        return judge_opening(filter::tuple(socket, known), socket.key());
    }
    if old == LISTEN && new == SYN_RECV {
        // Up to 6.12 at least a child has no remote end at its birth.
        let known = Known { local_port: true, remote: socket.remote_port() != 0 };
        let verdict = filter::tuple(socket, known);
        return if verdict == PASS && filter::by_task() { UNKNOWN } else { verdict };
    }
    let verdict = filter::tuple(socket, ALL_KNOWN);
    if verdict == REJECT {
        if waiting::may_hold(socket, old) {
            waiting::dismiss(socket);
        }
        return REJECT;
    }
    if filter::by_tuple() && new == CLOSE && socket.field::<u64>(offset!(skc_flags)) & DEAD == 0 {
        filter::note_closed(socket.key());
    }
    judge_later(socket, old, new)
}

/// `skc_num`: 0 until the socket is bound. `inet_sport` still holds the port of a former life.
#[inline(always)]
fn bound_port<M: Memory>(socket: &Socket<M>) -> u16 {
    socket.field(offset!(skc_num))
}

/// connect() and listen() run in their owner's context: this is where a process filter decides.
#[inline(always)]
fn judge_opening(verdict: Verdict, key: u64) -> Verdict {
    if verdict == REJECT || !filter::by_task() {
        return verdict;
    }
    if !filter::task_matches() {
        return REJECT;
    }
    if verdict == PASS {
        filter::remember(key);
    }
    verdict
}

/// Transitions after the first: a waiting socket is decided on, or waits on.
#[inline(always)]
fn judge_later<M: Memory>(socket: &Socket<M>, old: u8, new: u8) -> Verdict {
    if filter::by_task() && filter::is_member(socket) {
        return PASS;
    }
    let guest = if waiting::may_hold(socket, old) { waiting::guest(socket) } else { ABSENT };
    if filter::by_task() && guest == CHILD {
        waiting::append(socket, old, new);
        return REJECT;
    }
    if guest != ABSENT {
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
fn submit<M: Memory>(socket: &Socket<M>, old: u8, new: u8, by: By) {
    let (at_ns, states) = (now_ns(), (old, new));
    let birth = old == LISTEN && new == SYN_RECV;
    let cookie = socket.cookie_at(old, new);
    // SAFETY: each record is filled as the type that it is reserved for.
    unsafe {
        if new == CLOSE && !M::READS_SOCKETS {
            let Some(mut record) = reserve::<Task>() else { return };
            let close = record.as_mut_ptr();
            socket.fill_head(&raw mut (*close).head, by.mark(Kind::BareClose), at_ns, cookie, states, 0);
            fill_comm(&raw mut (*close).comm);
            record.submit();
        } else if new == CLOSE {
            let Some(mut record) = reserve::<Close>() else { return };
            let close = record.as_mut_ptr();
            socket.fill_head(&raw mut (*close).head, by.mark(Kind::Close), at_ns, cookie, states, 0);
            fill_comm(&raw mut (*close).comm);
            socket.fill_evidence(&raw mut (*close).evidence);
            record.submit();
        } else if birth {
            let Some(mut record) = reserve::<Birth>() else { return };
            let birth = record.as_mut_ptr();
            let depth = socket.queue_depth();
            socket.fill_head(&raw mut (*birth).head, by.mark(Kind::Birth), at_ns, cookie, states, depth);
            (&raw mut (*birth).limit).write(socket.queue_limit());
            (&raw mut (*birth).reserved).write(0);
            record.submit();
        } else if made_by_task(old, new) {
            let Some(mut record) = reserve::<Task>() else { return };
            let task = record.as_mut_ptr();
            let backlog = if new == LISTEN { socket.queue_limit() } else { 0 };
            socket.fill_head(&raw mut (*task).head, by.mark(Kind::TaskTransition), at_ns, cookie, states, backlog);
            if new == SYN_SENT {
                (&raw mut (*task).head.local_port).write(bound_port(socket));
            }
            fill_comm(&raw mut (*task).comm);
            record.submit();
        } else {
            let Some(mut record) = reserve::<Head>() else { return };
            socket.fill_head(record.as_mut_ptr(), by.mark(Kind::Transition), at_ns, cookie, states, 0);
            record.submit();
        }
    }
}
