//! Lines for people: one per socket, in columns that fit 100 for IPv4, and notes below those that need them.

use std::{
    fmt::Display,
    io::{self, Write},
};

use sockwatch::{
    process::{cgroup::Workload, holders::Holder},
    sink::text::Colour,
    source::table::{Info, TimerKind},
    tcp::{endpoint::IPV4_WIDTH, sentence::Count, state::TcpState},
};

use super::{
    Names,
    inventory::{Entry, Queue, Standing},
};

/// Columns: state 11, local 21, remote 21, queue 9, timer 8, age 5, process 19; with spaces 100.
const STATE_WIDTH: usize = 11;
const QUEUE_WIDTH: usize = 9;
const TIMER_WIDTH: usize = 8;
const AGE_WIDTH: usize = 5;
pub(super) const PROCESS_WIDTH: usize = 19;
/// A namespace's number.
const NETNS_WIDTH: usize = 10;
/// Columns, but for IPv6.
const WIDEST: usize = 100;
/// Notes stand below the local end.
const INDENT: &str = "            ";
/// More holders of one socket are only counted.
const MOST_HOLDERS: usize = 8;

/// How lines look.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) colour: Colour,
    /// They need a column for the namespace.
    pub(super) several_namespaces: bool,
    /// Everything that is known.
    pub(super) long: bool,
}

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

pub(super) fn write(out: &mut impl Write, entries: &[Entry], names: &Names, shape: Shape) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    heading(out, shape)?;
    for entry in entries {
        let netns = shape.several_namespaces.then(|| entry.listed.key.netns.to_string());
        line(out, style(entry), &columns(cells(entry, names), netns), shape)?;
        for text in notes(entry, names, shape.long) {
            note(out, &text, shape)?;
        }
    }
    Ok(())
}

pub(super) fn heading(out: &mut impl Write, shape: Shape) -> io::Result<()> {
    let names = ["STATE", "LOCAL", "REMOTE", "QUEUE", "TIMER", "AGE", "PROCESS"].map(str::to_owned);
    line(out, BOLD, &columns(names, shape.several_namespaces.then(|| "NETNS".into())), shape)
}

/// A line below a socket's.
pub(super) fn note(out: &mut impl Write, text: &str, shape: Shape) -> io::Result<()> {
    line(out, DIM, &format!("{INDENT}{text}"), shape)
}

pub(super) fn line(out: &mut impl Write, style: &str, text: &str, shape: Shape) -> io::Result<()> {
    match shape.colour {
        Colour::On if !style.is_empty() => writeln!(out, "{style}{text}{RESET}"),
        Colour::On | Colour::Off => writeln!(out, "{text}"),
    }
}

/// Longer values push the rest to the right.
pub(super) fn columns(
    [state, local, remote, queue, timer, age, process]: [String; 7],
    netns: Option<String>,
) -> String {
    let netns = netns.map(|netns| format!("{netns:NETNS_WIDTH$} ")).unwrap_or_default();
    format!(
        "{netns}{state:STATE_WIDTH$} {local:IPV4_WIDTH$} {remote:IPV4_WIDTH$} {queue:QUEUE_WIDTH$} {timer:TIMER_WIDTH$} \
         {age:AGE_WIDTH$} {process}"
    )
}

fn style(entry: &Entry) -> &'static str {
    let is_full = entry.listed.queue.is_some_and(|(depth, limit)| depth > limit);
    shared_style(entry.listed.state, is_full, entry.standing == Standing::Minisock)
}

pub(super) fn shared_style(state: TcpState, is_full: bool, is_minisock: bool) -> &'static str {
    match state {
        _any if is_full => RED,
        TcpState::Listen => CYAN,
        TcpState::CloseWait => YELLOW,
        _any if is_minisock => DIM,
        _any => "",
    }
}

fn cells(entry: &Entry, names: &Names) -> [String; 7] {
    let listed = &entry.listed;
    [
        // The longest name that the table lists has 11 characters, but for a bound socket's.
        if listed.state == TcpState::BoundInactive { "BOUND".into() } else { listed.state.to_string() },
        listed.local.to_string(),
        listed.remote.to_string(),
        queue(entry),
        timer(entry),
        entry.age_at_least_ms().map_or_else(|| "-".into(), |ms| format!(">{}", short(ms))),
        process(entry, names),
    ]
}

