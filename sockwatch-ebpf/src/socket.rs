//! A socket as the probes see it: its identity and tuple, and how they fill a record.

use core::marker::PhantomData;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated};
use sockwatch_common::{ABSENT, Evidence, Head, RecordedSocket, Stub, UNKNOWN};

use crate::memory::{Copied, Memory, Probed, Recorded, offset, setting};

/// `AF_INET6`.
const INET6: u16 = 10;

/// States in `sk_state`.
pub(crate) const ESTABLISHED: u8 = 1;
pub(crate) const SYN_SENT: u8 = 2;
pub(crate) const SYN_RECV: u8 = 3;
pub(crate) const FIN_WAIT1: u8 = 4;
pub(crate) const TIME_WAIT: u8 = 6;
pub(crate) const CLOSE: u8 = 7;
pub(crate) const CLOSE_WAIT: u8 = 8;
pub(crate) const LAST_ACK: u8 = 9;
pub(crate) const LISTEN: u8 = 10;
pub(crate) const NEW_SYN_RECV: u8 = 12;

/// A null-checked pointer to a `struct sock`, or to a minisock, which only has the common part.
pub(crate) struct Socket<M> {
    /// The `struct sock_common`.
    pub(crate) sk: *const u8,
    /// The same as a `struct tcp_sock`; null for a minisock and for a copy.
    pub(crate) tcp: *const u8,
    /// Where the socket is in the kernel.
    pub(crate) at: *const u8,
    memory: PhantomData<M>,
}

