//! System calls: those that a thread may still make (seccomp). All others fail with `EPERM`.

use std::{collections::BTreeMap, env::consts::ARCH};

use nix::libc::{self, c_long};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter,
};

/// Groups of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Read and write maps that are open: no other command of bpf().
    Maps,
    /// A netlink socket, and no other.
    Table,
    /// Enter network namespaces, and no other kind.
    Namespaces,
    /// Copy a descriptor of another process (pidfd_getfd), and read a socket's options.
    Descriptors,
    /// Open files for writing.
    Writing,
    /// Remove files.
    Removing,
    /// Set up the terminal, and give it back as it was.
    Terminal,
    /// Accept connections at a socket that listens, and see them off.
    Accepting,
    /// Look up names, and connect to somebody else.
    Connecting,
}

impl Calls {
    /// What it is, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Maps => "bpf() on maps that are open",
            Self::Table => "netlink sockets",
            Self::Namespaces => "setns() into network namespaces",
            Self::Descriptors => "pidfd_getfd()",
            Self::Writing => "opening files for writing",
            Self::Removing => "removing files",
            Self::Terminal => "setting up the terminal",
            Self::Accepting => "accepting connections",
            Self::Connecting => "TCP and UDP to others",
        }
    }
}

/// An argument's condition.
#[derive(Clone, Copy, Debug)]
enum If {
    /// This argument is this.
    Is(u8, u64),
    /// This argument has none of these bits.
    Lacks(u8, u64),
    /// This argument has all of these bits.
    Has(u8, u64),
}

/// What each thread does: memory, time, waiting, reading and writing what is open, opening for reading, threads, its end.
const ALWAYS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    // raise() and abort().
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcwd,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    // Of sockets that are open: signals come through a pair of them.
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_capget,
];

/// What other architectures do with newer calls.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_time,
    libc::SYS_getdents,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Terminals are asked what they are (TCGETS, TCGETS2, TIOCGWINSZ); descriptors are set up (FIONBIO, FIOCLEX); a perf event is switched
/// off before it is closed (PERF_EVENT_IOC_DISABLE, as drivers number it on these architectures).
const IOCTLS: [u64; 6] = [0x5401, 0x802c_542a, 0x5413, 0x5421, 0x5451, 0x2401];

/// TCSETS, TCSETSW and TCSETSF, and the same with any speed (TCSETS2, TCSETSW2, TCSETSF2).
const TERMINAL_IOCTLS: [u64; 6] = [0x5402, 0x5403, 0x5404, 0x402c_542b, 0x402c_542c, 0x402c_542d];

/// Commands of prctl(): names of threads and of memory (PR_SET_VMA), and what this thread itself is.
const PRCTLS: [u64; 4] = [15, 16, 0x5356_4d41, 39];

/// Commands of bpf() on maps that are open, and what is asked of them (BPF_OBJ_GET_INFO_BY_FD).
const BPF_COMMANDS: [u64; 5] = [1, 2, 3, 4, 15];

const WRITES: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Forbids all system calls but these, and those that every thread needs.
pub(super) fn restrict(calls: &[Calls]) -> Result<(), String> {
    let [first, second] = filters(calls)?;
    apply_filter(&first).map_err(|error| error.to_string())?;
    apply_filter(&second).map_err(|error| error.to_string())
}

/// Two, since a filter has one answer for what it knows: `ENOSYS` for clone3(), whose arguments cannot be seen, so that C
/// libraries go on with clone(); and the list of what is allowed.
fn filters(calls: &[Calls]) -> Result<[seccompiler::BpfProgram; 2], String> {
    let unknown = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let allowed = allowed(calls).map_err(|error| error.to_string())?;
    Ok([program(unknown, SeccompAction::Allow, enosys)?, program(allowed, eperm, SeccompAction::Allow)?])
}

fn program(rules: Rules, otherwise: SeccompAction, action: SeccompAction) -> Result<seccompiler::BpfProgram, String> {
    let architecture = TargetArch::try_from(ARCH).map_err(|error| error.to_string())?;
    let filter = SeccompFilter::new(rules, otherwise, action, architecture).map_err(|error| error.to_string())?;
    filter.try_into().map_err(|error: seccompiler::BackendError| error.to_string())
}

fn allowed(calls: &[Calls]) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for call in ALWAYS.iter().chain(OLDER) {
        rules.insert(*call, Vec::new());
    }
    // The other filter answers.
    rules.insert(libc::SYS_clone3, Vec::new());
    let no_code = u64::from(libc::PROT_EXEC.unsigned_abs());
    allow(&mut rules, libc::SYS_mmap, &[If::Lacks(2, no_code)])?;
    allow(&mut rules, libc::SYS_mprotect, &[If::Lacks(2, no_code)])?;
    allow(&mut rules, libc::SYS_clone, &[If::Has(0, THREAD), If::Lacks(0, NAMESPACES)])?;
    // Asked for, not set: a pointer to new limits is null.
    allow(&mut rules, libc::SYS_prlimit64, &[If::Is(2, 0)])?;
    for request in IOCTLS {
        allow(&mut rules, libc::SYS_ioctl, &[If::Is(1, request)])?;
    }
    for command in PRCTLS {
        allow(&mut rules, libc::SYS_prctl, &[If::Is(0, command)])?;
    }
    if !calls.contains(&Calls::Writing) {
        allow(&mut rules, libc::SYS_openat, &[If::Lacks(2, WRITES)])?;
        #[cfg(target_arch = "x86_64")]
        allow(&mut rules, libc::SYS_open, &[If::Lacks(1, WRITES)])?;
    }
    calls.iter().try_for_each(|group| add(&mut rules, *group))?;
    Ok(rules)
}

