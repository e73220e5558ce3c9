//! Network namespaces: where they can be found, and how one gets into them. Never lists sockets.
//!
//! **What holding costs.** A [`Namespace`] (an open file of nsfs) and a [`Table`](super::Table) opened in it (a user's
//! netlink socket, unlike the kernel's own, counts as a user of its namespace: `sk_alloc`, `sk_net_refcnt`) keep the
//! namespace alive: its interfaces do not go back or away, its sockets and minisocks are not purged, although its last
//! process has ended and `ip netns delete` was called. So hold neither for longer than the namespace's processes live;
//! [`Namespace::list`] lists once and holds nothing.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

use super::{Asked, Listing, Table, TableError};

/// A network namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    inode: u32,
    file: File,
}

/// Why a namespace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Nothing that one may look at is in it.
    #[error(
        "there is no network namespace {inode} among those of running processes and of `ip netns`{}",
        hidden(*processes_hidden)
    )]
    NotFound {
        /// Its inode number.
        inode: u32,
        /// How many processes could not be looked at.
        processes_hidden: usize,
    },
    /// The caller may not enter it.
    #[error("may not enter the network namespace {inode}: that takes CAP_SYS_ADMIN (root)")]
    Forbidden {
        /// Its inode number.
        inode: u32,
    },
    /// A file of it cannot be read.
    #[error("cannot look at the network namespace {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// It is no network namespace, or no thread could be started to enter it.
    #[error("cannot enter the network namespace {inode}")]
    Enter {
        /// Its inode number.
        inode: u32,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
}

fn hidden(processes: usize) -> String {
    match processes {
        0 => String::new(),
        hidden => format!(" ({hidden} processes may not be looked at: that takes root, or CAP_SYS_PTRACE)"),
    }
}

/// A namespace and a file that leads to it, not held open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The namespace's inode number.
    pub inode: u32,
    /// `/proc/PID/ns/net`, or a file in `/run/netns`.
    pub path: PathBuf,
}

/// Every network namespace that can be found.
#[derive(Debug, Default)]
pub struct Places {
    /// One for each namespace, ordered by inode number. One that only open files or sockets keep alive is not there.
    pub found: Vec<Place>,
    /// Processes that one may not look at: they may be in others.
    pub processes_hidden: usize,
}

impl Places {
    /// Looks at all processes and at the names of `ip netns`; a name comes before a process, for it stays.
    pub fn look() -> Self {
        let mut places = Self::default();
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            places.look_at(entry.path());
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
                places.look_at(entry.path().join("ns/net"));
            }
        }
        // Stable, so that the first place of a namespace stays first.
        places.found.sort_by_key(|place| place.inode);
        places.found.dedup_by_key(|place| place.inode);
        places
    }

    fn look_at(&mut self, path: PathBuf) {
        match inode_of(&path) {
            Ok(inode) => self.found.push(Place { inode, path }),
            // Its process has ended, or is ending.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is(&error, Errno::ESRCH) => {}
            Err(_) => self.processes_hidden += 1,
        }
    }
}

impl Namespace {
    /// Opens the file of a namespace: `/proc/PID/ns/net`, or one in `/run/netns`.
    ///
    /// # Errors
    /// [`NamespaceError::Read`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let read = |error| NamespaceError::Read { path: path.to_owned(), error };
        let file = File::open(path).map_err(read)?;
        let inode = file.metadata().and_then(|metadata| narrow(metadata.ino())).map_err(read)?;
        Ok(Self { inode, file })
    }

    /// Finds a namespace by its inode number: one of a running process, or with a name of `ip netns`.
    ///
    /// # Errors
    /// [`NamespaceError::NotFound`], or [`NamespaceError::Read`] if it cannot be opened.
    pub fn find(inode: u32) -> Result<Self, NamespaceError> {
        let own = Path::new(OWN);
        if own_netns().is_ok_and(|own| own == inode) {
            return Self::open(own);
        }
        let places = Places::look();
        let not_found = NamespaceError::NotFound { inode, processes_hidden: places.processes_hidden };
        let Some(place) = places.found.into_iter().find(|place| place.inode == inode) else { return Err(not_found) };
        let namespace = Self::open(&place.path)?;
        // Another process may have got that process's number.
        if namespace.inode == inode { Ok(namespace) } else { Err(not_found) }
    }

    /// Its inode number: `netns` in [`SocketKey`](crate::tcp::event::SocketKey).
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// Lists its sockets once; what it took is closed again.
    ///
    /// # Errors
    /// As [`Table::of`] and [`Table::list`].
    pub fn list(&self, asked: Asked) -> Result<Listing, TableError> {
        Table::of(self)?.list(asked)
    }

    /// Does `work` inside, on a thread of its own: which namespace one is in is a thread's own matter, and going back
    /// from there could fail. On the calling thread if it is inside already, which takes no privilege.
    ///
    /// # Errors [`NamespaceError::Forbidden`] without `CAP_SYS_ADMIN`, [`NamespaceError::Enter`] if the kernel refuses
    /// otherwise.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        if own_netns().is_ok_and(|own| own == self.inode) {
            return Ok(work());
        }
        let inode = self.inode;
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => NamespaceError::Forbidden { inode },
            _ => NamespaceError::Enter { inode, error },
        };
        thread::scope(|scope| {
            let inside = || setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work());
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside).map_err(refused)?;
            match thread.join() {
                Ok(done) => done.map_err(|errno| refused(errno.into())),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// The calling thread's namespace. Not `/proc/self`, which is the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// The inode of the calling thread's network namespace.
///
/// # Errors
/// [`NamespaceError::Read`] without `/proc`.
pub fn own_netns() -> Result<u32, NamespaceError> {
    inode_of(Path::new(OWN)).map_err(|error| NamespaceError::Read { path: OWN.into(), error })
}

/// Opened, since 5.10 tells whoever may not look the link's own number when only asked for it.
fn inode_of(path: &Path) -> io::Result<u32> {
    narrow(File::open(path)?.metadata()?.ino())
}

fn narrow(inode: u64) -> io::Result<u32> {
    u32::try_from(inode).map_err(|_| io::Error::other(format!("inode {inode} is not a 32 bit number")))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