impl<M: Memory> Socket<M> {
    /// A full TCP socket; `None` for other protocols (MPTCP's parent sockets among them).
    ///
    /// # Safety
    /// `sk` is null or points to a `struct sock`.
    #[inline(always)]
    pub(crate) unsafe fn full(sk: *const u8) -> Option<Self> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: not null.
        let tcp = unsafe { M::tcp_sock(sk) };
        if tcp.is_null() { None } else { Some(Self { sk, tcp, at: sk, memory: PhantomData }) }
    }

    /// A minisock: only what `struct sock_common` holds can be read.
    ///
    /// # Safety
    /// `sk` points to a `struct sock_common` and is not null.
    #[inline(always)]
    pub(crate) unsafe fn common(sk: *const u8) -> Self {
        Self { sk, tcp: core::ptr::null(), at: sk, memory: PhantomData }
    }

    /// Reads a field of `struct sock` or `struct sock_common`.
    #[inline(always)]
    pub(crate) fn field<T: Copy + Default>(&self, offset: u32) -> T {
        // SAFETY: `sk` points to a socket, and the offset is one of its fields'.
        unsafe { M::read(self.sk, offset) }
    }

    /// Reads a field of `struct inet_sock`, `inet_connection_sock` or `tcp_sock`; zero for a minisock.
    #[inline(always)]
    pub(crate) fn tcp_field<T: Copy + Default>(&self, offset: u32) -> T {
        if self.tcp.is_null() {
            return T::default();
        }
        // SAFETY: not null, a full TCP socket, and the offset is one of its fields'.
        unsafe { M::read(self.tcp, offset) }
    }

    #[inline(always)]
    pub(crate) fn address(&self) -> u64 {
        self.at as u64
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: `sk` is not null and a socket.
        unsafe { M::cookie(self.sk) }
    }

    /// The cookie as it is, without generating one.
    #[inline(always)]
    pub(crate) fn raw_cookie(&self) -> u64 {
        self.field(offset!(skc_cookie))
    }

    /// The cookie at a transition; 0 at a bare birth. Up to 6.12 at least, `inet_csk_clone_lock` sets the child's state
    /// before its remote end and its cookie: there the child still has its listener's cookie, and one that is
    /// generated would be overwritten.
    #[inline(always)]
    pub(crate) fn cookie_at(&self, old: u8, new: u8) -> u64 {
        let bare_birth = old == LISTEN && new == SYN_RECV && self.remote_port() == 0;
        if bare_birth { 0 } else { self.cookie() }
    }

    /// What tells this socket from others: the cookie, or the address where no cookie can be had.
    #[inline(always)]
    pub(crate) fn key(&self) -> u64 {
        let cookie = self.raw_cookie();
        if cookie == 0 { self.address() } else { cookie }
    }

    #[inline(always)]
    pub(crate) fn netns(&self) -> u32 {
        let net: usize = self.field(offset!(skc_net));
        if net == 0 {
            return 0;
        }
        // SAFETY: every socket holds a reference to its namespace.
        unsafe { M::follow(net as *const u8, offset!(net_inum)) }
    }

    /// `inet_sport`, which outlives `skc_num` at most transitions to `CLOSE`; minisocks have only `skc_num`.
    #[inline(always)]
    pub(crate) fn local_port(&self) -> u16 {
        if self.tcp.is_null() {
            return self.field(offset!(skc_num));
        }
        u16::from_be(self.tcp_field(offset!(inet_sport)))
    }

    #[inline(always)]
    pub(crate) fn remote_port(&self) -> u16 {
        u16::from_be(self.field(offset!(skc_dport)))
    }

    #[inline(always)]
    pub(crate) fn is_inet6(&self) -> bool {
        self.field::<u16>(offset!(skc_family)) == INET6
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> u8 {
        self.field(offset!(skc_state))
    }

    /// `sk_ack_backlog`: a listener's queue depth, and a child's copy of it.
    #[inline(always)]
    pub(crate) fn queue_depth(&self) -> u32 {
        if M::READS_SOCKETS { self.field(offset!(sk_ack_backlog)) } else { UNKNOWN }
    }

    /// `sk_max_ack_backlog`: the queue's limit, likewise.
    #[inline(always)]
    pub(crate) fn queue_limit(&self) -> u32 {
        if M::READS_SOCKETS { self.field(offset!(sk_max_ack_backlog)) } else { UNKNOWN }
    }

    /// Half `half` (0 or 1) of the local IPv6 address, in memory order.
    #[inline(always)]
    pub(crate) fn local_v6(&self, half: u32) -> u64 {
        self.two_words(offset!(skc_v6_rcv_saddr), half)
    }

    /// Half `half` (0 or 1) of the remote IPv6 address, in memory order.
    #[inline(always)]
    pub(crate) fn remote_v6(&self, half: u32) -> u64 {
        self.two_words(offset!(skc_v6_daddr), half)
    }

    /// `struct in6_addr` is a member of type struct: the verifier wants its words read as the `__be32`s they are.
    #[inline(always)]
    fn two_words(&self, offset: u32, half: u32) -> u64 {
        let first: u32 = self.field(offset + half * 8);
        let second: u32 = self.field(offset + half * 8 + 4);
        if cfg!(target_endian = "little") {
            u64::from(first) | u64::from(second) << 32
        } else {
            u64::from(first) << 32 | u64::from(second)
        }
    }

    /// Fills what all records share.
    ///
    /// # Safety
    /// `stub` points to writable memory for a [`Stub`].
    #[inline(always)]
    pub(crate) unsafe fn fill_stub(&self, stub: *mut Stub, kind: u8, at_ns: u64, cookie: u64, states: (u8, u8)) {
        let family: u16 = self.field(offset!(skc_family));
        let (old_state, new_state) = states;
        // SAFETY: as the caller promised.
        unsafe {
            stub.write(Stub {
                at_ns,
                cookie,
                skaddr: self.address(),
                netns: self.netns(),
                kind,
                family: family as u8,
                old_state,
                new_state,
            });
        }
    }

    /// Fills a record's head: identity, tuple and the current task.
    ///
    /// # Safety
    /// `head` points to writable memory for a [`Head`].
    #[inline(always)]
    pub(crate) unsafe fn fill_head(
        &self,
        head: *mut Head,
        kind: u8,
        at_ns: u64,
        cookie: u64,
        states: (u8, u8),
        value: u32,
    ) {
        // SAFETY: as the caller promised, and so for each part of it.
        unsafe {
            self.fill_stub(&raw mut (*head).stub, kind, at_ns, cookie, states);
            let task = bpf_get_current_pid_tgid();
            (&raw mut (*head).pid).write((task >> 32) as u32);
            (&raw mut (*head).tid).write(task as u32);
            (&raw mut (*head).local_port).write(self.local_port());
            (&raw mut (*head).remote_port).write(self.remote_port());
            (&raw mut (*head).value).write(value);
            let local = (&raw mut (*head).local).cast::<u64>();
            let remote = (&raw mut (*head).remote).cast::<u64>();
            if self.is_inet6() {
                local.write(self.local_v6(0));
                local.add(1).write(self.local_v6(1));
                remote.write(self.remote_v6(0));
                remote.add(1).write(self.remote_v6(1));
            } else {
                let (local_v4, remote_v4) = (local.cast::<u32>(), remote.cast::<u32>());
                local_v4.write(self.field(offset!(skc_rcv_saddr)));
                local_v4.add(1).write(0);
                local.add(1).write(0);
                remote_v4.write(self.field(offset!(skc_daddr)));
                remote_v4.add(1).write(0);
                remote.add(1).write(0);
            }
        }
    }

    /// How long an orphan in `FIN_WAIT2` stays: `tcp_fin_time`.
    #[inline(always)]
    fn fin_timeout_ms(&self) -> u32 {
        let net: usize = self.field(offset!(skc_net));
        let tick_ns = u64::from(setting!(tick_ns));
        let known = offset!(net_fin_timeout) != ABSENT && offset!(icsk_rto) != ABSENT;
        if net == 0 || tick_ns == 0 || !known {
            return 0;
        }
        let own: i32 = self.tcp_field(offset!(linger2));
        // SAFETY: every socket holds a reference to its namespace.
        let general: i32 = unsafe { M::follow(net as *const u8, offset!(net_fin_timeout)) };
        let rto: u32 = self.tcp_field(offset!(icsk_rto));
        let jiffies = u64::from(if own == 0 { general as u32 } else { own as u32 });
        let least = (u64::from(rto) << 2) - (u64::from(rto) >> 1);
        let jiffies = if jiffies < least { least } else { jiffies };
        (jiffies * tick_ns / 1_000_000) as u32
    }

    /// Fills what the verdict about a close stands on.
    ///
    /// # Safety
    /// `evidence` points to writable memory for an [`Evidence`].
    #[inline(always)]
    pub(crate) unsafe fn fill_evidence(&self, evidence: *mut Evidence) {
        let received: u32 = self.tcp_field(offset!(rcv_nxt));
        let read: u32 = self.tcp_field(offset!(copied_seq));
        let socket: usize = self.field(offset!(sk_socket));
        // SAFETY: as the caller promised, and so for each field of it.
        unsafe {
            (&raw mut (*evidence).acked_bytes).write(self.tcp_field(offset!(bytes_acked)));
            (&raw mut (*evidence).received_bytes).write(self.tcp_field(offset!(bytes_received)));
            (&raw mut (*evidence).snd_una).write(self.tcp_field(offset!(snd_una)));
            (&raw mut (*evidence).write_seq).write(self.tcp_field(offset!(write_seq)));
            (&raw mut (*evidence).unread_bytes).write(received.wrapping_sub(read));
            (&raw mut (*evidence).linger2).write(self.tcp_field(offset!(linger2)));
            (&raw mut (*evidence).user_timeout_ms).write(self.tcp_field(offset!(icsk_user_timeout)));
            (&raw mut (*evidence).segments_out).write(self.tcp_field(offset!(segs_out)));
            (&raw mut (*evidence).error).write(self.field::<u32>(offset!(sk_err)) as u16);
            (&raw mut (*evidence).soft_error).write(self.field::<u32>(offset!(sk_err_soft)) as u16);
            (&raw mut (*evidence).flags).write(self.field::<u64>(offset!(skc_flags)) as u16);
            (&raw mut (*evidence).retransmits).write(self.tcp_field(offset!(icsk_retransmits)));
            (&raw mut (*evidence).probes).write(self.tcp_field(offset!(icsk_probes_out)));
            (&raw mut (*evidence).shutdown).write(self.field(offset!(sk_shutdown)));
            (&raw mut (*evidence).has_socket).write((socket != 0) as u8);
            (&raw mut (*evidence).reserved).write([0; 2]);
            (&raw mut (*evidence).fin_timeout_ms).write(self.fin_timeout_ms());
        }
    }
}

