//! What the kernel side counts of listeners, as what has been added since the last look.

use std::{collections::HashMap, io, net::IpAddr};

use sockwatch_common::{BUCKETS, Histogram, MAX_SLOTS, Queued, SPELLS, Spell, Tally, bounds, place};

use crate::{
    diagnosis::measure::counted::{Counted, Waiting},
    kernel::tallies::Tallies,
    source::table::{Asked, Listed, Namespace, Places},
    tcp::{
        endpoint::Endpoint,
        event::{Comm, SocketKey, Task},
        filter::Filter,
    },
};

/// Who waits is looked at one by one: so many at most.
const MOST_WAITERS: usize = 1 << 14;

/// Counts of the listeners that are followed.
pub struct Counting {
    tallies: Tallies,
    /// Slot 0 is everybody else's.
    slots: Vec<Slot>,
    /// By cookie and by place; `None` where several listeners have one place.
    numbers: HashMap<u64, Option<usize>>,
}

/// A listener, and what was counted of it before.
struct Slot {
    listener: Option<SocketKey>,
    before: Vec<Tally>,
    accepted: HashMap<u32, u64>,
}

/// What was added.
#[derive(Debug, Default)]
pub struct Added {
    /// By listener.
    pub listeners: Vec<(SocketKey, Counted)>,
    /// Accepts of connections whose listener is not known.
    pub unattributed: u64,
}

impl Slot {
    fn of(listener: Option<SocketKey>) -> Self {
        Self { listener, before: Vec::new(), accepted: HashMap::new() }
    }
}

impl Counting {
    /// Follows every listener that is there and that the filter lets in.
    ///
    /// # Errors
    /// If the kernel does not take them.
    pub fn start(tallies: Tallies, filter: &Filter) -> io::Result<Self> {
        let mut counting = Self { tallies, slots: vec![Slot::of(None)], numbers: HashMap::new() };
        for place in Places::look().found {
            let is_asked_for = filter.netns.is_empty() || filter.netns.contains(&place.inode);
            let listing = is_asked_for.then(|| Namespace::open(&place.path).ok()?.list(Asked::Listeners).ok());
            // Of those that cannot be listed only new listeners are followed.
            for Listed { key, local, remote, .. } in listing.flatten().unwrap_or_default().sockets {
                if filter.matches_tuple(key.netns, local, remote) {
                    let _has_room = counting.follow(key, local, true)?;
                }
            }
        }
        Ok(counting)
    }

    /// Counts a listener apart from now on, which `was_there` before or has just begun. Returns whether there was room, or it had been
    /// followed before.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn follow(&mut self, listener: SocketKey, local: Endpoint, was_there: bool) -> io::Result<bool> {
        if self.slots.iter().any(|slot| slot.listener == Some(listener)) {
            return Ok(true);
        }
        let slot = self.slots.len() as u32;
        if slot >= MAX_SLOTS {
            return Ok(false);
        }
        self.tallies.follow(listener.cookie, slot)?;
        self.numbers.insert(listener.cookie, Some(self.slots.len()));
        // Of two at one place the place does not tell which it is.
        let place = place_of(listener.netns, local);
        let only = if self.numbers.contains_key(&place) { None } else { Some(self.slots.len()) };
        self.numbers.insert(place, only);
        self.tallies.follow(place, only.map_or(0, |_| slot))?;
        self.slots.push(Slot::of(Some(listener)));
        if was_there {
            // What was nobody's until now may have been its connections: they came before it was followed.
            self.slots[0].before = self.tallies.read(0)?;
        }
        Ok(true)
    }

    /// What was added since the last time, or since the beginning.
    ///
    /// # Errors
    /// If the kernel does not let it be read.
    pub fn read(&mut self) -> io::Result<Added> {
        let mut waiting: HashMap<usize, Vec<Waiting>> = HashMap::new();
        for (id, queued) in self.tallies.waiters(MOST_WAITERS) {
            let Queued { born_ns, left_ns, listener, anywhere, by_fin, depth, .. } = queued;
            let left_ns = (left_ns != 0).then_some(left_ns);
            let waiter =
                Waiting { since_ns: born_ns, id, left_ns, by_fin: by_fin != 0, depth: depth.saturating_add(1) };
            let number = self.numbers.get(&listener).or_else(|| self.numbers.get(&anywhere));
            if let Some(Some(number)) = number {
                waiting.entry(*number).or_default().push(waiter);
            }
        }
        let mut accepted: HashMap<u32, Vec<(Task, u64)>> = HashMap::new();
        for (key, count) in self.tallies.acceptors() {
            let task = Task { pid: count.pid, tid: key.tid, comm: Comm(count.comm) };
            accepted.entry(key.slot).or_default().push((task, count.accepted));
        }
        let mut added = Added::default();
        for (number, slot) in (0..).zip(&mut self.slots) {
            let now = self.tallies.read(number)?;
            let mut counted = Counted::default();
            let none = vec![Tally::NONE; now.len()];
            let before = if slot.before.is_empty() { &none } else { &slot.before };
            now.iter().zip(before).for_each(|(now, before)| add(&mut counted, now, before));
            slot.before = now;
            let Some(listener) = slot.listener else {
                added.unattributed = counted.accepted;
                continue;
            };
            counted.waiting = waiting.remove(&(number as usize)).unwrap_or_default();
            for (task, total) in accepted.remove(&number).unwrap_or_default() {
                let before = slot.accepted.insert(task.tid, total).unwrap_or(0);
                // A thread of this number came again.
                let new = total.checked_sub(before).unwrap_or(total);
                counted.acceptors.extend((new > 0).then_some((task, new)));
            }
            added.listeners.push((listener, counted));
        }
        Ok(added)
    }
}

