//! Connections that fit a filter.

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::{
    overview::{Column, Order, Words, age_ns, choose, wait_ns},
    tcp::tracker::{Kind, Living},
};

use super::connection_id;
use crate::command::serve::view::Outlook;

/// Connections, and what they left.
#[derive(Serialize, JsonSchema)]
pub(in super::super) struct Connections {
    /// How many fit the filter.
    fitting: usize,
    /// How many there are.
    all: usize,
    /// Those that come first.
    connections: Vec<Connection>,
}

/// A connection.
#[derive(Serialize, JsonSchema)]
struct Connection {
    /// Its name in paths: the network namespace's inode number, the socket's cookie, and which of its lives.
    id: String,
    /// Its state, as the kernel spells it. One in a queue and in `CLOSE` was reset by its client and is still to be accepted.
    state: &'static str,
    /// This end.
    local: String,
    /// The other end.
    remote: String,
    /// `active`: it called connect(); `passive`: a listener's child; `unknown`: it was there before.
    role: &'static str,
    /// `held` by a process, or by nobody that is known; `queued` in an accept queue; `minisock`, the remains of one.
    standing: &'static str,
    /// Whose it is, the process's name and id; of one in a queue the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// How long it has been in its state, at least, in nanoseconds.
    age_ns: u64,
    /// Whether it may have been longer: it was in that state when sockwatch first saw it.
    age_is_lower_bound: bool,
    /// How long it waited for accept(), or has so far, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_ns: Option<u64>,
}

/// The column that a parameter names.
pub(in super::super) fn column(name: &str) -> Option<Column> {
    Some(match name {
        "state" => Column::State,
        "local" => Column::Local,
        "remote" => Column::Remote,
        "age" => Column::Age,
        "wait" => Column::Wait,
        "process" => Column::Process,
        _ => return None,
    })
}

impl Connections {
    pub(in super::super) fn of(outlook: &mut Outlook<'_>, words: &Words, order: Order, limit: usize) -> Self {
        let chosen = choose(outlook.sight, outlook.selection, words, order, (0, limit));
        let connections = chosen.rows.iter().map(|living| connection(living, outlook.sight.now_ns)).collect();
        Self { fitting: chosen.fitting, all: chosen.all, connections }
    }
}

fn connection(living: &Living<'_>, now_ns: u64) -> Connection {
    let subject = &living.subject;
    Connection {
        id: connection_id(subject.key, subject.incarnation),
        state: living.state.name(),
        local: subject.local.to_string(),
        remote: subject.remote.to_string(),
        role: subject.role.word(),
        standing: match living.kind {
            Kind::Queued(_) => "queued",
            Kind::Minisock { .. } => "minisock",
            Kind::Socket(_) | Kind::Listener(_) => "held",
        },
        owner: subject.owner.map(|owner| owner.to_string()),
        age_ns: age_ns(living, now_ns),
        age_is_lower_bound: living.since_ns.is_none(),
        wait_ns: wait_ns(living, now_ns),
    }
}
