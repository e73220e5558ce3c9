//! Which sockets the processes of a filter hold. Never decides what to do with them.

use std::{collections::HashSet, io};

use crate::{
    process::holders::{add_inodes, has_ended, processes},
    source::SourceError,
};

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
        for pid in processes().filter(|pid| !pids.contains(pid)) {
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

fn refused(pid: u32, error: &io::Error) -> SourceError {
    let error = io::Error::new(error.kind(), format!("/proc/{pid}/fd: {error}"));
    SourceError::Read { what: "which sockets a process holds", error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::metadata,
        net::TcpListener,
        os::{fd::AsRawFd, unix::fs::MetadataExt},
        process::{Command, Stdio, id},
    };

    #[test]
    fn a_process_holds_its_sockets_and_not_inode_0() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino();
        let owners = Owners::of(&[id()]).unwrap();
        assert!(owners.hold(inode.try_into().unwrap()) && !owners.hold(0));
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
