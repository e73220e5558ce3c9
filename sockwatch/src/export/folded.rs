//! How long sockets were in each state, by process: a line for each, as flame graphs take them.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    pipeline::Totals,
    sink::Sink,
    tcp::{
        connection::{Connection, Role},
        state::TcpState,
        update::{Happening, Subject, Update},
    },
};

/// Adds states up: of sockets and minisocks that have ended.
#[derive(Debug, Default)]
pub struct Folded {
    /// Nanoseconds by process, part, port and state.
    totals: BTreeMap<(String, &'static str, u16, TcpStateByName), u64>,
}

/// A state, ordered by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TcpStateByName(&'static str);

impl Folded {
    /// `nginx;passive;8080;CLOSE_WAIT 1234`: milliseconds, summed over all sockets.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for ((process, role, port, TcpStateByName(state)), total_ns) in &self.totals {
            // What ends a frame, or the stack, is no part of a name.
            let process = process.replace([';', ' '], "_");
            writeln!(out, "{process};{role};{port};{state} {}", total_ns / 1_000_000)?;
        }
        Ok(())
    }

    fn connection(&mut self, subject: &Subject, connection: &Connection) {
        for span in &connection.spans {
            if let Some(lasted_ns) = span.lasted_ns.filter(|_| span.state != TcpState::Close) {
                self.add(subject, span.state, lasted_ns);
            }
        }
    }

    fn add(&mut self, subject: &Subject, state: TcpState, lasted_ns: u64) {
        let owner = subject.owner.map_or_else(|| "nobody".to_owned(), |owner| owner.comm.to_string());
        // A client's own port says nothing.
        let port = if subject.role == Role::Active { subject.remote.port } else { subject.local.port };
        let key = (owner, subject.role.word(), port, TcpStateByName(state.name()));
        *self.totals.entry(key).or_default() += lasted_ns;
    }
}

impl Sink for Folded {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        let subject = &update.subject;
        match &update.happening {
            Happening::Ended(connection) => self.connection(&Subject::from(&**connection), connection),
            // What is left of it has no process: its owner is who had it.
            Happening::MinisockEnded { state, lasted_ns, .. } => self.add(subject, *state, *lasted_ns),
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        Ok(())
    }
}