fn queue(entry: &Entry) -> String {
    match (entry.listed.queue, entry.standing) {
        (Some((depth, limit)), _) => format!("{depth}/{limit}"),
        (None, Standing::Minisock | Standing::Request) => "-".into(),
        (None, _) => format!("{}/{}", bytes(entry.listed.unread_bytes()), bytes(entry.listed.unacked_bytes())),
    }
}

fn timer(entry: &Entry) -> String {
    let Some(timer) = entry.listed.timer else { return "-".into() };
    let expires = short(timer.expires_ms.into());
    match timer.kind {
        TimerKind::Retransmit => format!("rto {expires}"),
        TimerKind::ZeroWindowProbe => format!("zwp {expires}"),
        TimerKind::KeepAlive => format!("ka {expires}"),
        TimerKind::TimeWait => format!("tw {expires}"),
        TimerKind::Unknown(number) => format!("t{number} {expires}"),
    }
}

/// `nginx/812`; where that is only the listener's process, or where there is none, a word that says so.
fn process(entry: &Entry, names: &Names) -> String {
    let word = match entry.standing {
        Standing::Held => "",
        Standing::Queued => "queued ",
        Standing::Request => "request ",
        Standing::Orphan | Standing::Minisock | Standing::Unseen | Standing::Hidden => {
            return entry.standing.word().into();
        }
    };
    let mut pids: Vec<u32> = entry.holders.iter().map(|holder| holder.pid).collect();
    pids.dedup();
    let Some(first) = pids.first() else { return word.trim_end().into() };
    let more = if pids.len() > 1 { format!(" +{}", pids.len() - 1) } else { String::new() };
    let pid = format!("/{first}{more}");
    let name = names.processes.get(first).map_or_else(|| "?".into(), |process| process.comm.to_string());
    name_in(word, &name, &pid)
}

/// A process's name between a word and its number, cut so that all three fit the column.
pub(super) fn name_in(word: &str, name: &str, pid: &str) -> String {
    let room = PROCESS_WIDTH.saturating_sub(word.len() + pid.len()).max(3);
    format!("{word}{}{pid}", name.chars().take(room).collect::<String>())
}

/// What the columns have no room for: always what is unusual, with `long` all of it.
fn notes(entry: &Entry, names: &Names, long: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let mut pids: Vec<u32> = entry.holders.iter().map(|holder| holder.pid).collect();
    pids.dedup();
    let is_shared_listener = entry.listed.state == TcpState::Listen && pids.len() > 1;
    if entry.standing == Standing::Held && (long || is_shared_listener) {
        notes.extend(wrapped(&held_by(&entry.holders, names)));
    }
    if let (Some(queue), Some((depth, _))) = (&entry.queue, entry.listed.queue) {
        notes.extend(waiting(queue, depth));
    }
    if long {
        notes.extend(wrapped(&long_words(entry, names)));
    }
    notes
}

/// Words in lines, none of them broken.
pub(super) fn wrapped(words: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if INDENT.len() + line.len() + 2 + word.len() <= WIDEST => *line += &format!(", {word}"),
            Some(_) | None => lines.push(word.clone()),
        }
    }
    lines
}

fn held_by(holders: &[Holder], names: &Names) -> Vec<String> {
    let one = |(index, holder): (usize, &Holder)| {
        let process = names.processes.get(&holder.pid);
        let name = process.map_or_else(|| "?".into(), |process| process.comm.to_string());
        let before = if index == 0 { "held by " } else { "" };
        format!("{before}{name}/{} fd {}", holder.pid, holder.fd)
    };
    let mut words: Vec<_> = holders.iter().enumerate().take(MOST_HOLDERS).map(one).collect();
    let more = holders.len() - words.len();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words
}

/// Who waits at a listener.
fn waiting(queue: &Queue, depth: u32) -> Option<String> {
    let mut words: Vec<_> = queue.children.iter().map(|(state, count)| format!("{count} {state}")).collect();
    if depth > 0 && queue.dead > 0 {
        words.push(format!("{} reset by their clients", queue.dead));
    }
    let mut note = if words.is_empty() { String::new() } else { format!("queued: {}", words.join(", ")) };
    if queue.requests > 0 {
        let separator = if note.is_empty() { "" } else { "; " };
        note += &format!("{separator}handshakes not finished: {}", queue.requests);
    }
    if queue.sharing > 1 && !note.is_empty() {
        note += &format!(" (at all {} listeners of this address)", queue.sharing);
    }
    (!note.is_empty()).then_some(note)
}

