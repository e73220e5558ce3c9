//! `sockwatch list --recording`: the sockets that a recording knows at an instant.

mod json;
mod text;

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use anyhow::bail;
use sockwatch::{
    diagnosis::words::{count, time},
    pipeline::Totals,
    process::{Process, names::Names},
    recording::header::Header,
    sink::{
        Sight, Sink,
        selected::Selection,
        time_of_day::{Written, utc},
        wall::Wall,
    },
    source::recording::{Opened, Until},
    tcp::{
        connection::Connection,
        event::SocketKey,
        queue::QueueFigures,
        state::TcpState,
        tracker::{Kind, Living},
        update::{Subject, Update},
    },
};

use super::{
    super::{
        replay::{filter, open, play, warn},
        tell,
    },
    ALL, Line, counts, order, shape,
};
use crate::cli::{At, FilterArgs, Format, ListArgs};

pub(crate) use self::json::RecordedSocket;

/// A socket as it was, and whose.
pub(super) struct Entry {
    pub(super) subject: Subject,
    pub(super) state: TcpState,
    /// When that began; `None` if nobody saw it.
    pub(super) since_ns: Option<u64>,
    pub(super) first_seen_ns: u64,
    pub(super) standing: Standing,
    /// What happened to it; of a minisock or a listener nothing that would be told.
    pub(super) connection: Option<Box<Connection>>,
    /// A listener's.
    pub(super) queue: Option<Queue>,
    /// When a minisock's time is over.
    pub(super) expires_ns: Option<u64>,
    /// Its owner's process; the listener's of one that nobody has accepted.
    pub(super) process: Option<Process>,
}

/// What kept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A process had it.
    Held,
    /// It was in its listener's accept queue.
    Queued,
    /// It was the remains of a connection.
    Minisock,
    /// Nothing tells whose it was.
    Unknown,
}

impl Standing {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Queued => "queued",
            Self::Minisock => "minisock",
            Self::Unknown => "unknown",
        }
    }
}

/// A listener's accept queue.
pub(super) struct Queue {
    pub(super) figures: QueueFigures,
    /// Those who waited and were seen to come, by state. `CLOSE`: reset by their clients.
    pub(super) children: BTreeMap<&'static str, usize>,
}

