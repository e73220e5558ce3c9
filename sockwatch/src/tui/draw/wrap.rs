//! Text that is longer than the screen is wide goes on in the next line, as far in as its first part began; where there is only
//! one line, a mark says that it was cut.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

/// The lines that one is on so narrow a screen.
pub(super) fn wrap(line: Line<'static>, width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width.max(1));
    if line.width() <= width {
        return vec![line];
    }
    // Not so far in that nothing is left.
    let hang = hang(&line).min(width / 3);
    let of_span = |span: &Span<'static>| span.content.chars().map(|letter| (letter, span.style)).collect::<Vec<_>>();
    let letters: Vec<_> = line.spans.iter().flat_map(of_span).collect();
    let (mut lines, mut rest) = (Vec::new(), &letters[..]);
    while !rest.is_empty() {
        let indent = if lines.is_empty() { 0 } else { hang };
        let (now, later) = rest.split_at(end(rest, width - indent));
        lines.push(joined(indent, now).style(line.style));
        let next = later.iter().position(|(letter, _)| *letter != ' ').unwrap_or(later.len());
        rest = &later[next..];
    }
    lines
}

/// The same of several.
pub(super) fn wrap_all(lines: Vec<Line<'static>>, width: u16) -> Vec<Line<'static>> {
    lines.into_iter().flat_map(|line| wrap(line, width)).collect()
}

/// As much of a text as fits, and a mark where that is not all of it.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain((width > 0).then_some('…')).collect()
}

/// The same of a line in several styles.
pub(super) fn cut_line(line: Line<'static>, width: u16) -> Line<'static> {
    let mut left = usize::from(width);
    if line.width() <= left {
        return line;
    }
    let mut spans = Vec::new();
    for span in line.spans {
        let is_cut = span.content.chars().count() > left;
        let content = cut(&span.content, left);
        left -= content.chars().count();
        spans.push(Span::styled(content, span.style));
        if is_cut {
            break;
        }
    }
    Line::from(spans).style(line.style)
}

/// How far in a line goes on: below its second column if it has one, else below its first letter.
fn hang(line: &Line<'static>) -> usize {
    match line.spans.as_slice() {
        [name, _, ..] if name.content.ends_with(' ') => name.width(),
        spans => spans.iter().flat_map(|span| span.content.chars()).take_while(|letter| *letter == ' ').count(),
    }
}

/// Where a line ends that has so much room: after a word, if one ends there.
fn end(letters: &[(char, Style)], room: usize) -> usize {
    if letters.len() <= room {
        return letters.len();
    }
    let is_space = |place: &usize| letters[*place].0 == ' ';
    let begun = letters.iter().position(|(letter, _)| *letter != ' ').unwrap_or(0);
    (begun + 1..=room).rev().find(is_space).unwrap_or(room.max(1))
}

fn joined(indent: usize, letters: &[(char, Style)]) -> Line<'static> {
    let mut spans = vec![Span::raw(" ".repeat(indent))];
    for run in letters.chunk_by(|(_, one), (_, other)| one == other) {
        spans.push(Span::styled(run.iter().map(|(letter, _)| letter).collect::<String>(), run[0].1));
    }
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spans: &[&'static str], width: u16, expected: &[&str]) {
        let line = Line::from(spans.iter().map(|text| Span::raw(*text)).collect::<Vec<_>>());
        let lines: Vec<String> = wrap(line, width).iter().map(|line| line.to_string().trim_end().to_owned()).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn it_goes_on_where_it_began() {
        check(&["one two"], 7, &["one two"]);
        check(&["one two three"], 8, &["one two", "three"]);
        check(&["  one two three"], 9, &["  one two", "  three"]);
        check(&["  name    ", "one two three"], 30, &["  name    one two three"]);
        check(&["name ", "one two three"], 15, &["name one two", "     three"]);
        check(&["a-word-that-is-too-long"], 10, &["a-word-tha", "t-is-too-l", "ong"]);
        check(&["    ab cd"], 1, &["", "a", "b", "c", "d"]);
        check(&[""], 1, &[""]);
    }

    #[test]
    fn what_is_cut_is_marked() {
        assert_eq!([cut("abc", 3), cut("abcd", 3), cut("abcd", 0)], ["abc", "ab…", ""]);
        let line = |width| cut_line(Line::from(vec![Span::raw("ab"), Span::raw("cd")]), width).to_string();
        assert_eq!([line(4), line(3), line(1)], ["abcd", "ab…", "…"]);
    }
}
