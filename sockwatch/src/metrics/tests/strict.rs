//! Reads OpenMetrics strictly: what it takes is what the specification allows of what we write, and nothing else.

use std::collections::{BTreeMap, HashSet};

/// Samples by name and labels, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Parsed(pub(super) BTreeMap<String, f64>);

impl Parsed {
    /// A sample: `name{label="value"}`, labels in the order in which they were written.
    #[track_caller]
    pub(super) fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.0.keys()))
    }

    /// The samples whose name begins so, with what follows.
    pub(super) fn all<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, *value)))
    }
}

/// What is declared of a metric family.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    unit: Option<&'a str>,
}

impl Family<'_> {
    /// Whether a sample may have this name.
    fn owns(&self, sample: &str) -> bool {
        let Some(suffix) = sample.strip_prefix(self.name) else { return false };
        match self.kind {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info",
            "histogram" => ["_bucket", "_count", "_sum"].contains(&suffix),
            other => panic!("no such type: {other}"),
        }
    }
}

/// # Panics
/// If a line breaks a rule.
#[track_caller]
pub(super) fn parse(text: &str) -> Parsed {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut parsed, mut families) = (Parsed::default(), HashSet::new());
    let mut family: Option<Family<'_>> = None;
    let mut help = None;
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').expect("a help has a text");
            assert!(text.ends_with('.') && !text.contains(['\\', '"']), "{line}");
            assert!(families.insert(name), "{name} is told twice");
            help = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type has a word");
            assert_eq!(help.take(), Some(name), "help and type belong together");
            assert!(is_name(name) && !name.ends_with("_total") && !name.ends_with("_info"), "{name}");
            family = Some(Family { name, kind, unit: None });
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a unit has a word");
            let family = family.as_mut().expect("a unit follows a type");
            assert_eq!(family.name, name);
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
            assert!(family.unit.replace(unit).is_none(), "{line}");
        } else {
            let family = family.as_ref().unwrap_or_else(|| panic!("nothing declares {line}"));
            let (name, labels, value) = sample(line);
            assert!(family.owns(name), "{line} does not belong to {} {}", family.kind, family.name);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            check_labels(&labels, line);
            let key = line.rsplit_once(' ').expect("a value").0.to_owned();
            assert!(parsed.0.insert(key, value).is_none(), "twice: {line}");
        }
    }
    check_histograms(&parsed, text);
    parsed
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Name, labels and value.
fn sample(line: &str) -> (&str, Vec<(String, String)>, &str) {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        return (name, Vec::new(), value);
    };
    let (mut labels, mut rest) = (Vec::new(), rest);
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        let (value, after) = quoted(after, line);
        labels.push((label.to_owned(), value));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                let value = after.strip_prefix("} ").unwrap_or_else(|| panic!("labels do not end: {line}"));
                return (name, labels, value);
            }
        }
    }
}

/// A label's value up to its quote, and what follows.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, '\\')) => value.push('\\'),
                Some((_, '"')) => value.push('"'),
                Some((_, 'n')) => value.push('\n'),
                other => panic!("no such escape: {other:?} in {line}"),
            },
            _ => value.push(character),
        }
    }
    panic!("a value does not end: {line}")
}

fn check_labels(labels: &[(String, String)], line: &str) {
    let mut names = HashSet::new();
    for (name, value) in labels {
        assert!(is_name(name) && names.insert(name), "{line}");
        assert!(!value.chars().any(crate::tcp::event::is_unprintable), "{line}");
    }
}

/// Buckets are cumulative, in order, end with infinity, and their count and sum are there.
fn check_histograms(parsed: &Parsed, text: &str) {
    let mut last: Option<(String, f64, f64)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels, value) = sample(line);
        let Some(family) = name.strip_suffix("_bucket") else { continue };
        let [(label, bound), ..] = &labels[..] else { panic!("no bound: {line}") };
        assert_eq!(label, "le", "{line}");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        // As they are written, but for the first.
        let rest = line.split_once("\",").map_or("", |(_, rest)| rest.rsplit_once(' ').unwrap().0);
        let labels = if rest.is_empty() { String::new() } else { format!("{{{rest}") };
        let (series, value) = (format!("{family}#{labels}"), value.parse::<f64>().unwrap());
        if let Some((before, its, count)) = &last {
            assert!(*before == series && *its < bound && *count <= value, "{line}");
        }
        last = (bound != f64::INFINITY).then_some((series, bound, value));
        if bound == f64::INFINITY {
            assert_eq!(parsed.get(&format!("{family}_count{labels}")), value, "{line}");
            parsed.get(&format!("{family}_sum{labels}"));
        }
    }
    assert!(last.is_none(), "buckets end with +Inf");
}
