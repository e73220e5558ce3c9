//! The connections that waited longest for accept(), and some of those that broke, each with its states.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use serde::Serialize;

use super::NameOf;
use crate::tcp::{connection::Connection, sentence::sentence, state::TcpState};

/// So many of the slowest.
const MOST_SLOW: usize = 100;

/// So many of those that broke in one way.
const MOST_BROKEN: usize = 40;

/// A connection, for a line and a bar. Times are in nanoseconds since the beginning.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// When it was first seen.
    pub from_ns: i64,
    /// When it ended.
    pub to_ns: i64,
    /// The part that this end played.
    pub role: &'static str,
    /// This end.
    pub local: String,
    /// The other end.
    pub remote: String,
    /// Who had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The END word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// Who ended it and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Accept queue to accept(), or to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ns: Option<i64>,
    /// When it entered the accept queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ns: Option<i64>,
    /// States, from and to.
    pub states: Vec<(&'static str, i64, i64)>,
}

/// The worst so far.
pub(super) struct Worst {
    began_ns: u64,
    slow: BinaryHeap<Reverse<Slow>>,
    broken: BTreeMap<&'static str, Vec<Told>>,
    taken: u64,
}

struct Slow {
    wait_ns: i64,
    /// Of equal ones, the first is kept.
    number: Reverse<u64>,
    told: Told,
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Slow {}

impl PartialOrd for Slow {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slow {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.wait_ns, self.number).cmp(&(other.wait_ns, other.number))
    }
}

impl Worst {
    pub(super) fn new(began_ns: u64) -> Self {
        Self { began_ns, slow: BinaryHeap::new(), broken: BTreeMap::new(), taken: 0 }
    }

    pub(super) fn take(&mut self, connection: &Connection, is_broken: bool, name_of: &mut NameOf<'_>) {
        self.taken += 1;
        if let Some(wait_ns) = wait(connection)
            && (self.slow.len() < MOST_SLOW || self.slow.peek().is_some_and(|Reverse(least)| least.wait_ns < wait_ns))
        {
            let told = self.tell(connection, name_of);
            self.slow.push(Reverse(Slow { wait_ns, number: Reverse(self.taken), told }));
            if self.slow.len() > MOST_SLOW {
                self.slow.pop();
            }
        }
        let Some(ending) = connection.ending.filter(|_| is_broken) else { return };
        if self.broken.get(ending.word()).is_none_or(|known| known.len() < MOST_BROKEN) {
            let told = self.tell(connection, name_of);
            self.broken.entry(ending.word()).or_default().push(told);
        }
    }

    pub(super) fn told(self) -> (Vec<Told>, Vec<Told>) {
        let slow = self.slow.into_sorted_vec().into_iter().map(|Reverse(slow)| slow.told).collect();
        let mut broken: Vec<_> = self.broken.into_values().flatten().collect();
        broken.sort_by_key(|told| told.to_ns);
        (slow, broken)
    }

    fn tell(&self, connection: &Connection, name_of: &mut NameOf<'_>) -> Told {
        let since = |at_ns: u64| at_ns.cast_signed().wrapping_sub(self.began_ns.cast_signed());
        let from_ns = connection.first_seen_ns;
        let to_ns = connection.ended_ns.or(connection.state_since_ns).unwrap_or(from_ns).max(from_ns);
        let closer = connection.ownership.closer.and_then(|closer| name_of(closer, to_ns));
        let mut states: Vec<_> = connection
            .stays()
            .filter(|(state, ..)| *state != TcpState::Close)
            .map(|(state, from, to)| (state.name(), since(from.clamp(from_ns, to_ns)), since(to.clamp(from_ns, to_ns))))
            .collect();
        states.reverse();
        Told {
            from_ns: since(from_ns),
            to_ns: since(to_ns),
            role: connection.role.word(),
            local: connection.local.to_string(),
            remote: connection.remote.to_string(),
            owner: connection.ownership.owner().map(|owner| owner.to_string()),
            end: connection.ending.map(|ending| ending.word()),
            why: sentence(connection, closer),
            wait_ns: wait(connection),
            queued_ns: connection.queued.and_then(|queued| queued.at_ns).map(since),
            states,
        }
    }
}

/// How long it waited in the accept queue, until accept() or its end.
fn wait(connection: &Connection) -> Option<i64> {
    let queued = connection.queued?;
    let unaccepted = || {
        let waited_ns = connection.ended_ns?.saturating_sub(queued.at_ns?);
        connection.is_queued().then_some(waited_ns.cast_signed())
    };
    queued.wait_ns().or_else(unaccepted)
}
