//! What the kernel side counts of listeners, as what has been added since the last look.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
};

use sockwatch_common::{
    AcceptorCount, AcceptorKey, BUCKETS, Histogram, MAX_SLOTS, Queued, SPELLS, Spell, Tally, bounds, is_place, place,
};

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
    /// Listeners that have closed since the last look, and before it.
    closed: Vec<SocketKey>,
    over: Vec<SocketKey>,
    /// Slots that are nobody's.
    free: Vec<usize>,
    /// By cookie and by place; `None` where several listeners have one place.
    numbers: HashMap<u64, Option<usize>>,
}

/// A listener, and what was counted of it before.
#[derive(Default)]
struct Slot {
    listener: Option<SocketKey>,
    place: u64,
    /// When it began to listen; 0 if that was before.
    began_ns: u64,
    before: Vec<Tally>,
    accepted: HashMap<u32, u64>,
}

/// How a listener came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was there before, and what was nobody's may have been its.
    There,
    /// It has begun to listen.
    Began {
        /// When, in nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
    },
    /// It did something.
    Met,
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
    /// What each CPU has counted since the last time, added up.
    fn added(&mut self, now: Vec<Tally>) -> Counted {
        let mut counted = Counted::default();
        let none = vec![Tally::NONE; now.len()];
        let before = if self.before.is_empty() { &none } else { &self.before };
        now.iter().zip(before).for_each(|(now, before)| add(&mut counted, now, before));
        self.before = now;
        counted
    }

    /// How many more each of these has accepted than the last time.
    fn accepted(&mut self, totals: Vec<(Task, u64)>) -> Vec<(Task, u64)> {
        let new = |(task, total): (Task, u64)| {
            let before = self.accepted.insert(task.tid, total).unwrap_or(0);
            // A thread of this number came again.
            let new = total.checked_sub(before).unwrap_or(total);
            (new > 0).then_some((task, new))
        };
        totals.into_iter().filter_map(new).collect()
    }
}

impl Counting {
    /// Follows every listener that is there and that the filter lets in.
    ///
    /// # Errors
    /// If the kernel does not take them.
    pub fn start(tallies: Tallies, filter: &Filter) -> io::Result<Self> {
        let (slots, numbers) = (vec![Slot::default()], HashMap::new());
        let mut counting = Self { tallies, slots, closed: Vec::new(), over: Vec::new(), free: Vec::new(), numbers };
        for place in Places::look().found {
            let is_asked_for = filter.netns.is_empty() || filter.netns.contains(&place.inode);
            let listing = is_asked_for.then(|| Namespace::open(&place.path).ok()?.list(Asked::Listeners).ok());
            // Of those that cannot be listed only new listeners are followed.
            for Listed { key, local, remote, .. } in listing.flatten().unwrap_or_default().sockets {
                if filter.matches_tuple(key.netns, local, remote) {
                    let _has_room = counting.follow(key, local, Found::There)?;
                }
            }
        }
        Ok(counting)
    }

