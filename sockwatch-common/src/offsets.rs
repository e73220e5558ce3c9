//! Where the running kernel keeps the fields that the probes read: resolved by the agent, from BTF and from tracepoints'
//! format files, frozen into `.rodata` before the programs load.

use crate::Plain;

/// The offset of a field that this kernel does not have. Reading it gives 0.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident => $structure:literal, $path:literal;)+) => {
        /// Byte offsets of kernel fields, [`ABSENT`] where the kernel has no such field.
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct Offsets {
            $($(#[$doc])* #[doc = concat!("`", $structure, ".", $path, "`")] pub $field: u32,)+
        }

        impl Offsets {
            /// No field is known.
            pub const NONE: Self = Self { $($field: ABSENT,)+ };

            /// Where each field is to be found: its own name, the structure, the member's path
            /// (alternatives separated by `|`, `+N` adds bytes: architectures and kernels differ). A structure
            /// `CATEGORY:NAME` is a tracepoint's record, as its format file in tracefs describes it, and the path a
            /// field and its size in bytes.
            pub const SOURCES: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($field), $structure, $path),)+];

            /// Sets the `index`-th field in the order of [`Self::SOURCES`].
            ///
            /// # Panics
            /// If `index` is not an index into [`Self::SOURCES`].
            pub const fn set(&mut self, index: usize, offset: u32) {
                let mut at = 0;
                $(if at == index { self.$field = offset; return; } at += 1;)+
                let _ = at;
                panic!("no such offset");
            }
        }

        // SAFETY: u32 fields only.
        unsafe impl Plain for Offsets {}
    };
}

