//! What there is at an instant: sockets by state, and the local ports that connections to each destination take.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use foldhash::fast::FixedState;

use crate::tcp::{
    connection::Role,
    endpoint::Endpoint,
    state,
    tracker::{Kind, Living},
};

/// Destinations that are counted apart.
const MOST_COUNTED: usize = 1 << 14;

/// Destinations that are told apart, the fullest; the others are summed.
const MOST_TOLD: usize = 50;

/// Local ports that connections from here take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// From where to where; `None` for all other destinations.
    pub(super) route: Option<(u32, IpAddr, Endpoint)>,
    /// Ports.
    pub(super) ports: u64,
}

/// Counts of a look at all sockets.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) states: [u64; state::ALL.len()],
    routes: HashMap<(u32, IpAddr, Endpoint), u64, FixedState>,
    /// Ports of destinations that there was no room for.
    others: u64,
}

impl Survey {
    pub(super) fn add(&mut self, living: &Living<'_>) {
        // States count from 1, as the kernel numbers them.
        self.states[usize::from(living.state as u8) - 1] += 1;
        let subject = &living.subject;
        let is_client = match (living.kind, subject.role) {
            (Kind::Listener(_) | Kind::Queued(_), _) | (_, Role::Passive | Role::Listener) => false,
            (_, Role::Active) => true,
            // It was there before: of two ports the greater one is taken for the client's.
            (_, Role::Unknown) => subject.local.port > subject.remote.port,
        };
        if !is_client || subject.local.port == 0 {
            return;
        }
        let route = (subject.key.netns, subject.local.address, subject.remote);
        if let Some(ports) = self.routes.get_mut(&route) {
            *ports += 1;
        } else if self.routes.len() < MOST_COUNTED {
            self.routes.insert(route, 1);
        } else {
            self.others += 1;
        }
    }

    /// The destinations of which most ports are taken, and the sum of all others, if there are any.
    pub(super) fn fullest(self) -> Vec<Taken> {
        let mut all: Vec<_> = self.routes.into_iter().collect();
        all.sort_unstable_by_key(|(route, ports)| (Reverse(*ports), *route));
        let rest = all.split_off(all.len().min(MOST_TOLD));
        let others = self.others + rest.iter().map(|(_, ports)| ports).sum::<u64>();
        let mut told: Vec<_> = all.into_iter().map(|(route, ports)| Taken { route: Some(route), ports }).collect();
        told.extend((others > 0).then_some(Taken { route: None, ports: others }));
        told
    }
}
