//! The probe table: what sockwatch attaches, which alternatives it tries in which order, and what is lost without them.
//!
//! What differs between kernels is a row here, chosen by asking the kernel, never by its version.

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it nothing works.
    Required,
    /// Without it this is lost.
    Optional {
        /// In the user's words.
        without: &'static str,
    },
}

/// Where a program attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A BTF tracepoint (`tp_btf`).
    BtfTracepoint(&'static str),
    /// A classic tracepoint: category and name. Needs tracefs.
    Tracepoint(&'static str, &'static str),
    /// A function's return, with its arguments.
    FExit(&'static str),
    /// A function's entry.
    KProbe(&'static str),
    /// A function's return.
    KRetProbe(&'static str),
    /// Every CPU that is not idle, so many times a second.
    CpuClock(u64),
}

/// One program of the object and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name in the object.
    pub name: &'static str,
    /// Where it attaches.
    pub hook: Hook,
    /// Its part there.
    pub part: Part,
}

/// What a program does on its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Handles the events.
    First,
    /// Handles those that the kernel skips because the first program is running on that CPU. It attaches behind it.
    Relief,
}

/// What a row needs of the kernel, besides that its programs load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A function with so many parameters.
    Parameters(&'static str, usize),
    /// A tracepoint with at least so many arguments.
    Arguments(&'static str, usize),
    /// Fields that the programs read, of structures or of tracepoints' records.
    Fields(&'static [&'static str]),
    /// An enumeration has this enumerator; another row of the same name does without.
    Enumerator(&'static str, &'static str),
    /// Only where an earlier probe took this alternative: it is of no use otherwise.
    Taken(&'static str, &'static str),
    /// Only where the kernel has no BTF: elsewhere another row of the same name tells more.
    NoBtf,
}

/// One way to have a probe.
#[derive(Clone, Copy, Debug)]
pub struct Alternative {
    /// Its name, as `--probe` takes it.
    pub name: &'static str,
    /// All of them attach, or none.
    pub programs: &'static [Program],
    /// What it needs.
    pub requirements: &'static [Requirement],
    /// What it costs or cannot see, compared to the first alternative.
    pub lost: Option<&'static str>,
}

/// A probe.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name, as `--probe` takes it.
    pub name: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// Whether sockwatch can do without.
    pub need: Need,
    /// In the order of preference.
    pub alternatives: &'static [Alternative],
}

const IDENTITY: Requirement = Requirement::Fields(&[
    "skc_family",
    "skc_state",
    "skc_daddr",
    "skc_rcv_saddr",
    "skc_dport",
    "skc_net",
    "skc_cookie",
    "net_inum",
    "inet_sport",
]);

pub(super) const fn program(name: &'static str, hook: Hook) -> Program {
    Program { name, hook, part: Part::First }
}

const fn relief(name: &'static str, hook: Hook) -> Program {
    Program { name, hook, part: Part::Relief }
}

const ACCEPT4_EXIT: Program = program("accept4_exit", Hook::Tracepoint("syscalls", "sys_exit_accept4"));
const ACCEPT_EXIT: Program = program("accept_exit", Hook::Tracepoint("syscalls", "sys_exit_accept"));
const ACCEPT4_ENTER: Program = program("accept4_enter", Hook::Tracepoint("syscalls", "sys_enter_accept4"));
const ACCEPT_ENTER: Program = program("accept_enter", Hook::Tracepoint("syscalls", "sys_enter_accept"));

/// The accept system calls' own functions, which take the caller's `struct pt_regs`: each architecture names them its own
/// way. On others than these two no such function exists, and what attaches to it is refused.
#[cfg(not(target_arch = "aarch64"))]
const SYS_ACCEPT: &str = "__x64_sys_accept";
#[cfg(not(target_arch = "aarch64"))]
const SYS_ACCEPT4: &str = "__x64_sys_accept4";
#[cfg(target_arch = "aarch64")]
const SYS_ACCEPT: &str = "__arm64_sys_accept";
#[cfg(target_arch = "aarch64")]
const SYS_ACCEPT4: &str = "__arm64_sys_accept4";

const ACCEPT4_RETURN: Program = program("accept4_kretprobe", Hook::KRetProbe(SYS_ACCEPT4));
const ACCEPT_RETURN: Program = program("accept_return_kretprobe", Hook::KRetProbe(SYS_ACCEPT));

/// The exits of the accept system calls. They serve two probes, and attach once.
const SYSCALL_EXITS: &[Program] = &[ACCEPT4_EXIT, ACCEPT_EXIT];

/// From a descriptor to its socket.
const DESCRIPTORS: Requirement =
    Requirement::Fields(&["task_files", "files_fdt", "fdt_fd", "file_private_data", "socket_sk"]);

