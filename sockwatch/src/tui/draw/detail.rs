//! One listener, connection or finding, closely.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{Scene, scrolled};
use crate::{
    diagnosis::{
        finding::{Name, Place},
        measure::Measured,
        words::{Grouped, age, time},
    },
    tcp::{
        connection::{Connection, Role},
        event::SocketKey,
        sentence::sentence,
        tracker::{Kind, Living},
    },
    tui::{Ui, ui::Detail},
};

/// A bar of the histogram at most.
const BAR: u64 = 40;

/// A bar of a timeline at most.
const STAY: u64 = 30;

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, detail: Detail, area: Rect) {
    let lines = match detail {
        Detail::Listener(key) => listener(scene, key),
        Detail::Connection(key, incarnation) => connection(scene, key, incarnation),
        Detail::Finding(name, place) => finding(scene, name, place),
    };
    scrolled(frame, scene, ui, lines, area);
}

fn heading(scene: &Scene<'_>, text: String) -> Line<'static> {
    Line::styled(text, scene.theme.heading())
}

/// A name and what goes with it.
fn fact(scene: &Scene<'_>, name: &'static str, value: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("  {name:12}"), scene.theme.dim()), Span::raw(value)])
}

fn listener(scene: &Scene<'_>, key: SocketKey) -> Vec<Line<'static>> {
    let listeners = scene.model.report().map_or(&[][..], |report| &report.listeners);
    let Some(listener) = listeners.iter().find(|it| (it.netns, it.cookie) == (key.netns, key.cookie)) else {
        return vec![Line::raw("this listener is gone")];
    };
    let owner = listener.owner.map_or_else(String::new, |owner| format!(" {owner}"));
    let mut lines = vec![heading(scene, format!("{}{owner}", listener.local))];
    lines.extend(facts(scene, listener, key));
    lines.push(Line::default());
    lines.push(heading(scene, "accept queue wait, last 30 to 60 seconds".into()));
    lines.extend(histogram(scene, key));
    if !listener.acceptors.is_empty() {
        lines.push(Line::default());
        lines.push(heading(scene, "who accepts".into()));
        for acceptor in &listener.acceptors {
            lines.push(Line::raw(format!("  {:24} {}", acceptor.task.to_string(), Grouped(acceptor.accepted))));
        }
    }
    lines
}

fn facts(scene: &Scene<'_>, listener: &Measured, key: SocketKey) -> Vec<Line<'static>> {
    let fact = |name, value| fact(scene, name, value);
    let figures = scene.sight.tracker.queue_of(key, scene.sight.now_ns).unwrap_or_default();
    let limit = figures.totals.limit.or(listener.limit);
    let whose = match listener.is_somaxconn {
        Some(true) => " (net.core.somaxconn)",
        Some(false) => " (its own)",
        None => "",
    };
    let limit = limit.map_or_else(|| "not known".into(), |limit| format!("{limit}{whose}"));
    let oldest = figures.oldest.map(|oldest| format!(", the oldest for {}", age(oldest))).unwrap_or_default();
    let mut lines = vec![
        fact("queue", format!("{} wait{oldest}; limit {limit}; at most {} waited", figures.depth, listener.greatest)),
        fact("arrived", format!("{}, accepted {}", Grouped(listener.arrived), Grouped(listener.accepted))),
    ];
    if let Some(ns) = listener.since_accept_ns {
        lines.push(fact("last accept", format!("{} ago", time(ns))));
    }
    for (name, spread) in [("wait", listener.wait), ("handshake", listener.handshake)] {
        if let Some(spread) = spread {
            let [p50, p90, p99, max] = [spread.p50_ns, spread.p90_ns, spread.p99_ns, spread.max_ns].map(time);
            lines.push(fact(name, format!("p50 {p50}  p90 {p90}  p99 {p99}  max {max}, of all")));
        }
    }
    let counts = [
        ("dropped", listener.turned_away(), "packets at the full queue: SYNs and last ACKs"),
        ("left", listener.left.by_fin + listener.left.by_rst, "clients left the queue before accept()"),
        ("dead", listener.dead_on_arrival, "were accepted after their client's RST"),
        ("SYN-ACKs", listener.synack_retransmits, "sent again"),
    ];
    let is_any = |(_, count, _): &(_, u64, _)| *count > 0;
    lines.extend(
        counts.into_iter().filter(is_any).map(|(name, count, what)| fact(name, format!("{} {what}", Grouped(count)))),
    );
    for failure in &listener.failures {
        let errno = nix::errno::Errno::from_raw(failure.errno);
        lines.push(fact("accept error", format!("{errno:?} {} times, {}", Grouped(failure.count), failure.by)));
    }
    lines
}

/// A bar for each octave.
fn histogram(scene: &Scene<'_>, key: SocketKey) -> Vec<Line<'static>> {
    let octaves = scene.model.waits(key).map(|waits| waits.octaves()).unwrap_or_default();
    let most = octaves.iter().map(|(_, count)| *count).max().unwrap_or(0);
    if most == 0 {
        return vec![Line::styled("  nobody was accepted", scene.theme.dim())];
    }
    let slow_ns = scene.model.report().map_or(u64::MAX, |report| report.slow_ns);
    let line = |(from_ns, count): &(u64, u64)| {
        let bar = "█".repeat((count * BAR).div_ceil(most) as usize);
        let style = if *from_ns >= slow_ns { scene.theme.bad() } else { scene.theme.good() };
        let from = time(*from_ns).to_string();
        Line::from(vec![
            Span::raw(format!("  from {from:>6} ")),
            Span::styled(bar, style),
            Span::raw(format!(" {}", Grouped(*count))),
        ])
    };
    octaves.iter().map(line).collect()
}

fn connection(scene: &Scene<'_>, key: SocketKey, incarnation: u32) -> Vec<Line<'static>> {
    let tracker = scene.sight.tracker;
    let living = tracker.connection(key).filter(|connection| connection.incarnation == incarnation);
    let Some(connection) = living.or_else(|| scene.model.end_of_watched()) else {
        let its = |living: &Living<'_>| living.subject.key == key && matches!(living.kind, Kind::Minisock { .. });
        return match tracker.living(scene.sight.now_ns).find(its) {
            Some(minisock) => remains(scene, &minisock),
            None if scene.playing.is_some() => vec![Line::raw("this connection is gone, or is not there yet")],
            None => vec![Line::raw("this connection is gone")],
        };
    };
    timeline(scene, connection)
}

fn remains(scene: &Scene<'_>, living: &Living<'_>) -> Vec<Line<'static>> {
    let subject = &living.subject;
    let mut lines = vec![heading(scene, format!("{} {}", subject.local, subject.remote))];
    lines.push(fact(scene, "state", format!("{}, a minisock: the socket itself is gone", living.state)));
    if let Kind::Minisock { expires_ns } = living.kind {
        let left_ns = expires_ns.saturating_sub(scene.sight.now_ns);
        lines.push(fact(scene, "ends in", time(left_ns).to_string()));
    }
    lines.extend(subject.owner.map(|owner| fact(scene, "was", owner.to_string())));
    lines
}

fn timeline(scene: &Scene<'_>, connection: &Connection) -> Vec<Line<'static>> {
    let fact = |name, value| fact(scene, name, value);
    let now_ns = scene.sight.now_ns;
    let mut lines = vec![heading(scene, format!("{} {}", connection.local, connection.remote))];
    let part = match connection.role {
        Role::Active => "connected from here",
        Role::Passive => "accepted here",
        Role::Listener => "listens",
        Role::Unknown => "was there before",
    };
    lines.push(fact("part", part.into()));
    let ownership = &connection.ownership;
    let tasks = [("opened by", ownership.opener), ("accepted by", ownership.acceptor), ("closed by", ownership.closer)];
    lines.extend(tasks.into_iter().filter_map(|(name, task)| Some(fact(name, task?.to_string()))));
    if let Some(queued) = connection.queued {
        lines.extend(queued.handshake_ns.map(|ns| fact("handshake", time(ns.max(0).unsigned_abs()).to_string())));
        let waited = queued.wait_ns().map(|ns| format!("{} in the accept queue", time(ns.max(0).unsigned_abs())));
        let waits = || Some(format!("{} in the accept queue so far", time(now_ns.saturating_sub(queued.at_ns?))));
        let waited = waited.or_else(|| if connection.is_queued() { waits() } else { None });
        lines.extend(waited.map(|waited| fact("waited", waited)));
    }
    let resets = connection.resets;
    if connection.retransmits > 0 || resets.sent + resets.received > 0 {
        let words =
            format!("{} retransmits, RSTs sent {} received {}", connection.retransmits, resets.sent, resets.received);
        lines.push(fact("trouble", words));
    }
    let why = connection.ending.and_then(|_| sentence(connection, None));
    lines.extend(why.map(|why| fact("ended", why)));
    lines.push(Line::default());
    lines.extend(stays(scene, connection, now_ns));
    lines
}

/// A bar for each state, as long as it lasted.
fn stays(scene: &Scene<'_>, connection: &Connection, now_ns: u64) -> Vec<Line<'static>> {
    let until_ns = connection.ended_ns.unwrap_or(now_ns);
    let lasted = |from_ns: u64, to_ns: u64| to_ns.min(until_ns).saturating_sub(from_ns);
    let mut stays: Vec<_> =
        connection.stays().filter(|(state, ..)| connection.ended_ns.is_none() || *state != connection.state).collect();
    stays.reverse();
    let known = stays.iter().filter(|(_, from_ns, _)| *from_ns > 0);
    let longest = known.map(|(_, from_ns, to_ns)| lasted(*from_ns, *to_ns)).max().unwrap_or(0).max(1);
    let line = |(state, from_ns, to_ns): &(crate::tcp::state::TcpState, u64, u64)| {
        let (words, length) = if *from_ns == 0 {
            ("since before".to_owned(), STAY)
        } else {
            let ns = lasted(*from_ns, *to_ns);
            let length = u128::from(ns) * u128::from(STAY) / u128::from(longest);
            (time(ns).to_string(), u64::try_from(length).unwrap_or(STAY).max(1))
        };
        Line::from(vec![
            Span::styled(format!("  {:12}", state.name()), scene.theme.state(*state)),
            Span::styled("█".repeat(length as usize), scene.theme.state(*state)),
            Span::styled(format!(" {words}"), Style::new()),
        ])
    };
    stays.iter().map(line).collect()
}

fn finding(scene: &Scene<'_>, name: Name, place: Place) -> Vec<Line<'static>> {
    let mut findings = scene.model.report().map_or(&[][..], |report| &report.findings).iter();
    let Some(finding) = findings.find(|it| (it.name, it.place) == (name, place)) else {
        return vec![Line::raw("this is not found any more")];
    };
    let mut lines = vec![Line::styled(finding.name.word(), scene.theme.bad()), Line::raw(finding.sentence.clone())];
    for (name, words) in [("evidence", &finding.evidence), ("it is not", &finding.rules_out), ("fix", &finding.fix)] {
        if words.is_empty() {
            continue;
        }
        lines.push(Line::default());
        lines.push(heading(scene, name.into()));
        lines.extend(words.iter().map(|word| Line::raw(format!("  {word}"))));
    }
    lines.push(Line::default());
    lines.push(Line::styled(format!("sockwatch explain {}", finding.name.word()), scene.theme.dim()));
    lines
}
