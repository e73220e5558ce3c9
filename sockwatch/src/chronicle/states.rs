//! How many sockets were in each state, over time; of a step, the most at once.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use serde::Serialize;

use super::steps::{Step, Steps};
use crate::tcp::{
    close::Ending,
    event::SocketKey,
    state::{ALL, TcpState},
    update::{Happening, Update},
};

/// States by their numbers.
const STATES: usize = ALL.len() + 1;

/// The most at once, and how many there were at the end.
#[derive(Clone, Debug, Default)]
struct Counts {
    most: [u32; STATES],
    last: [u32; STATES],
}

impl Step for Counts {
    fn merge(&mut self, later: &Self) {
        for (most, later) in self.most.iter_mut().zip(later.most) {
            *most = later.max(*most);
        }
        self.last = later.last;
    }

    fn following(&self) -> Self {
        Self { most: self.last, last: self.last }
    }
}

/// Counts in the making.
pub(super) struct States {
    sockets: HashMap<(SocketKey, u32), TcpState, FixedState>,
    now: [u32; STATES],
    steps: Steps<Counts>,
}

/// Sockets by state.
#[derive(Clone, Debug, Serialize)]
pub struct StateCounts {
    /// How long a step is, in nanoseconds.
    pub step_ns: u64,
    /// A state's name, and by step how many were in it at once, at most.
    pub states: Vec<(&'static str, Vec<u32>)>,
}

impl States {
    pub(super) fn new(began_ns: u64) -> Self {
        Self { sockets: HashMap::default(), now: [0; STATES], steps: Steps::new(began_ns) }
    }

    pub(super) fn take(&mut self, update: &Update) {
        let state = match &update.happening {
            Happening::Listed { state, .. } => Some(*state),
            Happening::Transition { new, .. } => Some(*new),
            Happening::Disagreed { found, .. } => *found,
            // What it leaves.
            Happening::Ended(connection) => match connection.ending {
                Some(Ending::LocalFin | Ending::BothFin) => Some(TcpState::TimeWait),
                Some(Ending::Orphaned) => Some(TcpState::FinWait2),
                _ => None,
            },
            Happening::MinisockEnded { .. } => None,
            _ => return,
        };
        let key = (update.subject.key, update.subject.incarnation);
        let state = state.filter(|state| *state != TcpState::Close);
        let before = match state {
            Some(state) => self.sockets.insert(key, state),
            None => self.sockets.remove(&key),
        };
        if before == state {
            return;
        }
        if let Some(before) = before {
            let count = &mut self.now[before as usize];
            *count = count.saturating_sub(1);
        }
        if let Some(state) = state {
            self.now[state as usize] += 1;
        }
        let now = self.now;
        let Counts { most, last } = self.steps.at(update.at_ns);
        for (most, now) in most.iter_mut().zip(now) {
            *most = now.max(*most);
        }
        *last = now;
    }

    pub(super) fn counts(mut self, ended_ns: u64) -> StateCounts {
        self.steps.at(ended_ns);
        let Steps { width_ns, steps, .. } = self.steps;
        let of = |state: TcpState| steps.iter().map(|step| step.most[state as usize]).collect::<Vec<_>>();
        let states = ALL.into_iter().map(|state| (state.name(), of(state)));
        StateCounts {
            step_ns: width_ns,
            states: states.filter(|(_, counts)| counts.iter().any(|it| *it > 0)).collect(),
        }
    }
}
