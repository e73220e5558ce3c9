//! Lines for people: one per happening, one per finished connection, in columns that fit 100 for IPv4.

mod queue;

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use self::queue::{Closed, InWords};
use super::{
    Clock, Show, Sink, Why,
    quantity::{Column, Short},
};
use crate::{
    pipeline::Totals,
    process::names::Names,
    tcp::{
        close::Ending,
        connection::{Connection, Role},
        endpoint::IPV4_WIDTH,
        event::{Comm, Task},
        loss::Losses,
        reset::ResetReasons,
        sentence::sentence,
        state::TcpState,
        update::{Happening, Subject, Update},
    },
};

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal that wants it.
    On,
    /// Elsewhere.
    Off,
}

/// Columns: time 11, role 1, local 21, remote 21, what happened 22, how long 6, process 13; with spaces 100.
const TIME_WIDTH: usize = 10;
/// `23:59:59.123456`
const WALL_WIDTH: usize = 15;
const HAPPENING_WIDTH: usize = 22;
const DURATION_WIDTH: usize = 6;
const PROCESS_WIDTH: usize = 13;
const OWNER_WIDTH: usize = 12;

/// Flush when so much is buffered.
const BUFFER_BYTES: usize = 64 * 1024;

/// The text sink.
pub struct Text<W> {
    out: W,
    buffer: Vec<u8>,
    show: Show,
    clock: Clock,
    colour: Colour,
    reasons: ResetReasons,
    names: Option<Names>,
    header_due: bool,
    losses_told: Losses,
}

/// ANSI styles.
mod style {
    pub(super) const RESET: &str = "\x1b[0m";
    pub(super) const BOLD: &str = "\x1b[1m";
    pub(super) const DIM: &str = "\x1b[2m";
    pub(super) const RED: &str = "\x1b[31m";
    pub(super) const GREEN: &str = "\x1b[32m";
    pub(super) const YELLOW: &str = "\x1b[33m";
    pub(super) const CYAN: &str = "\x1b[36m";
}