/// What is listed.
pub(super) struct Seen {
    pub(super) header: Header,
    /// The time of day.
    pub(super) wall: Wall,
    /// The instant.
    pub(super) now_ns: u64,
    pub(super) entries: Vec<Entry>,
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let files = open(&args.recording)?;
    let header = files.header().clone();
    let mut words = FilterArgs { netns: Vec::new(), ..args.filter.clone() };
    if args.filter.netns != [ALL] {
        words.netns.clone_from(&args.filter.netns);
    }
    let selection = filter(&words)?;
    let Opened { mut recording, ended } = files.recording(None);
    let wall = recording.wall();
    let at = args.at.map(|at| instant(at, &header)).transpose()?;
    if let Some(at) = at {
        recording.until(at);
    }
    let selection = Selection { names: Names::told(recording.names()), ..selection };
    let names = Names::told(recording.names());
    let mut look = Look { selection, names, states: args.state.clone(), now_ns: 0, entries: Vec::new() };
    let (totals, stopped) = play(&mut recording, ended, &mut look)?;
    if stopped {
        bail!("stopped before that instant");
    }
    recording.read().iter().for_each(warn);
    let last_unix_ns = wall.unix_ns(recording.last_ns());
    let late = at.map(|at| match at {
        Until::Monotonic(at_ns) => wall.unix_ns(at_ns),
        Until::Unix(unix_ns) => unix_ns,
    });
    if let Some(late) = late.filter(|late| *late > last_unix_ns) {
        bail!(
            "--at {}: the recording ends {} before that, at {}; without --at its end is listed{}",
            utc(late),
            time(late - last_unix_ns),
            utc(last_unix_ns),
            recording.damage().map(|damage| format!("; {damage}")).unwrap_or_default(),
        );
    }
    let seen = Seen { now_ns: look.now_ns.max(header.started_ns), header, wall, entries: look.entries };
    seen.print(args, &totals)?;
    seen.tell_summary(&totals);
    match recording.damage() {
        Some(damage) => bail!("{damage}; the list may be wrong by what is behind that"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// When that is.
fn instant(at: At, header: &Header) -> anyhow::Result<Until> {
    let began_ns = header.started_ns.saturating_add(header.wall_offset_ns);
    let written = match at {
        At::After(after) => {
            let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            return Ok(Until::Monotonic(header.started_ns.saturating_add(after_ns)));
        }
        At::Written(written) => written,
    };
    let unix_ns = written.first_from(began_ns);
    // A time of day with fewer digits than the beginning's means the beginning.
    let in_second = matches!(written, Written::Unix(_)) && began_ns.saturating_sub(unix_ns) < 1_000_000;
    if unix_ns < began_ns && !in_second {
        bail!("--at {}: the recording begins later, at {}", utc(unix_ns), utc(began_ns));
    }
    Ok(Until::Unix(unix_ns.max(began_ns)))
}

/// Takes the sockets down that there are at the end.
struct Look {
    selection: Selection,
    names: Names,
    states: Vec<TcpState>,
    now_ns: u64,
    entries: Vec<Entry>,
}

impl Sink for Look {
    fn wants(&mut self, update: &Update) -> bool {
        self.selection.passes(update)
    }

    fn update(&mut self, _update: &Update) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, _totals: &Totals) -> io::Result<()> {
        Ok(())
    }

    fn look(&mut self, sight: &Sight<'_>) -> io::Result<()> {
        if !sight.is_last {
            return Ok(());
        }
        self.now_ns = sight.now_ns;
        let mut children: HashMap<SocketKey, BTreeMap<&'static str, usize>> = HashMap::new();
        for living in sight.tracker.living(sight.now_ns) {
            if let Kind::Queued(connection) = living.kind
                && let Some(cookie) = connection.ownership.listener
            {
                let its = children.entry(SocketKey { cookie, ..connection.key }).or_default();
                *its.entry(living.state.name()).or_default() += 1;
            }
        }
        for living in sight.tracker.living(sight.now_ns) {
            let is_wanted = self.states.is_empty() || self.states.contains(&living.state);
            if is_wanted && self.selection.admits(&living.subject, sight.now_ns) {
                let children = children.remove(&living.subject.key).unwrap_or_default();
                let entry = self.entry(&living, children);
                self.entries.push(entry);
            }
        }
        self.entries.sort_by_key(|Entry { subject, state, .. }| {
            (order(subject.key, subject.local, subject.remote, *state), subject.incarnation)
        });
        Ok(())
    }
}

impl Look {
    fn entry(&mut self, living: &Living<'_>, children: BTreeMap<&'static str, usize>) -> Entry {
        let Living { subject, state, since_ns, first_seen_ns, kind } = *living;
        let (queue, expires_ns) = match kind {
            Kind::Listener(figures) => (figures.map(|figures| Queue { figures, children }), None),
            Kind::Queued(_) | Kind::Socket(_) => (None, None),
            Kind::Minisock { expires_ns } => (None, Some(expires_ns)),
        };
        let standing = match kind {
            Kind::Queued(_) => Standing::Queued,
            Kind::Minisock { .. } => Standing::Minisock,
            Kind::Listener(_) | Kind::Socket(_) if subject.owner.is_some() => Standing::Held,
            Kind::Listener(_) | Kind::Socket(_) => Standing::Unknown,
        };
        Entry {
            subject,
            state,
            since_ns,
            first_seen_ns,
            standing,
            connection: living.connection().map(|connection| Box::new(connection.clone())),
            queue,
            expires_ns,
            process: subject.owner.and_then(|owner| self.names.of(owner.pid, self.now_ns).cloned()),
        }
    }
}

impl Seen {
    fn print(&self, args: &ListArgs, totals: &Totals) -> anyhow::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        match args.format {
            Format::Text => text::write(&mut out, &self.entries, self.now_ns, shape(args.long, self.netns().len()))?,
            Format::Json => {
                let sockets = self.entries.iter().map(|entry| json::socket(entry, self.now_ns));
                let lines = [json::first(self, totals)].into_iter().chain(sockets.map(Line::recorded));
                for line in lines.chain([json::last(self)]) {
                    serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
                    out.write_all(b"\n")?;
                }
            }
        }
        out.flush()?;
        Ok(())
    }

    /// The network namespaces that they are in.
    fn netns(&self) -> Vec<u32> {
        let mut netns: Vec<_> = self.entries.iter().map(|entry| entry.subject.key.netns).collect();
        netns.sort_unstable();
        netns.dedup();
        netns
    }

    fn states(&self) -> BTreeMap<&'static str, usize> {
        self.count(|entry| entry.state.name())
    }

    fn standings(&self) -> BTreeMap<&'static str, usize> {
        self.count(|entry| entry.standing.word())
    }

    fn count(&self, word: impl Fn(&Entry) -> &'static str) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry(word(entry)).or_default() += 1;
        }
        counts
    }

    fn tell_summary(&self, totals: &Totals) {
        let losses = &totals.losses;
        let loss = losses.lost() + losses.missed() + losses.dropped();
        if loss > 0 {
            tell(format_args!(
                "sockwatch: warning: {} lost until then: the list may be wrong (`sockwatch explain lost`)",
                count(loss, "event"),
            ));
        }
        let at = utc(self.wall.unix_ns(self.now_ns));
        let after = time(self.now_ns.saturating_sub(self.header.started_ns));
        tell(format_args!(
            "sockwatch: {} at {at} UTC, {after} after the beginning: sockets={}{}",
            self.header.host,
            self.entries.len(),
            counts(&self.states(), &self.standings()),
        ));
    }
}
