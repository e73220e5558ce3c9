//! Listeners: who waits, since when, and how fast they are taken.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::Line,
    widgets::Paragraph,
};

use super::{
    Scene,
    table::{self, Align, Cell, Column},
    wrap::{wrap, wrap_all},
};
use crate::{
    diagnosis::{
        measure::Measured,
        words::{Grouped, time},
    },
    tcp::{event::SocketKey, queue::Age},
    tui::{Ui, ui::Detail},
};

/// What a bar of queue is as wide as.
const BAR: usize = 10;

const NARROW: &[Column] = &[
    ("LISTENER", 21, Align::Left),
    ("QUEUE", 9, Align::Right),
    ("OLDEST", 6, Align::Right),
    ("P50", 6, Align::Right),
    ("P99", 6, Align::Right),
    ("IN/s", 6, Align::Right),
    ("OUT/s", 6, Align::Right),
    ("FULL", 5, Align::Right),
    ("LEFT", 5, Align::Right),
];

/// Where there is room, too.
const PROCESS: Column = ("PROCESS", 20, Align::Left);
const DEPTH: Column = ("", BAR as u16, Align::Left);

/// From this width on.
const WIDE: u16 = 112;

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let Some(report) = scene.model.report() else { return };
    let open: Vec<&Measured> = report.listeners.iter().filter(|listener| !listener.is_closed).collect();
    let is_wide = area.width >= WIDE;
    let mut columns = NARROW.to_vec();
    if is_wide {
        columns.insert(2, DEPTH);
        columns.push(PROCESS);
    }
    let chosen = open.get(ui.cursor().min(open.len().saturating_sub(1)));
    let lines = chosen.map(|listener| note(scene, listener, area.width)).unwrap_or_default();
    let taken = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [head, list, note] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(taken)]).areas(area);
    table::heading(frame, scene.theme, &columns, head);
    if open.is_empty() {
        let words =
            "nobody listens, as far as the filter lets see; listeners appear with their first connection or listing";
        frame.render_widget(Paragraph::new(wrap(Line::styled(words, scene.theme.dim()), list.width)), list);
        return;
    }
    let height = usize::from(list.height);
    let first = ui.window(open.len(), height);
    ui.drawn.height = list.height;
    for (offset, listener) in open.iter().skip(first).take(height).enumerate() {
        let key = SocketKey { netns: listener.netns, cookie: listener.cookie };
        let mut cells = cells(scene, listener, key, is_wide);
        if is_wide {
            let owner = listener.owner.map_or_else(|| "-".into(), |owner| owner.to_string());
            cells.push((owner, Style::new()));
        }
        let style = if first + offset == ui.cursor() { scene.theme.chosen() } else { Style::new() };
        let place = Rect { y: list.y + u16::try_from(offset).unwrap_or(0), height: 1, ..list };
        table::row(frame, &columns, cells, style, place);
        ui.drawn.rows.push((place, Detail::Listener(key)));
    }
    frame.render_widget(Paragraph::new(lines), note);
}

fn cells(scene: &Scene<'_>, listener: &Measured, key: SocketKey, is_wide: bool) -> Vec<Cell> {
    let theme = scene.theme;
    let figures = scene.sight.tracker.queue_of(key, scene.sight.now_ns).unwrap_or_default();
    let limit = figures.totals.limit.or(listener.limit);
    let is_full = limit.is_some_and(|limit| figures.depth > limit);
    let queue = format!("{}/{}", figures.depth, limit.map_or_else(|| "?".into(), |limit| limit.to_string()));
    let loud = |is: bool, style| if is { style } else { Style::new() };
    let queue_style = if is_full { theme.bad() } else { loud(figures.depth > 0, theme.doubtful()) };
    let spread = scene.model.spread(key);
    let oldest = figures.oldest.map(Age::ns);
    let is_slow = |ns: u64| ns >= scene.model.report().map_or(u64::MAX, |report| report.slow_ns);
    let wait = |ns: Option<u64>| match ns {
        Some(ns) => (time(ns).to_string(), loud(is_slow(ns), theme.bad())),
        None => ("-".to_owned(), theme.dim()),
    };
    let (arrived, accepted) = listener.course.rates();
    let turned_away = listener.turned_away();
    let left = listener.left.by_fin + listener.left.by_rst;
    let mut cells = vec![
        (listener.local.to_string(), theme.heading()),
        (queue, queue_style),
        wait(oldest),
        wait(spread.map(|spread| spread.p50_ns)),
        wait(spread.map(|spread| spread.p99_ns)),
        (arrived.to_string(), Style::new()),
        (accepted.to_string(), Style::new()),
        (turned_away.to_string(), loud(turned_away > 0, theme.bad())),
        (left.to_string(), loud(left > 0, theme.doubtful())),
    ];
    if is_wide {
        cells.insert(2, (bar(figures.depth, limit), queue_style));
    }
    cells
}

/// How full a queue is.
pub(super) fn bar(depth: u32, limit: Option<u32>) -> String {
    let limit = limit.unwrap_or(0).max(1);
    let full = (u64::from(depth) * BAR as u64).div_ceil(u64::from(limit)).min(BAR as u64) as usize;
    "█".repeat(full) + &"·".repeat(BAR - full)
}

/// What the columns have no room for.
fn note(scene: &Scene<'_>, listener: &Measured, width: u16) -> Vec<Line<'static>> {
    let owner = listener.owner.map_or_else(|| "nobody that is known".into(), |owner| owner.to_string());
    let waits = listener.wait.map_or_else(String::new, |wait| {
        format!("; waits of all p50 {}, p99 {}, max {}", time(wait.p50_ns), time(wait.p99_ns), time(wait.max_ns))
    });
    let lines = vec![
        Line::styled("─".repeat(width.into()), scene.theme.dim()),
        Line::raw(format!("{owner}: accepted {}{waits}", Grouped(listener.accepted))),
    ];
    wrap_all(lines, width)
}
