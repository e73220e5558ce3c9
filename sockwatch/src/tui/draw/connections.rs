//! Connections and what they left, in any order, those that fit the filter.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
};

use super::{
    Scene,
    table::{self, Align, Cell},
    wrap::cut_line,
};
use crate::{
    diagnosis::words::{Grouped, time},
    overview::{Column, age_ns, choose, wait_ns},
    tcp::tracker::{Kind, Living},
    tui::{Ui, ui::Detail},
};

const COLUMNS: [table::Column; 6] = [
    ("STATE", 11, Align::Left),
    ("LOCAL", 21, Align::Left),
    ("REMOTE", 21, Align::Left),
    ("AGE", 6, Align::Right),
    ("WAIT", 6, Align::Right),
    ("PROCESS", 40, Align::Left),
];

/// Addresses of IPv6 need more than that.
const WIDE: u16 = 130;
const IPV6_WIDTH: u16 = 45;

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let [head, list, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(area);
    let mut columns = COLUMNS;
    if area.width >= WIDE {
        (columns[1].1, columns[2].1) = (IPV6_WIDTH, IPV6_WIDTH);
    }
    draw_heading(frame, scene, ui, &columns, head);
    let height = usize::from(list.height);
    // How many fit is known only when they have been looked at.
    let first = ui.window(usize::MAX / 2, height);
    let mut chosen = choose(&scene.sight, &mut ui.selection, &ui.words, ui.order, (first, height));
    let is_beyond = chosen.rows.len() < height && first > 0 || ui.cursor() >= chosen.fitting;
    // Where none fits there is nothing else to show.
    if is_beyond && chosen.fitting > 0 {
        let first = ui.window(chosen.fitting, height);
        chosen = choose(&scene.sight, &mut ui.selection, &ui.words, ui.order, (first, height));
    }
    let first = ui.window(chosen.fitting, height);
    ui.drawn.height = list.height;
    for (offset, living) in chosen.rows.iter().enumerate() {
        let style = if first + offset == ui.cursor() { scene.theme.chosen() } else { Style::new() };
        let place = Rect { y: list.y + u16::try_from(offset).unwrap_or(0), height: 1, ..list };
        table::row(frame, &columns, cells(scene, living), style, place);
        ui.drawn.rows.push((place, Detail::Connection(living.subject.key, living.subject.incarnation)));
    }
    let of_all =
        if chosen.fitting == chosen.all { String::new() } else { format!(" of {}", Grouped(chosen.all as u64)) };
    let mut spans =
        vec![Span::styled(format!("{}{of_all} connections", Grouped(chosen.fitting as u64)), scene.theme.dim())];
    if !ui.typed.is_empty() && !ui.typing {
        spans.extend(ui.error.as_ref().map(|error| Span::styled(format!("  {error}"), scene.theme.bad())));
        spans.push(Span::styled(format!("  filter: {} (Esc drops it)", ui.typed), scene.theme.doubtful()));
    }
    frame.render_widget(cut_line(Line::from(spans), foot.width), foot);
}

fn draw_heading(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, columns: &[table::Column], area: Rect) {
    let mark = if ui.order.descending { "▼" } else { "▲" };
    let cell = |((name, ..), column): (&table::Column, Column)| {
        let mark = if column == ui.order.by { mark } else { "" };
        (format!("{name}{mark}"), scene.theme.heading())
    };
    let cells = columns.iter().zip(Column::ALL).map(cell).collect();
    table::row(frame, columns, cells, Style::new(), area);
    ui.drawn.headings = table::places(columns, area).into_iter().zip(Column::ALL).collect();
}

fn cells(scene: &Scene<'_>, living: &Living<'_>) -> Vec<Cell> {
    let (theme, now_ns, subject) = (scene.theme, scene.sight.now_ns, &living.subject);
    let age = time(age_ns(living, now_ns)).to_string();
    let age = if living.since_ns.is_some() { age } else { format!(">{age}") };
    let owner = subject.owner.map(|owner| owner.to_string());
    let (process, style) = match (living.kind, owner) {
        (Kind::Queued(_), Some(owner)) => (format!("queued {owner}"), theme.doubtful()),
        (Kind::Queued(_), None) => ("queued".into(), theme.doubtful()),
        (Kind::Minisock { .. }, _) => ("minisock".into(), theme.dim()),
        (Kind::Socket(_) | Kind::Listener(_), Some(owner)) => (owner, Style::new()),
        (Kind::Socket(_) | Kind::Listener(_), None) => ("-".into(), theme.dim()),
    };
    vec![
        (living.state.to_string(), theme.state(living.state)),
        (subject.local.to_string(), Style::new()),
        (subject.remote.to_string(), Style::new()),
        (age, Style::new()),
        (wait_ns(living, now_ns).map_or_else(|| "-".into(), |ns| time(ns).to_string()), Style::new()),
        (process, style),
    ]
}
