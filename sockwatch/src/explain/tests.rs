//! What all topics have in common, and that none is missing.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::tcp::state;

/// The headings of a state's file; other topics have some of them, in this order.
const HEADINGS: [&str; 7] =
    ["What it is", "Who is in it", "Who must act", "A pile of them means", "What to do", "In the kernel", "See also"];

/// The words in the source of `Ending::word`: a verdict without an arm there does not compile.
fn ends() -> Vec<&'static str> {
    let source = include_str!("../tcp/close.rs");
    let (_, from) = source.split_once("pub const fn word(").unwrap();
    let (body, _) = from.split_once("\n    }\n").unwrap();
    body.split('"').skip(1).step_by(2).collect()
}

#[test]
fn every_state_has_a_topic() {
    for state in state::ALL {
        let topic = find(state.name()).unwrap_or_else(|| panic!("{state} has no topic: add docs/explain and a row"));
        assert_eq!((topic.name, topic.kind), (state.name(), Kind::State));
    }
    assert_eq!(of_kind(Kind::State).count(), state::ALL.len());
}

#[test]
fn every_verdict_has_a_topic() {
    let ends = ends();
    assert!(ends.contains(&"local-fin") && ends.contains(&"vanished"), "{ends:?}");
    for end in &ends {
        let topic = find(end).unwrap_or_else(|| panic!("{end} has no topic: add docs/explain and a row"));
        assert_eq!((topic.name, topic.kind), (*end, Kind::End));
    }
    // The text sink's own word, for a connection that never left the accept queue.
    let ends: HashSet<_> = ends.into_iter().chain(["abandoned"]).collect();
    assert_eq!(of_kind(Kind::End).map(|topic| topic.name).collect::<HashSet<_>>(), ends);
}

fn of_kind(kind: Kind) -> impl Iterator<Item = &'static Topic> {
    TOPICS.iter().filter(move |topic| topic.kind == kind)
}

#[test]
fn every_finding_has_a_topic() {
    let source = include_str!("../diagnosis/finding.rs");
    let (_, from) = source.split_once("pub const fn word(").unwrap();
    let (body, _) = from.split_once("\n    }\n").unwrap();
    let names: HashSet<_> = body.split('"').skip(1).step_by(2).collect();
    assert!(names.contains("slow-accept"), "{names:?}");
    assert_eq!(of_kind(Kind::Finding).map(|topic| topic.name).collect::<HashSet<_>>(), names);
}

#[test]
fn names_are_found_however_they_are_spelt() {
    for (words, name) in [
        ("CLOSE-WAIT close_wait CLOSE_WAIT TCP_CLOSE_WAIT closewait", "CLOSE_WAIT"),
        ("ESTAB estab established", "ESTABLISHED"),
        ("SYN-SENT syn_sent", "SYN_SENT"),
        ("SYN-RECV SYN_RECEIVED syn-received", "SYN_RECV"),
        ("FIN-WAIT-1 fin_wait1 FIN_WAIT_1", "FIN_WAIT1"),
        ("FIN-WAIT-2 net.ipv4.tcp_fin_timeout tcp_fin_timeout", "FIN_WAIT2"),
        ("time-wait TIME_WAIT tcp_tw_reuse", "TIME_WAIT"),
        ("UNCONN closed CLOSE", "CLOSE"),
        ("LISTEN listening", "LISTEN"),
        ("somaxconn net.core.somaxconn", "somaxconn"),
        ("local-fin LOCAL_FIN localfin", "local-fin"),
        ("queue-wait queue_wait", "queue wait"),
        ("WAIT", "queue wait"),
    ] {
        for word in words.split(' ') {
            assert_eq!(find(word).map(|topic| topic.name), Some(name), "{word}");
        }
    }
    assert_eq!(find("dead on arrival").map(|topic| topic.name), Some("dead on arrival"));
    for nothing in ["", "-", "tcp", "nonsense", "ÄÖ"] {
        assert!(find(nothing).is_none(), "{nothing}");
    }
}

/// What sockwatch prints can be asked for as it is printed.
#[test]
fn words_of_lines_have_topics() {
    for (words, name) in [
        ("held|unseen|hidden|passed on|heir|process", "owner"),
        ("queued|enqueued|overflow|accept queue overflow|drops", "accept queue"),
        ("request", "NEW_SYN_RECV"),
        ("orphan", "orphan"),
        ("minisock|segment at minisock", "minisock"),
        ("abandoned", "abandoned"),
        (
            "RST sent|RST received|RST sent STATE|ABORT_ON_CLOSE|RST sent ABORT_ON_CLOSE|TCP_ABORT_ON_CLOSE|TIMEWAIT_SOCKET",
            "RST",
        ),
    ] {
        for word in words.split('|') {
            assert_eq!(find(word).map(|topic| topic.name), Some(name), "{word}");
        }
    }
}

