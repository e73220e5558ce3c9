//! Sockets by state over the last minutes, and the local ports that connections to each destination take.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Paragraph, Sparkline},
};

use super::{
    Scene,
    table::{self, Align, Column},
    wrap::wrap_all,
};
use crate::{
    diagnosis::{
        ports::PortUse,
        words::{Grouped, count, time},
    },
    tcp::state::{self, TcpState},
    tui::Ui,
};

const COLUMNS: [Column; 3] = [("STATE", 14, Align::Left), ("NOW", 9, Align::Right), ("MOST", 9, Align::Right)];

/// What the columns take.
const TAKEN: u16 = 14 + 9 + 9 + 3;

/// Destinations that are shown.
const MOST_ROUTES: usize = 4;

/// A bar of ports is as wide as that.
const BAR: u64 = 20;

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let ports = scene.model.report().map_or(&[][..], |report| &report.ports);
    let ports = ports_lines(scene, ports, area.width);
    let taken = u16::try_from(ports.len()).unwrap_or(u16::MAX);
    let [head, list, below] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(taken)]).areas(area);
    let seconds = scene.model.seconds().len();
    table::heading(frame, scene.theme, &COLUMNS, head);
    let course = Rect { x: head.x + TAKEN.min(head.width), width: head.width.saturating_sub(TAKEN), ..head };
    let shown = seconds.min(course.width.into());
    frame.render_widget(Line::styled(format!("LAST {shown} SECONDS"), scene.theme.heading()), course);
    let was = |state: &TcpState| scene.model.course(*state).any(|count| count > 0);
    let states = state::ALL.into_iter().filter(was);
    for (offset, state) in states.take(list.height.into()).enumerate() {
        let place = Rect { y: list.y + u16::try_from(offset).unwrap_or(0), height: 1, ..list };
        draw_state(frame, scene, state, place);
    }
    ui.drawn.height = list.height;
    frame.render_widget(Paragraph::new(ports), below);
}

fn draw_state(frame: &mut Frame<'_>, scene: &Scene<'_>, state: TcpState, area: Rect) {
    let style = scene.theme.state(state);
    let most = scene.model.course(state).max().unwrap_or(0);
    let now = scene.model.last().sockets(state);
    let cells = vec![
        (state.to_string(), style),
        (Grouped(now.into()).to_string(), Style::new()),
        (Grouped(most).to_string(), scene.theme.dim()),
    ];
    table::row(frame, &COLUMNS, cells, Style::new(), area);
    let course = Rect { x: area.x + TAKEN.min(area.width), width: area.width.saturating_sub(TAKEN), ..area };
    let values: Vec<u64> = scene.model.course(state).collect();
    let last = &values[values.len().saturating_sub(course.width.into())..];
    frame.render_widget(Sparkline::default().data(last).max(most.max(1)).style(style), course);
}

fn ports_lines(scene: &Scene<'_>, ports: &[PortUse], width: u16) -> Vec<Line<'static>> {
    let title = "LOCAL PORTS TAKEN, BY DESTINATION";
    let mut lines = vec![Line::styled(title, scene.theme.heading())];
    if ports.is_empty() {
        let words = match scene.playing {
            Some(_) => "how many local ports there are is not in a recording",
            None => "nothing here connects to anybody",
        };
        lines.push(Line::styled(words, scene.theme.dim()));
    }
    for port_use in ports.iter().take(MOST_ROUTES) {
        lines.push(line_of(scene, port_use));
    }
    if let others @ 1.. = ports.len().saturating_sub(MOST_ROUTES) {
        lines.push(Line::styled(
            format!("and {}, less full", count(others as u64, "other destination")),
            scene.theme.dim(),
        ));
    }
    wrap_all(lines, width)
}

/// `10.0.0.1 -> 10.0.0.9:443 [████····] 14,000 of 28,232 (13,900 TIME_WAIT), none left in 2m05s`
fn line_of(scene: &Scene<'_>, port_use: &PortUse) -> Line<'static> {
    let (taken, capacity) = (port_use.taken(), port_use.settings.capacity().max(1));
    let full = (taken * BAR).div_ceil(capacity).min(BAR);
    let bar: String = (0..BAR).map(|place| if place < full { '█' } else { '·' }).collect();
    let style = match taken * 100 / capacity {
        90.. => scene.theme.bad(),
        60.. => scene.theme.doubtful(),
        _ => scene.theme.good(),
    };
    let end = port_use.exhausted_in_ns.map(|ns| format!(", none left in {}", time(ns))).unwrap_or_default();
    Line::from(vec![
        Span::raw(format!("{} -> {} ", port_use.route.source, port_use.route.remote)),
        Span::styled(bar, style),
        Span::raw(format!(" {} of {} ({} TIME_WAIT)", Grouped(taken), Grouped(capacity), Grouped(port_use.time_wait))),
        Span::styled(end, scene.theme.bad()),
    ])
}
