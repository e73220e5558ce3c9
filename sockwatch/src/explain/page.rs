//! Topics as plain text for a terminal, and their index as Markdown.

use std::fmt::Write;

use super::{Block, Document, KINDS, Kind, TOPICS, Topic};
use crate::sink::text::Colour;

/// The narrowest text that can still be read.
const NARROWEST: usize = 40;
/// The longest name but for findings': `dead on arrival`.
const NAME_WIDTH: usize = 15;

/// A document, wrapped to `width` columns; only commands may be wider.
pub fn page(document: &Document<'_>, width: usize, colour: Colour) -> String {
    let mut page = format!("{}\n", bold(document.title, colour));
    wrap(document.summary, ("  ", "  "), width, &mut page);
    for section in &document.sections {
        let _ = write!(page, "\n{}\n", bold(section.heading, colour));
        let mut before: Option<&Block<'_>> = None;
        for block in &section.blocks {
            // Bullets stand close; everything else is set apart.
            let close = matches!((before, block), (None, _) | (Some(Block::Bullet(_)), Block::Bullet(_)));
            if !close {
                page.push('\n');
            }
            match block {
                Block::Paragraph(text) => wrap(text, ("  ", "  "), width, &mut page),
                Block::Bullet(text) => wrap(text, ("  - ", "    "), width, &mut page),
                Block::Commands(lines) => {
                    for line in lines {
                        let _ = writeln!(page, "    {line}");
                    }
                }
            }
            before = Some(block);
        }
    }
    page
}

/// All topics, one line for each.
pub fn list(width: usize, colour: Colour) -> String {
    let mut list = String::from("sockwatch explain TOPIC tells more of each.\n");
    for kind in KINDS {
        let _ = write!(list, "\n{}\n", bold(kind.heading(), colour));
        let name_width = of(kind).map(|topic| topic.name.len()).fold(NAME_WIDTH, usize::max);
        for topic in of(kind) {
            let first = format!("  {:name_width$} ", topic.name);
            let indent = " ".repeat(name_width + 3);
            wrap(topic.document().summary, (&first, &indent), width, &mut list);
        }
    }
    list
}

/// `docs/explain/README.md`.
pub fn index() -> String {
    let mut index = String::from(
        "# What states, ends and terms mean\n\n`sockwatch explain TOPIC` prints these pages, and for a state how many \
         sockets are in it now.\nThis index is generated: `cargo xtask gen`.\n",
    );
    for kind in KINDS {
        let _ = write!(index, "\n## {}\n\n| topic | in short |\n|---|---|\n", kind.heading());
        for topic in of(kind) {
            let _ = writeln!(index, "| [{}]({}.md) | {} |", topic.name, topic.file, topic.document().summary);
        }
    }
    index
}

fn of(kind: Kind) -> impl Iterator<Item = &'static Topic> {
    TOPICS.iter().filter(move |topic| topic.kind == kind)
}

fn bold(text: &str, colour: Colour) -> String {
    match colour {
        Colour::On => format!("\x1b[1m{text}\x1b[0m"),
        Colour::Off => text.to_owned(),
    }
}

/// Appends `text`, broken at spaces into lines of `width` columns, to a page. The indents are of the first line and of all others.
pub fn wrap(text: &str, (first, others): (&str, &str), width: usize, page: &mut String) {
    let width = width.max(NARROWEST);
    let mut line = first.to_owned();
    let mut has_words = false;
    for word in text.split_whitespace() {
        let needed = line.chars().count() + usize::from(has_words) + word.chars().count();
        if has_words && needed > width {
            let _ = writeln!(page, "{line}");
            others.clone_into(&mut line);
        } else if has_words {
            line.push(' ');
        }
        line.push_str(word);
        has_words = true;
    }
    let _ = writeln!(page, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# LISTEN\n\nA socket.\n\n## What it is\n\nOne two three four five six seven eight nine.\n\n\
        - ten eleven twelve thirteen fourteen fifteen\n- sixteen\n\n```sh\nss -ltn a command that is wider than all else\n```\n";

    #[test]
    fn text_is_wrapped_and_commands_are_not() {
        let page = page(&Document::parse(TEXT), 40, Colour::Off);
        let expected = "LISTEN
  A socket.

What it is
  One two three four five six seven
  eight nine.

  - ten eleven twelve thirteen fourteen
    fifteen
  - sixteen

    ss -ltn a command that is wider than all else
";
        assert_eq!(page, expected);
    }

    #[test]
    fn only_headings_are_bold() {
        let page = page(&Document::parse(TEXT), 100, Colour::On);
        assert_eq!(page.matches("\x1b[1m").count(), 2);
        assert!(page.starts_with("\x1b[1mLISTEN\x1b[0m\n  A socket.\n\n\x1b[1mWhat it is\x1b[0m\n"), "{page:?}");
    }

    #[test]
    fn every_topic_is_listed_in_one_line() {
        let list = list(100, Colour::Off);
        assert!(list.lines().all(|line| line.chars().count() <= 100), "{list}");
        assert_eq!(list.lines().filter(|line| line.starts_with("  ")).count(), TOPICS.len());
        assert!(!list.contains("                    "), "a summary is wrapped:\n{list}");
    }
}
