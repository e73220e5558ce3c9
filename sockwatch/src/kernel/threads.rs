//! What watches the threads of a few processes: its programs and maps. Not in the probe table: no event needs it, and a kernel
//! that refuses it is diagnosed all the same.

use std::{io, mem::MaybeUninit};

use aya::{
    EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
};
use sockwatch_common::{FirstRead, MAX_THREADS, MAX_UNREAD, MAX_WATCHED, Pause, Plain, Stacked};

use super::{
    bytes::Bytes,
    probes::{Hook, Program, Requirement, program},
    refusal::Refusal,
    session::Telling,
};

/// The ring buffer's size: some 4,000 long pauses.
const RING_BYTES: u32 = 16 << 20;

/// Samples a second of each CPU; no divisor of what else happens periodically.
const HERTZ: u64 = 99;

pub(super) const RING: &str = "PAUSES";
pub(super) const WATCHED: &str = "WATCHED";
pub(super) const THREADS: &str = "THREADS";
const UNREAD: &str = "UNREAD";

/// All of them, or threads are not watched.
pub(super) const PROGRAMS: [Program; 2] = [
    program("thread_switch", Hook::BtfTracepoint("sched_switch")),
    program("thread_wakeup", Hook::BtfTracepoint("sched_wakeup")),
];

/// Without it only what a thread waits for is told, not what it does.
pub(super) const SAMPLE: Program = program("thread_sample", Hook::CpuClock(HERTZ));

/// Without it nobody tells when a connection was first read from.
pub(super) const FIRST_READ: Program = program("first_read", Hook::BtfTracepoint("tcp_rcv_space_adjust"));

/// What tells whether something was read.
pub(super) const OF_FIRST_READ: Requirement = Requirement::Fields(&["rcv_nxt", "copied_seq", "bytes_received"]);

pub(super) const REQUIREMENTS: [Requirement; 1] = [Requirement::Fields(&["task_pid", "task_tgid", "task_state"])];

/// Gives the maps the size that they need; without it each holds next to nothing.
pub(super) fn size(loader: &mut EbpfLoader<'_>, telling: Telling) {
    // First reads are told of connections that are.
    if telling == Telling::Events {
        loader.map_max_entries(UNREAD, MAX_UNREAD);
    }
    loader.map_max_entries(RING, RING_BYTES);
    loader.map_max_entries(WATCHED, MAX_WATCHED).map_max_entries(THREADS, MAX_THREADS);
}

/// Watches threads for as long as the session lives that it came from.
pub struct Threads {
    ring: RingBuf<MapData>,
    watched: HashMap<MapData, u32, u8>,
    threads: HashMap<MapData, u32, Bytes<Stacked>>,
    samples: Option<Refusal>,
    tells_reads: bool,
}

/// A record.
#[derive(Debug)]
pub enum Record {
    /// Without stacks.
    Short(Pause),
    /// With stacks.
    Long(Box<Stacked>),
    /// A connection was read from.
    Read(FirstRead),
}

impl Threads {
    pub(super) fn new(
        [ring, watched, threads]: [Map; 3],
        samples: Option<Refusal>,
        tells_reads: bool,
    ) -> Result<Self, MapError> {
        let (ring, watched, threads) = (ring.try_into()?, watched.try_into()?, threads.try_into()?);
        Ok(Self { ring, watched, threads, samples, tells_reads })
    }

    /// Whether first reads are told.
    pub fn tells_reads(&self) -> bool {
        self.tells_reads
    }

    /// Why what threads do on a CPU is not told, where that is so.
    pub fn without_samples(&self) -> Option<&Refusal> {
        self.samples.as_ref()
    }

    /// Whether the kernel lets the calling thread read and write maps, with the capabilities that it has now.
    pub fn may_read(&self) -> bool {
        !is_refused(self.watched.get(&0, 0).err())
    }

    /// Watches a process.
    ///
    /// # Errors
    /// If there are too many already.
    pub fn watch(&mut self, pid: u32) -> io::Result<()> {
        self.watched.insert(pid, 1, 0).map_err(io::Error::other)
    }

    /// Hands out what has come, the oldest first.
    pub fn take(&mut self, mut each: impl FnMut(Record)) {
        while let Some(bytes) = self.ring.next() {
            // Aligned by 8 bytes in the ring buffer, but the compiler cannot know.
            if let Some(stacked) = read::<Stacked>(&bytes) {
                each(Record::Long(Box::new(stacked)));
            } else if let Some(pause) = read::<Pause>(&bytes) {
                each(Record::Short(pause));
            } else if let Some(first) = read::<FirstRead>(&bytes) {
                each(Record::Read(first));
            }
        }
    }

    /// Every thread that has left or entered a CPU since it was watched, as it is now.
    pub fn now(&self) -> Vec<Stacked> {
        self.threads.iter().filter_map(|entry| Some(entry.ok()?.1.0)).collect()
    }
}

/// Whether an error is for want of a capability.
pub(super) fn is_refused(error: Option<MapError>) -> bool {
    let Some(MapError::SyscallError(error)) = error else { return false };
    error.io_error.kind() == io::ErrorKind::PermissionDenied
}

fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: both have that many bytes, and every byte pattern is a `Plain`.
    unsafe {
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), size_of::<T>());
        Some(value.assume_init())
    }
}