    /// Counts a listener apart from now on. Returns whether there was room, or it had been followed before.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn follow(&mut self, listener: SocketKey, local: Endpoint, found: Found) -> io::Result<bool> {
        // It may listen again.
        self.closed.retain(|closed| *closed != listener);
        self.over.retain(|over| *over != listener);
        if self.slots.iter().any(|slot| slot.listener == Some(listener)) {
            return Ok(true);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.slots.len() < MAX_SLOTS as usize => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return Ok(false),
        };
        self.tallies.follow(listener.cookie, number as u32)?;
        self.numbers.insert(listener.cookie, Some(number));
        let place = place_of(listener.netns, local);
        let began_ns = if let Found::Began { at_ns } = found { at_ns } else { 0 };
        self.slots[number] = Slot { listener: Some(listener), place, began_ns, ..Slot::default() };
        self.settle(place)?;
        if found == Found::There {
            // What was nobody's until now may have been its connections: they came before it was followed.
            self.slots[0].before = self.tallies.read(0)?;
        }
        Ok(true)
    }

    /// A listener has closed. Those in its queue go after it does: its slot is another's after the next look but one.
    pub fn close(&mut self, listener: SocketKey) {
        self.closed.push(listener);
    }

    /// Makes their slots others'. Who was reset in their queues has gone with them without a word, and is not to be taken for somebody
    /// who waits at another listener of the same place or port.
    fn leave(
        &mut self,
        listeners: &[SocketKey],
        waiters: &[(u64, Queued)],
        acceptors: &[(AcceptorKey, AcceptorCount)],
    ) -> io::Result<()> {
        let mut gone = HashSet::new();
        for listener in listeners {
            let Some(number) = self.slots.iter().position(|slot| slot.listener == Some(*listener)) else { continue };
            let Slot { place, .. } = std::mem::take(&mut self.slots[number]);
            self.tallies.forget(listener.cookie)?;
            self.numbers.remove(&listener.cookie);
            self.settle(place)?;
            gone.insert(listener.cookie);
            gone.extend((!self.numbers.contains_key(&place)).then_some(place));
            self.tallies.clear(number as u32)?;
            for (key, _) in acceptors.iter().filter(|(key, _)| key.slot as usize == number) {
                self.tallies.dismiss_acceptor(*key)?;
            }
            self.free.push(number);
        }
        let mut waiters = waiters.iter().filter(|(_, queued)| gone.contains(&queued.listener));
        waiters.try_for_each(|(address, _)| self.tallies.dismiss(*address))
    }

    /// The slot of the listener in whose queue somebody waits.
    fn number_of(&self, waiter: &Queued) -> Option<usize> {
        let found = self.numbers.get(&waiter.listener);
        if !is_place(waiter.listener) {
            return *found?;
        }
        let number = (*found.or_else(|| self.numbers.get(&waiter.anywhere))?)?;
        // Who came before it had come to another.
        (waiter.born_ns >= self.slots[number].began_ns).then_some(number)
    }

    /// Of two at one place the place does not tell which it is.
    fn settle(&mut self, place: u64) -> io::Result<()> {
        let mut there = (0..).zip(&self.slots).filter(|(_, slot)| slot.listener.is_some() && slot.place == place);
        let only = match (there.next(), there.next()) {
            (None, _) => {
                self.numbers.remove(&place);
                return self.tallies.forget(place);
            }
            (Some((number, _)), None) => Some(number),
            (Some(_), Some(_)) => None,
        };
        self.numbers.insert(place, only);
        self.tallies.follow(place, only.unwrap_or(0) as u32)
    }

    /// What was added since the last time, or since the beginning.
    ///
    /// # Errors
    /// If the kernel does not let it be read.
    pub fn read(&mut self) -> io::Result<Added> {
        let (waiters, acceptors) = (self.tallies.waiters(MOST_WAITERS), self.tallies.acceptors());
        let mut waiting: HashMap<usize, Vec<Waiting>> = HashMap::new();
        for (id, queued) in &waiters {
            let Queued { born_ns, left_ns, by_fin, depth, .. } = *queued;
            let left_ns = (left_ns != 0).then_some(left_ns);
            let waiter =
                Waiting { since_ns: born_ns, id: *id, left_ns, by_fin: by_fin != 0, depth: depth.saturating_add(1) };
            if let Some(number) = self.number_of(queued) {
                waiting.entry(number).or_default().push(waiter);
            }
        }
        let mut accepted: HashMap<u32, Vec<(Task, u64)>> = HashMap::new();
        for (key, count) in &acceptors {
            let task = Task { pid: count.pid, tid: key.tid, comm: Comm(count.comm) };
            accepted.entry(key.slot).or_default().push((task, count.accepted));
        }
        let mut added = Added::default();
        for (number, slot) in
            (0..).zip(&mut self.slots).filter(|(number, slot)| *number == 0 || slot.listener.is_some())
        {
            let mut counted = slot.added(self.tallies.read(number)?);
            let Some(listener) = slot.listener else {
                added.unattributed = counted.accepted;
                continue;
            };
            counted.waiting = waiting.remove(&(number as usize)).unwrap_or_default();
            counted.acceptors = slot.accepted(accepted.remove(&number).unwrap_or_default());
            added.listeners.push((listener, counted));
        }
        let over = std::mem::replace(&mut self.over, std::mem::take(&mut self.closed));
        self.leave(&over, &waiters, &acceptors)?;
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
