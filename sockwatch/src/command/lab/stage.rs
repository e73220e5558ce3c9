//! What a lab's steps have in hand: a voice, the trace's view of what they did, and the kernel's table.

use std::{
    collections::HashSet,
    fmt,
    io::{self, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use sockwatch::tcp::{
    state::TcpState,
    update::{Happening, Update},
};

use super::{
    netns::{Netns, acting},
    sockets::{SERVER, listen},
    table::{self, Row},
    watch::accepted,
};
use crate::cli::Format;

/// Whatever takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look into the kernel's table for what no event tells.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The stage.
pub(crate) struct Stage {
    updates: Receiver<Update>,
    seen: Vec<Update>,
    format: Format,
    far: Option<Netns>,
}

/// A listener and an accepted connection.
pub(super) struct Pair {
    pub(super) listener: TcpListener,
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
}

impl Stage {
    pub(super) fn new(updates: Receiver<Update>, format: Format, far: Option<Netns>) -> Self {
        Self { updates, seen: Vec::new(), format, far }
    }

    /// The other end of the cable.
    pub(super) fn far(&self) -> anyhow::Result<&Netns> {
        self.far.as_ref().context("this lab has no cable")
    }

    /// Tells the next step, between the trace's lines. JSON is for programs.
    pub(super) fn say(&self, step: fmt::Arguments<'_>) {
        if self.format == Format::Text {
            // If nobody can read it, there is nobody to tell.
            let _ = writeln!(io::stdout(), "-- {step}");
        }
    }

    /// Waits until the trace has shown this; it may have been before.
    pub(super) fn until(&mut self, what: &str, fits: impl Fn(&Update) -> bool) -> anyhow::Result<Update> {
        self.until_count(1, what, fits)
    }

    /// Waits until the trace has shown so many of them; returns the last one.
    pub(super) fn until_count(
        &mut self,
        count: usize,
        what: &str,
        fits: impl Fn(&Update) -> bool,
    ) -> anyhow::Result<Update> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(update) = self.seen.iter().filter(|update| fits(update)).nth(count.saturating_sub(1)) {
                return Ok(update.clone());
            }
            self.receive(deadline).with_context(|| format!("waiting for {what}"))?;
        }
    }

    fn receive(&mut self, deadline: Instant) -> anyhow::Result<()> {
        match self.updates.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(update) => self.seen.push(update),
            Err(RecvTimeoutError::Timeout) => bail!("the trace has not shown it in {} s", PATIENCE.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("the trace has ended"),
        }
        Ok(())
    }

    /// Waits until the kernel's table fits; returns what fits.
    pub(super) fn until_listed<T>(&self, what: &str, find: impl Fn(&[Row]) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = find(&table::rows()?) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("the kernel's table has not shown {what} in {} s", PATIENCE.as_secs());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// The socket at this local port in this state.
    pub(super) fn listed(&self, local_port: u16, state: TcpState) -> anyhow::Result<Row> {
        self.until_listed(&format!("{state} at port {local_port}"), |rows| {
            rows.iter().find(|row| row.local_port == local_port && row.state == state).cloned()
        })
    }

    /// A listener, a client, and their connection accepted, each step by the one whose it is.
    pub(super) fn pair(&mut self) -> anyhow::Result<Pair> {
        self.say(format_args!("A server listens; a client connects and is accepted."));
        let listener = acting("server", || listen(SERVER, 128))?;
        let client = acting("client", || TcpStream::connect(SERVER))?;
        let (server, _) = acting("server", || listener.accept())?;
        self.until("accept", accepted())?;
        Ok(Pair { listener, client, server })
    }

    /// Waits until every socket that the trace has shown is gone, or is a minisock that nothing will happen to soon.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(alive) = self.alive() {
            self.receive(deadline).with_context(|| format!("waiting for the end of {alive}"))?;
        }
        Ok(())
    }

    /// A socket whose end the trace has not shown.
    fn alive(&self) -> Option<String> {
        let identity = |update: &Update| (update.subject.key, update.subject.incarnation);
        let is_end = |update: &&Update| {
            matches!(update.happening, Happening::Ended(_) | Happening::Transition { new: TcpState::TimeWait, .. })
        };
        let gone: HashSet<_> = self.seen.iter().filter(is_end).map(identity).collect();
        let mut alive = self.seen.iter().filter(|update| {
            matches!(update.happening, Happening::Transition { .. }) && !gone.contains(&identity(update))
        });
        alive.next().map(|update| format!("{} {}", update.subject.local, update.subject.remote))
    }
}
