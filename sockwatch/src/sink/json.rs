//! JSON lines: one object per line, described by `docs/trace.schema.json`. The types in `line` are the format; the
//! tracker's own types are not, so they may change without it.

mod counts;
mod line;
mod queue;

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, Write},
};

use foldhash::fast::FixedState;
use serde_json::value::{RawValue, to_raw_value};

pub use self::line::{Line, Start, VERSION};
use self::{
    counts::{AgreementCounts, LossCounts},
    line::{Endpoint, Finished, Socket, Span, Task},
    queue::Queue,
};

use super::{Clock, Show, Sink};
use crate::{
    pipeline::Totals,
    process::{cgroup::Container, names::Names},
    tcp::{
        self,
        connection::{Connection, Ownership, Role},
        event::SocketKey,
        loss::Losses,
        reset::ResetReasons,
        sentence::sentence,
        state::TcpState,
        update::{Happening, Subject, Update},
    },
};

/// Flush when so much is buffered.
const BUFFER_BYTES: usize = 64 * 1024;

/// How many sockets' JSON is kept.
const CACHED_SOCKETS: usize = 100_000;

/// The JSON sink.
pub struct Json<W> {
    out: W,
    buffer: Vec<u8>,
    show: Show,
    clock: Clock,
    losses_told: LossCounts,
    rounds_told: u64,
    reasons: ResetReasons,
    names: Option<Names>,
    /// Each living socket's JSON: it stands in all of its lines, and seldom changes between them.
    sockets: HashMap<(SocketKey, u32), (Subject, Box<RawValue>), FixedState>,
}

impl<W: Write> Json<W> {
    /// Writes to `out`, in batches.
    ///
    /// # Errors
    /// If the first line cannot be written.
    pub fn new(out: W, show: Show, clock: Clock, start: Start<'_>) -> io::Result<Self> {
        let losses_told = LossCounts::from(&Losses::default());
        let mut json = Self {
            out,
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
            show,
            clock,
            losses_told,
            rounds_told: 0,
            reasons: ResetReasons::default(),
            names: None,
            sockets: HashMap::default(),
        };
        json.line(&Line::Start(start))?;
        json.flush()?;
        Ok(json)
    }

    /// Names the reasons of RSTs.
    #[must_use]
    pub fn naming(mut self, reasons: ResetReasons) -> Self {
        self.reasons = reasons;
        self
    }

    /// Names owners' processes, units and containers, as this machine's `/proc` does.
    #[must_use]
    pub fn knowing(mut self, names: Names) -> Self {
        self.names = Some(names);
        self
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(&mut self, totals: &Totals) -> io::Result<()> {
        let losses = LossCounts::from(&totals.losses);
        self.line(&Line::End { events: totals.events, connections: totals.connections, losses })?;
        self.flush()
    }

    /// Writes the last line of an audit.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn audit(&mut self, totals: &Totals) -> io::Result<()> {
        self.line(&Line::Audit(AgreementCounts::from(&totals.agreement)))?;
        self.end(totals)
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
}

impl<W: Write> Sink for Json<W> {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        let wanted = match &update.happening {
            // What was last in a listener's queue is told with its end.
            Happening::Ended(connection) => {
                self.show.connections || self.show.queues && connection.accept_queue.is_some()
            }
            Happening::Disagreed { .. } | Happening::QueueDisagreed { .. } => self.show.disagreements,
            Happening::Queue(_) => self.show.queues,
            _ => self.show.transitions,
        };
        if !wanted {
            // Its process may be gone when its connection is told.
            if let (Happening::Accepted { by, .. }, Some(names)) = (&update.happening, &mut self.names) {
                names.of_thread(*by, update.at_ns);
            }
            return Ok(());
        }
        let socket = socket(&mut self.sockets, &mut self.names, update)?;
        let line = line(update, socket, &mut self.names, &self.clock, &self.reasons);
        serde_json::to_writer(&mut self.buffer, &line)?;
        self.buffer.push(b'\n');
        if let Happening::Ended(_) = update.happening {
            self.sockets.remove(&(update.subject.key, update.subject.incarnation));
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        let losses = LossCounts::from(&totals.losses);
        if losses != self.losses_told {
            self.losses_told = losses;
            self.line(&Line::Losses(losses))?;
        }
        if totals.agreement.rounds != self.rounds_told {
            self.rounds_told = totals.agreement.rounds;
            self.line(&Line::Reconciled(AgreementCounts::from(&totals.agreement)))?;
        }
        if self.buffer.is_empty() { Ok(()) } else { self.flush() }
    }
}

/// The socket's JSON, made anew only when something in it has changed.
fn socket<'a>(
    sockets: &'a mut HashMap<(SocketKey, u32), (Subject, Box<RawValue>), FixedState>,
    names: &mut Option<Names>,
    update: &Update,
) -> io::Result<&'a RawValue> {
    let subject = &update.subject;
    // A late word about a socket that has ended puts it back: a cache may forget.
    if sockets.len() >= CACHED_SOCKETS {
        sockets.clear();
    }
    let mut fresh = || {
        let mut socket = Socket::from(subject);
        socket.owner = subject.owner.as_ref().map(|owner| task(owner, names, update.at_ns));
        Ok::<_, io::Error>((*subject, to_raw_value(&socket)?))
    };
    match sockets.entry((subject.key, subject.incarnation)) {
        Entry::Occupied(known) => {
            let known = known.into_mut();
            if known.0 != *subject {
                *known = fresh()?;
            }
            Ok(&known.1)
        }
        Entry::Vacant(new) => Ok(&new.insert(fresh()?).1),
    }
}