#[test]
fn no_name_means_two_topics() {
    let mut seen = HashMap::new();
    for topic in TOPICS {
        assert!(!key(topic.name).is_empty());
        for name in topic.names() {
            let other = seen.insert(key(name), topic.name);
            assert!(other.is_none_or(|other| other == topic.name), "{name}: {other:?} and {}", topic.name);
        }
    }
}

#[test]
fn what_was_meant_is_suggested() {
    for (typed, meant) in [
        ("CLOSE_WIAT", "CLOSE_WAIT"),
        ("timewait2", "TIME_WAIT"),
        ("etsab", "ESTABLISHED"),
        ("orphans", "orphan"),
        ("fin", "FIN_WAIT1"),
        ("accept", "accept queue"),
        ("tcp_tw_recycle", "TIME_WAIT"),
    ] {
        let nearest = nearest(typed);
        assert!(nearest.contains(&meant), "{typed}: {nearest:?}");
        assert!(nearest.len() <= MOST_SUGGESTIONS);
    }
    assert_eq!(nearest("zzzzzz"), [""; 0]);
    assert_eq!(nearest(""), [""; 0]);
}

#[test]
fn files_have_one_shape() {
    for topic in TOPICS {
        let Topic { name, file, .. } = topic;
        assert_eq!(name.to_lowercase().replace(['_', ' '], "-"), *file);
        let document = topic.document();
        assert_eq!(document.title, *name);
        let length = document.summary.chars().count();
        assert!(
            (10..=82).contains(&length) && document.summary.ends_with('.'),
            "{file}: {length} {}",
            document.summary
        );
        let headings: Vec<_> = document.sections.iter().map(|section| section.heading).collect();
        if topic.kind == Kind::State {
            assert_eq!(headings, HEADINGS, "{file}");
        }
        let mut known = HEADINGS.iter();
        assert!(headings.iter().all(|heading| known.any(|it| it == heading)), "{file}: {headings:?}");
        assert_eq!((headings.first(), headings.last()), (Some(&HEADINGS[0]), Some(&HEADINGS[6])), "{file}");
        assert!(document.sections.iter().all(|section| !section.blocks.is_empty()), "{file}: an empty section");
        assert!(topic.markdown.lines().all(|line| line.chars().count() <= 120), "{file}: a line is too long");
        let plain = page(&document, 100, crate::sink::text::Colour::Off);
        for block in document.sections.iter().flat_map(|section| &section.blocks) {
            let (Block::Paragraph(text) | Block::Bullet(text)) = block else { continue };
            assert!(!text.contains(['`', '*', '[']), "{file}: markup is left in {text}");
        }
        assert!(plain.lines().count() <= 75, "{file}: {} lines are not one screen or so", plain.lines().count());
    }
}

/// A link names its target, and leads to the file of that name.
#[test]
fn links_lead_to_topics() {
    for topic in TOPICS {
        let (_, see_also) = topic.markdown.split_once("\n## See also\n").unwrap();
        assert!(links(see_also).len() > 1, "{}", topic.file);
        for (words, target) in links(topic.markdown) {
            let found = find(&words).unwrap_or_else(|| panic!("{}: no topic {words}", topic.file));
            assert_eq!(
                (found.name, format!("{}.md", found.file)),
                (words.as_str(), target.to_owned()),
                "{}",
                topic.file
            );
            assert!(found.name != topic.name, "{} leads to itself", topic.file);
        }
    }
}

fn links(markdown: &str) -> Vec<(String, &str)> {
    let parts = markdown.split('[').skip(1).filter_map(|part| part.split_once("]("));
    // A line may end within the words.
    parts.map(|(words, rest)| (words.replace('\n', " "), rest.split_once(')').unwrap().0)).collect()
}

/// Who asks for a sysctl or an option must find it in the topic's text.
#[test]
fn aliases_of_the_kernel_are_explained() {
    for topic in TOPICS {
        for alias in topic.aliases.iter().filter(|alias| alias.contains('_')) {
            assert!(topic.markdown.contains(alias), "{}: {alias} is not mentioned", topic.file);
        }
    }
}

#[test]
fn every_file_is_in_the_table() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/explain");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: HashSet<_> = files.filter(|file| file != "README.md").collect();
    assert_eq!(files, TOPICS.iter().map(|topic| format!("{}.md", topic.file)).collect());
}

#[test]
fn the_index_is_up_to_date() {
    let committed = include_str!("../../docs/explain/README.md");
    assert!(committed == index(), "docs/explain/README.md is out of date: run `cargo xtask gen`");
}
