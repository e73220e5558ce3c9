//! The keys, and what the columns mean.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use super::{Scene, scrolled};
use crate::tui::Ui;

/// Keys and columns; a line without a second part is a heading.
const LINES: &[(&str, &str)] = &[
    ("Keys", ""),
    ("1 2 3 4, Tab", "pages"),
    ("up down PgUp PgDn", "choose; so do wheel and click"),
    ("Enter, click", "one of them closely; Esc goes back"),
    ("/", "filter: 8080, addr 10.0.0.0/8, CLOSE_WAIT, netns blue, nginx"),
    ("s, r", "sort by the next column, the other way round"),
    ("Space", "freeze; of a recording pause and play"),
    ("left right, + -", "of a recording: 5 s back or on, faster or slower"),
    ("q, Ctrl-C", "end"),
    ("Listeners", ""),
    ("QUEUE", "who waits for accept() / the limit (it takes one more)"),
    ("OLDEST", "how long the first of them has waited"),
    ("P50 P99", "accept queue wait of the last 30 to 60 seconds"),
    ("IN/s OUT/s", "connections that came and were accepted, last 5 s"),
    ("FULL", "packets that the full queue dropped: SYNs and last ACKs"),
    ("LEFT", "clients that left the queue before accept()"),
    ("Connections", ""),
    ("AGE", "how long in this state; > at least"),
    ("WAIT", "in the accept queue, to accept() or so far"),
];

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let line = |(name, words): &(&'static str, &'static str)| {
        if words.is_empty() {
            return Line::styled(*name, scene.theme.heading());
        }
        Line::from(vec![Span::raw(format!("  {name:19}")), Span::styled(*words, scene.theme.dim())])
    };
    scrolled(frame, scene, ui, LINES.iter().map(line).collect(), area);
}
