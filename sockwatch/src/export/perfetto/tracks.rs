//! Which track something is on. Slices of one track may only nest, so what overlaps goes on tracks of the same name beside each
//! other, which Perfetto shows as one.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
};

use crate::tcp::event::SocketKey;

/// A heading with tracks below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    /// A process by its number: it has one name in a recording, mostly.
    Process(u32),
    /// Sockets that no process has.
    Nobody,
    /// A listener.
    Listener(SocketKey),
}

/// What is below a heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A listener's depth.
    Depth,
    /// Its limit.
    Limit,
    /// Who waits in its accept queue.
    Waiting,
    /// What else happens to it.
    Happenings,
    /// A process's sockets, by what they do.
    Listeners,
    Connections,
    Minisocks,
    Resets,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Depth => "accept queue: depth",
            Self::Limit => "accept queue: limit",
            Self::Waiting => "accept queue: waiting",
            Self::Happenings => "accept queue: overflows and failed accepts",
            Self::Listeners => "listeners",
            Self::Connections => "connections",
            Self::Minisocks => "TIME_WAIT and orphans (minisocks)",
            Self::Resets => "RST",
        }
    }

    /// Its place below its heading.
    pub(super) const fn rank(self) -> i32 {
        self as i32
    }
}

/// A track, and whether it is new.
pub(super) struct Track {
    pub(super) uuid: u64,
    pub(super) is_new: bool,
}

/// All tracks.
#[derive(Default)]
pub(super) struct Tracks {
    last_uuid: u64,
    groups: HashMap<Group, u64>,
    /// Tracks that slices are on, one after the other: from when on each is free, and which it is. There may be thousands.
    lanes: HashMap<(Group, Kind), BTreeSet<(u64, u64)>>,
}

impl Tracks {
    /// A heading.
    pub(super) fn group(&mut self, group: Group) -> Track {
        let next = self.last_uuid + 1;
        let track = entry(self.groups.entry(group), next);
        self.last_uuid += u64::from(track.is_new);
        track
    }

    /// The track for something that overlaps nothing.
    pub(super) fn only(&mut self, group: Group, kind: Kind) -> Track {
        self.lane(group, kind, 0, 0)
    }

    /// A track that is free from then until then: of several the one that was busy last, so that few are needed.
    pub(super) fn lane(&mut self, group: Group, kind: Kind, from_ns: u64, to_ns: u64) -> Track {
        let lanes = self.lanes.entry((group, kind)).or_default();
        let free = lanes.range(..=(from_ns, u64::MAX)).next_back().copied();
        let uuid = match free {
            Some(lane) => {
                lanes.remove(&lane);
                lane.1
            }
            None => {
                self.last_uuid += 1;
                self.last_uuid
            }
        };
        lanes.insert((to_ns, uuid));
        Track { uuid, is_new: free.is_none() }
    }
}

fn entry<K: Hash + Eq>(entry: Entry<'_, K, u64>, next: u64) -> Track {
    match entry {
        Entry::Occupied(known) => Track { uuid: *known.get(), is_new: false },
        Entry::Vacant(new) => Track { uuid: *new.insert(next), is_new: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_on_two_tracks_and_what_follows_on_one() {
        let mut tracks = Tracks::default();
        let mut lane = |from, to| tracks.lane(Group::Nobody, Kind::Connections, from, to);
        let first = lane(0, 10);
        let beside = lane(5, 20);
        assert!(first.is_new && beside.is_new && first.uuid != beside.uuid);
        let after_first = lane(12, 15);
        assert_eq!((after_first.uuid, after_first.is_new), (first.uuid, false));
        let after_both = lane(30, 40);
        assert_eq!(after_both.uuid, beside.uuid, "busy last");
        assert!(lane(31, 32).uuid == first.uuid);
        assert!(lane(31, 32).is_new);
    }

    #[test]
    fn a_heading_is_made_once() {
        let mut tracks = Tracks::default();
        let process = tracks.group(Group::Process(7));
        assert!(process.is_new);
        assert_eq!(tracks.group(Group::Process(7)).uuid, process.uuid);
        assert_ne!(tracks.group(Group::Process(8)).uuid, process.uuid);
        assert_ne!(tracks.only(Group::Process(7), Kind::Resets).uuid, process.uuid);
    }
}