impl<W: Write> Text<W> {
    /// Writes to `out`, in batches.
    pub fn new(out: W, show: Show, clock: Clock, colour: Colour) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES + 1024);
        let (reasons, losses_told) = (ResetReasons::default(), Losses::default());
        Self { out, buffer, show, clock, colour, reasons, names: None, header_due: true, losses_told }
    }

    /// Names the reasons of RSTs.
    #[must_use]
    pub fn naming(mut self, reasons: ResetReasons) -> Self {
        self.reasons = reasons;
        self
    }

    /// Names threads' processes, as this machine's `/proc` does.
    #[must_use]
    pub fn knowing(mut self, names: Names) -> Self {
        self.names = Some(names);
        self
    }

    fn header(&mut self) -> io::Result<()> {
        self.header_due = false;
        let width = if let Clock::Wall(_) = self.clock { WALL_WIDTH } else { TIME_WIDTH };
        let (time, local) = (format!("{:>width$}", "TIME"), format!("{:IPV4_WIDTH$}", "LOCAL"));
        let remote = format!("{:IPV4_WIDTH$}", "REMOTE");
        self.start(style::BOLD);
        if self.show.transitions || self.show.disagreements && !self.show.connections && !self.show.queues {
            writeln!(self.buffer, "{time}   {local} {remote} {:HAPPENING_WIDTH$} AFTER  PROCESS", "EVENT")?;
        }
        if self.show.queues && !self.show.transitions {
            writeln!(self.buffer, "{time}   {local} {remote} QUEUE")?;
        }
        if self.show.connections {
            let mark = if self.show.transitions { '=' } else { ' ' };
            let owner = format!("{:OWNER_WIDTH$}", "PROCESS");
            writeln!(self.buffer, "{time} {mark} {local} {remote} SHAKE  WAIT   LIFE   {owner} END")?;
        }
        self.end();
        Ok(())
    }

    fn start(&mut self, code: &str) {
        if self.colour == Colour::On {
            self.buffer.extend_from_slice(code.as_bytes());
        }
    }

    fn end(&mut self) {
        self.start(style::RESET);
    }

    /// Time, mark, local, remote: what all lines begin with.
    fn begin(&mut self, at_ns: u64, mark: char, subject: &Subject) -> io::Result<()> {
        self.time(at_ns)?;
        write!(self.buffer, " {mark} ")?;
        self.column(&subject.local, IPV4_WIDTH)?;
        self.column(&subject.remote, IPV4_WIDTH)
    }

    fn time(&mut self, at_ns: u64) -> io::Result<()> {
        let at_ns = self.clock.at(at_ns);
        match &self.clock {
            Clock::Wall(_) => {
                let of_day = at_ns.rem_euclid(86_400_000_000_000) / 1_000;
                let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
                let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                write!(self.buffer, "{hour:02}:{minute:02}:{second:02}.{micros:06}")
            }
            Clock::Relative { .. } | Clock::Monotonic => {
                let sign = if at_ns < 0 { "-" } else { "" };
                let micros = at_ns.unsigned_abs() / 1_000;
                let mut text = Column::default();
                // A column on the stack takes every write.
                let _ = fmt::Write::write_fmt(
                    &mut text,
                    format_args!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000),
                );
                write!(self.buffer, "{:>TIME_WIDTH$}", text.as_str())
            }
        }
    }

    /// A value, padded to a width, and a space; longer values push the rest to the right.
    fn column(&mut self, value: &dyn Display, width: usize) -> io::Result<()> {
        let from = self.buffer.len();
        write!(self.buffer, "{value}")?;
        let written = self.buffer.len() - from;
        self.buffer.resize(self.buffer.len() + width.saturating_sub(written) + 1, b' ');
        Ok(())
    }

    /// A duration column. What was sampled is marked: it is right to within the interval.
    fn duration(&mut self, nanoseconds: Option<i64>, sampled: Option<u64>) -> io::Result<()> {
        match (nanoseconds, sampled) {
            (Some(nanoseconds), None) => write!(self.buffer, "{:DURATION_WIDTH$} ", Short(nanoseconds)),
            (Some(nanoseconds), Some(_)) => self.column(&format_args!("~{}", Short(nanoseconds)), DURATION_WIDTH),
            (None, _) => write!(self.buffer, "{:DURATION_WIDTH$} ", "-"),
        }
    }

    /// Process and id, cut to the width: `nginx/1234`. Of a process that nobody knows any more the thread's name.
    fn process(&mut self, task: Option<Task>, at_ns: u64, width: usize) -> io::Result<()> {
        let Some(task) = task else { return write!(self.buffer, "{:width$}", "-") };
        let comm = self.process_of(task, at_ns).unwrap_or(task.comm);
        let mut pid = Column::default();
        // A column on the stack takes every write.
        let _ = fmt::Write::write_fmt(&mut pid, format_args!("/{}", task.pid));
        let room = width.saturating_sub(pid.as_str().len());
        let mut name = Column::default();
        let _ = fmt::Write::write_fmt(&mut name, format_args!("{comm:.room$}"));
        let padding = room.saturating_sub(name.as_str().chars().count());
        write!(self.buffer, "{}{}{:padding$}", name.as_str(), pid.as_str(), "")
    }

    fn process_of(&mut self, thread: Task, at_ns: u64) -> Option<Comm> {
        self.names.as_mut()?.of_thread(thread, at_ns)
    }

    fn finish_line(&mut self) {
        while self.buffer.last() == Some(&b' ') {
            self.buffer.pop();
        }
        self.end();
        self.buffer.push(b'\n');
    }

    fn happening(&mut self, update: &Update) -> io::Result<()> {
        self.start(colour_of(&update.happening));
        self.begin(update.at_ns, update.subject.role.letter(), &update.subject)?;
        let Line { what, after_ns, task } = line(update, &self.reasons);
        let sampled = match update.happening {
            Happening::Transition { sampled_ns, .. } | Happening::MinisockEnded { sampled_ns, .. } => sampled_ns,
            _ => None,
        };
        if after_ns.is_none() && what.as_str().len() > HAPPENING_WIDTH {
            // A long word takes the room of the duration that it has not.
            self.column(&what, HAPPENING_WIDTH + 1 + DURATION_WIDTH)?;
        } else {
            self.column(&what, HAPPENING_WIDTH)?;
            self.duration(after_ns, sampled)?;
        }
        self.process(task.or(update.subject.owner), update.at_ns, PROCESS_WIDTH)?;
        self.finish_line();
        Ok(())
    }

    /// A listener's accept queue, in words: the counts need room.
    fn queue(&mut self, at_ns: u64, update: &Update, words: &dyn Display) -> io::Result<()> {
        self.start(colour_of(&update.happening));
        self.begin(at_ns, update.subject.role.letter(), &update.subject)?;
        write!(self.buffer, "{words}")?;
        self.finish_line();
        Ok(())
    }

    fn connection(&mut self, at_ns: u64, connection: &Connection) -> io::Result<()> {
        let subject = Subject::from(connection);
        let mark = if self.show.transitions { '=' } else { connection.role.letter() };
        self.start(if self.show.transitions { style::BOLD } else { "" });
        self.begin(connection.ended_ns.unwrap_or(at_ns), mark, &subject)?;
        let queued = connection.queued.filter(|_| connection.role != Role::Listener);
        self.duration(queued.and_then(|queued| queued.handshake_ns), None)?;
        self.duration(queued.and_then(|queued| queued.wait_ns()), None)?;
        self.duration(connection.lifetime_ns().map(u64::cast_signed), connection.sampled_ns)?;
        self.process(subject.owner, at_ns, OWNER_WIDTH)?;
        let end = match connection.ending {
            Some(Ending::ListenerClosed) => Ending::ListenerClosed.word(),
            _ if connection.is_queued() => "abandoned",
            Some(ending) => ending.word(),
            None => "-",
        };
        write!(self.buffer, " {end}")?;
        self.finish_line();
        if self.show.why == Why::Told { self.why(at_ns, connection) } else { Ok(()) }
    }

    /// Who ended it and why, below its line.
    fn why(&mut self, at_ns: u64, connection: &Connection) -> io::Result<()> {
        let closer = connection.ownership.closer;
        let process = closer.and_then(|closer| self.process_of(closer, at_ns));
        let Some(sentence) = sentence(connection, process) else { return Ok(()) };
        let width = if let Clock::Wall(_) = self.clock { WALL_WIDTH } else { TIME_WIDTH };
        self.start(style::DIM);
        write!(self.buffer, "{:width$}   {sentence}", "")?;
        self.finish_line();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }

    fn losses(&mut self, losses: &Losses) -> io::Result<()> {
        let told = |losses: &Losses| (losses.lost(), losses.missed(), losses.accepts_unmatched);
        if told(losses) == told(&self.losses_told) {
            return Ok(());
        }
        self.losses_told = *losses;
        self.start(style::RED);
        write!(self.buffer, "# lost {} events (ring buffer full), missed {}", losses.lost(), losses.missed())?;
        if losses.accepts_unmatched != 0 {
            write!(self.buffer, ", {} accepts unmatched", losses.accepts_unmatched)?;
        }
        self.finish_line();
        Ok(())
    }
}

