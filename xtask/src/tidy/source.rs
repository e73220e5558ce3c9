//! A Rust file as lines of code: comments and literals blanked, test code marked.

/// A file's code, line by line.
pub(super) struct Source {
    lines: Vec<Line>,
}

/// One line without comments and literals.
pub(super) struct Line {
    pub(super) code: String,
    /// In a test file, or in an item under `#[cfg(test)]` or `#[test]`.
    pub(super) is_test: bool,
}

impl Source {
    pub(super) fn parse(file: &str, text: &str) -> Self {
        let code = blank(text);
        let in_test_file = is_test_file(file);
        let mut region = TestRegion::Outside;
        let lines = code.lines().map(|line| {
            let before = region;
            region = region.after(line);
            let is_test = in_test_file || !(before.is_outside() && region.is_outside());
            Line { code: line.to_owned(), is_test }
        });
        Self { lines: lines.collect() }
    }

    /// The lines with their numbers, from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/") || file.contains("/benches/")
}

/// Where a line stands relative to an item under a test attribute.
#[derive(Clone, Copy)]
enum TestRegion {
    Outside,
    /// The attribute was seen, its item's body not yet.
    Announced,
    Inside {
        depth: usize,
    },
}

impl TestRegion {
    fn is_outside(self) -> bool {
        matches!(self, Self::Outside)
    }

    fn after(self, line: &str) -> Self {
        let starts = ["#[cfg(test", "#[cfg(all(test", "#[test]"].iter().find_map(|mark| line.find(mark));
        let (mut region, code) = match (self, starts) {
            // Past the attribute's own text, so that what follows on the same line counts.
            (Self::Outside, Some(at)) => (Self::Announced, line[at..].split_once(']').map_or("", |(_, rest)| rest)),
            (region, _) => (region, line),
        };
        for character in code.chars() {
            region = match (region, character) {
                (Self::Announced, ';') => Self::Outside,
                (Self::Announced, '{') => Self::Inside { depth: 1 },
                (Self::Inside { depth }, '{') => Self::Inside { depth: depth + 1 },
                (Self::Inside { depth: 1 }, '}') => Self::Outside,
                (Self::Inside { depth }, '}') => Self::Inside { depth: depth - 1 },
                (region, _) => region,
            };
        }
        region
    }
}

/// The text with every comment and literal replaced by spaces; line ends stay.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let in_identifier = code.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let length = match literal_length(rest, in_identifier) {
            Some(length) => {
                code.extend(rest[..length].chars().map(|blanked| if blanked == '\n' { '\n' } else { ' ' }));
                length
            }
            None => {
                code.push(character);
                character.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    code
}

/// How long the comment or literal is that `rest` starts with, if it starts with one.
fn literal_length(rest: &str, in_identifier: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted_length(rest, '"'));
    }
    if rest.starts_with('\'') {
        return is_character(rest).then(|| quoted_length(rest, '\''));
    }
    if in_identifier {
        return None;
    }
    raw_string_length(rest)
}

/// A character literal, not a lifetime: an escape, or a quote right after one character.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars().skip(1);
    characters.next() == Some('\\') || characters.next() == Some('\'')
}

/// Up to and including the closing quote.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if !escaped && character == quote {
            return at + 1;
        }
        escaped = !escaped && character == '\\';
    }
    rest.len()
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#` and so on; plain byte and C strings are found at their quote.
fn raw_string_length(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.strip_prefix(prefix).is_some_and(|after| after.trim_start_matches('#').starts_with('"')))?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let opening = prefix.len() + hashes + 1;
    let closing = format!("\"{}", "#".repeat(hashes));
    Some(rest[opening..].find(&closing).map_or(rest.len(), |at| opening + at + closing.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        let blanked = blank(text);
        blanked.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn test_lines(text: &str) -> Vec<usize> {
        let source = Source::parse("a/src/b.rs", text);
        source.lines().filter(|(_, line)| line.is_test).map(|(number, _)| number).collect()
    }

    #[test]
    fn literals_and_comments_go() {
        assert_eq!(code("a(\"b \\\" c\", 'd', '\\'', b\"e\") // f"), "a( , , , b )");
        assert_eq!(code("a /* b /* c */ d */ e"), "a e");
        assert_eq!(code("a(r#\"b \" c\"#, r\"\\\") d"), "a( , ) d");
    }

    #[test]
    fn lifetimes_and_identifiers_stay() {
        assert_eq!(code("fn a<'b>(c: &'b str) -> &'static str {}"), "fn a<'b>(c: &'b str) -> &'static str {}");
        assert_eq!(code("for_r\"x\""), "for_r");
    }

    #[test]
    fn lines_stay_where_they_were() {
        assert_eq!(blank("a /*\n*/ \"\n\" b").lines().count(), 3);
    }

    #[test]
    fn test_items_are_marked() {
        assert_eq!(test_lines("fn a() {}\n#[cfg(test)]\nmod t {\n  fn b() {}\n}\nfn c() {}\n"), [2, 3, 4, 5]);
        assert_eq!(test_lines("#[cfg(test)]\nmod tests;\nfn c() {}\n"), [1, 2]);
        assert_eq!(test_lines("#[test]\nfn a() { if b {} }\nfn c() {}\n"), [1, 2]);
        assert!(test_lines("#[cfg(feature = \"test\")]\nfn c() {}\n").is_empty());
    }
}
