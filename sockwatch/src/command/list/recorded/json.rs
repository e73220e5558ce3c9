//! Lines of `sockwatch list --recording --format json`. docs/list.schema.json is made from these types, too.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{pipeline::Totals, tcp::queue::Age};

use super::{
    super::json::{Line, List, RecordingOf, Summary},
    Entry, Queue, Seen,
};

/// A socket as a recording knows it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RecordedSocket {
    /// The network namespace's inode number.
    netns: u32,
    /// The kernel's socket cookie, or a number of sockwatch's own from 2^63 on where the kernel told none.
    cookie: u64,
    /// How often this socket was opened before.
    incarnation: u32,
    /// Its state, as the kernel spells it. A queued child in `CLOSE` was reset by its client and is still to be accepted.
    state: &'static str,
    /// This end, address and port as `ss` prints them.
    local: String,
    /// The other end.
    remote: String,
    /// `active`: it called connect(); `passive`: a listener's child; `listener`; `unknown`: it was there before.
    role: &'static str,
    /// What kept it: `held` by a process; `queued` in its listener's accept queue; `minisock`, the remains of one; `unknown`.
    standing: &'static str,
    /// Whose it was, as far as known; of a queued child its listener's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    /// Of a child: its listener's cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<u64>,
    /// How long it had been in its state, in nanoseconds; absent if nobody saw when that began.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ns: Option<u64>,
    /// The same, at least: since it was first seen.
    age_at_least_ns: u64,
    /// Of a child: how long it waited for accept(), or has waited so far, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_ns: Option<u64>,
    /// Of a child: first SYN-ACK to accept queue, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_ns: Option<u64>,
    /// Of a minisock: when its time is over, in nanoseconds from then.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ns: Option<u64>,
    /// Segments retransmitted; absent of listeners and minisocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    retransmits: Option<u32>,
    /// Of a listener: its accept queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<RecordedQueue>,
}

/// A task.
#[derive(Serialize, JsonSchema)]
struct Owner {
    /// Process id.
    pid: u32,
    /// The process's name, or its thread's where the recording does not tell that; control characters are replaced.
    comm: String,
    /// Its systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// Its cgroup's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
}

/// A listener's accept queue.
#[derive(Serialize, JsonSchema)]
struct RecordedQueue {
    /// How many waited for accept().
    depth: u32,
    /// The limit; it takes one more.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// How long the oldest had waited, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ns: Option<u64>,
    /// Those that were seen to come, by state. `CLOSE`: reset by their clients.
    children: BTreeMap<&'static str, usize>,
    /// Connections accepted since the recording began.
    accepted: u64,
}

pub(super) fn first(seen: &Seen, totals: &Totals) -> Line {
    let (header, losses) = (&seen.header, &totals.losses);
    let recording = RecordingOf {
        host: header.host.clone(),
        at_monotonic_ns: seen.now_ns,
        after_ns: seen.now_ns.saturating_sub(header.started_ns),
        lost: losses.lost() + losses.missed() + losses.dropped(),
    };
    let wall_offset_ns = seen.wall.unix_ns(seen.now_ns).saturating_sub(seen.now_ns);
    Line::List(List::new(seen.netns(), header.kernel.clone(), wall_offset_ns).of(recording))
}

pub(super) fn last(seen: &Seen) -> Line {
    Line::Summary(Summary {
        sockets: seen.entries.len(),
        states: seen.states(),
        standings: seen.standings(),
        processes_hidden: 0,
        netns_refused: 0,
        nameless: 0,
    })
}

pub(super) fn socket(entry: &Entry, now_ns: u64) -> RecordedSocket {
    let subject = &entry.subject;
    let connection = entry.connection.as_deref();
    let queued = connection.and_then(|connection| connection.queued);
    let waits = |at_ns: Option<u64>| at_ns.map(|at_ns| now_ns.saturating_sub(at_ns));
    let positive = |ns: i64| ns.max(0).unsigned_abs();
    RecordedSocket {
        netns: subject.key.netns,
        cookie: subject.key.cookie,
        incarnation: subject.incarnation,
        state: entry.state.name(),
        local: subject.local.to_string(),
        remote: subject.remote.to_string(),
        role: subject.role.word(),
        standing: entry.standing.word(),
        owner: owner(entry),
        listener: connection.and_then(|connection| connection.ownership.listener),
        age_ns: waits(entry.since_ns),
        age_at_least_ns: now_ns.saturating_sub(entry.since_ns.unwrap_or(entry.first_seen_ns)),
        wait_ns: queued.and_then(|queued| match queued.accepted_ns {
            Some(_) => queued.wait_ns().map(positive),
            None if connection.is_some_and(|connection| connection.is_queued()) => waits(queued.at_ns),
            None => None,
        }),
        handshake_ns: queued.and_then(|queued| queued.handshake_ns).map(positive),
        expires_ns: entry.expires_ns.map(|at_ns| at_ns.saturating_sub(now_ns)),
        retransmits: connection.map(|connection| connection.retransmits),
        queue: entry.queue.as_ref().map(queue),
    }
}

fn owner(entry: &Entry) -> Option<Owner> {
    let owner = entry.subject.owner?;
    let process = entry.process.as_ref();
    Some(Owner {
        pid: owner.pid,
        comm: process.map_or(owner.comm, |process| process.comm).to_string(),
        unit: process.and_then(|process| process.workload.unit.clone()),
        cgroup: process.and_then(|process| process.workload.cgroup.clone()),
    })
}

fn queue(queue: &Queue) -> RecordedQueue {
    let Queue { figures, children } = queue;
    RecordedQueue {
        depth: figures.depth,
        limit: figures.totals.limit,
        oldest_ns: figures.oldest.map(Age::ns),
        children: children.clone(),
        accepted: figures.totals.accepted,
    }
}
