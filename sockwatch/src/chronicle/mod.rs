//! What a recording holds over time, for a page that people look at: waits by listener, sockets by state, the connections that
//! waited longest and those that broke. Pure, and bounded: of a long recording steps get wider, of many connections some are told.

mod heat;
mod states;
mod steps;
mod worst;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use self::{heat::Heat, states::States, worst::Worst};
use crate::tcp::{
    close::Ending,
    connection::{Connection, Role},
    event::{Comm, SocketKey, Task},
    update::{Happening, Update},
};

pub use self::{heat::HeatMap, states::StateCounts, worst::Told};

/// Listeners whose waits are kept over time.
const MOST_LISTENERS: usize = 64;

/// Kinds of broken ends that are counted apart.
const MOST_CAUSES: usize = 64;

/// Names a thread's process, where that is another one.
pub type NameOf<'a> = dyn FnMut(Task, u64) -> Option<Comm> + 'a;

/// Takes updates in.
pub struct Chronicle {
    began_ns: u64,
    heats: HashMap<SocketKey, Heat>,
    /// Waits at listeners for which there was no room.
    untold_waits: u64,
    states: States,
    worst: Worst,
    causes: BTreeMap<Cause, u64>,
    untold_causes: u64,
}

/// Why connections broke, and whose they were.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cause {
    /// The END word.
    pub end: &'static str,
    /// The part that this end played.
    pub role: &'static str,
    /// The owner's name; absent if nobody had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The server's port.
    pub port: u16,
}

/// All of it. Times are in nanoseconds since the beginning.
#[derive(Clone, Debug, Serialize)]
pub struct Course {
    /// Waits over time, by listener.
    pub heat: Vec<ListenerHeat>,
    /// Waits at other listeners.
    pub untold_waits: u64,
    /// Sockets by state.
    pub states: StateCounts,
    /// Those that waited longest, the longest first.
    pub slowest: Vec<Told>,
    /// Some of those that broke, in the order in which they did.
    pub broken: Vec<Told>,
    /// Why connections broke, the most frequent first.
    pub causes: Vec<(Cause, u64)>,
    /// Those of further kinds.
    pub untold_causes: u64,
}

/// A listener's waits over time.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerHeat {
    /// The network namespace's inode number.
    pub netns: u32,
    /// The listener's cookie.
    pub cookie: u64,
    /// Its waits.
    #[serde(flatten)]
    pub map: HeatMap,
}

impl Chronicle {
    /// Begins then.
    pub fn new(began_ns: u64) -> Self {
        Self {
            began_ns,
            heats: HashMap::new(),
            untold_waits: 0,
            states: States::new(began_ns),
            worst: Worst::new(began_ns),
            causes: BTreeMap::new(),
            untold_causes: 0,
        }
    }

    /// Takes an update in.
    pub fn take(&mut self, update: &Update, name_of: &mut NameOf<'_>) {
        self.states.take(update);
        let key = update.subject.key;
        match &update.happening {
            Happening::Accepted { listener: Some(cookie), wait_ns: Some(wait_ns), .. } => {
                self.wait(SocketKey { cookie: *cookie, ..key }, update.at_ns, *wait_ns);
            }
            Happening::Ended(connection) => self.ended(connection, name_of),
            _ => {}
        }
    }

    /// What it comes to; it ended then.
    pub fn course(self, ended_ns: u64) -> Course {
        let mut heat: Vec<_> = self.heats.into_iter().collect();
        heat.sort_by_key(|(key, _)| *key);
        let heat = heat
            .into_iter()
            .map(|(SocketKey { netns, cookie }, heat)| ListenerHeat { netns, cookie, map: heat.map(ended_ns) })
            .collect();
        let mut causes: Vec<_> = self.causes.into_iter().collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let (slowest, broken) = self.worst.told();
        Course {
            heat,
            untold_waits: self.untold_waits,
            states: self.states.counts(ended_ns),
            slowest,
            broken,
            causes,
            untold_causes: self.untold_causes,
        }
    }

    fn wait(&mut self, listener: SocketKey, at_ns: u64, wait_ns: i64) {
        let has_room = self.heats.len() < MOST_LISTENERS;
        if !has_room && !self.heats.contains_key(&listener) {
            self.untold_waits += 1;
            return;
        }
        let heat = self.heats.entry(listener).or_insert_with(|| Heat::new(self.began_ns));
        heat.add(at_ns, wait_ns.max(0).unsigned_abs());
    }

    fn ended(&mut self, connection: &Connection, name_of: &mut NameOf<'_>) {
        if connection.role == Role::Listener {
            return;
        }
        let Connection { key, ended_ns, queued, ref ownership, .. } = *connection;
        if let (Some(listener), Some(queued), Some(ended_ns)) = (ownership.listener, queued, ended_ns)
            && let Some(from_ns) = queued.at_ns.filter(|_| connection.is_queued())
        {
            let waited_ns = ended_ns.saturating_sub(from_ns).cast_signed();
            self.wait(SocketKey { cookie: listener, ..key }, ended_ns, waited_ns);
        }
        let broken = connection.ending.is_some_and(is_broken);
        if broken {
            self.count(connection);
        }
        self.worst.take(connection, broken, name_of);
    }

    fn count(&mut self, connection: &Connection) {
        let Some(ending) = connection.ending else { return };
        let server = if connection.role == Role::Active { connection.remote } else { connection.local };
        let cause = Cause {
            end: ending.word(),
            role: connection.role.word(),
            process: connection.ownership.owner().map(|owner| owner.comm.to_string()),
            port: server.port,
        };
        if self.causes.len() < MOST_CAUSES || self.causes.contains_key(&cause) {
            *self.causes.entry(cause).or_default() += 1;
        } else {
            self.untold_causes += 1;
        }
    }
}

/// Whether it ended otherwise than by FINs of both ends.
fn is_broken(ending: Ending) -> bool {
    match ending {
        Ending::ResetByPeer
        | Ending::Aborted
        | Ending::Refused
        | Ending::ConnectAborted
        | Ending::TimedOut(_)
        | Ending::Unreachable
        | Ending::Destroyed
        | Ending::ListenerClosed => true,
        Ending::LocalFin
        | Ending::PeerFin
        | Ending::BothFin
        | Ending::Orphaned
        | Ending::Duplicate
        | Ending::Stopped
        | Ending::Vanished => false,
    }
}
