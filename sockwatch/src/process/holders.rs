//! Which processes hold which sockets, from `/proc/PID/fd`: one scan for all of them. A thread with a descriptor table
//! of its own (clone without `CLONE_FILES`) is not seen, nor is what is held otherwise: in a message between processes,
//! by io_uring without a descriptor.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

/// A descriptor of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its descriptor.
    pub fd: u32,
}

/// Who holds the sockets of the machine.
#[derive(Debug)]
pub struct Holders {
    by_inode: HashMap<u32, Vec<Holder>>,
    /// Processes whose descriptors one may not see.
    pub hidden: Vec<u32>,
}

impl Holders {
    /// Looks at all processes.
    pub fn look() -> Self {
        Self::look_at(processes())
    }

    /// Looks at these processes.
    pub fn look_at(pids: impl IntoIterator<Item = u32>) -> Self {
        let (mut held, mut hidden) = (Vec::new(), Vec::new());
        for pid in pids {
            let looked = each_socket(pid, |inode, fd| held.push((inode, Holder { pid, fd })));
            if looked.is_err_and(|error| !has_ended(pid, &error)) {
                hidden.push(pid);
            }
        }
        Self::known(held, hidden)
    }

    /// From sockets' inodes and who holds them, and the processes that nobody may look at.
    pub fn known(held: impl IntoIterator<Item = (u32, Holder)>, hidden: Vec<u32>) -> Self {
        let mut by_inode: HashMap<u32, Vec<Holder>> = HashMap::new();
        for (inode, holder) in held {
            by_inode.entry(inode).or_default().push(holder);
        }
        by_inode.values_mut().for_each(|holders| holders.sort_unstable());
        Self { by_inode, hidden }
    }

    /// Who holds the socket of this inode, ordered by process and descriptor. Inode 0 is nobody's: a request, an
    /// unaccepted child, an orphan, a minisock.
    pub fn of(&self, inode: u32) -> &[Holder] {
        self.by_inode.get(&inode).filter(|_| inode != 0).map_or(&[], Vec::as_slice)
    }
}

/// Adds the inodes of the sockets that a process holds.
///
/// # Errors
/// If its descriptors cannot be seen: [`has_ended`] says whether because it is no more.
pub fn add_inodes(pid: u32, inodes: &mut HashSet<u32>) -> io::Result<()> {
    each_socket(pid, |inode, _| {
        inodes.insert(inode);
    })
}

/// Every process.
pub fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn each_socket(pid: u32, mut found: impl FnMut(u32, u32)) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        match fs::read_link(entry.path()) {
            Ok(target) => {
                let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if let (Some(inode), Some(fd)) = (socket_inode(&target), fd) {
                    found(inode, fd);
                }
            }
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
pub fn has_ended(pid: u32, error: &io::Error) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, os::fd::AsRawFd, process::id};

    #[test]
    fn socket_links_name_an_inode() {
        assert_eq!(socket_inode(Path::new("socket:[12345]")), Some(12_345));
        for other in ["pipe:[1]", "socket:[]", "socket:[1", "/dev/null", "socket:[4294967296]", "socket:[-1]"] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn every_descriptor_of_a_socket_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = listener.try_clone().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = socket_inode(&link).unwrap();
        let holders = Holders::look();
        let mut expected = [&listener, &copy].map(|it| Holder { pid: id(), fd: it.as_raw_fd().unsigned_abs() });
        expected.sort_unstable();
        assert_eq!(holders.of(inode), expected);
        assert!(holders.of(0).is_empty());
    }
}
