//! Whose sockets they are: processes' names, cgroups and descriptors, from `/proc`. Works for one's own processes, and
//! with `CAP_SYS_PTRACE` for all. What a process is called is foreign to us: it is only handed out printable.

pub mod cgroup;
pub mod holders;
pub mod names;

use std::fs;

use self::cgroup::Workload;
use crate::tcp::event::{Comm, is_unprintable};

/// What `/proc` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name: that of its first thread, which `ps` and `top` show.
    pub comm: Comm,
    /// The first word of its command line, without directories; absent for the kernel's threads and if it may not be
    /// read.
    pub command: Option<String>,
    /// Where it belongs.
    pub workload: Workload,
}

/// A process that lives, or that nobody has waited for yet; `None` if there is none.
pub fn look(pid: u32) -> Option<Process> {
    let comm = comm(&fs::read(format!("/proc/{pid}/comm")).ok()?);
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok().and_then(|line| first_word(&line));
    let cgroups = fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let workload = Workload::of_process(&String::from_utf8_lossy(&cgroups));
    Some(Process { pid, comm, command, workload })
}

/// A thread's name; `None` if there is no such thread.
pub fn thread_name(pid: u32, tid: u32) -> Option<Comm> {
    fs::read(format!("/proc/{pid}/task/{tid}/comm")).ok().map(|text| comm(&text))
}

/// From `/proc/PID/comm`: the name and a line end. A name may hold line ends of its own. Those of the kernel's threads
/// may be longer than 15 bytes (`proc_task_name`) and are cut.
fn comm(text: &[u8]) -> Comm {
    let name = text.strip_suffix(b"\n").unwrap_or(text);
    let mut comm = Comm::default();
    let taken = name.len().min(15);
    comm.0[..taken].copy_from_slice(&name[..taken]);
    comm
}

/// From `/proc/PID/cmdline`, where words end with a zero; a process that sets its title may leave spaces (`nginx:
/// worker process`).
fn first_word(line: &[u8]) -> Option<String> {
    let word = line.split(|byte| [0, b' '].contains(byte)).next()?;
    let name = word.rsplit(|byte| *byte == b'/').next().unwrap_or(word);
    let name = String::from_utf8_lossy(name).replace(is_unprintable, "?");
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::id;

    #[test]
    fn a_command_line_s_first_word_is_printable_and_without_directories() {
        let check = |line: &[u8], expected: Option<&str>| assert_eq!(first_word(line).as_deref(), expected);
        check(b"/usr/sbin/nginx\0-g\0daemon off;\0", Some("nginx"));
        check(b"nginx: worker process\0\0\0\0", Some("nginx:"));
        check(b"-bash\0", Some("-bash"));
        check(b"/opt/a\x1b[31mb\xff\0", Some("a?[31mb\u{fffd}"));
        check("/opt/a\u{202e}b\u{200b}c".as_bytes(), Some("a?b?c"));
        check(b"", None);
        check(b"\0", None);
    }

    #[test]
    fn names_are_cut_and_keep_their_bytes() {
        assert_eq!(comm(b"nginx\n").bytes(), b"nginx");
        assert_eq!(comm(b"a\nb\xff\n").bytes(), b"a\nb\xff");
        assert_eq!(comm(b"kworker/u8:3-events_unbound\n").bytes(), b"kworker/u8:3-ev");
        assert_eq!(comm(b""), Comm::default());
    }

    #[test]
    fn this_process_has_a_name_and_a_command() {
        let process = look(id()).unwrap();
        assert!(!process.comm.bytes().is_empty() && process.command.is_some(), "{process:?}");
        assert_eq!(thread_name(id(), id()), Some(process.comm));
        // Above the largest pid_max (2^22).
        assert_eq!((look(1 << 23), thread_name(1, 1 << 23)), (None, None));
    }
}