/// Room for a `struct sock_common`: 136 bytes on 6.18.
pub(crate) struct Room([u64; 20]);

impl Room {
    pub(crate) const EMPTY: Self = Self([0; 20]);
}

impl Socket<Copied> {
    /// A full TCP socket, copied into `room`.
    ///
    /// # Safety
    /// `sk` is null or a socket, or was one a moment ago.
    #[inline(always)]
    pub(crate) unsafe fn copy(sk: *const u8, room: &mut Room) -> Option<Self> {
        // SAFETY: the helper reports a fault instead of faulting; the rest reads and writes the copy.
        unsafe {
            let to = (&raw mut room.0).cast::<u8>();
            if generated::bpf_probe_read_kernel(to.cast(), size_of::<Room>() as u32, sk.cast()) != 0
                || Probed::tcp_sock(sk).is_null()
            {
                return None;
            }
            let copy = Self { sk: to, tcp: core::ptr::null(), at: sk, memory: PhantomData };
            if copy.field::<u16>(offset!(skc_num)) == 0 {
                // The socket is closed: its port is only in `inet_sport` now.
                let port = u16::from_be(Probed::read(sk, offset!(inet_sport)));
                to.add(offset!(skc_num) as usize).cast::<u16>().write_volatile(port);
            }
            Some(copy)
        }
    }
}

impl Socket<Recorded> {
    /// The socket at this address, as `recording` tells it.
    #[inline(always)]
    pub(crate) fn recorded(recording: &RecordedSocket, address: u64) -> Self {
        let sk = core::ptr::from_ref(recording).cast();
        Self { sk, tcp: core::ptr::null(), at: address as *const u8, memory: PhantomData }
    }

    /// What it was made from.
    #[inline(always)]
    pub(crate) fn recording(&self) -> &RecordedSocket {
        // SAFETY: `sk` is where the recording is; nothing outlives the run of a program.
        unsafe { &*self.sk.cast() }
    }
}

/// The current thread's name, written in place.
///
/// # Safety
/// `comm` points to 16 writable bytes.
#[inline(always)]
pub(crate) unsafe fn fill_comm(comm: *mut [u8; 16]) {
    // SAFETY: as the caller promised; the helper zeroes the buffer when it fails.
    unsafe { generated::bpf_get_current_comm(comm.cast(), 16) };
}
