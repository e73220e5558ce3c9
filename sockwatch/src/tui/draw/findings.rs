//! What is wrong, as far as the events prove it; the worst first.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use super::Scene;
use crate::tui::{Ui, ui::Detail};

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let Some(report) = scene.model.report() else { return };
    if report.findings.is_empty() {
        let words = format!(
            "no findings: {} connections were accepted, and nothing is wrong that the events would show",
            report.accepted()
        );
        frame.render_widget(Line::styled(words, scene.theme.good()), area);
        return;
    }
    // Two lines for each.
    let height = usize::from(area.height / 2).max(1);
    let first = ui.window(report.findings.len(), height);
    for (offset, finding) in report.findings.iter().skip(first).take(height).enumerate() {
        let style = if first + offset == ui.cursor() { scene.theme.chosen() } else { Style::new() };
        let y = area.y + u16::try_from(2 * offset).unwrap_or(0);
        let title = Line::styled(finding.name.word(), scene.theme.bad()).style(style);
        frame.render_widget(title, Rect { y, height: 1, ..area });
        if y + 1 < area.bottom() {
            let words = format!("  {}", finding.sentence);
            frame.render_widget(Line::raw(words), Rect { y: y + 1, height: 1, ..area });
        }
        ui.drawn.rows.push(Detail::Finding(first + offset));
    }
    ui.drawn.list = area;
}