/// A thread, with its process's name.
fn task<'a>(thread: &'a tcp::event::Task, names: &mut Option<Names>, at_ns: u64) -> Task<'a> {
    let process = names.as_mut().and_then(|names| names.of_thread(*thread, at_ns));
    Task { process: process.map(|name| name.to_string()), ..Task::from(thread) }
}

fn line<'a>(
    update: &'a Update,
    socket: &'a RawValue,
    names: &mut Option<Names>,
    clock: &Clock,
    reasons: &'a ResetReasons,
) -> Line<'a> {
    let at_ns = clock.at(update.at_ns);
    let mut named = |thread: &'a tcp::event::Task| -> Task<'a> { task(thread, names, update.at_ns) };
    match &update.happening {
        Happening::Transition { old, new, lasted_ns, by, sampled_ns } => Line::Transition {
            at_ns,
            socket,
            old: old.name(),
            new: new.name(),
            lasted_ns: *lasted_ns,
            by: by.as_ref().map(named),
            sampled_ns: *sampled_ns,
        },
        Happening::Listed { state, queue, .. } => Line::Listed {
            at_ns,
            socket,
            state: state.name(),
            queue_depth: queue.map(|(depth, _)| depth),
            queue_limit: queue.map(|(_, limit)| limit),
        },
        Happening::Enqueued { listener, queue, handshake_ns, synack_retransmits } => Line::Enqueue {
            at_ns,
            socket,
            listener: *listener,
            queue_depth: queue.map(|(depth, _)| depth),
            queue_limit: queue.map(|(_, limit)| limit),
            handshake_ns: *handshake_ns,
            synack_retransmits: *synack_retransmits,
        },
        Happening::Accepted { by, fd, listener, wait_ns } => {
            Line::Accept { at_ns, socket, by: named(by), fd: *fd, listener: *listener, wait_ns: *wait_ns }
        }
        Happening::AcceptFailed { by, errno } => Line::AcceptFailed { at_ns, socket, by: named(by), errno: *errno },
        Happening::ResetSent { reason } => {
            Line::ResetSent { at_ns, socket, reason: *reason, reason_name: reasons.name(*reason) }
        }
        Happening::ResetReceived => Line::ResetReceived { at_ns, socket },
        Happening::Retransmitted { count } => Line::Retransmit { at_ns, socket, count: *count },
        Happening::SynAckRetransmitted { client } => {
            Line::SynAckRetransmit { at_ns, socket, client: Endpoint(*client) }
        }
        Happening::ListenOverflow => Line::ListenOverflow { at_ns, socket },
        Happening::Queue(figures) => Line::Queue { at_ns, socket, queue: Queue::from(&**figures) },
        Happening::Inherited { by, former } => {
            Line::Heir { at_ns, socket, by: named(by), former: former.as_ref().map(named) }
        }
        Happening::MinisockSegment => Line::MinisockSegment { at_ns, socket },
        Happening::MinisockEnded { state, lasted_ns, sampled_ns, end } => Line::MinisockEnd {
            at_ns,
            socket,
            state: state.name(),
            lasted_ns: *lasted_ns,
            sampled_ns: *sampled_ns,
            end: end.word(),
        },
        Happening::Disagreed { believed, found } => Line::Disagreement {
            at_ns,
            socket,
            believed: believed.map(TcpState::name),
            found: found.map(TcpState::name),
        },
        Happening::QueueDisagreed { believed, found } => {
            Line::QueueDisagreement { at_ns, socket, believed_depth: *believed, found_depth: *found }
        }
        Happening::Unexpected { believed, old } => {
            Line::Unexpected { at_ns, socket, believed: believed.name(), old: old.name() }
        }
        Happening::Ended(connection) => Line::Connection(Box::new(finished(connection, socket, update, names, clock))),
    }
}