offsets! {
    skc_family => "sock_common", "skc_family";
    skc_state => "sock_common", "skc_state";
    skc_daddr => "sock_common", "skc_daddr";
    skc_rcv_saddr => "sock_common", "skc_rcv_saddr";
    skc_v6_daddr => "sock_common", "skc_v6_daddr";
    skc_v6_rcv_saddr => "sock_common", "skc_v6_rcv_saddr";
    skc_dport => "sock_common", "skc_dport";
    skc_num => "sock_common", "skc_num";
    skc_net => "sock_common", "skc_net.net";
    skc_cookie => "sock_common", "skc_cookie.counter";
    skc_flags => "sock_common", "skc_flags";
    net_inum => "net", "ns.inum";
    net_fin_timeout => "net", "ipv4.sysctl_tcp_fin_timeout";
    sk_protocol => "sock", "sk_protocol";
    sk_err => "sock", "sk_err";
    sk_err_soft => "sock", "sk_err_soft";
    sk_shutdown => "sock", "sk_shutdown";
    sk_socket => "sock", "sk_socket";
    sk_ack_backlog => "sock", "sk_ack_backlog";
    sk_max_ack_backlog => "sock", "sk_max_ack_backlog";
    inet_sport => "inet_sock", "inet_sport";
    rskq_accept_tail => "inet_connection_sock", "icsk_accept_queue.rskq_accept_tail";
    icsk_rto => "inet_connection_sock", "icsk_rto";
    icsk_retransmits => "inet_connection_sock", "icsk_retransmits";
    icsk_probes_out => "inet_connection_sock", "icsk_probes_out";
    icsk_user_timeout => "inet_connection_sock", "icsk_user_timeout";
    snd_una => "tcp_sock", "snd_una";
    write_seq => "tcp_sock", "write_seq";
    rcv_nxt => "tcp_sock", "rcv_nxt";
    copied_seq => "tcp_sock", "copied_seq";
    srtt_us => "tcp_sock", "srtt_us";
    total_retrans => "tcp_sock", "total_retrans";
    linger2 => "tcp_sock", "linger2";
    segs_out => "tcp_sock", "segs_out";
    bytes_acked => "tcp_sock", "bytes_acked";
    bytes_received => "tcp_sock", "bytes_received";
    /// The first subflow of an MPTCP socket: the connection that accept() has taken from the queue.
    mptcp_first => "mptcp_sock", "first";
    tw_substate => "inet_timewait_sock", "tw_substate";
    /// Null when a minisock, or a socket, is in no hash table.
    skc_hashed => "sock_common", "skc_nulls_node.pprev";
    req_sk => "request_sock", "sk";
    req_num_retrans => "request_sock", "num_retrans";
    snt_synack => "tcp_request_sock", "snt_synack";
    task_pid => "task_struct", "pid";
    task_tgid => "task_struct", "tgid";
    task_state => "task_struct", "__state|state";
    task_files => "task_struct", "files";
    task_cgroups => "task_struct", "cgroups";
    css_set_default => "css_set", "dfl_cgrp";
    cgroup_level => "cgroup", "level";
    /// Up to 6.0: from 6.1 on the ancestors themselves are there, and a helper of tracing programs.
    cgroup_ancestor_ids => "cgroup", "ancestor_ids";
    files_fdt => "files_struct", "fdt";
    fdt_max_fds => "fdtable", "max_fds";
    fdt_fd => "fdtable", "fd";
    file_private_data => "file", "private_data";
    socket_file => "socket", "file";
    socket_sk => "socket", "sk";
    regs_syscall_argument_1 => "pt_regs", "di|orig_x0";
    regs_argument_1 => "pt_regs", "di|regs";
    regs_argument_3 => "pt_regs", "dx|regs+16";
    regs_ip => "pt_regs", "ip|pc";
    regs_sp => "pt_regs", "sp";
    regs_bp => "pt_regs", "bp|regs+232";
    /// Only where the architecture has a link register.
    regs_lr => "pt_regs", "regs+240";
    /// The system call's number; -1 outside of one.
    regs_syscall => "pt_regs", "orig_ax|syscallno";
    regs_return => "pt_regs", "ax|regs";
    req_opcode => "io_kiocb", "opcode";
    req_file => "io_kiocb", "file";
    io_complete_req => "trace_event_raw_io_uring_complete", "req";
    io_complete_res => "trace_event_raw_io_uring_complete", "res";
    accept_enter_fd => "syscalls:sys_enter_accept4", "fd 8";
    accept_enter_peer => "syscalls:sys_enter_accept4", "upeer_sockaddr 8";
    accept_enter_room => "syscalls:sys_enter_accept4", "upeer_addrlen 8";
    accept_exit_ret => "syscalls:sys_exit_accept4", "ret 8";
    state_address => "sock:inet_sock_set_state", "skaddr 8";
    state_old => "sock:inet_sock_set_state", "oldstate 4";
    state_new => "sock:inet_sock_set_state", "newstate 4";
    state_family => "sock:inet_sock_set_state", "family 2";
    state_protocol => "sock:inet_sock_set_state", "protocol 2";
    state_local_port => "sock:inet_sock_set_state", "sport 2";
    state_remote_port => "sock:inet_sock_set_state", "dport 2";
    state_local => "sock:inet_sock_set_state", "saddr_v6 16";
    state_remote => "sock:inet_sock_set_state", "daddr_v6 16";
    destroy_address => "tcp:tcp_destroy_sock", "skaddr 8";
    destroy_local_port => "tcp:tcp_destroy_sock", "sport 2";
    destroy_remote_port => "tcp:tcp_destroy_sock", "dport 2";
    destroy_local => "tcp:tcp_destroy_sock", "saddr_v6 16";
    destroy_remote => "tcp:tcp_destroy_sock", "daddr_v6 16";
    reset_address => "tcp:tcp_receive_reset", "skaddr 8";
    reset_local_port => "tcp:tcp_receive_reset", "sport 2";
    reset_remote_port => "tcp:tcp_receive_reset", "dport 2";
    reset_local => "tcp:tcp_receive_reset", "saddr_v6 16";
    reset_remote => "tcp:tcp_receive_reset", "daddr_v6 16";
    retransmit_address => "tcp:tcp_retransmit_skb", "skaddr 8";
    retransmit_state => "tcp:tcp_retransmit_skb", "state 4";
    retransmit_local_port => "tcp:tcp_retransmit_skb", "sport 2";
    retransmit_remote_port => "tcp:tcp_retransmit_skb", "dport 2";
    retransmit_local => "tcp:tcp_retransmit_skb", "saddr_v6 16";
    retransmit_remote => "tcp:tcp_retransmit_skb", "daddr_v6 16";
}
