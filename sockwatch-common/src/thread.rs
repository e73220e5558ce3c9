//! What watched threads did: when they left a CPU and came back, and what they were at; and the first read from a connection.

use crate::Plain;

/// Bytes of a thread's own stack that are copied, from its stack pointer on.
pub const USER_STACK_BYTES: usize = 4096;

/// Return addresses of a kernel stack.
pub const KERNEL_FRAMES: usize = 16;

/// A pause as long as this comes with its stacks. Shorter ones are summed up for as long.
pub const LONG_PAUSE_NS: u64 = 1_000_000;

/// Processes that are watched at once.
pub const MAX_WATCHED: u32 = 256;

/// Threads of them.
pub const MAX_THREADS: u32 = 1024;

/// Accepted connections that nobody has read from: of so many the first read is told.
pub const MAX_UNREAD: u32 = 1 << 16;

/// What a [`Pause`] tells.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// A thread is on a CPU again.
    Pause = 1,
    /// A thread is on a CPU, and this is what it is at; `off_ns` and `on_ns` are the sample's time. Always [`Stacked`].
    Sample = 2,
    /// A thread is gone.
    Gone = 3,
}

/// Time that a thread spent off the CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// When it left the CPU, `CLOCK_MONOTONIC` in nanoseconds; 0 where that was not seen.
    pub off_ns: u64,
    /// When it was woken; 0 if nobody did, or nobody saw.
    pub woken_ns: u64,
    /// When it was back on a CPU; 0 in the map while it is not.
    pub on_ns: u64,
    /// Process id (`tgid`).
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// A [`ThreadKind`].
    pub kind: u32,
    /// What it waited for, as `task->__state` says it; 0: for a CPU.
    pub state: u32,
    /// The system call that it was in; -1: none.
    pub syscall: i32,
    /// Bytes of its own stack that are valid.
    pub user_bytes: u32,
    /// Bytes of return addresses in the kernel that are valid.
    pub kernel_bytes: u32,
    /// Which record of this thread it is: where one is missing, it was lost. 0 of a sample.
    pub number: u32,
    /// Where it will go on in its own code.
    pub ip: u64,
    /// Its own stack pointer.
    pub sp: u64,
    /// Its frame pointer.
    pub bp: u64,
    /// Its link register, where the architecture has one.
    pub lr: u64,
    /// Since when the thread's doing is summed up, until `off_ns`; 0 where that was not seen.
    pub since_ns: u64,
    /// Since then it was so long on a CPU,
    pub ran_ns: u64,
    /// so long off it in short pauses until it was woken,
    pub blocked_ns: u64,
    /// and so long without one though it could have run.
    pub starved_ns: u64,
}

/// A [`Pause`] with its stacks; also what is kept of each thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stacked {
    /// The pause.
    pub pause: Pause,
    /// Where it was in the kernel, the innermost first.
    pub kernel: [u64; KERNEL_FRAMES],
    /// Its own stack, from `sp` on.
    pub user: [u8; USER_STACK_BYTES],
}

/// Somebody has taken data from an accepted connection for the first time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FirstRead {
    /// When, `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// The connection's cookie.
    pub cookie: u64,
    /// Its network namespace's inode number.
    pub netns: u32,
    /// Padding.
    pub reserved: u32,
}

// SAFETY: integers and byte arrays only; the sizes asserted below are the sums of the fields' sizes.
unsafe impl Plain for Pause {}
// SAFETY: as above.
unsafe impl Plain for Stacked {}
// SAFETY: as above.
unsafe impl Plain for FirstRead {}

const _: () = {
    assert!(size_of::<Pause>() == 3 * 8 + 8 * 4 + 8 * 8);
    assert!(size_of::<FirstRead>() == 24);
    assert!(size_of::<Stacked>() == size_of::<Pause>() + 8 * KERNEL_FRAMES + USER_STACK_BYTES);
};
