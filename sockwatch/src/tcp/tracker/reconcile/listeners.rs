//! Compares listeners and owners with the kernel's word: how deep each accept queue is, who holds each socket now, and which
//! listener a child waits for.

use std::collections::HashMap;

use super::{Nameless, TOLERANCE_NS, event};
use crate::tcp::{
    endpoint::Endpoint,
    event::{Event, EventKind, SocketKey, Task},
    listing::{Listing, Record},
    queue::{Follows, QueueRecord, Verdict},
    state::TcpState,
    tracker::{Tracked, Tracker},
};

/// The listeners of a listing, by address.
pub(super) struct Listeners(HashMap<Endpoint, Vec<u64>>);

impl Listeners {
    /// Only a first listing is asked whose children there are; events tell it later.
    pub(super) fn of(listing: &Listing) -> Self {
        let mut by_address: HashMap<Endpoint, Vec<u64>> = HashMap::new();
        if listing.first {
            for record in listing.records.iter().filter(|record| record.state == TcpState::Listen) {
                by_address.entry(record.tuple.0).or_default().push(record.key.cookie);
            }
        }
        Self(by_address)
    }

    /// The listener that a child waits for: at its own address, else at all of its family. Of several that share it, nobody
    /// knows which.
    pub(super) fn of_child(&self, child: &Record) -> Option<u64> {
        let local = child.tuple.0;
        let sharing = self.0.get(&local).or_else(|| self.0.get(&local.at_any_address()))?;
        match sharing[..] {
            [listener] => Some(listener),
            _ => None,
        }
    }
}

/// Whether nobody has accepted it: a connection without a descriptor that was never closed from here.
pub(super) fn is_queued(record: &Record) -> bool {
    let open = matches!(record.state, TcpState::Established | TcpState::CloseWait);
    open && record.inode == 0 && record.expires_in_ns.is_none()
}

impl Tracker {
    /// Compares the queues of a listing's listeners. Of `events` those count that take children out.
    pub(super) fn compare_queues(&mut self, listing: &Listing, nameless: &Nameless, events: &mut Vec<Event>) {
        let taken = self.taken(events);
        for record in &listing.records {
            let Some((depth, limit)) = record.queue else { continue };
            let name = nameless.get(&(record.key.netns, record.tuple)).copied();
            let key = name.unwrap_or(record.key);
            if !self.sockets.contains_key(&key) && !record.ours {
                continue;
            }
            // Its children did not know it by our name.
            let follows = if name.is_some() { Follows::Some } else { listing.follows };
            let word = QueueRecord {
                from_ns: record.from_ns,
                to_ns: record.to_ns,
                depth,
                limit,
                drops: record.drops,
                somaxconn: listing.somaxconn,
                namespace: listing.dropped,
                follows,
            };
            let Some(queue) = self.queue(key) else { continue };
            let taken = taken.get(&key).copied().unwrap_or(0);
            let verdict = queue.compare(&word, TOLERANCE_NS, taken);
            self.agreement.depths += u64::from(verdict == Verdict::Differs);
            let kind = EventKind::QueueFound { record: word, verdict };
            events.push(event(record.to_ns, key, Some(record.tuple), kind));
        }
    }

    /// How many children of each listener turn out to have been accepted.
    fn taken(&self, events: &[Event]) -> HashMap<SocketKey, u32> {
        let mut taken = HashMap::new();
        for event in events.iter().filter(|event| matches!(event.kind, EventKind::Taken | EventKind::Held { .. })) {
            let waiting = self.child(event.key).filter(|(connection, _)| connection.is_queued());
            if let Some((_, listener)) = waiting {
                *taken.entry(listener).or_default() += 1;
            }
        }
        taken
    }

    /// Whether the owner that we believe in still holds it. Who else does, is its heir. If nobody was seen to accept it, whoever
    /// holds it has.
    pub(super) fn compare_holder(&self, record: &Record, listing: &Listing, events: &mut Vec<Event>) {
        let Some(Tracked { connection, .. }) = self.sockets.get(&record.key) else { return };
        let holders = listing.holders.get(&record.inode);
        let kind = match holders.and_then(|holders| heir(connection.ownership.held_by(), holders)) {
            Some(by) => EventKind::Held { by },
            None if record.inode != 0 && record.expires_in_ns.is_none() && connection.is_queued() => EventKind::Taken,
            None => return,
        };
        events.push(event(record.to_ns, record.key, Some(record.tuple), kind));
    }
}

/// Who is to be told as its new owner; `None` while the owner holds it. A process whose first thread opened it, and goes by
/// another name now, runs another program.
fn heir(owner: Option<Task>, holders: &[Task]) -> Option<Task> {
    let first = *holders.first()?;
    let Some(owner) = owner else { return Some(first) };
    match holders.iter().find(|holder| holder.pid == owner.pid) {
        None => Some(first),
        Some(holder) => (owner.tid == owner.pid && owner.comm != holder.comm).then_some(*holder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::event::Comm;

    fn task(pid: u32, tid: u32, name: &str) -> Task {
        Task { pid, tid, comm: Comm::from(name) }
    }

    #[test]
    fn an_owner_that_holds_it_has_no_heir() {
        let (parent, child) = (task(10, 10, "parent"), task(20, 20, "child"));
        assert_eq!(heir(Some(parent), &[parent, child]), None);
        assert_eq!(heir(Some(parent), &[child]), Some(child));
        assert_eq!(heir(Some(child), &[parent, child]), None);
        assert_eq!(heir(None, &[parent]), Some(parent));
        assert_eq!(heir(Some(parent), &[]), None, "in a message between processes, perhaps");
    }

    #[test]
    fn another_program_is_another_name_of_the_first_thread() {
        let (before, after, thread) = (task(10, 10, "sh"), task(10, 10, "cat"), task(10, 11, "worker"));
        assert_eq!(heir(Some(before), &[after]), Some(after));
        assert_eq!(heir(Some(after), &[after]), None);
        assert_eq!(heir(Some(thread), &[after]), None, "threads have names of their own");
    }
}
