//! What states, END words and terms mean. Pure: the texts are the files of `docs/explain`, embedded.
//!
//! They lie below the crate's own directory, because `cargo package` takes nothing from outside it. Adding a topic is a
//! file and a row of [`TOPICS`].

mod document;
mod page;
mod topics;

pub use self::{
    document::{Block, Document, Section},
    page::{index, list, page, wrap},
    topics::TOPICS,
};

/// What a topic is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP state, as the kernel spells it.
    State,
    /// A word of the column END.
    End,
    /// A word that other columns and reports use.
    Term,
    /// What `diagnose` finds.
    Finding,
    /// A counter of the last line.
    Count,
}

/// Every kind, in the order in which lists show them.
pub const KINDS: [Kind; 5] = [Kind::State, Kind::End, Kind::Term, Kind::Finding, Kind::Count];

impl Kind {
    /// The JSON value.
    pub const fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::End => "end",
            Self::Term => "term",
            Self::Finding => "finding",
            Self::Count => "count",
        }
    }

    /// A heading over all topics of this kind.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::State => "TCP states",
            Self::End => "How a connection ends (the column END)",
            Self::Term => "Terms",
            Self::Finding => "Findings (diagnose)",
            Self::Count => "Losses and doubts (the last line)",
        }
    }
}

/// Something that can be explained.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// Its name, as sockwatch prints it.
    pub name: &'static str,
    /// What it is about.
    pub kind: Kind,
    /// Other names: those of `ss` and RFC 9293, and sysctls that are explained here.
    pub aliases: &'static [&'static str],
    /// Its file's name below `docs/explain`, without `.md`.
    pub file: &'static str,
    /// The file.
    pub markdown: &'static str,
}

impl Topic {
    /// The file, taken apart.
    pub fn document(&self) -> Document<'static> {
        Document::parse(self.markdown)
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.aliases.iter().copied())
    }
}

/// Finds a topic by its name or an alias. Only letters and digits count: `CLOSE_WAIT`, `close-wait` and `TCP_CLOSE_WAIT`
/// are the same.
pub fn find(word: &str) -> Option<&'static Topic> {
    let wanted = key(word);
    let unprefixed =
        ["", "tcp", "netipv4", "netcore", "rstsent"].iter().filter_map(|prefix| wanted.strip_prefix(prefix));
    let mut found =
        unprefixed.filter_map(|wanted| TOPICS.iter().find(|topic| topic.names().any(|it| key(it) == wanted)));
    found.next()
}

/// Fewer names than this help, more do not.
const MOST_SUGGESTIONS: usize = 4;
/// What clap asks of its own suggestions.
const LEAST_LIKENESS: f64 = 0.7;

/// The names of topics that somebody who typed `word` may have meant, best first.
pub fn nearest(word: &str) -> Vec<&'static str> {
    let wanted = key(word);
    let likeness = |topic: &Topic| {
        let each = topic.names().map(|name| likeness(&wanted, &key(name)));
        each.fold(0.0, f64::max)
    };
    let mut rated: Vec<_> = TOPICS.iter().map(|topic| (likeness(topic), topic.name)).collect();
    rated.retain(|(likeness, _)| *likeness > LEAST_LIKENESS);
    rated.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    rated.truncate(MOST_SUGGESTIONS);
    rated.into_iter().map(|(_, name)| name).collect()
}

/// From 0 to 1. Words within the name count much: `fin` means `FIN_WAIT1` rather than `kin`.
fn likeness(wanted: &str, name: &str) -> f64 {
    let within = wanted.len() > 2 && name.contains(wanted);
    strsim::jaro_winkler(wanted, name).max(if within { 0.9 } else { 0.0 })
}

fn key(word: &str) -> String {
    word.chars().filter(char::is_ascii_alphanumeric).map(|character| character.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests;
