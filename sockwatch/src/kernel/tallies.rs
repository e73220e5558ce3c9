//! What the kernel side has counted of each listener, where connections are not told one by one.

use std::io;

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use sockwatch_common::{AcceptorCount, AcceptorKey, MAX_ACCEPTORS, MAX_QUEUED, MAX_SLOTS, Queued, Tally};

use super::{bytes::Bytes, session::StartError};

const SLOTS: &str = "SLOTS";
const TALLIES: &str = "TALLIES";
const WAITERS: &str = "WAITERS";
const ACCEPTORS: &str = "ACCEPTORS";

/// Gives the maps the size that they need; without it each holds next to nothing.
pub(super) fn size(loader: &mut EbpfLoader<'_>) {
    loader.map_max_entries(SLOTS, 2 * MAX_SLOTS).map_max_entries(TALLIES, MAX_SLOTS);
    loader.map_max_entries(WAITERS, MAX_QUEUED).map_max_entries(ACCEPTORS, MAX_ACCEPTORS);
}

/// Counts for as long as the session lives that it came from.
pub struct Tallies {
    slots: HashMap<MapData, u64, u32>,
    tallies: PerCpuArray<MapData, Bytes<Tally>>,
    waiters: HashMap<MapData, u64, Bytes<Queued>>,
    acceptors: HashMap<MapData, Bytes<AcceptorKey>, Bytes<AcceptorCount>>,
}

impl Tallies {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| StartError::Mismatch(format!("no map {name}")));
        Ok(Self {
            slots: map(SLOTS)?.try_into()?,
            tallies: map(TALLIES)?.try_into()?,
            waiters: map(WAITERS)?.try_into()?,
            acceptors: map(ACCEPTORS)?.try_into()?,
        })
    }

    /// Counts a listener, by its cookie or its [`place`](sockwatch_common::place), in this slot from now on.
    ///
    /// # Errors
    /// If there are too many.
    pub fn follow(&mut self, listener: u64, slot: u32) -> io::Result<()> {
        self.slots.insert(listener, slot, 0).map_err(io::Error::other)
    }

    /// Counts it apart no longer.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget(&mut self, listener: u64) -> io::Result<()> {
        gone(self.slots.remove(&listener))
    }

    /// Begins a slot anew, which nobody follows.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn clear(&mut self, slot: u32) -> io::Result<()> {
        let cpus = nr_cpus().map_err(|(place, error)| io::Error::other(format!("{place}: {error}")))?;
        let none = PerCpuValues::try_from(vec![Bytes(Tally::NONE); cpus])?;
        self.tallies.set(slot, none, 0).map_err(io::Error::other)
    }

    /// Nobody waits at this address any more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn dismiss(&mut self, waiter: u64) -> io::Result<()> {
        gone(self.waiters.remove(&waiter))
    }

    /// What a thread has accepted belongs to a slot that is nobody's now.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn dismiss_acceptor(&mut self, key: AcceptorKey) -> io::Result<()> {
        gone(self.acceptors.remove(&Bytes(key)))
    }

    /// What each CPU has counted in a slot.
    ///
    /// # Errors
    /// If the kernel does not let it be read.
    pub fn read(&self, slot: u32) -> io::Result<Vec<Tally>> {
        let per_cpu = self.tallies.get(&slot, 0).map_err(io::Error::other)?;
        Ok(per_cpu.iter().map(|tally| tally.0).collect())
    }

    /// Who is in an accept queue, by address; at most so many.
    pub fn waiters(&self, most: usize) -> Vec<(u64, Queued)> {
        self.waiters.iter().filter_map(Result::ok).take(most).map(|(address, queued)| (address, queued.0)).collect()
    }

    /// Who accepts.
    pub fn acceptors(&self) -> Vec<(AcceptorKey, AcceptorCount)> {
        self.acceptors.iter().filter_map(Result::ok).map(|(key, count)| (key.0, count.0)).collect()
    }
}

/// An entry is gone, whoever took it.
fn gone(removed: Result<(), MapError>) -> io::Result<()> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}