/// Tells a failed accept's listener at the exit; else its descriptor is noted at the entry.
const TASK_REGISTERS: Requirement = Requirement::Enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs");

const KFREE_SKB: &[Program] = &[program("kfree_skb", Hook::BtfTracepoint("kfree_skb"))];

/// Up to 6.10 a dropped segment does not tell its socket.
const KFREE_SKB_SOCKET: Requirement = Requirement::Arguments("kfree_skb", 4);
const LISTEN_OVERFLOW: Requirement = Requirement::Enumerator("skb_drop_reason", "SKB_DROP_REASON_TCP_LISTEN_OVERFLOW");

const STATE_RECORD: Requirement = Requirement::Fields(&[
    "state_address",
    "state_old",
    "state_new",
    "state_family",
    "state_protocol",
    "state_local_port",
    "state_remote_port",
    "state_local",
    "state_remote",
]);

const DESTROY_RECORD: Requirement = Requirement::Fields(&[
    "destroy_address",
    "destroy_local_port",
    "destroy_remote_port",
    "destroy_local",
    "destroy_remote",
]);

const RESET_RECORD: Requirement =
    Requirement::Fields(&["reset_address", "reset_local_port", "reset_remote_port", "reset_local", "reset_remote"]);

const RETRANSMIT_RECORD: Requirement = Requirement::Fields(&[
    "retransmit_address",
    "retransmit_state",
    "retransmit_local_port",
    "retransmit_remote_port",
    "retransmit_local",
    "retransmit_remote",
]);