fn long_words(entry: &Entry, names: &Names) -> Vec<String> {
    let (listed, details) = (&entry.listed, &entry.details);
    let workload = entry.holders.first().and_then(|holder| names.processes.get(&holder.pid)).map(|it| &it.workload);
    // Without a process, that of its maker.
    let mut words = workload_words(workload.or_else(|| names.cgroups.get(&details.cgroup?)));
    let mut add = |name: &str, value: Option<&dyn Display>| words.extend(value.map(|value| format!("{name} {value}")));
    if listed.inode != 0 {
        add("uid", Some(&listed.uid));
        add("inode", Some(&listed.inode));
    }
    add("cookie", Some(&listed.key.cookie));
    let command = entry.holders.first().and_then(|holder| names.processes.get(&holder.pid)?.command.as_ref());
    add("command", command.map(|it| it as _));
    add("mark", details.mark.filter(|mark| *mark != 0).as_ref().map(|it| it as _));
    add("dropped packets", details.drops.filter(|drops| *drops != 0).as_ref().map(|it| it as _));
    if listed.has_unread_fin() {
        words.push("FIN not read".into());
    }
    words.extend(details.info.map(|info| info_words(entry, info)).unwrap_or_default());
    words
}

/// Where a process belongs.
pub(super) fn workload_words(workload: Option<&Workload>) -> Vec<String> {
    let Some(workload) = workload else { return Vec::new() };
    let container = workload.container.as_ref().map(|it| format!("{}:{}", it.runtime.word(), it.short_id()));
    let is_named = workload.unit.is_some() || workload.container.is_some();
    let cgroup = workload.cgroup.as_ref().filter(|_| !is_named);
    let named = [
        ("unit", workload.unit.as_ref()),
        ("container", container.as_ref()),
        ("pod", workload.pod.as_ref()),
        ("cgroup", cgroup),
    ];
    named.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))).collect()
}

fn info_words(entry: &Entry, info: Info) -> Vec<String> {
    let ms = |us: u32| format!("{}.{:03}", us / 1000, us % 1000);
    let mut words = Vec::new();
    if info.rtt_us != 0 {
        words.push(format!("rtt {}/{} ms", ms(info.rtt_us), ms(info.rtt_variation_us)));
    }
    if info.retransmits > 0 {
        words.push(format!("retransmits {}", info.retransmits));
    }
    if info.unacked_segments > 0 {
        let (segments, unsent) = (info.unacked_segments.into(), info.unsent_bytes.into());
        words.push(format!("{} unacknowledged, {} unsent", Count(segments, "segment"), Count(unsent, "byte")));
    }
    if let Some(idle_ms) = entry.idle_ms() {
        words.push(format!("idle {}", short(idle_ms.into())));
        let received = format!("received {}", bytes64(entry.listed.received_bytes(&info)));
        words.push(match info.sent_bytes {
            Some(sent) => format!("sent {}, {received}", bytes64(sent)),
            None => received,
        });
    }
    words
}

/// A number of bytes in at most four characters: `9999`, `10k`, `1.5M`, `999G`.
fn bytes(count: u32) -> String {
    bytes64(count.into())
}

fn bytes64(count: u64) -> String {
    let scaled = |unit: u64, letter| match (count / unit, count % unit * 10 / unit) {
        (whole @ 0..10, tenths) => format!("{whole}.{tenths}{letter}"),
        (whole, _) => format!("{whole}{letter}"),
    };
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => scaled(1_000, 'k'),
        1_000_000..1_000_000_000 => scaled(1_000_000, 'M'),
        1_000_000_000..1_000_000_000_000 => scaled(1_000_000_000, 'G'),
        _more => scaled(1_000_000_000_000, 'T'),
    }
}

/// Milliseconds in at most four characters: `9ms`, `0.9s`, `9.9s`, `99s`, `9m59`, `99m`, `9h59`, `999h`, `999d`.
pub(super) fn short(ms: u64) -> String {
    let seconds = ms / 1000;
    match ms {
        0..100 => format!("{ms}ms"),
        100..10_000 => format!("{seconds}.{}s", ms % 1000 / 100),
        10_000..100_000 => format!("{seconds}s"),
        100_000..600_000 => format!("{}m{:02}", seconds / 60, seconds % 60),
        600_000..6_000_000 => format!("{}m", seconds / 60),
        6_000_000..36_000_000 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        36_000_000..3_600_000_000 => format!("{}h", seconds / 3600),
        _more => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
