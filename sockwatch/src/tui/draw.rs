//! The frame: a line that says what is seen and what is lost, the pages' titles, the page, and a line of keys.

mod connections;
mod detail;
mod findings;
mod help;
mod listeners;
mod states;
mod table;
mod wrap;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};

use self::wrap::{wrap, wrap_all};
use super::{Page, Theme, Ui, ui::Drawn};
use crate::{
    diagnosis::words::{Grouped, time},
    overview::Model,
    sink::{Sight, time_of_day::utc},
};

/// How a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Playing {
    /// Where it is, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// How many times as fast as it was.
    pub speed: f64,
    /// All of it was told.
    pub is_over: bool,
}

/// What a frame is drawn from.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The sockets.
    pub sight: Sight<'a>,
    /// What is kept.
    pub model: &'a Model,
    /// How the recording is played, if it is one.
    pub playing: Option<Playing>,
    /// Nothing moves.
    pub is_paused: bool,
    /// Colours.
    pub theme: Theme,
}

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui) {
    let width = frame.area().width;
    let keys = wrap(last_line(scene, ui), width);
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(scene.playing.is_some())),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(u16::try_from(keys.len()).unwrap_or(1).min(MOST_KEYS)),
    ]);
    let [top, bar, tabs, body, bottom] = rows.areas(frame.area());
    ui.drawn = Drawn { first: ui.drawn.first, ..Drawn::default() };
    frame.render_widget(first_line(scene, top.width), top);
    if let Some(playing) = scene.playing {
        ui.drawn.bar = draw_bar(frame, scene, playing, bar);
    }
    draw_tabs(frame, scene, ui, tabs);
    if ui.help {
        help::draw(frame, scene, ui, body);
    } else if let Some(detail) = ui.detail {
        detail::draw(frame, scene, ui, detail, body);
    } else {
        match ui.page {
            Page::Listeners => listeners::draw(frame, scene, ui, body),
            Page::Connections => connections::draw(frame, scene, ui, body),
            Page::States => states::draw(frame, scene, ui, body),
            Page::Findings => findings::draw(frame, scene, ui, body),
        }
    }
    frame.render_widget(Paragraph::new(keys), bottom);
}

/// Lines of keys, or of what is typed and what is wrong with it.
const MOST_KEYS: u16 = 6;

/// Letters of host and source that stay.
const LEAST_PLACE: usize = 8;