/// What a happening's line says.
struct Line {
    what: Column,
    after_ns: Option<i64>,
    task: Option<Task>,
}

/// Writes into a column on the stack, which takes every write.
macro_rules! what {
    ($($argument:tt)*) => {{
        let mut what = Column::default();
        let _ = fmt::Write::write_fmt(&mut what, format_args!($($argument)*));
        what
    }};
}

fn line(update: &Update, reasons: &ResetReasons) -> Line {
    let only = |what| Line { what, after_ns: None, task: None };
    match &update.happening {
        Happening::Transition { old, new, lasted_ns, by, .. } => {
            Line { what: what!("{old}>{new}"), after_ns: lasted_ns.map(u64::cast_signed), task: *by }
        }
        Happening::Listed { state, queue: Some((depth, limit)), .. } => only(what!("{state} queue {depth}/{limit}")),
        Happening::Listed { state, queue: None, .. } => only(what!("is {state}")),
        Happening::Enqueued { queue, handshake_ns, .. } => {
            let (depth, limit) = queue.unwrap_or_default();
            Line { what: what!("enqueued {depth}/{limit}"), after_ns: *handshake_ns, task: None }
        }
        Happening::Accepted { by, fd: Some(fd), wait_ns, .. } => {
            Line { what: what!("accepted fd {fd}"), after_ns: *wait_ns, task: Some(*by) }
        }
        Happening::Accepted { by, fd: None, wait_ns, .. } => {
            Line { what: what!("accepted"), after_ns: *wait_ns, task: Some(*by) }
        }
        Happening::AcceptFailed { by, errno } => {
            Line { what: what!("accept failed {}", errno_name(*errno)), after_ns: None, task: Some(*by) }
        }
        Happening::ResetSent { reason } => only(match (reason, reasons.name(*reason)) {
            (0, _) => what!("RST sent"),
            (_, Some(name)) => what!("RST sent {}", name.strip_prefix("TCP_").unwrap_or(name)),
            (_, None) => what!("RST sent, reason {reason}"),
        }),
        Happening::ResetReceived => only(what!("RST received")),
        Happening::Retransmitted { count } => only(what!("retransmit {count}")),
        Happening::SynAckRetransmitted { client } => only(what!("SYN-ACK again :{}", client.port)),
        Happening::ListenOverflow => only(what!("accept queue overflow")),
        Happening::Inherited { by, .. } => Line { what: what!("passed on"), after_ns: None, task: Some(*by) },
        Happening::Queue(_) => only(Column::default()),
        Happening::MinisockSegment => only(what!("segment at minisock")),
        Happening::MinisockEnded { state, lasted_ns, end, .. } => {
            Line { what: what!("{state} {}", end.word()), after_ns: Some(lasted_ns.cast_signed()), task: None }
        }
        Happening::Disagreed { believed, found } => {
            only(what!("!{} is {}", state_or_dash(*believed), state_or_dash(*found)))
        }
        Happening::QueueDisagreed { believed, found } => only(what!("!queue {believed} is {found}")),
        Happening::Unexpected { believed, old } => only(what!("?{believed} was {old}")),
        Happening::Ended(_) => only(Column::default()),
    }
}

