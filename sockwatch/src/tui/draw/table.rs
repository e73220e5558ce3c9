//! Lists with columns: fixed widths, values that are longer marked where they are cut, the chosen row reversed.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::wrap::cut;
use crate::tui::Theme;

/// How a column's values stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A column: its heading, its width, and how its values stand.
pub(super) type Column = (&'static str, u16, Align);

/// A value with its style.
pub(super) type Cell = (String, Style);

/// Where each column begins.
pub(super) fn places(columns: &[Column], area: Rect) -> Vec<Rect> {
    let mut x = area.x;
    let place = |(_, width, _): &Column| {
        let left = area.right().saturating_sub(x);
        let place = Rect { x, y: area.y, width: (*width).min(left), height: 1 };
        x = x.saturating_add(width + 1).min(area.right());
        place
    };
    columns.iter().map(place).collect()
}

pub(super) fn heading(frame: &mut Frame<'_>, theme: Theme, columns: &[Column], area: Rect) {
    let cells = columns.iter().map(|(name, ..)| ((*name).to_owned(), theme.heading())).collect();
    row(frame, columns, cells, Style::new(), area);
}

/// A row; `style` is that of all of it.
pub(super) fn row(frame: &mut Frame<'_>, columns: &[Column], cells: Vec<Cell>, style: Style, area: Rect) {
    let mut spans = Vec::with_capacity(2 * cells.len());
    for (((_, _, align), place), (text, its)) in columns.iter().zip(places(columns, area)).zip(cells) {
        let width = usize::from(place.width);
        let text = cut(&text, width);
        let text = match align {
            Align::Left => format!("{text:width$}"),
            Align::Right => format!("{text:>width$}"),
        };
        spans.push(Span::styled(text, its));
        spans.push(Span::raw(" "));
    }
    frame.render_widget(Line::from(spans).style(style), Rect { height: 1, ..area });
}