/// Every probe, in the order in which they attach: transitions last, so that a connection whose birth was seen is seen
/// whole.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "accept",
        tells: "who accepted a connection and when",
        need: Need::Optional { without: "queue waits and acceptors" },
        alternatives: &[
            Alternative {
                name: "fexit",
                programs: &[program("accept_fexit_2", Hook::FExit("inet_csk_accept"))],
                requirements: &[IDENTITY, Requirement::Parameters("inet_csk_accept", 2)],
                lost: None,
            },
            Alternative {
                name: "fexit",
                programs: &[program("accept_fexit_4", Hook::FExit("inet_csk_accept"))],
                requirements: &[IDENTITY, Requirement::Parameters("inet_csk_accept", 4)],
                lost: None,
            },
            Alternative {
                name: "kretprobe",
                programs: &[program("accept_kretprobe", Hook::KRetProbe("inet_csk_accept"))],
                requirements: &[IDENTITY, Requirement::Fields(&["regs_return"])],
                lost: None,
            },
            Alternative {
                name: "kretprobe",
                programs: &[program("accept_recorded_kretprobe", Hook::KRetProbe("inet_csk_accept"))],
                requirements: &[Requirement::NoBtf, Requirement::Fields(&["regs_return"]), STATE_RECORD],
                lost: Some("accepts of connections that were queued before the trace (unmatched)"),
            },
            Alternative {
                name: "syscall",
                programs: SYSCALL_EXITS,
                requirements: &[IDENTITY, DESCRIPTORS, Requirement::Fields(&["accept_exit_ret"])],
                lost: Some("accepts of MPTCP sockets; every system call of the machine gets some 25 ns slower"),
            },
            Alternative {
                name: "syscall",
                programs: &[
                    ACCEPT4_ENTER,
                    ACCEPT_ENTER,
                    program("accept4_recorded_exit", Hook::Tracepoint("syscalls", "sys_exit_accept4")),
                    program("accept_recorded_exit", Hook::Tracepoint("syscalls", "sys_exit_accept")),
                ],
                requirements: &[
                    Requirement::NoBtf,
                    STATE_RECORD,
                    Requirement::Fields(&[
                        "accept_enter_fd",
                        "accept_enter_peer",
                        "accept_enter_room",
                        "accept_exit_ret",
                    ]),
                ],
                lost: Some(
                    "accepts whose caller does not ask for the peer's address, or whose peer waits twice (unmatched); every \
                     system call of the machine gets some 50 ns slower",
                ),
            },
        ],
    },
    Probe {
        name: "accept-io-uring",
        tells: "accepts by io_uring, where accept is traced by system call",
        need: Need::Optional { without: "accepts by io_uring" },
        alternatives: &[Alternative {
            name: "tracepoint",
            programs: &[program("accept_io_uring", Hook::Tracepoint("io_uring", "io_uring_complete"))],
            requirements: &[
                Requirement::Taken("accept", "syscall"),
                IDENTITY,
                Requirement::Fields(&["io_complete_req", "io_complete_res", "req_opcode", "req_file"]),
            ],
            lost: Some("multishot accepts and direct descriptors"),
        }],
    },
    Probe {
        name: "accept-return",
        tells: "failed accepts (EMFILE, ENFILE, ECONNABORTED) and the descriptor of the others",
        need: Need::Optional { without: "failed accepts, and descriptors unless accept is traced by system call" },
        alternatives: &[
            Alternative {
                name: "fexit",
                programs: &[
                    program("accept4_fexit", Hook::FExit(SYS_ACCEPT4)),
                    program("accept_fexit", Hook::FExit(SYS_ACCEPT)),
                ],
                requirements: &[IDENTITY],
                lost: None,
            },
            Alternative {
                name: "kretprobe",
                programs: &[ACCEPT4_RETURN, ACCEPT_RETURN],
                requirements: &[IDENTITY, DESCRIPTORS, TASK_REGISTERS, Requirement::Fields(&["regs_return"])],
                lost: None,
            },
            Alternative {
                name: "kretprobe",
                programs: &[
                    program("accept4_kprobe", Hook::KProbe(SYS_ACCEPT4)),
                    program("accept_kprobe", Hook::KProbe(SYS_ACCEPT)),
                    ACCEPT4_RETURN,
                    ACCEPT_RETURN,
                ],
                requirements: &[
                    IDENTITY,
                    DESCRIPTORS,
                    Requirement::Fields(&["regs_argument_1", "regs_syscall_argument_1", "regs_return"]),
                ],
                lost: None,
            },
            Alternative {
                name: "syscall",
                programs: SYSCALL_EXITS,
                requirements: &[IDENTITY, DESCRIPTORS, TASK_REGISTERS, Requirement::Fields(&["accept_exit_ret"])],
                lost: Some("every system call of the machine gets some 25 ns slower"),
            },
            Alternative {
                name: "syscall",
                programs: &[ACCEPT4_ENTER, ACCEPT_ENTER, ACCEPT4_EXIT, ACCEPT_EXIT],
                requirements: &[IDENTITY, DESCRIPTORS, Requirement::Fields(&["accept_enter_fd", "accept_exit_ret"])],
                lost: Some("every system call of the machine gets some 50 ns slower"),
            },
        ],
    },
    Probe {
        name: "enqueue",
        tells: "when a handshake began, and which listener it was for",
        need: Need::Optional { without: "handshake times, and listeners of connections that nobody accepted" },
        alternatives: &[
            Alternative {
                name: "fexit",
                programs: &[
                    program("enqueue_v4_fexit", Hook::FExit("tcp_v4_syn_recv_sock")),
                    program("enqueue_v6_fexit", Hook::FExit("tcp_v6_syn_recv_sock")),
                ],
                requirements: &[IDENTITY, Requirement::Parameters("tcp_v4_syn_recv_sock", 6)],
                lost: None,
            },
            Alternative {
                name: "fexit",
                programs: &[
                    program("enqueue_v4_fexit_7", Hook::FExit("tcp_v4_syn_recv_sock")),
                    program("enqueue_v6_fexit_7", Hook::FExit("tcp_v6_syn_recv_sock")),
                ],
                requirements: &[IDENTITY, Requirement::Parameters("tcp_v4_syn_recv_sock", 7)],
                lost: None,
            },
            Alternative {
                name: "kretprobe",
                programs: &[
                    program("enqueue_v4_entry", Hook::KProbe("tcp_v4_syn_recv_sock")),
                    program("enqueue_v4_return", Hook::KRetProbe("tcp_v4_syn_recv_sock")),
                    program("enqueue_v6_entry", Hook::KProbe("tcp_v6_syn_recv_sock")),
                    program("enqueue_v6_return", Hook::KRetProbe("tcp_v6_syn_recv_sock")),
                ],
                requirements: &[IDENTITY, Requirement::Fields(&["regs_argument_1", "regs_argument_3", "regs_return"])],
                lost: None,
            },
            Alternative {
                name: "data-ready",
                programs: &[program("enqueue_data_ready", Hook::BtfTracepoint("sk_data_ready"))],
                requirements: &[IDENTITY, Requirement::Fields(&["rskq_accept_tail", "req_sk", "snt_synack"])],
                lost: Some("a hot hook: it runs for all traffic of the machine (--no-handshake goes without)"),
            },
        ],
    },
    Probe {
        name: "destroy",
        tells: "when a socket is gone",
        need: Need::Optional { without: "the end of sockets that stay open after CLOSE" },
        alternatives: &[
            Alternative {
                name: "btf",
                programs: &[
                    program("destroy_btf", Hook::BtfTracepoint("tcp_destroy_sock")),
                    relief("destroy_relief", Hook::BtfTracepoint("tcp_destroy_sock")),
                ],
                requirements: &[IDENTITY],
                lost: None,
            },
            Alternative {
                name: "tracepoint",
                programs: &[program("destroy_classic", Hook::Tracepoint("tcp", "tcp_destroy_sock"))],
                requirements: &[IDENTITY],
                lost: Some("some speed"),
            },
            Alternative {
                name: "tracepoint",
                programs: &[program("destroy_recorded", Hook::Tracepoint("tcp", "tcp_destroy_sock"))],
                requirements: &[Requirement::NoBtf, DESTROY_RECORD],
                lost: None,
            },
        ],
    },
    Probe {
        name: "reset",
        tells: "RSTs sent and received",
        need: Need::Optional { without: "RSTs, and who sent them" },
        alternatives: &[
            Alternative {
                name: "btf",
                programs: &[
                    program("send_reset", Hook::BtfTracepoint("tcp_send_reset")),
                    program("receive_reset", Hook::BtfTracepoint("tcp_receive_reset")),
                ],
                requirements: &[IDENTITY],
                lost: None,
            },
            Alternative {
                name: "tracepoint",
                programs: &[program("receive_reset_recorded", Hook::Tracepoint("tcp", "tcp_receive_reset"))],
                requirements: &[Requirement::NoBtf, RESET_RECORD],
                lost: Some("RSTs sent"),
            },
        ],
    },
    Probe {
        name: "retransmit",
        tells: "retransmitted segments and SYN-ACKs",
        need: Need::Optional { without: "retransmissions" },
        alternatives: &[
            Alternative {
                name: "btf",
                programs: &[
                    program("retransmit_skb", Hook::BtfTracepoint("tcp_retransmit_skb")),
                    program("retransmit_synack", Hook::BtfTracepoint("tcp_retransmit_synack")),
                ],
                requirements: &[IDENTITY],
                lost: None,
            },
            Alternative {
                name: "tracepoint",
                programs: &[program("retransmit_skb_recorded", Hook::Tracepoint("tcp", "tcp_retransmit_skb"))],
                requirements: &[Requirement::NoBtf, RETRANSMIT_RECORD],
                lost: Some("retransmitted SYN-ACKs"),
            },
        ],
    },
    Probe {
        name: "drop",
        tells: "final ACKs dropped at a full accept queue, segments for TIME_WAIT (not: dropped SYNs)",
        need: Need::Optional { without: "dropped final ACKs and segments to TIME_WAIT" },
        alternatives: &[
            Alternative {
                name: "btf",
                programs: KFREE_SKB,
                requirements: &[IDENTITY, KFREE_SKB_SOCKET, LISTEN_OVERFLOW],
                lost: None,
            },
            Alternative {
                name: "btf",
                programs: KFREE_SKB,
                requirements: &[IDENTITY, KFREE_SKB_SOCKET],
                lost: Some("final ACKs dropped at a full accept queue: this kernel does not say why it drops them"),
            },
        ],
    },
    Probe {
        name: "state",
        tells: "every state transition",
        need: Need::Required,
        alternatives: &[
            Alternative {
                name: "btf",
                programs: &[
                    program("set_state_btf", Hook::BtfTracepoint("inet_sock_set_state")),
                    relief("set_state_relief", Hook::BtfTracepoint("inet_sock_set_state")),
                ],
                requirements: &[IDENTITY],
                lost: None,
            },
            Alternative {
                name: "tracepoint",
                programs: &[program("set_state_classic", Hook::Tracepoint("sock", "inet_sock_set_state"))],
                requirements: &[IDENTITY],
                lost: Some(
                    "cookies of sockets that nothing else asked for (identity by address between birth and destroy), and \
                     runs that the kernel skips (older ones do not count them)",
                ),
            },
            Alternative {
                name: "tracepoint",
                programs: &[program("set_state_recorded", Hook::Tracepoint("sock", "inet_sock_set_state"))],
                requirements: &[Requirement::NoBtf, STATE_RECORD],
                lost: Some(
                    "network namespaces, cookies (identity by address between birth and destroy), queue depths, payload, \
                     how connections ended beyond a received RST, and runs that the kernel skips (older ones do not count them)",
                ),
            },
        ],
    },
];

/// The benchmark's yardstick: a program that does nothing.
pub const EMPTY: Program = program("empty", Hook::BtfTracepoint("inet_sock_set_state"));

#[cfg(test)]
mod tests {
    use super::*;
    use sockwatch_common::Offsets;

    #[test]
    fn names_are_unique_and_fields_exist() {
        let known: Vec<_> = Offsets::SOURCES.iter().map(|(field, _, _)| *field).collect();
        for (index, probe) in PROBES.iter().enumerate() {
            assert!(PROBES[..index].iter().all(|other| other.name != probe.name), "{} twice", probe.name);
            for requirement in probe.alternatives.iter().flat_map(|alternative| alternative.requirements) {
                if let Requirement::Fields(fields) = requirement {
                    assert!(fields.iter().all(|field| known.contains(field)), "{fields:?}");
                }
            }
        }
    }
}
