//! What there is now, for those who show it: sockets, the minisocks that they left, and accept queues.

use super::{Tracked, Tracker};
use crate::tcp::{
    connection::{Connection, Role},
    event::SocketKey,
    minisock::{Minisock, TIME_WAIT_NS},
    queue::QueueFigures,
    state::TcpState,
    update::Subject,
};

/// A socket, or a minisock.
#[derive(Clone, Copy, Debug)]
pub struct Living<'a> {
    /// Which, and whose.
    pub subject: Subject,
    /// The state it is in.
    pub state: TcpState,
    /// Since when; `None` if since before we looked.
    pub since_ns: Option<u64>,
    /// When it was first seen.
    pub first_seen_ns: u64,
    /// What it is.
    pub kind: Kind<'a>,
}

/// Where one is kept: less than a [`Living`], into which it is made when it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a>(Place<'a>);

#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    Socket(&'a Tracked),
    Minisock(&'a Minisock),
}

/// What lives.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// It listens; its accept queue, where that is known.
    Listener(Option<QueueFigures>),
    /// A child that nobody has accepted yet. One that its client has reset is in `CLOSE`.
    Queued(&'a Connection),
    /// Any other socket.
    Socket(&'a Connection),
    /// What is left of one that closed first.
    Minisock {
        /// When its time is over.
        expires_ns: u64,
    },
}

impl<'a> Living<'a> {
    /// The socket's timeline so far.
    pub fn connection(&self) -> Option<&'a Connection> {
        match self.kind {
            Kind::Queued(connection) | Kind::Socket(connection) => Some(connection),
            Kind::Listener(_) | Kind::Minisock { .. } => None,
        }
    }
}

impl Tracker {
    /// A socket's timeline so far; nothing of one that is gone.
    pub fn connection(&self, key: SocketKey) -> Option<&Connection> {
        Some(&self.sockets.get(&key)?.connection)
    }

    /// A listener's accept queue, where that is known.
    pub fn queue_of(&self, listener: SocketKey, now_ns: u64) -> Option<QueueFigures> {
        Some(self.queues.get(&listener)?.figures(now_ns))
    }

    /// All that there is, in no order.
    pub fn living(&self, now_ns: u64) -> impl Iterator<Item = Living<'_>> {
        self.kept().filter_map(move |kept| self.look(kept, now_ns))
    }

    /// Where each is kept, and some that do not live.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        let places = self.sockets.values().map(Place::Socket).chain(self.minisocks.iter().map(Place::Minisock));
        places.map(Kept)
    }

    /// What is kept there, if it lives.
    pub fn look<'a>(&'a self, kept: Kept<'a>, now_ns: u64) -> Option<Living<'a>> {
        match kept.0 {
            Place::Socket(tracked) => {
                let connection = &*tracked.connection;
                let kind = match connection.role {
                    _any if connection.is_queued() => Kind::Queued(connection),
                    _any if connection.state == TcpState::Close => return None,
                    Role::Listener => Kind::Listener(self.queue_of(connection.key, now_ns)),
                    Role::Active | Role::Passive | Role::Unknown => Kind::Socket(connection),
                };
                Some(Living {
                    subject: Subject::from(connection),
                    state: connection.state,
                    since_ns: connection.state_since_ns,
                    first_seen_ns: connection.first_seen_ns,
                    kind,
                })
            }
            // The kernel's timer may be late; ours says when the time was over.
            Place::Minisock(minisock) if minisock.expires_ns <= now_ns || minisock.doubtful => None,
            Place::Minisock(minisock) => Some(Living {
                subject: minisock.subject,
                state: minisock.state,
                since_ns: (!minisock.adopted).then(|| began_ns(minisock)),
                first_seen_ns: minisock.since_ns,
                kind: Kind::Minisock { expires_ns: minisock.expires_ns },
            }),
        }
    }
}

/// When its state began: of one that a listing showed in `TIME_WAIT` first, its end tells.
fn began_ns(minisock: &Minisock) -> u64 {
    match minisock.state {
        TcpState::TimeWait => minisock.since_ns.min(minisock.expires_ns.saturating_sub(TIME_WAIT_NS)),
        _orphan => minisock.since_ns,
    }
}
