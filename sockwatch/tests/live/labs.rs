//! Labs: what each shows of the running kernel is what its golden file says, and so is what its recorded events tell
//! without a kernel.
//!
//! `SOCKWATCH_LABS=record` writes both files of each lab anew instead of comparing them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;
use sockwatch::{
    pipeline::Totals,
    sink::{
        Clock, Show, Sink, Why,
        json::{Json, Start, VERSION},
    },
    tcp::{event::Event, notation, order::Order, tracker::Tracker},
};

use crate::harness::{Ended, Probes, choices, leave_out_overtaken, parse, shared, skip, sockwatch, stories};

/// A live test and a replay for each lab.
macro_rules! labs {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];

        mod live {
            $(#[test]
            fn $name() {
                super::live(stringify!($name));
            })*
        }

        mod replayed {
            $(#[test]
            fn $name() {
                super::replayed(stringify!($name));
            })*
        }
    };
}

labs! {
    slow_accept bind_listen_accept unread_bytes client_closes server_closes both_close half_close unread_data
    linger_zero refused unanswered unreachable given_up no_route self_connect queue_fin queue_rst listener_closes backlog
    overflow overflow_reset syn_cookies defer_accept fast_open second_listen reuseport reuseport_migrate prefork
    handed_over out_of_descriptors close_wait_leak killed killed_unread orphan orphan_sending time_wait_reuse
    user_timeout link_down destroyed multipath
}

#[test]
fn every_lab_is_tested() {
    let output = sockwatch().args(["lab", "--list", "--format", "json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed: BTreeSet<_> = list["labs"].as_array().unwrap().iter().map(|lab| name_of(&lab["lab"])).collect();
    assert_eq!(listed, TESTED.iter().map(|name| (*name).to_owned()).collect());
}

fn name_of(lab: &Value) -> String {
    lab.as_str().unwrap().replace('-', "_")
}

fn file(name: &str, kind: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/labs");
    directory.join(format!("{}.{kind}", name.replace('_', "-")))
}

/// Labs that are about segments that are sent again; elsewhere it is up to timers whether one is.
const SENDING_AGAIN: &[&str] =
    &["backlog", "overflow", "overflow_reset", "syn_cookies", "unanswered", "unreachable", "user_timeout"];

/// Stories in which only the first of equal words counts: how often something was sent again is up to timers, too. Where that
/// was so of a FIN, the other end's minisock has it again; and it has an ACK that the FIN has overtaken. `late`: one of these may be.
fn folded(name: &str, stories: &[String], late: bool, probes: &Probes) -> Vec<String> {
    let left_out: &[&str] = match (SENDING_AGAIN.contains(&name), late) {
        (true, _) => &[],
        (false, true) => &["retransmit", "minisock_segment"],
        (false, false) => &["retransmit"],
    };
    let fold = |story: &String| {
        let told = |word: &&str| !left_out.contains(word);
        let mut words: Vec<_> = story.split(' ').filter(told).collect();
        words.dedup();
        probes.tell(&words.join(" "))
    };
    let mut folded: Vec<_> = stories.iter().map(fold).collect();
    folded.sort();
    folded
}

#[track_caller]
fn compare(name: &str, found: &[String], probes: &Probes) {
    let golden = fs::read_to_string(file(name, "golden")).unwrap();
    let golden: Vec<_> = golden.lines().map(str::to_owned).collect();
    let mut found = found.to_owned();
    leave_out_overtaken(&mut found, &golden, probes);
    let has = |stories: &[String], word: &str| stories.iter().any(|story| story.split(' ').any(|it| it == word));
    let late = has(&found, "retransmit") || !has(&golden, "minisock_segment");
    let (expected, found) = (folded(name, &golden, late, probes), folded(name, &found, late, probes));
    assert!(found == expected, "{name}: expected\n  {}\nfound\n  {}", expected.join("\n  "), found.join("\n  "));
}

fn live(name: &str) {
    let Some(_machine) = shared(name) else { return };
    let record = std::env::var_os("SOCKWATCH_LABS").is_some_and(|value| value == "record");
    let mut command = sockwatch();
    command.args(["lab", &name.replace('_', "-"), "--format", "json"]).args(choices());
    if name == "slow_accept" {
        command.args(["--delay", "50ms"]);
    }
    if record {
        command.arg("--record-events").arg(file(name, "events"));
    }
    let output = command.output().unwrap();
    let said: Vec<_> = String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect();
    if let Some(reason) = said.iter().find(|line| line.contains("cannot run here")) {
        return skip(name, reason);
    }
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(parse).collect();
    assert!(output.status.success(), "{name}: {said:?}; saw:\n{}", stories(&lines).join("\n"));
    let ended = Ended::checked(lines, &said);
    for sent in ended.all("reset_sent") {
        let named = sent.number("reason") == Some(0) || sent.0["reason_name"].is_string();
        assert!(named, "{name}: a reason that is told without its name: {sent:?}");
    }
    if record {
        let stories = folded(name, &ended.stories(), false, &ended.probes);
        fs::write(file(name, "golden"), stories.iter().map(|story| format!("{story}\n")).collect::<String>()).unwrap();
    }
    compare(name, &ended.stories(), &ended.probes);
}

fn replayed(name: &str) {
    let recorded = fs::read_to_string(file(name, "events")).unwrap();
    let events: Vec<_> = recorded.lines().map(|line| notation::parse(line).unwrap()).collect();
    // As recorded, so that recording again changes only what has changed.
    let lines: String = events.iter().map(|event| notation::line(event) + "\n").collect();
    assert_eq!(lines, recorded, "{name}");
    compare(name, &tell(&events), &Probes::of(ALL_PROBES));
}

/// The recordings were made with every probe.
const ALL_PROBES: &str = "tracing: state=btf enqueue=on reset=btf accept-return=on drop=btf";

/// The stories of events, by the pipeline's pure stages.
fn tell(events: &[Event]) -> Vec<String> {
    let (mut order, mut tracker, mut updates) = (Order::default(), Tracker::default(), Vec::new());
    events.iter().for_each(|event| order.push(*event));
    order.release_all(|event| {
        tracker.apply(event, &mut updates);
        tracker.expire(event.at_ns, &mut updates);
    });
    let last_ns = events.last().map_or(0, |event| event.at_ns);
    tracker.settle_all(last_ns, &mut updates);
    let mut lines = Vec::new();
    let show = Show { transitions: true, connections: true, queues: false, disagreements: true, why: Why::Untold };
    let start = Start {
        version: VERSION,
        sockwatch: "",
        kernel: "",
        source: "ebpf",
        clock: "monotonic",
        start_monotonic_ns: 0,
        wall_offset_ns: 0,
    };
    let mut sink = Json::new(&mut lines, show, Clock::Monotonic, start).unwrap();
    updates.iter().for_each(|update| sink.update(update).unwrap());
    sink.tick(&Totals::default()).unwrap();
    drop(sink);
    let lines: Vec<_> = str::from_utf8(&lines).unwrap().lines().map(parse).collect();
    stories(&lines)
}