/// The key of a listener's place.
fn place_of(netns: u32, local: Endpoint) -> u64 {
    let halves = |octets: [u8; 16]| {
        let (words, _) = octets.as_chunks();
        [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])]
    };
    match local.address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            place(netns, false, halves(octets), local.port)
        }
        IpAddr::V6(address) => place(netns, true, halves(address.octets()), local.port),
    }
}

/// Adds what one CPU has counted since.
fn add(counted: &mut Counted, now: &Tally, before: &Tally) {
    let since = |of: fn(&Tally) -> u64| of(now).wrapping_sub(of(before));
    counted.accepted += since(|it| it.accepted);
    counted.unmeasured += since(|it| it.unmeasured);
    counted.half_closed += since(|it| it.half_closed);
    counted.dead += since(|it| it.dead);
    counted.by_fin += since(|it| it.by_fin);
    counted.by_rst += since(|it| it.by_rst);
    counted.removed += since(|it| it.removed);
    counted.retransmitted += since(|it| it.retransmitted);
    counted.sum_ns = counted.sum_ns.wrapping_add(since(|it| it.sum_ns));
    counted.longest_ns = counted.longest_ns.max(now.longest_ns);
    counted.deepest = counted.deepest.max(u32::try_from(now.deepest).unwrap_or(u32::MAX));
    counted.last_accept_ns = counted.last_accept_ns.max((now.last_accept_ns != 0).then_some(now.last_accept_ns));
    counted.waits.extend(buckets(&now.waits, &before.waits));
    counted.handshakes.extend(buckets(&now.handshakes, &before.handshakes));
    counted.left.extend(buckets(&now.left, &before.left));
    let new = now.spells.wrapping_sub(before.spells).min(SPELLS as u64);
    counted.spells.extend((now.spells.wrapping_sub(new)..now.spells).map(|number| {
        let Spell { from_ns, to_ns } = now.recent[(number % SPELLS as u64) as usize];
        (from_ns, to_ns)
    }));
}

/// Durations and how many there were of each: a bucket's middle stands for all in it.
fn buckets<'a>(now: &'a Histogram, before: &'a Histogram) -> impl Iterator<Item = (u64, u32)> + 'a {
    (0..BUCKETS).filter_map(|bucket| {
        let count = now[bucket].wrapping_sub(before[bucket]);
        let (from_ns, to_ns) = bounds(bucket);
        (count > 0).then_some((from_ns.midpoint(to_ns), count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockwatch_common::bucket;

    #[test]
    fn what_was_added_is_the_difference() {
        let before = Tally { accepted: 5, spells: 2, ..Tally::NONE };
        let mut now = Tally { accepted: 8, sum_ns: 70, longest_ns: 40, spells: 4, last_accept_ns: 9, ..before };
        now.waits[bucket(1_000_000)] = 3;
        now.recent[2] = Spell { from_ns: 1, to_ns: 5 };
        now.recent[3] = Spell { from_ns: 6, to_ns: 9 };
        let mut counted = Counted::default();
        add(&mut counted, &now, &before);
        let (ns, count) = counted.waits[0];
        assert!(ns.abs_diff(1_000_000) < 1_000_000 / 16 && count == 3, "{ns} {count}");
        let expected = Counted {
            accepted: 3,
            sum_ns: 70,
            longest_ns: 40,
            last_accept_ns: Some(9),
            waits: vec![(ns, 3)],
            spells: vec![(1, 5), (6, 9)],
            ..Counted::default()
        };
        assert_eq!(counted, expected);
    }

    #[test]
    fn of_more_spells_than_are_kept_the_last_are_told() {
        let now = Tally { spells: SPELLS as u64 + 7, ..Tally::NONE };
        let mut counted = Counted::default();
        add(&mut counted, &now, &Tally::NONE);
        assert_eq!(counted.spells.len(), SPELLS);
    }
}
