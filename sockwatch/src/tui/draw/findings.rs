//! What is wrong, as far as the events prove it; the worst first.

use ratatui::{Frame, layout::Rect, style::Style, text::Line, widgets::Paragraph};

use super::{
    Scene, with_foot,
    wrap::{wrap, wrap_all},
};
use crate::{
    diagnosis::finding::Finding,
    tui::{Ui, ui::Detail},
};

pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let Some(report) = scene.model.report() else { return };
    if report.findings.is_empty() {
        let words = format!(
            "no findings: {} connections were accepted, and nothing is wrong that the events would show",
            report.accepted()
        );
        frame.render_widget(Paragraph::new(wrap(Line::styled(words, scene.theme.good()), area.width)), area);
        return;
    }
    let chosen = ui.cursor().min(report.findings.len() - 1);
    let lines = |(index, finding): (usize, &Finding)| {
        let style = if index == chosen { scene.theme.chosen() } else { Style::new() };
        let title = Line::styled(finding.name.word(), scene.theme.bad()).style(style);
        wrap_all(vec![title, Line::raw(format!("  {}", finding.sentence))], area.width)
    };
    let blocks: Vec<_> = report.findings.iter().enumerate().map(lines).collect();
    let heights: Vec<_> = blocks.iter().map(Vec::len).collect();
    let (list, foot) = with_foot(area, heights.iter().sum());
    let first = ui.window_of(&heights, list.height.into());
    let mut y = list.y;
    for (finding, block) in report.findings.iter().zip(blocks).skip(first) {
        let left = list.bottom().saturating_sub(y);
        let height = u16::try_from(block.len()).unwrap_or(u16::MAX);
        // One that is longer than the screen is shown as far as it goes: Enter shows all of it.
        if height > left && y > list.y {
            break;
        }
        let place = Rect { y, height: height.min(left), ..list };
        frame.render_widget(Paragraph::new(block), place);
        ui.drawn.rows.push((place, Detail::Finding(finding.name, finding.place)));
        y += place.height;
    }
    ui.drawn.height = list.height;
    if foot.height > 0 {
        let last = first + ui.drawn.rows.len();
        let words = format!("{} to {last} of {}: up/down for the others", first + 1, report.findings.len());
        frame.render_widget(Line::styled(words, scene.theme.dim()), foot);
    }
}
