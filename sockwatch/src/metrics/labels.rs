//! Words of labels, each with its place in a table of counts.

use crate::tcp::{
    close::Ending,
    connection::{Connection, Role},
};

/// What stands where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// Roles, by [`role_at`].
pub(super) const ROLES: [Role; 4] = [Role::Active, Role::Passive, Role::Listener, Role::Unknown];

/// The words of the column END, by [`end_at`].
pub(super) const ENDS: [&str; 17] = [
    "local-fin",
    "peer-fin",
    "both-fin",
    "orphaned",
    "peer-rst",
    "aborted",
    "refused",
    "given-up",
    "timed-out",
    "unreached",
    "destroyed",
    "unqueued",
    "stopped",
    "vanished",
    "abandoned",
    UNKNOWN,
    "duplicate",
];

pub(super) const fn role_at(role: Role) -> usize {
    match role {
        Role::Active => 0,
        Role::Passive => 1,
        Role::Listener => 2,
        Role::Unknown => 3,
    }
}

/// How a connection ended: one that nobody had accepted is abandoned, whatever its end was.
pub(super) fn end_at(connection: &Connection) -> usize {
    match connection.ending {
        Some(Ending::ListenerClosed) => 11,
        _ if connection.is_queued() => 14,
        Some(ending) => ending_at(ending),
        None => 15,
    }
}

const fn ending_at(ending: Ending) -> usize {
    match ending {
        Ending::LocalFin => 0,
        Ending::PeerFin => 1,
        Ending::BothFin => 2,
        Ending::Orphaned => 3,
        Ending::ResetByPeer => 4,
        Ending::Aborted => 5,
        Ending::Refused => 6,
        Ending::ConnectAborted => 7,
        Ending::TimedOut(_) => 8,
        Ending::Unreachable => 9,
        Ending::Destroyed => 10,
        Ending::ListenerClosed => 11,
        Ending::Stopped => 12,
        Ending::Vanished => 13,
        Ending::Duplicate => 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::close::Timeout;

    #[test]
    fn places_have_the_words_of_what_is_counted_there() {
        for role in ROLES {
            assert_eq!(ROLES[role_at(role)], role);
        }
        let endings = [
            Ending::LocalFin,
            Ending::PeerFin,
            Ending::BothFin,
            Ending::Orphaned,
            Ending::ResetByPeer,
            Ending::Aborted,
            Ending::Refused,
            Ending::ConnectAborted,
            Ending::TimedOut(Timeout::Syn),
            Ending::Unreachable,
            Ending::Destroyed,
            Ending::ListenerClosed,
            Ending::Stopped,
            Ending::Vanished,
            Ending::Duplicate,
        ];
        for ending in endings {
            assert_eq!(ENDS[ending_at(ending)], ending.word());
        }
    }
}
