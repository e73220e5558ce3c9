//! `sockwatch explain --format json`.

use serde::Serialize;
use sockwatch::explain::{Block, Section, TOPICS, Topic};

use super::{Looked, counts::Counts};

/// All topics: what `sockwatch explain` without one prints.
#[derive(Serialize)]
pub(super) struct List {
    topics: Vec<Row>,
}

/// A topic of the list.
#[derive(Serialize)]
struct Row {
    topic: &'static str,
    /// `state`, `end`, `term` or `count`.
    kind: &'static str,
    aliases: &'static [&'static str],
    /// A short sentence.
    summary: &'static str,
}

/// One topic.
#[derive(Serialize)]
pub(super) struct Explained {
    #[serde(flatten)]
    row: Row,
    sections: Vec<SectionText>,
    /// For a state: how many sockets of this network namespace are in it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    /// For a state: why there are no counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_counted: Option<String>,
}

/// A section, without markup.
#[derive(Serialize)]
struct SectionText {
    heading: &'static str,
    /// Paragraphs and items of lists.
    text: Vec<String>,
    /// Lines for a shell.
    commands: Vec<&'static str>,
}

impl List {
    pub(super) fn new() -> Self {
        Self { topics: TOPICS.iter().map(Row::from).collect() }
    }
}

impl From<&Topic> for Row {
    fn from(topic: &Topic) -> Self {
        let summary = topic.document().summary;
        Self { topic: topic.name, kind: topic.kind.word(), aliases: topic.aliases, summary }
    }
}

impl Explained {
    pub(super) fn new(topic: &Topic, looked: Option<Looked>) -> Self {
        let (counts, not_counted) = match looked {
            None => (None, None),
            Some(Ok(counts)) => (Some(counts), None),
            Some(Err(reason)) => (None, Some(reason)),
        };
        let sections = topic.document().sections.into_iter().map(SectionText::from).collect();
        Self { row: Row::from(topic), sections, counts, not_counted }
    }
}

impl From<Section<'static>> for SectionText {
    fn from(section: Section<'static>) -> Self {
        let mut text = Vec::new();
        let mut commands = Vec::new();
        for block in section.blocks {
            match block {
                Block::Paragraph(prose) | Block::Bullet(prose) => text.push(prose),
                Block::Commands(lines) => commands.extend(lines),
            }
        }
        Self { heading: section.heading, text, commands }
    }
}
