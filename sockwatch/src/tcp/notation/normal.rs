//! Events that are the same in every run get the same text: times count from the first, names are numbered.

use std::collections::{HashMap, HashSet};

use crate::tcp::event::{Comm, Event, EventKind, Incident, Task};

/// Makes times relative to the earliest, and numbers namespaces, cookies, addresses, processes and threads from 1 in
/// the order of their appearance. 0 stays 0, and what was the same stays the same. Ports and descriptors are left as
/// they are.
/// Who ran by chance when a timer or a packet closed a socket differs from run to run and means nothing: whoever did
/// nothing else becomes a bystander.
pub fn normalise(events: &mut [Event]) {
    let times = events.iter().flat_map(|event| [Some(event.at_ns), synack(event).copied()]).flatten();
    let start_ns = times.min().unwrap_or(0);
    let mut names = Names { actors: events.iter().filter_map(actor).collect(), ..Names::default() };
    for event in events {
        event.at_ns -= start_ns;
        let netns = event.key.netns;
        event.key.netns = names.netns.of(u64::from(netns)) as u32;
        event.key.cookie = names.cookies.of((netns, event.key.cookie));
        event.skaddr = names.addresses.of(event.skaddr);
        names.within(netns, start_ns, &mut event.kind);
    }
}

/// The process that did what an event tells, where one did.
fn actor(event: &Event) -> Option<u32> {
    let task = match event.kind {
        EventKind::Opening { by, .. }
        | EventKind::Accept { by, .. }
        | EventKind::Held { by }
        | EventKind::Incident(Incident::AcceptFailed { by, .. })
        | EventKind::Transition { by: Some(by), .. } => by,
        EventKind::Transition { by: None, .. }
        | EventKind::Birth { .. }
        | EventKind::Closing { .. }
        | EventKind::Enqueue { .. }
        | EventKind::AcceptReturn { .. }
        | EventKind::Destroy
        | EventKind::Incident(
            Incident::ResetSent { .. }
            | Incident::ResetReceived
            | Incident::Retransmit
            | Incident::SynAckRetransmit
            | Incident::ListenOverflow
            | Incident::MinisockSegment { .. },
        )
        | EventKind::Listed { .. }
        | EventKind::Unlisted { .. }
        | EventKind::Found { .. }
        | EventKind::Taken
        | EventKind::QueueFound { .. }
        | EventKind::Lost { .. } => return None,
    };
    Some(task.pid)
}

fn synack(event: &Event) -> Option<&u64> {
    match &event.kind {
        EventKind::Enqueue { synack_at_ns, .. } => synack_at_ns.as_ref(),
        EventKind::Transition { .. }
        | EventKind::Opening { .. }
        | EventKind::Birth { .. }
        | EventKind::Closing { .. }
        | EventKind::Accept { .. }
        | EventKind::AcceptReturn { .. }
        | EventKind::Destroy
        | EventKind::Incident(_)
        | EventKind::Listed { .. }
        | EventKind::Unlisted { .. }
        | EventKind::Found { .. }
        | EventKind::Held { .. }
        | EventKind::Taken
        | EventKind::QueueFound { .. }
        | EventKind::Lost { .. } => None,
    }
}

/// Numbers in the order of appearance.
struct Numbers<K>(HashMap<K, u64>);

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// What is 0 has no name.
trait Named: Copy + Eq + std::hash::Hash {
    fn is_none(self) -> bool;
}

impl Named for u64 {
    fn is_none(self) -> bool {
        self == 0
    }
}

impl Named for (u32, u64) {
    fn is_none(self) -> bool {
        self.1 == 0
    }
}

impl<K: Named> Numbers<K> {
    fn of(&mut self, name: K) -> u64 {
        if name.is_none() {
            return 0;
        }
        let next = self.0.len() as u64 + 1;
        *self.0.entry(name).or_insert(next)
    }
}

#[derive(Default)]
struct Names {
    netns: Numbers<u64>,
    cookies: Numbers<(u32, u64)>,
    addresses: Numbers<u64>,
    /// Processes and threads: a process's first thread has its number.
    tasks: Numbers<u64>,
    /// Those that did something.
    actors: HashSet<u32>,
}

impl Names {
    fn within(&mut self, netns: u32, start_ns: u64, kind: &mut EventKind) {
        match kind {
            EventKind::Transition { by, .. } => by.iter_mut().for_each(|by| self.task(by)),
            EventKind::Opening { by, .. } | EventKind::Incident(Incident::AcceptFailed { by, .. }) => self.task(by),
            EventKind::Closing { current, .. } if self.actors.contains(&current.pid) => self.task(current),
            EventKind::Closing { current, .. } => *current = Task { pid: 0, tid: 0, comm: Comm::from("bystander") },
            EventKind::Enqueue { listener, synack_at_ns, .. } => {
                listener.iter_mut().for_each(|it| *it = self.cookies.of((netns, *it)));
                synack_at_ns.iter_mut().for_each(|at_ns| *at_ns -= start_ns);
            }
            EventKind::Accept { by, listener, .. } => {
                self.task(by);
                listener.iter_mut().for_each(|it| *it = self.cookies.of((netns, *it)));
            }
            EventKind::Birth { .. }
            | EventKind::AcceptReturn { .. }
            | EventKind::Destroy
            | EventKind::Incident(
                Incident::ResetSent { .. }
                | Incident::ResetReceived
                | Incident::Retransmit
                | Incident::SynAckRetransmit
                | Incident::ListenOverflow
                | Incident::MinisockSegment { .. },
            )
            | EventKind::Listed { .. }
            | EventKind::Unlisted { .. }
            | EventKind::Taken
            | EventKind::QueueFound { .. }
            | EventKind::Lost { .. } => {}
            EventKind::Held { by } => self.task(by),
            EventKind::Found { holder, listener, .. } => {
                holder.iter_mut().for_each(|holder| self.task(holder));
                listener.iter_mut().for_each(|it| *it = self.cookies.of((netns, *it)));
            }
        }
    }

    fn task(&mut self, task: &mut Task) {
        task.pid = self.tasks.of(u64::from(task.pid)) as u32;
        task.tid = self.tasks.of(u64::from(task.tid)) as u32;
    }
}
