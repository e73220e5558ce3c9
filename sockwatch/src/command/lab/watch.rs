//! What labs wait for in the trace. Only what every probe tells: states, accepts and ends.

use sockwatch::tcp::{
    connection::Role,
    state::TcpState,
    update::{Happening, Update},
};

/// A socket of this role enters this state.
pub(super) fn entered(role: Role, state: TcpState) -> impl Fn(&Update) -> bool {
    move |update| {
        update.subject.role == role && matches!(update.happening, Happening::Transition { new, .. } if new == state)
    }
}

/// The server's host has acknowledged a client's FIN.
pub(super) fn fin_acknowledged() -> impl Fn(&Update) -> bool {
    |update| {
        let Happening::Transition { old, new, .. } = update.happening else { return false };
        update.subject.role == Role::Active && (old, new) == (TcpState::FinWait1, TcpState::FinWait2)
    }
}

/// A connection has entered the accept queue.
pub(super) fn queued() -> impl Fn(&Update) -> bool {
    entered(Role::Passive, TcpState::Established)
}

/// A connection was accepted.
pub(super) fn accepted() -> impl Fn(&Update) -> bool {
    |update| matches!(update.happening, Happening::Accepted { .. })
}

/// A socket of this role is gone.
pub(super) fn ended(role: Role) -> impl Fn(&Update) -> bool {
    move |update| update.subject.role == role && matches!(update.happening, Happening::Ended(_))
}

/// A socket with this remote port enters this state.
pub(super) fn entered_peer(port: u16, state: TcpState) -> impl Fn(&Update) -> bool {
    move |update| {
        update.subject.remote.port == port
            && matches!(update.happening, Happening::Transition { new, .. } if new == state)
    }
}
