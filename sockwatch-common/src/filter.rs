//! What the agent asks of the probes: filters and settings, frozen into `.rodata`, so that the verifier drops
//! the code of every filter that is not in use.

use crate::Plain;

/// Port ranges per port filter.
pub const MAX_PORT_RANGES: usize = 16;
/// Address prefixes.
pub const MAX_PREFIXES: usize = 8;
/// Process ids.
pub const MAX_PIDS: usize = 16;
/// Network namespaces.
pub const MAX_NETNS: usize = 8;

/// Ports from `first` to `last`, both included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    /// First port, host byte order.
    pub first: u16,
    /// Last port, host byte order.
    pub last: u16,
}

/// Up to [`MAX_PORT_RANGES`] ranges; an empty set matches every port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSet {
    /// How many of `ranges` are set.
    pub count: u32,
    /// The ranges.
    pub ranges: [PortRange; MAX_PORT_RANGES],
}

/// An address prefix. IPv4 is held as `::ffff:a.b.c.d`, so that it also matches v4-mapped sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The network's address, as two words in the machine's own order of the bytes in network order.
    pub address: [u64; 2],
    /// Its mask, likewise.
    pub mask: [u64; 2],
}

/// Which events to submit. Sets of one kind are alternatives; different kinds must all match.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Either end's port.
    pub ports: PortSet,
    /// The local port.
    pub local_ports: PortSet,
    /// The remote port.
    pub remote_ports: PortSet,
    /// How many of `prefixes` are set.
    pub prefix_count: u32,
    /// How many of `pids` are set.
    pub pid_count: u32,
    /// How many of `netns` are set.
    pub netns_count: u32,
    /// 1 if `cgroup` is set.
    pub has_cgroup: u32,
    /// The cgroup's depth below the root of the hierarchy.
    pub cgroup_level: u32,
    /// The cgroup's id (the inode number of its cgroup v2 directory); its descendants match too.
    pub cgroup: u64,
    /// Either end's address.
    pub prefixes: [Prefix; MAX_PREFIXES],
    /// The owner's process id.
    pub pids: [u32; MAX_PIDS],
    /// The socket's network namespace.
    pub netns: [u32; MAX_NETNS],
}

/// What the exits of the accept system calls report besides failures, the value of the `ACCEPT_EXITS` map: the
/// descriptor of an accept that another hook reports ([`crate::Kind::AcceptReturn`]).
pub const SYSCALL_DESCRIPTORS: u32 = 0;
/// As above: the accept itself ([`crate::Kind::Accept`]); no better hook is there.
pub const SYSCALL_ACCEPTS: u32 = 1;
/// The same, without failures: other programs tell those.
pub const SYSCALL_ACCEPTS_ONLY: u32 = 2;

/// How the programs are to run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Wake the reader at once when this many bytes wait in the ring buffer.
    pub wakeup_bytes: u64,
    /// Argument index of `enum sk_rst_reason` in `tcp_send_reset`; 0 where it has none.
    pub reset_reason_index: u32,
    /// Argument index of the receiving socket in `kfree_skb`; 0 where it has none.
    pub drop_socket_index: u32,
    /// The running kernel's `SKB_DROP_REASON_TCP_LISTEN_OVERFLOW`; 0 where it has none.
    pub listen_overflow_reason: u32,
    /// 1 if `bpf_task_pt_regs` exists.
    pub has_task_pt_regs: u32,
    /// 1 if tracing programs may call `bpf_get_socket_cookie`.
    pub has_socket_cookie: u32,
    /// A jiffy, in nanoseconds; 0 when unknown.
    pub tick_ns: u32,
    /// 1 if connections are counted by their listeners instead of being told one by one.
    pub tallies: u32,
    /// 1 if the first read from each accepted connection is told.
    pub first_reads: u32,
}

impl PortSet {
    /// Matches every port.
    pub const ANY: Self = Self { count: 0, ranges: [PortRange { first: 0, last: 0 }; MAX_PORT_RANGES] };
}

impl Filter {
    /// Matches everything.
    pub const ANY: Self = Self {
        ports: PortSet::ANY,
        local_ports: PortSet::ANY,
        remote_ports: PortSet::ANY,
        prefix_count: 0,
        pid_count: 0,
        netns_count: 0,
        has_cgroup: 0,
        cgroup_level: 0,
        cgroup: 0,
        prefixes: [Prefix { address: [0; 2], mask: [0; 2] }; MAX_PREFIXES],
        pids: [0; MAX_PIDS],
        netns: [0; MAX_NETNS],
    };
}

impl Settings {
    /// Nothing known of the kernel yet.
    pub const NONE: Self = Self {
        wakeup_bytes: u64::MAX,
        reset_reason_index: 0,
        drop_socket_index: 0,
        listen_overflow_reason: 0,
        has_task_pt_regs: 0,
        has_socket_cookie: 0,
        tick_ns: 0,
        tallies: 0,
        first_reads: 0,
    };
}

// SAFETY: integers only; the sizes asserted below are the sums of the fields' sizes.
unsafe impl Plain for Filter {}
// SAFETY: as above.
unsafe impl Plain for Settings {}

const _: () = {
    assert!(size_of::<PortSet>() == 4 + 4 * MAX_PORT_RANGES);
    assert!(
        size_of::<Filter>() == 3 * size_of::<PortSet>() + 20 + 8 + 32 * MAX_PREFIXES + 4 * MAX_PIDS + 4 * MAX_NETNS
    );
    assert!(size_of::<Settings>() == 40);
};
