//! `sockwatch explain`: what a state, an END word or a term means, and how many sockets are in a state now.

mod counts;
mod json;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::bail;
use sockwatch::{
    explain::{self, Block, Kind, Section, Topic},
    sink::text::Colour,
    tcp::state::{self, TcpState},
};

use self::counts::{By, Counts, Ephemeral};
use super::wants_colour;
use crate::cli::{ExplainArgs, Format};

/// Longer lines are hard to read.
const WIDEST: usize = 100;

/// How many sockets are in a state now, or why nobody knows.
type Looked = Result<Counts, String>;

pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if args.topic.is_empty() {
        match args.format {
            Format::Text => write!(out, "{}", explain::list(width(), colour()))?,
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&json::List::new())?)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let word = args.topic.join(" ");
    let Some(topic) = explain::find(&word) else { bail!("{}", unknown(&word)) };
    let state = state::ALL.into_iter().find(|state| topic.kind == Kind::State && state.name() == topic.name);
    let looked = state.filter(|_| !args.no_counts).map(|state| (state, counts::look(state)));
    match args.format {
        Format::Text => write!(out, "{}", page(topic, looked.as_ref()))?,
        Format::Json => {
            let explained = json::Explained::new(topic, looked.map(|(_, looked)| looked));
            writeln!(out, "{}", serde_json::to_string_pretty(&explained)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `sockwatch explain-index`: sockwatch/docs/explain/README.md.
pub(crate) fn index() -> anyhow::Result<ExitCode> {
    write!(io::stdout(), "{}", explain::index())?;
    Ok(ExitCode::SUCCESS)
}

fn width() -> usize {
    let terminal = terminal_size::terminal_size_of(io::stdout());
    terminal.map_or(WIDEST, |(width, _)| usize::from(width.0).min(WIDEST))
}

fn colour() -> Colour {
    if wants_colour() { Colour::On } else { Colour::Off }
}

fn unknown(word: &str) -> String {
    match &explain::nearest(word)[..] {
        [] => format!("no topic {word:?}: `sockwatch explain` lists them"),
        nearest => format!("no topic {word:?}; did you mean {}? `sockwatch explain` lists all", nearest.join(", ")),
    }
}

fn page(topic: &Topic, looked: Option<&(TcpState, Looked)>) -> String {
    let mut document = topic.document();
    if let Some((state, looked)) = looked {
        let blocks = match looked {
            Ok(counts) => count_blocks(*state, counts),
            Err(reason) => vec![Block::Paragraph(format!("Not counted: {reason}."))],
        };
        document.sections.push(Section { heading: "Here and now", blocks });
    }
    explain::page(&document, width(), colour())
}

fn count_blocks(state: TcpState, counts: &Counts) -> Vec<Block<'static>> {
    let mut blocks = vec![Block::Paragraph(sum(state, counts))];
    blocks.extend(counts.queues.iter().map(|queue| {
        Block::Bullet(format!("{}: {} wait for accept(), limit {}", queue.local, queue.depth, queue.limit))
    }));
    blocks.extend(counts.largest.iter().map(|group| {
        Block::Bullet(match &group.by {
            By::LocalPort(port) => format!("{} on local port {port}", group.sockets),
            By::Destination(end) => format!("{} to {end}", group.sockets),
        })
    }));
    if let Some(ephemeral) = &counts.ephemeral {
        blocks.extend(ephemeral_blocks(ephemeral));
    }
    blocks
}

fn sum(state: TcpState, counts: &Counts) -> String {
    // The table lists requests as SYN_RECV, as `ss` does.
    let (state, note) = match state {
        TcpState::NewSynRecv => (TcpState::SynRecv, ", as which requests are listed"),
        other => (other, ""),
    };
    let mut sum = match counts.sockets {
        0 => format!("No socket of this network namespace is in {state}{note}"),
        1 => format!("1 socket of this network namespace is in {state}{note}"),
        sockets => format!("{sockets} sockets of this network namespace are in {state}{note}"),
    };
    let what = without_process(state);
    sum += &match counts.without_process {
        0 => String::new(),
        all if all == counts.sockets => format!(", without a process (inode 0): {what}"),
        1 => format!("; 1 has no process (inode 0): {what}"),
        some => format!("; {some} have no process (inode 0): {what}"),
    };
    let shown: usize = counts.largest.iter().map(|group| group.sockets).sum();
    if counts.sockets > shown && !counts.largest.is_empty() {
        sum += ". The largest groups";
    }
    sum + if counts.largest.is_empty() && counts.queues.is_empty() { "." } else { ":" }
}

/// What a socket in this state is that no process holds.
fn without_process(state: TcpState) -> &'static str {
    match state {
        TcpState::Established | TcpState::CloseWait => "not accepted yet",
        TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck => "orphans",
        TcpState::FinWait2 => "orphans, mostly minisocks",
        TcpState::TimeWait => "minisocks",
        TcpState::SynRecv | TcpState::NewSynRecv => "requests",
        TcpState::SynSent | TcpState::Listen | TcpState::Close | TcpState::BoundInactive => "the kernel's own",
    }
}

fn ephemeral_blocks(ephemeral: &Ephemeral) -> impl Iterator<Item = Block<'static>> {
    let Ephemeral { low, high, usable, destinations } = ephemeral;
    let each = if destinations.is_empty() { "" } else { ". Used" };
    let ports = format!("Local ports for outgoing connections: {low} to {high}, {usable} for each destination{each}");
    let end = if destinations.is_empty() { "." } else { ":" };
    let uses = destinations.iter().map(|it| {
        let percent = it.ports as f64 * 100.0 / f64::from((*usable).max(1));
        let (local, to) = (&it.local, &it.destination);
        Block::Bullet(format!(
            "{} ({percent:.1} %) from {local} to {to}, {} of them in TIME_WAIT",
            it.ports, it.time_wait
        ))
    });
    [Block::Paragraph(ports + end)].into_iter().chain(uses)
}
