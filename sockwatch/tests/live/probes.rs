//! Alternatives of a probe tell the same story.

use crate::{
    harness::{Trace, alone, assert_stories},
    workload::{STORIES, converse, place},
};

/// Alone: another trace may ask for a socket's cookie, and the classic tracepoints could not show that they lack it.
#[track_caller]
fn check(name: &str, choices: &[&str]) {
    let Some(machine) = alone(name) else { return };
    let address = place();
    let port = address.port().to_string();
    let mut arguments = vec!["--port", &port];
    choices.iter().for_each(|choice| arguments.extend(["--probe", choice]));
    let mut trace = Trace::start(machine, &arguments);
    converse(address);
    converse(address);
    trace.until_count(2, "listeners' ends", |line| line.is("connection") && line.role() == "listener");
    assert_stories(&trace.finish(), &[STORIES, STORIES].concat());
}

#[test]
fn btf_tracepoints() {
    check("btf_tracepoints", &["state=btf", "destroy=btf"]);
}

#[test]
fn classic_state_tracepoint() {
    check("classic_state_tracepoint", &["state=tracepoint"]);
}

#[test]
fn classic_destroy_tracepoint() {
    check("classic_destroy_tracepoint", &["destroy=tracepoint"]);
}

#[test]
fn classic_tracepoints() {
    check("classic_tracepoints", &["state=tracepoint", "destroy=tracepoint"]);
}

/// Without the destroy probe a connection's end is told when its `CLOSE` has settled.
#[test]
fn without_destroy() {
    check("without_destroy", &["destroy=off"]);
}
