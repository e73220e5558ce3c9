//! A topic's file, taken apart: the part of Markdown that these files use, and no more.

/// A title, a line that says what it is, and sections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Document<'a> {
    /// The title.
    pub title: &'a str,
    /// The line below it: a short sentence.
    pub summary: &'a str,
    /// The sections.
    pub sections: Vec<Section<'a>>,
}

/// A heading and what stands below it.
#[derive(Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// The heading.
    pub heading: &'a str,
    /// What stands below it.
    pub blocks: Vec<Block<'a>>,
}

/// A part of a section. Its text has no markup left.
#[derive(Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// A paragraph.
    Paragraph(String),
    /// An item of a list.
    Bullet(String),
    /// Lines for a shell.
    Commands(Vec<&'a str>),
}

const FENCE: &str = "```";

impl<'a> Document<'a> {
    /// Takes it apart: `#` and `##` headings, paragraphs, `-` lists of one level, fenced commands.
    pub fn parse(text: &'a str) -> Self {
        let mut document = Self::default();
        let mut parts = text.split("\n## ");
        let head = parts.next().unwrap_or_default();
        let mut head = head.lines().filter(|line| !line.is_empty());
        document.title = head.next().unwrap_or_default().trim_start_matches("# ");
        document.summary = head.next().unwrap_or_default();
        document.sections = parts.map(Section::parse).collect();
        document
    }
}

impl<'a> Section<'a> {
    fn parse(text: &'a str) -> Self {
        let (heading, body) = text.split_once('\n').unwrap_or((text, ""));
        let mut blocks = Vec::new();
        let mut lines = body.lines();
        // Whether the next line of prose belongs to the block before it.
        let mut open = false;
        while let Some(line) = lines.next() {
            if line.starts_with(FENCE) {
                blocks.push(Block::Commands(lines.by_ref().take_while(|line| !line.starts_with(FENCE)).collect()));
                open = false;
            } else if let Some(bullet) = line.strip_prefix("- ") {
                blocks.push(Block::Bullet(bullet.to_owned()));
                open = true;
            } else if line.is_empty() {
                open = false;
            } else if let (true, Some(Block::Paragraph(text) | Block::Bullet(text))) = (open, blocks.last_mut()) {
                text.push(' ');
                text.push_str(line.trim_start());
            } else {
                blocks.push(Block::Paragraph(line.to_owned()));
                open = true;
            }
        }
        for block in &mut blocks {
            if let Block::Paragraph(text) | Block::Bullet(text) = block {
                *text = plain(text);
            }
        }
        Self { heading, blocks }
    }
}

/// Without backticks and link targets: `[LISTEN](listen.md)` is LISTEN.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['`', '[']) {
        let (before, marked) = rest.split_at(at);
        plain.push_str(before);
        rest = match link(marked) {
            Some((words, _, after)) => {
                plain.push_str(words);
                after
            }
            None => {
                let mark = &marked[..1];
                plain.push_str(if mark == "`" { "" } else { mark });
                &marked[1..]
            }
        };
    }
    plain + rest
}

/// A link's words and target, and what follows it.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (words, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (target, after) = rest.split_once(')')?;
    Some((words, target, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_apart() {
        let text = "# CLOSE_WAIT\n\nThe other end has closed.\n\n## What it is\n\nSee `ss` and\n[LISTEN](listen.md), [x].\n\n\
            ## What to do\n\nRun:\n\n```sh\nss -tn\n\nss -ltn\n```\n\n- one\n  more\n- two\n";
        let document = Document::parse(text);
        assert_eq!((document.title, document.summary), ("CLOSE_WAIT", "The other end has closed."));
        let [what, todo] = &document.sections[..] else { panic!("{document:?}") };
        assert_eq!((what.heading, &what.blocks[..]), ("What it is", &[paragraph("See ss and LISTEN, [x].")][..]));
        let commands = Block::Commands(vec!["ss -tn", "", "ss -ltn"]);
        assert_eq!(todo.blocks, [paragraph("Run:"), commands, bullet("one more"), bullet("two")]);
    }

    fn paragraph(text: &str) -> Block<'_> {
        Block::Paragraph(text.to_owned())
    }

    fn bullet(text: &str) -> Block<'_> {
        Block::Bullet(text.to_owned())
    }

    #[test]
    fn what_is_no_document_does_not_panic() {
        for text in ["", "#", "## ", "\n## \n```", "# a\n\n## b\n- ", "# a\n\n## b\n\n[a](b"] {
            Document::parse(text);
        }
        assert_eq!(Document::parse(""), Document::default());
    }
}
