//! Reads kernel memory, and nothing else does. Offsets come from the running kernel's BTF.

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, generated},
};
use sockwatch_common::{ABSENT, Offsets, Settings};

use crate::socket::{NEW_SYN_RECV, TIME_WAIT};

#[unsafe(no_mangle)]
static OFFSETS: Global<Offsets> = Global::new(Offsets::NONE);

#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings::NONE);

pub(crate) fn offsets() -> *const Offsets {
    (&raw const OFFSETS).cast()
}

pub(crate) fn settings() -> *const Settings {
    (&raw const SETTINGS).cast()
}

/// Reads one field's offset. Loading the whole structure would copy it to the 512-byte stack.
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: `.rodata` holds an `Offsets` for the program's lifetime.
        #[allow(unused_unsafe, reason = "also used within unsafe blocks")]
        let value = unsafe { core::ptr::read_volatile(&raw const (*$crate::memory::offsets()).$field) };
        value
    }};
}
pub(crate) use offset;

/// Reads one setting.
macro_rules! setting {
    ($field:ident) => {{
        // SAFETY: `.rodata` holds a `Settings` for the program's lifetime.
        #[allow(unused_unsafe, reason = "also used within unsafe blocks")]
        let value = unsafe { core::ptr::read_volatile(&raw const (*$crate::memory::settings()).$field) };
        value
    }};
}
pub(crate) use setting;

/// A way to read a kernel structure through a pointer that this kind of program was given.
pub(crate) trait Memory {
    /// Whether the kernel's socket itself can be read, not only what a record told of it.
    const READS_SOCKETS: bool = true;

    /// Reads a `T` at `base + offset`; zero where the read faults, or, if the read is probed, where the kernel has no such
    /// field. [`Direct`] reads need their fields: they are in the alternative's requirements.
    ///
    /// # Safety
    /// `base` is a pointer to the structure that `offset` belongs to, and null-checked.
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T;

    /// Reads a `T` at `base + offset` of a structure that a field of the first one points to.
    ///
    /// # Safety
    /// As for [`Self::read`], and `base` was read as a pointer.
    #[inline(always)]
    unsafe fn follow<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: as the caller promised.
        unsafe { Self::read(base, offset) }
    }

    /// The same socket as a `struct tcp_sock`; null unless it is a full TCP socket.
    ///
    /// # Safety
    /// `sk` points to a `struct sock_common` and is null-checked.
    unsafe fn tcp_sock(sk: *const u8) -> *const u8;

    /// The socket's cookie, generated now if it has none yet and the program type can.
    ///
    /// # Safety
    /// As for [`Self::tcp_sock`].
    unsafe fn cookie(sk: *const u8) -> u64;
}

/// BTF tracepoints and fexit: the verifier knows the pointer's type, loads cannot fault.
pub(crate) struct Direct;

/// Every other kind of program: `bpf_probe_read_kernel`.
pub(crate) struct Probed;

impl Memory for Direct {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier checks the type and the offset, and turns a faulting load into a zero.
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    }

    #[inline(always)]
    unsafe fn tcp_sock(sk: *const u8) -> *const u8 {
        // SAFETY: the verifier checks that `sk` is a socket.
        unsafe { generated::bpf_skc_to_tcp_sock(sk.cast_mut().cast()) }.cast::<u8>().cast_const()
    }

    #[inline(always)]
    unsafe fn cookie(sk: *const u8) -> u64 {
        // SAFETY: as the caller promised.
        let cookie = unsafe { Self::read::<u64>(sk, offset!(skc_cookie)) };
        if cookie != 0 || setting!(has_socket_cookie) == 0 {
            return cookie;
        }
        // SAFETY: the verifier checks that `sk` is a socket.
        unsafe { generated::bpf_get_socket_cookie(sk.cast_mut().cast()) }
    }
}

/// A copy of the structure on this program's stack, taken with a single `bpf_probe_read_kernel`: the helper costs some 40 ns
/// a call, however little it reads.
pub(crate) struct Copied;

impl Memory for Copied {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        if offset == ABSENT {
            return T::default();
        }
        // SAFETY: `base` is the copy, and the verifier knows its bounds.
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    }

    #[inline(always)]
    unsafe fn follow<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: as the caller promised; the read is probed.
        unsafe { Probed::read(base, offset) }
    }

    /// The copy ends where `struct sock_common` ends.
    #[inline(always)]
    unsafe fn tcp_sock(_sk: *const u8) -> *const u8 {
        core::ptr::null()
    }

    #[inline(always)]
    unsafe fn cookie(sk: *const u8) -> u64 {
        // SAFETY: as the caller promised.
        unsafe { Self::read::<u64>(sk, offset!(skc_cookie)) }
    }
}

/// What a classic tracepoint's record told of a socket, as a `RecordedSocket` on this program's stack: all there is where
/// the kernel has no BTF. The offsets are the copy's then, and useless for the kernel's memory.
pub(crate) struct Recorded;

impl Memory for Recorded {
    const READS_SOCKETS: bool = false;

    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: as the caller promised: `base` is a copy on the stack here, too.
        unsafe { Copied::read(base, offset) }
    }

    /// Records hold no pointer to follow.
    #[inline(always)]
    unsafe fn follow<T: Copy + Default>(_base: *const u8, _offset: u32) -> T {
        T::default()
    }

    #[inline(always)]
    unsafe fn tcp_sock(_sk: *const u8) -> *const u8 {
        core::ptr::null()
    }

    #[inline(always)]
    unsafe fn cookie(_sk: *const u8) -> u64 {
        0
    }
}

/// `IPPROTO_TCP`.
pub(crate) const TCP: u16 = 6;

impl Memory for Probed {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        if offset == ABSENT {
            return T::default();
        }
        // SAFETY: the helper reports a fault instead of faulting.
        unsafe { bpf_probe_read_kernel(base.add(offset as usize).cast::<T>()) }.unwrap_or_default()
    }

    #[inline(always)]
    unsafe fn tcp_sock(sk: *const u8) -> *const u8 {
        // SAFETY: as the caller promised.
        let state = unsafe { Self::read::<u8>(sk, offset!(skc_state)) };
        if state == TIME_WAIT || state == NEW_SYN_RECV {
            return core::ptr::null();
        }
        // `sk_protocol` is a u16 from 5.6 on, so on every kernel that has the ring buffer.
        // SAFETY: as the caller promised, and a full socket.
        let protocol = unsafe { Self::read::<u16>(sk, offset!(sk_protocol)) };
        if protocol == TCP { sk } else { core::ptr::null() }
    }

    #[inline(always)]
    unsafe fn cookie(sk: *const u8) -> u64 {
        // SAFETY: as the caller promised.
        unsafe { Self::read::<u64>(sk, offset!(skc_cookie)) }
    }
}