/// Adds a group.
fn add(rules: &mut Rules, group: Calls) -> Result<(), seccompiler::BackendError> {
    match group {
        Calls::Maps => BPF_COMMANDS.iter().try_for_each(|command| allow(rules, libc::SYS_bpf, &[If::Is(0, *command)])),
        Calls::Table => {
            let netlink = u64::from(libc::AF_NETLINK.unsigned_abs());
            allow(rules, libc::SYS_socket, &[If::Is(0, netlink)])?;
            let on_open = [
                libc::SYS_bind,
                libc::SYS_getsockname,
                libc::SYS_sendmsg,
                libc::SYS_recvmsg,
                libc::SYS_setsockopt,
                libc::SYS_getsockopt,
            ];
            rules.extend(on_open.map(|call| (call, Vec::new())));
            Ok(())
        }
        Calls::Namespaces => allow(rules, libc::SYS_setns, &[If::Is(1, u64::from(libc::CLONE_NEWNET.unsigned_abs()))]),
        Calls::Descriptors => {
            let calls = [libc::SYS_pidfd_open, libc::SYS_pidfd_getfd, libc::SYS_getsockopt];
            rules.extend(calls.map(|call| (call, Vec::new())));
            Ok(())
        }
        Calls::Writing => {
            rules.insert(libc::SYS_openat, Vec::new());
            #[cfg(target_arch = "x86_64")]
            rules.insert(libc::SYS_open, Vec::new());
            Ok(())
        }
        Calls::Removing => {
            rules.insert(libc::SYS_unlinkat, Vec::new());
            #[cfg(target_arch = "x86_64")]
            rules.insert(libc::SYS_unlink, Vec::new());
            Ok(())
        }
        Calls::Terminal => {
            TERMINAL_IOCTLS.iter().try_for_each(|request| allow(rules, libc::SYS_ioctl, &[If::Is(1, *request)]))
        }
        Calls::Connecting => {
            for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
                allow(rules, libc::SYS_socket, &[If::Is(0, u64::from(family.unsigned_abs()))])?;
            }
            // C libraries ask by UDP, for several records at once, and over netlink which addresses this machine has.
            let calls = [
                libc::SYS_connect,
                libc::SYS_bind,
                libc::SYS_getsockname,
                libc::SYS_getpeername,
                libc::SYS_getsockopt,
                libc::SYS_setsockopt,
                libc::SYS_sendmsg,
                libc::SYS_sendmmsg,
                libc::SYS_recvmsg,
                libc::SYS_shutdown,
            ];
            rules.extend(calls.map(|call| (call, Vec::new())));
            Ok(())
        }
        Calls::Accepting => {
            let calls = [
                libc::SYS_accept4,
                libc::SYS_getsockname,
                libc::SYS_getpeername,
                libc::SYS_getsockopt,
                libc::SYS_setsockopt,
                libc::SYS_sendmsg,
                libc::SYS_recvmsg,
                libc::SYS_shutdown,
            ];
            rules.extend(calls.map(|call| (call, Vec::new())));
            Ok(())
        }
    }
}

/// Allows a call under these conditions; another such rule allows it under others.
fn allow(rules: &mut Rules, call: c_long, conditions: &[If]) -> Result<(), seccompiler::BackendError> {
    let condition = |it: &If| {
        let (argument, operator, value) = match *it {
            If::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            If::Lacks(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits), 0),
            If::Has(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits), bits),
        };
        // All of these are ints to the kernel but prlimit64()'s pointer.
        let length = if call == libc::SYS_prlimit64 { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
        SeccompCondition::new(argument, length, operator, value)
    };
    let conditions = conditions.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privilege::role::ROLES;

    /// The kernel takes 4096 instructions.
    #[test]
    fn filters_of_all_roles_fit() {
        for role in ROLES {
            for filter in filters(role.calls).unwrap() {
                assert!((1..2048).contains(&filter.len()), "{}: {}", role.name, filter.len());
            }
        }
    }

    /// An empty list of rules would allow a call with any arguments.
    #[test]
    fn what_has_conditions_is_not_allowed_without() {
        let rules = allowed(&[Calls::Maps, Calls::Table, Calls::Namespaces]).unwrap();
        for call in
            [libc::SYS_bpf, libc::SYS_socket, libc::SYS_setns, libc::SYS_openat, libc::SYS_mmap, libc::SYS_clone]
        {
            assert!(!rules[&call].is_empty(), "{call}");
        }
        for call in [libc::SYS_execve, libc::SYS_connect, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_unlinkat] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}
