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

/// The same at this local port.
pub(super) fn entered_at(port: u16, state: TcpState) -> impl Fn(&Update) -> bool {
    move |update| {
        update.subject.local.port == port
            && matches!(update.happening, Happening::Transition { new, .. } if new == state)
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
