//! One listener or connection, closely.

use schemars::JsonSchema;
use serde::Serialize;
use sockwatch::tcp::{
    connection::Connection,
    event::SocketKey,
    sentence::sentence,
    tracker::{Kind, Living},
    update::Subject,
};

use super::connection_id;
use crate::command::{diagnose::json::Listener, serve::view::Outlook};

/// A listener, closely.
#[derive(Serialize, JsonSchema)]
pub(in super::super) struct ListenerDetail {
    /// All that is measured of it.
    listener: Listener,
    /// Queue waits of those that were accepted in the last 30 to 60 seconds.
    histogram: Vec<Octave>,
}

/// Waits from one length to its double.
#[derive(Serialize, JsonSchema)]
struct Octave {
    /// The least, in nanoseconds.
    from_ns: u64,
    /// How many.
    count: u64,
}

/// A connection's timeline so far, or until its end if somebody looked at it by then.
#[derive(Serialize, JsonSchema)]
pub(in super::super) struct Timeline {
    /// Its name in paths.
    id: String,
    /// This end.
    local: String,
    /// The other end.
    remote: String,
    /// `active`: it called connect(); `passive`: a listener's child; `listener`; `unknown`: it was there before.
    role: &'static str,
    /// Its state, as the kernel spells it.
    state: &'static str,
    /// Whether it is gone.
    ended: bool,
    /// Who opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    opener: Option<String>,
    /// Who accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    acceptor: Option<String>,
    /// Who closed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    closer: Option<String>,
    /// First SYN-ACK to accept queue, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_ns: Option<u64>,
    /// How long it waited for accept(), or has so far, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_ns: Option<u64>,
    /// Segments retransmitted.
    retransmits: u32,
    /// RSTs sent.
    resets_sent: u32,
    /// RSTs received.
    resets_received: u32,
    /// Why it ended, or will: a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Its states, the first one first. A minisock's are not kept.
    states: Vec<Stay>,
    /// Of a minisock: when its time is over, in nanoseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ns: Option<u64>,
}

/// A state that it was in.
#[derive(Serialize, JsonSchema)]
struct Stay {
    /// The state.
    state: &'static str,
    /// For how long, or until now, in nanoseconds; absent if it began before sockwatch looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    lasted_ns: Option<u64>,
}

impl ListenerDetail {
    /// `None` if there is no such listener.
    pub(in super::super) fn of(outlook: &Outlook<'_>, key: SocketKey) -> Option<Self> {
        let model = &outlook.model;
        let listeners = &model.report()?.listeners;
        let its = listeners.iter().find(|it| (it.netns, it.cookie) == (key.netns, key.cookie))?;
        let octaves = model.waits(key).map(|waits| waits.octaves()).unwrap_or_default();
        let histogram = octaves.into_iter().map(|(from_ns, count)| Octave { from_ns, count }).collect();
        Some(Self { listener: Listener::from(its), histogram })
    }
}

impl Timeline {
    /// `None` if it is gone. Its end is kept from now on, until somebody looks at another one.
    pub(in super::super) fn of(outlook: &mut Outlook<'_>, key: SocketKey, incarnation: u32) -> Option<Self> {
        let Outlook { sight, selection, model } = outlook;
        let is_it = |it: &&Connection| it.key == key && it.incarnation == incarnation;
        let mut is_shown = |subject: &Subject| selection.admits(subject, sight.now_ns);
        if let Some(connection) = sight.tracker.connection(key).filter(is_it) {
            if !is_shown(&connection.into()) {
                return None;
            }
            model.watch(key, incarnation);
            return Some(Self::whole(connection, sight.now_ns));
        }
        let is_minisock = |living: &Living<'_>| matches!(living.kind, Kind::Minisock { .. });
        if let Some(ended) = model.end_of_watched().filter(is_it) {
            return Some(Self::whole(ended, sight.now_ns));
        }
        let its = |living: &Living<'_>| living.subject.key == key && is_minisock(living) && is_shown(&living.subject);
        let minisock = sight.tracker.living(sight.now_ns).find(its)?;
        Some(Self::remaining(&minisock, sight.now_ns))
    }

    fn whole(connection: &Connection, now_ns: u64) -> Self {
        let task = |task: Option<sockwatch::tcp::event::Task>| task.map(|task| task.to_string());
        let ownership = &connection.ownership;
        let positive = |ns: i64| ns.max(0).unsigned_abs();
        let queued = connection.queued;
        let waits = || Some(now_ns.saturating_sub(queued?.at_ns?));
        let waited = queued.and_then(|queued| queued.wait_ns()).map(positive);
        Self {
            id: connection_id(connection.key, connection.incarnation),
            local: connection.local.to_string(),
            remote: connection.remote.to_string(),
            role: connection.role.word(),
            state: connection.state.name(),
            ended: connection.ended_ns.is_some(),
            opener: task(ownership.opener),
            acceptor: task(ownership.acceptor),
            closer: task(ownership.closer),
            handshake_ns: queued.and_then(|queued| queued.handshake_ns).map(positive),
            wait_ns: waited.or_else(|| if connection.is_queued() { waits() } else { None }),
            retransmits: connection.retransmits,
            resets_sent: connection.resets.sent,
            resets_received: connection.resets.received,
            why: connection.ending.and_then(|_| sentence(connection, None)),
            states: stays(connection, now_ns),
            expires_ns: None,
        }
    }

    fn remaining(living: &Living<'_>, now_ns: u64) -> Self {
        let subject = &living.subject;
        let lasted_ns = living.since_ns.map(|since_ns| now_ns.saturating_sub(since_ns));
        Self {
            id: connection_id(subject.key, subject.incarnation),
            local: subject.local.to_string(),
            remote: subject.remote.to_string(),
            role: subject.role.word(),
            state: living.state.name(),
            ended: false,
            opener: None,
            acceptor: None,
            closer: subject.owner.map(|owner| owner.to_string()),
            handshake_ns: None,
            wait_ns: None,
            retransmits: 0,
            resets_sent: 0,
            resets_received: 0,
            why: None,
            states: vec![Stay { state: living.state.name(), lasted_ns }],
            expires_ns: match living.kind {
                Kind::Minisock { expires_ns } => Some(expires_ns.saturating_sub(now_ns)),
                _ => None,
            },
        }
    }
}

/// The first one first; the last one of a connection that has ended is no state to be in.
fn stays(connection: &Connection, now_ns: u64) -> Vec<Stay> {
    let until_ns = connection.ended_ns.unwrap_or(now_ns);
    let is_told = |(state, ..): &(_, u64, u64)| connection.ended_ns.is_none() || *state != connection.state;
    let stay = |(state, from_ns, to_ns): (sockwatch::tcp::state::TcpState, u64, u64)| Stay {
        state: state.name(),
        lasted_ns: (from_ns > 0).then(|| to_ns.min(until_ns).saturating_sub(from_ns)),
    };
    let mut stays: Vec<_> = connection.stays().filter(is_told).map(stay).collect();
    stays.reverse();
    stays
}
