//! Which sockets the processes of a filter hold, from `/proc/PID/fd`. Works for one's own processes, or with
//! `CAP_SYS_PTRACE` for all. Never decides what to do with them.

use std::{collections::HashSet, fs, io, path::Path};

use crate::source::SourceError;

/// Whose sockets pass.
#[derive(Debug)]
pub(super) enum Owners {
    /// Everyone's: no process was named.
    Everyone,
    /// Those of these inodes.
    Inodes(HashSet<u32>),
}

impl Owners {
    /// What these processes hold now; everything if none is named. A process that has ended holds nothing.
    pub(super) fn of(pids: &[u32]) -> Result<Self, SourceError> {
        if pids.is_empty() {
            return Ok(Self::Everyone);
        }
        let mut inodes = HashSet::new();
        for pid in pids {
            match add_inodes(*pid, &mut inodes) {
                Ok(()) => {}
                Err(error) if has_ended(*pid, &error) => {}
                Err(error) => return Err(refused(*pid, &error)),
            }
        }
        Ok(Self::Inodes(inodes))
    }

    /// What all other processes hold, as far as the caller may see.
    pub(super) fn of_all_but(pids: &[u32]) -> Self {
        let mut inodes = HashSet::new();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let others = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for pid in others.filter(|pid| !pids.contains(pid)) {
            // Ended, or not ours to see.
            let _ = add_inodes(pid, &mut inodes);
        }
        Self::Inodes(inodes)
    }

    /// Whether a socket of this inode passes. Inode 0 is nobody's: a request, an unaccepted child, a minisock.
    pub(super) fn hold(&self, inode: u32) -> bool {
        match self {
            Self::Everyone => true,
            Self::Inodes(inodes) => inode != 0 && inodes.contains(&inode),
        }
    }
}

/// Tells early which processes do not exist or cannot be looked into.
pub(super) fn check(pids: &[u32]) -> Result<(), SourceError> {
    pids.iter().try_for_each(|pid| add_inodes(*pid, &mut HashSet::new()).map_err(|error| refused(*pid, &error)))
}

fn add_inodes(pid: u32, inodes: &mut HashSet<u32>) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        match fs::read_link(entry?.path()) {
            Ok(target) => inodes.extend(socket_inode(&target)),
            // Closed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The inode in `socket:[12345]` (`sockfs_dname`, all kernels).
fn socket_inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether the error is because the process ended. A zombie's directory belongs to root, so it refuses everybody else.
fn has_ended(pid: u32, error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    match error.kind() {
        io::ErrorKind::NotFound => true,
        io::ErrorKind::PermissionDenied => match fs::read_to_string(format!("/proc/{pid}/stat")) {
            // The name in parentheses may hold anything, parentheses too; the state follows the last one.
            Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        },
        _ => error.raw_os_error() == Some(ESRCH),
    }
}

fn refused(pid: u32, error: &io::Error) -> SourceError {
    let error = io::Error::new(error.kind(), format!("/proc/{pid}/fd: {error}"));
    SourceError::Read { what: "which sockets a process holds", error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::TcpListener,
        os::fd::AsRawFd,
        process::{Command, Stdio, id},
    };

    #[test]
    fn socket_links_name_an_inode() {
        assert_eq!(socket_inode(Path::new("socket:[12345]")), Some(12_345));
        for other in ["pipe:[1]", "socket:[]", "socket:[1", "/dev/null", "socket:[4294967296]", "socket:[-1]"] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_process_holds_its_sockets_and_not_inode_0() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = socket_inode(&link).unwrap();
        let owners = Owners::of(&[id()]).unwrap();
        assert!(owners.hold(inode) && !owners.hold(0));
        assert!(Owners::of(&[]).unwrap().hold(0));
    }

    #[test]
    fn a_process_that_ends_holds_nothing() {
        let mut child = Command::new("true").stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        assert!(Owners::of(&[pid]).is_ok(), "running or a zombie");
        child.wait().unwrap();
        let Owners::Inodes(inodes) = Owners::of(&[pid]).unwrap() else { panic!("a process was named") };
        assert!(inodes.is_empty());
        let error = check(&[pid]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read which sockets a process holds");
    }
}