impl Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What we believe or the kernel has; `-` for no socket.
fn state_or_dash(state: Option<TcpState>) -> &'static str {
    state.map_or("-", TcpState::name)
}

/// The errno's name where it is one of accept's.
fn errno_name(errno: i32) -> &'static str {
    match errno {
        23 => "ENFILE",
        24 => "EMFILE",
        12 => "ENOMEM",
        22 => "EINVAL",
        103 => "ECONNABORTED",
        105 => "ENOBUFS",
        _ => "(see JSON)",
    }
}

fn colour_of(happening: &Happening) -> &'static str {
    match happening {
        Happening::Transition { new: TcpState::Established, .. } => style::GREEN,
        Happening::Accepted { .. } => style::CYAN,
        Happening::AcceptFailed { .. }
        | Happening::ListenOverflow
        | Happening::ResetSent { .. }
        | Happening::ResetReceived
        | Happening::Unexpected { .. }
        | Happening::Disagreed { .. }
        | Happening::QueueDisagreed { .. } => style::RED,
        Happening::Retransmitted { .. } | Happening::SynAckRetransmitted { .. } | Happening::MinisockSegment => {
            style::YELLOW
        }
        Happening::Enqueued { .. } | Happening::Listed { .. } | Happening::MinisockEnded { .. } => style::DIM,
        Happening::Queue(figures) if figures.is_full() => style::RED,
        Happening::Queue(_) | Happening::Inherited { .. } => style::CYAN,
        Happening::Transition { .. } | Happening::Ended(_) => "",
    }
}

impl<W: Write> Sink for Text<W> {
    fn update(&mut self, update: &Update) -> io::Result<()> {
        if self.header_due {
            self.header()?;
        }
        match &update.happening {
            Happening::Ended(connection) => {
                if self.show.queues
                    && let Some(figures) = &connection.accept_queue
                {
                    self.queue(connection.ended_ns.unwrap_or(update.at_ns), update, &Closed(figures))?;
                }
                if self.show.connections {
                    self.connection(update.at_ns, connection)?;
                }
            }
            Happening::Queue(figures) if self.show.queues => self.queue(update.at_ns, update, &InWords(figures))?,
            Happening::Queue(_) => {}
            Happening::Disagreed { .. } | Happening::QueueDisagreed { .. } if self.show.disagreements => {
                self.happening(update)?
            }
            _ if self.show.transitions => self.happening(update)?,
            // Its process may be gone when its connection is told.
            Happening::Accepted { by, .. } => drop(self.process_of(*by, update.at_ns)),
            _ => {}
        }
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        self.losses(&totals.losses)?;
        if self.buffer.is_empty() { Ok(()) } else { self.flush() }
    }
}

#[cfg(test)]
mod tests;
