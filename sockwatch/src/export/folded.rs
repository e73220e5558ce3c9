//! How long sockets were in each state, by process: a line for each, as flame graphs take them.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{
    pipeline::Totals,
    sink::Sink,
    tcp::{
        connection::Connection,
        state::TcpState,
        update::{Happening, Update},
    },
};

/// Adds states up.
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

    fn add(&mut self, connection: &Connection) {
        let owner = connection.ownership.owner().map_or_else(|| "nobody".to_owned(), |owner| owner.comm.to_string());
        // A client's own port says nothing.
        let is_client = connection.role == crate::tcp::connection::Role::Active;
        let port = if is_client { connection.remote.port } else { connection.local.port };
        for span in &connection.spans {
            let Some(lasted_ns) = span.lasted_ns.filter(|_| span.state != TcpState::Close) else { continue };
            let key = (owner.clone(), connection.role.word(), port, TcpStateByName(span.state.name()));
            *self.totals.entry(key).or_default() += lasted_ns;
        }
    }
}

impl Sink for Folded {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        if let Happening::Ended(connection) = &update.happening {
            self.add(connection);
        }
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        Ok(())
    }
}