fn finished<'a>(
    connection: &'a Connection,
    socket: &'a RawValue,
    update: &Update,
    names: &mut Option<Names>,
    clock: &Clock,
) -> Finished<'a> {
    let at_ns = clock.at(connection.ended_ns.unwrap_or(update.at_ns));
    let Ownership { opener, acceptor, heir, closer, .. } = &connection.ownership;
    let process = closer.and_then(|thread| names.as_mut()?.of_thread(thread, update.at_ns));
    let mut named = |thread: &'a tcp::event::Task| -> Task<'a> { task(thread, names, update.at_ns) };
    let (opener, acceptor) = (opener.as_ref().map(&mut named), acceptor.as_ref().map(&mut named));
    let (heir, closer) = (heir.as_ref().map(&mut named), closer.as_ref().map(&mut named));
    let owner = connection.ownership.owner().zip(names.as_mut());
    let owner = owner.and_then(|(task, names)| names.of(task.pid, update.at_ns));
    let workload = owner.map(|process| &process.workload);
    let queued = connection.queued.filter(|_| connection.role == Role::Passive);
    let (evidence, payload) = (connection.evidence, connection.payload());
    let last =
        (connection.state != TcpState::Close).then_some(Span { state: connection.state.name(), lasted_ns: None });
    let spans = connection.spans.iter().map(|span| Span { state: span.state.name(), lasted_ns: span.lasted_ns });
    Finished {
        at_ns,
        socket,
        first_seen_ns: clock.at(connection.first_seen_ns),
        lifetime_ns: connection.lifetime_ns(),
        end: connection.ending.map(tcp::close::Ending::word),
        why: sentence(connection, process),
        abandoned: connection.is_queued(),
        opener,
        acceptor,
        fd: connection.ownership.fd,
        heir,
        unit: workload.and_then(|workload| workload.unit.clone()),
        container: workload.and_then(|workload| workload.container.as_ref()).map(container),
        listener: connection.ownership.listener,
        closer,
        handshake_ns: queued.and_then(|queued| queued.handshake_ns),
        wait_ns: queued.and_then(|queued| queued.wait_ns()),
        left_after_ns: queued.and_then(|queued| queued.waited_until_left_ns()),
        queue_depth: queued.and_then(|queued| queued.depth),
        queue_limit: connection.queued.and_then(|queued| queued.limit),
        queue: connection.accept_queue.as_deref().map(Queue::from),
        retransmits: connection.retransmits,
        resets_sent: connection.resets.sent,
        resets_received: connection.resets.received,
        acked_bytes: payload.and_then(|payload| payload.acked_bytes),
        received_bytes: payload.map(|payload| payload.received_bytes),
        unread_bytes: payload.map(|payload| payload.unread_bytes),
        error: evidence.map(|evidence| evidence.error),
        states: spans.chain(last).collect(),
        sampled_ns: connection.sampled_ns,
    }
}

/// `docker:0123456789ab`
fn container(container: &Container) -> String {
    format!("{}:{}", container.runtime.word(), container.short_id())
}