/// `web-1 eBPF 09:30:05 UTC  1,204 events/s  lost 0 missed 0 dropped 0`; what was lost is never out of sight.
fn first_line(scene: &Scene<'_>, width: u16) -> Line<'static> {
    let Scene { model, theme, .. } = scene;
    let losses = &model.totals().losses;
    let lost = format!("lost {} missed {} dropped {}", losses.lost(), losses.missed(), losses.dropped());
    let is_complete = losses.lost() + losses.missed() + losses.dropped() == 0;
    let last = model.last();
    let clock = utc(model.place().wall.unix_ns(scene.sight.now_ns));
    let clock = clock.get(11..19).unwrap_or_default().to_owned();
    let mut place = format!("{} {}", model.place().host, model.place().source);
    let mark = if scene.is_paused { " PAUSED" } else { "" };
    let mut figures = format!("{} events/s {} ended/s  ", Grouped(last.events), Grouped(last.ended));
    let rest = lost.len() + mark.len() + 16;
    if usize::from(width) < rest + LEAST_PLACE {
        // There is room for nothing else.
        let lost = Span::styled(lost, if is_complete { theme.dim() } else { theme.bad() });
        return Line::from(vec![lost, Span::styled(mark, theme.doubtful())]);
    }
    if usize::from(width) < rest + figures.len() + LEAST_PLACE {
        figures.clear();
    }
    let room = usize::from(width).saturating_sub(rest + figures.len());
    place = place.chars().take(room.max(LEAST_PLACE)).collect();
    Line::from(vec![
        Span::styled(format!("{place} "), theme.heading()),
        Span::raw(format!("{clock} UTC  {figures}")),
        Span::styled(lost, if is_complete { theme.dim() } else { theme.bad() }),
        Span::styled(mark, theme.doubtful()),
    ])
}

/// Where in the recording it is. Returns the bar's place.
fn draw_bar(frame: &mut Frame<'_>, scene: &Scene<'_>, playing: Playing, area: Rect) -> Rect {
    let (from_ns, to_ns) = scene.model.place().span_ns.unwrap_or((0, 1));
    let (at_ns, whole_ns) = (playing.at_ns.saturating_sub(from_ns), to_ns.saturating_sub(from_ns).max(1));
    let sign = match (playing.is_over, scene.is_paused) {
        (true, _) => "end",
        (false, true) => "||",
        (false, false) => ">",
    };
    let words = format!(" {sign} x{} {} of {} ", playing.speed, time(at_ns), time(whole_ns));
    let width = area.width.saturating_sub(u16::try_from(words.len()).unwrap_or(u16::MAX));
    let done = (u128::from(at_ns.min(whole_ns)) * u128::from(width) / u128::from(whole_ns)) as usize;
    let bar: String = (0..usize::from(width)).map(|column| if column < done { '━' } else { '─' }).collect();
    frame.render_widget(Line::from(vec![Span::styled(bar, scene.theme.heading()), Span::raw(words)]), area);
    Rect { width, ..area }
}

fn draw_tabs(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, area: Rect) {
    let mut x = area.x;
    for (index, page) in Page::ALL.into_iter().enumerate() {
        let found = scene.model.report().map_or(0, |report| report.findings.len());
        let count = if page == Page::Findings && found > 0 { format!(" {found}") } else { String::new() };
        let text = format!(" {} {}{count} ", index + 1, page.title());
        let width = u16::try_from(text.len()).unwrap_or(u16::MAX).min(area.right().saturating_sub(x));
        let place = Rect { x, width, ..area };
        let style = match (page == ui.page, page == Page::Findings && found > 0) {
            (true, _) => scene.theme.chosen(),
            (false, true) => scene.theme.bad(),
            (false, false) => scene.theme.dim(),
        };
        frame.render_widget(Span::styled(text, style), place);
        ui.drawn.tabs.push(place);
        x += width;
    }
}

fn last_line(scene: &Scene<'_>, ui: &Ui) -> Line<'static> {
    let theme = scene.theme;
    if ui.typing {
        let mut spans = vec![Span::styled("/", theme.heading()), Span::raw(ui.typed.clone()), Span::raw("_")];
        match &ui.error {
            Some(error) => spans.push(Span::styled(format!("  {error}"), theme.bad())),
            None if ui.typed.is_empty() => spans.push(Span::styled(
                "  8080, addr 10.0.0.0/8, CLOSE_WAIT, cgroup /a, netns b, nginx; Enter keeps it, Esc drops it",
                theme.dim(),
            )),
            None => {}
        }
        return Line::from(spans);
    }
    let keys = match (ui.help, ui.detail.is_some(), ui.page, scene.playing.is_some()) {
        (true, ..) => "up/down scroll  any other key closes the help",
        (_, true, ..) => "Esc back  up/down scroll  ? help  q quit",
        (_, _, Page::Connections, false) => {
            "Enter open  / filter  s sort  r reverse  Tab page  Space freeze  ? help  q quit"
        }
        (_, _, Page::Connections, true) => {
            "Enter open  / filter  s sort  Space pause  <- -> 5 s  +/- speed  ? help  q quit"
        }
        (_, _, _, true) => "Enter open  Tab page  Space pause  left/right 5 s  +/- speed  ? help  q quit",
        (_, _, _, false) => "Enter open  / filter  Tab page  Space freeze  ? help  q quit",
    };
    Line::styled(keys, theme.dim())
}

/// Lines that may be wider than the screen and more than there is room for; what is above `ui.scroll` is not shown.
fn scrolled(frame: &mut Frame<'_>, scene: &Scene<'_>, ui: &mut Ui, lines: Vec<Line<'static>>, area: Rect) {
    let lines = wrap_all(lines, area.width);
    let (area, foot) = with_foot(area, lines.len());
    let (all, height) = (lines.len(), usize::from(area.height));
    (ui.drawn.height, ui.drawn.lines) = (area.height, all);
    ui.scroll = ui.scroll.min(all.saturating_sub(height));
    let shown: Vec<_> = lines.into_iter().skip(ui.scroll).take(height).collect();
    if foot.height > 0 {
        let words = format!("lines {} to {} of {all}", ui.scroll + 1, ui.scroll + shown.len());
        frame.render_widget(Line::styled(words, scene.theme.dim()), foot);
    }
    frame.render_widget(Paragraph::new(shown), area);
}

/// Room for a list, and for a line that says so where there is more of it.
fn with_foot(area: Rect, lines: usize) -> (Rect, Rect) {
    let foot = u16::from(lines > usize::from(area.height) && area.height > 2);
    let [list, foot] = Layout::vertical([Constraint::Min(1), Constraint::Length(foot)]).areas(area);
    (list, foot)
}

#[cfg(test)]
mod tests;
