//! A trace's lines as stories, and whether they are the expected ones.

use std::{collections::HashMap, fmt::Write};

use super::{Ended, Identity, Line, Probes};

/// Each socket's life as one line of text, sorted: `passive: LISTEN>SYN_RECV ... end peer-fin`.
///
/// Enqueue and accept stand behind `SYN_RECV>ESTABLISHED` wherever they came: the kernel's hooks for enqueues lie before and after
/// it, and on another CPU a child may be accepted before its handshake's last ACK has been taken in.
pub(crate) fn stories(lines: &[Line]) -> Vec<String> {
    const ESTABLISHED: &str = "SYN_RECV>ESTABLISHED";
    const QUEUE: [&str; 2] = ["enqueue", "accept"];
    let mut order = Vec::new();
    let mut words: HashMap<Identity, (String, Vec<String>)> = HashMap::new();
    for line in lines {
        // How a queue is, and who holds a socket now, is told at times: no part of a story.
        let Some(identity) = line.identity().filter(|_| !["queue", "heir"].contains(&line.kind())) else { continue };
        // What a connection with these ports left before the test.
        if line.is("listed") && ["TIME_WAIT", "FIN_WAIT2"].contains(&line.0["state"].as_str().unwrap()) {
            continue;
        }
        let (_, words) = words.entry(identity).or_insert_with(|| {
            order.push(identity);
            (line.role().to_owned(), Vec::new())
        });
        let word = line.word();
        let before =
            words.iter().rev().take_while(|last| word == ESTABLISHED && QUEUE.contains(&last.as_str())).count();
        words.insert(words.len() - before, word);
    }
    let mut stories: Vec<_> = order
        .iter()
        .map(|identity| {
            let (role, words) = &words[identity];
            let mut story = format!("{role}:");
            words.iter().for_each(|word| write!(story, " {word}").unwrap());
            story
        })
        .collect();
    stories.sort();
    stories
}

/// Compares stories; an expectation may be several lines long, in any order.
#[track_caller]
pub(crate) fn assert_stories(ended: &Ended, expected: &[&str]) {
    let mut expected: Vec<_> = expected.iter().map(|story| ended.probes.tell(story)).collect();
    expected.sort();
    // Some of what the probes cannot be relied upon to know they know at times, if only of a socket unknown to them.
    let mut found: Vec<_> = ended.stories().iter().map(|story| ended.probes.tell(story)).collect();
    found.retain(|story| story != "unknown:" && story != DUPLICATE);
    found.sort();
    leave_out_overtaken(&mut found, &expected, &ended.probes);
    assert!(found == expected, "expected\n  {}\nfound\n  {}", expected.join("\n  "), found.join("\n  "));
}

/// A handshake's last ACK and the segment behind it, taken in on two CPUs at once, make two children, and one goes at once.
const DUPLICATE: &str = "passive: LISTEN>SYN_RECV SYN_RECV>CLOSE end duplicate";

/// What a segment leads to that a FIN has overtaken: the minisock answers it, and the other end, which is gone by then, refuses the
/// answer by its listener. On loopback that is possible where both are sent on different CPUs.
const OVERTAKEN: [&str; 3] = ["minisock_segment", "minisock_end", "reset_sent"];

/// Leaves that out of what was found, unless it was expected.
pub(crate) fn leave_out_overtaken(found: &mut [String], expected: &[String], probes: &Probes) {
    if found != expected && is_overtaken(found, probes) && !is_overtaken(expected, probes) {
        found.iter_mut().for_each(|story| *story = without_overtaken(story));
    }
}

/// Whether one minisock was ended by one RST of one listener; where nothing tells of minisocks, the RST alone.
fn is_overtaken(stories: &[String], probes: &Probes) -> bool {
    let count = |word: &str, of: &dyn Fn(&str) -> bool| {
        let stories = stories.iter().filter(|story| of(story));
        stories.flat_map(|story| story.split(' ')).filter(|it| *it == word).count()
    };
    let [segment, end, reset] = OVERTAKEN;
    let anybody = |_: &str| true;
    let [segments, ends, resets] = [segment, end, reset].map(|word| count(word, &anybody));
    let is_whole = (segments, ends) == (2, 1) || !probes.tells_minisocks();
    is_whole && resets == 1 && count(reset, &|story| story.starts_with("listener:")) == 1
}

fn without_overtaken(story: &str) -> String {
    let words: Vec<_> = story.split(' ').filter(|word| !OVERTAKEN.contains(word)).collect();
    words.join(" ")
}
