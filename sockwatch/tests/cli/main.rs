//! The command line's edges: what needs no root and no eBPF.
#![allow(clippy::unwrap_used, reason = "tests")]

mod otlp;
mod page;
mod receiver;
mod recordings;
mod serve;
mod tls;

use std::process::{Command, Output, Stdio};

fn sockwatch(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sockwatch")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A `sockwatch trace` that is refused: exit 2, nothing on standard output, and a message with these words.
#[track_caller]
fn refused(arguments: &str, words: &[&str]) {
    let mut arguments: Vec<_> = ["trace"].into_iter().chain(arguments.split(' ')).collect();
    if !arguments.contains(&"--duration") {
        // What should be refused and is not must still end.
        arguments.extend(["--duration", "1ms"]);
    }
    refused_as(&arguments, words);
}

#[track_caller]
fn refused_as(arguments: &[&str], words: &[&str]) -> String {
    let output = sockwatch(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {:?}", String::from_utf8_lossy(&output.stdout));
    for word in words {
        assert!(said.contains(word), "{arguments:?}: no `{word}` in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn bad_ports() {
    for flag in ["--port", "--local-port", "--remote-port"] {
        for port in ["0", "http", "65536", "-1", "80-", "80-http", "8080,x"] {
            let words: &[&str] = if port == "-1" { &[] } else { &[flag, "1 to 65535", "8000-8100"] };
            refused(&format!("{flag} {port}"), words);
        }
        refused(&format!("{flag} 9000-8000"), &[flag, "8000-9000"]);
    }
    let many: Vec<_> = (1..=40).map(|port| port.to_string()).collect();
    refused(&format!("--port {}", many.join(",")), &["--port", "at most", "ranges"]);
}

#[test]
fn bad_prefixes() {
    refused("--addr host", &["10.0.0.0/8", "2001:db8::/32"]);
    refused("--addr 10.0.0.0/x", &["10.0.0.0/8"]);
    refused("--addr 10.0.0.0/33", &["at most /32"]);
    refused("--addr ::/129", &["at most /128"]);
    refused("--addr 10.0.0.7/8", &["write 10.0.0.0/8"]);
    refused("--addr 2001:db8::7/32", &["write 2001:db8::/32"]);
}

#[test]
fn missing_processes_namespaces_and_cgroups() {
    // Above the greatest pid that a kernel can be told to give (2^22).
    refused("--pid 4194305", &["4194305", "no such process", "ps -e"]);
    refused("--netns no-such-namespace", &["/run/netns/no-such-namespace", "ip netns"]);
    refused("--netns /no/such/path", &["/no/such/path", "ip netns"]);
    refused("--cgroup /no-such-cgroup", &["cgroup"]);
}

#[test]
fn a_pid_is_a_number() {
    refused("--pid nginx", &["--pid", "nginx", "number"]);
}

/// A file is not a namespace, nor is a directory.
#[test]
fn not_a_namespace() {
    refused("--netns /etc/passwd", &["/etc/passwd", "not a network namespace"]);
    refused("--netns /proc/self/ns/mnt", &["/proc/self/ns/mnt", "not a network namespace"]);
}

#[test]
fn bad_probes() {
    refused("--probe state", &["PROBE=ALTERNATIVE"]);
    refused("--probe nope=btf", &["no probe nope", "accept-return"]);
    refused("--probe state=nope", &["no alternative nope", "btf, tracepoint and off"]);
}

#[test]
fn bad_sizes_times_and_counts() {
    refused("--buffer 8XB", &["8MiB"]);
    for size in ["0", "3MiB", "1KiB", "2GiB"] {
        refused(&format!("--buffer {size}"), &["power of two"]);
    }
    for time in ["5", "soon", "0s"] {
        refused(&format!("--duration {time}"), &["--duration"]);
    }
    refused("--latency 1h", &["between 1ms and 60s"]);
    refused("--latency 0ms", &["between 1ms and 60s"]);
    refused("--interval 1us", &["between 1ms and 60s"]);
    refused("--count 0", &["--count", "1"]);
    refused("--count many", &["--count"]);
}

/// Polling cannot follow a queue: an error rather than an empty trace.
#[test]
fn queues_by_polling() {
    refused("--source poll --queues", &["--queues", "polling", "--transitions"]);
}

#[test]
fn bad_words() {
    refused("--format xml", &["text, json"]);
    refused("--source perf", &["auto, ebpf, poll"]);
    refused("--time utc", &["relative, wall, monotonic"]);
    refused("--no-such-flag", &["--no-such-flag", "--help"]);
    refused("8080", &["8080", "--help"]);
}

/// Nothing is attached before the output is known to be writable.
#[test]
fn an_output_that_cannot_be_created() {
    refused("--output /no/such/directory/file", &["/no/such/directory/file", "No such file or directory"]);
}

#[test]
fn an_output_that_exists() {
    let path = std::env::temp_dir().join(format!("sockwatch-cli-{}", std::process::id()));
    std::fs::write(&path, "precious").unwrap();
    refused(&format!("--output {}", path.display()), &[path.to_str().unwrap(), "exists"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

/// Help is for people: on standard output where it was asked for, on standard error where nothing was.
#[test]
fn help() {
    let asked = sockwatch(&["trace", "--help"]);
    assert_eq!(asked.status.code(), Some(0));
    let text = String::from_utf8(asked.stdout).unwrap();
    assert!(asked.stderr.is_empty() && text.contains("Examples:") && text.contains("--no-handshake"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "too wide:\n{text}");
    let bare = sockwatch(&[]);
    assert_eq!(bare.status.code(), Some(2));
    assert!(bare.stdout.is_empty() && String::from_utf8(bare.stderr).unwrap().contains("sockwatch doctor"));
}

#[test]
fn the_schema_is_a_schema() {
    let output = sockwatch(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(!validator.is_valid(&serde_json::json!({ "type": "no such line" })));
    assert!(!validator.is_valid(&serde_json::json!({ "type": "transition" })));
}

/// `sockwatch explain` with these words: its exit code, standard output and standard error.
fn explain(words: &str) -> (Option<i32>, String, String) {
    let arguments: Vec<_> = ["explain"].into_iter().chain(words.split_whitespace()).collect();
    let output = sockwatch(&arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn explain_json(words: &str) -> serde_json::Value {
    let (code, text, said) = explain(&format!("{words} --format json"));
    assert_eq!(code, Some(0), "{words}: {said}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn explain_takes_every_spelling() {
    for (words, title) in [
        ("CLOSE-WAIT", "CLOSE_WAIT"),
        ("close_wait", "CLOSE_WAIT"),
        ("estab", "ESTABLISHED"),
        ("tcp_fin_timeout", "FIN_WAIT2"),
        ("Peer-RST", "peer-rst"),
        ("accept queue", "accept queue"),
        ("dead on arrival", "dead on arrival"),
    ] {
        let (code, text, said) = explain(&format!("{words} --no-counts"));
        assert_eq!((code, text.lines().next(), said.as_str()), (Some(0), Some(title), ""), "{words}");
        assert!(text.contains("\nWhat it is\n") && text.contains("\nSee also\n"), "{text}");
        // Not a terminal.
        assert!(!text.contains('\x1b') && !text.contains("Here and now"), "{text}");
        let prose = text.lines().filter(|line| !line.starts_with("    "));
        assert!(prose.clone().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn explain_without_a_topic_lists_all() {
    let (code, text, said) = explain("");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let list = explain_json("");
    let topics = list["topics"].as_array().unwrap();
    assert!(topics.len() > 40);
    for topic in topics {
        let (name, summary) = (topic["topic"].as_str().unwrap(), topic["summary"].as_str().unwrap());
        assert!(text.lines().any(|line| line.trim_start().starts_with(name) && line.ends_with(summary)), "{name}");
    }
}

#[test]
fn explain_suggests_what_was_meant() {
    for (typed, meant) in [("CLOSE_WIAT", "CLOSE_WAIT"), ("orphans", "orphan"), ("accept que", "accept queue")] {
        let (code, text, said) = explain(typed);
        assert_eq!((code, text.as_str()), (Some(2), ""), "{typed}");
        assert!(said.contains("did you mean") && said.contains(meant), "{said}");
    }
    let (code, _, said) = explain("xyzzy");
    assert!(code == Some(2) && said.contains("`sockwatch explain` lists them") && !said.contains("did you"), "{said}");
}

#[test]
fn explain_counts_sockets() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let established = explain_json("ESTABLISHED");
    assert_eq!(established["topic"], "ESTABLISHED");
    assert_eq!(established["sections"][0]["heading"], "What it is");
    assert!(established["sections"][4]["commands"][0].is_string(), "{established}");
    let counts = &established["counts"];
    assert!(counts["sockets"].as_u64().unwrap() >= 2 && counts["without_process"].as_u64().unwrap() >= 1, "{counts}");
    assert!(!counts["largest"].as_array().unwrap().is_empty(), "{counts}");
    let listen = &explain_json("LISTEN")["counts"];
    assert!(listen["sockets"].as_u64().unwrap() >= 1 && listen["queues"][0]["limit"].is_u64(), "{listen}");
    let time_wait = &explain_json("TIME_WAIT")["counts"];
    assert!(time_wait["ephemeral"]["usable"].as_u64().unwrap() > 0, "{time_wait}");
    drop(client);

    let (_, text, _) = explain("LISTEN");
    assert!(text.contains("\nHere and now\n") && text.contains("of this network namespace"), "{text}");
    assert!(explain_json("LISTEN --no-counts").get("counts").is_none());
    // The table holds none in this state: a line, not an error.
    let (code, text, said) = explain("CLOSE");
    assert!(code == Some(0) && text.contains("\n  Not counted: ") && said.is_empty(), "{text}");
    assert!(explain_json("CLOSE")["not_counted"].is_string());
    assert!(explain_json("orphan").get("counts").is_none());
}

/// Every lab has a line; a name alone would be no help.
#[test]
fn labs_are_listed() {
    let listed = sockwatch(&["lab", "--list"]);
    assert_eq!(listed.status.code(), Some(0));
    let text = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(text, String::from_utf8(sockwatch(&["lab"]).stdout).unwrap(), "without a name, too");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    let json = sockwatch(&["lab", "--list", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let labs = json["labs"].as_array().unwrap();
    assert!(labs.len() > 30 && labs.len() == text.lines().count());
    for lab in labs {
        let (name, summary) = (lab["lab"].as_str().unwrap(), lab["summary"].as_str().unwrap());
        assert!(text.lines().any(|line| line.starts_with(name) && line.ends_with(summary)), "{name}");
        let story = lab["story"].as_str().unwrap();
        assert!(story.lines().all(|line| line.chars().count() <= 120), "{name}: {story}");
        assert_eq!(lab["needs_root"], name != "slow-accept", "{name}");
    }
}

#[test]
fn bad_labs() {
    let check = |arguments: &[&str], words: &[&str]| {
        let output = sockwatch(&[&["lab"], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    };
    check(&["slow-acept"], &["slow-acept", "slow-accept"]);
    check(&["refused", "--clients", "3"], &["refused has no --delay and no --clients"]);
    check(&["refused", "--list"], &["--list"]);
    check(&["slow-accept", "--delay", "soon"], &["--delay"]);
}

/// Every number of a trace's last line has a topic.
#[test]
fn explain_knows_the_last_line() {
    let output = sockwatch(&["trace", "--source", "poll", "--duration", "1ms"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let numbers = said.lines().last().unwrap().strip_prefix("sockwatch: ").unwrap();
    let words: Vec<_> = numbers.split(' ').map(|number| number.split_once('=').unwrap().0).collect();
    assert!(words.contains(&"lost"), "{said}");
    for word in words.iter().filter(|word| !["events", "bytes", "connections"].contains(word)) {
        assert_eq!(explain(word).0, Some(0), "{word}");
    }
}

#[test]
fn list_refuses_what_trace_refuses() {
    let refused = |arguments: &str, words: &[&str]| {
        refused_as(&["list"].into_iter().chain(arguments.split(' ')).collect::<Vec<_>>(), words);
    };
    refused("--port 0", &["--port", "1 to 65535"]);
    refused("--addr 10.0.0.7/8", &["write 10.0.0.0/8"]);
    refused("--pid 4194305", &["4194305", "no such process"]);
    refused("--cgroup /no-such-cgroup", &["cgroup"]);
    refused("--netns no-such-namespace", &["/run/netns/no-such-namespace", "ip netns"]);
    refused("--netns 7", &["--netns 7", "no network namespace 7"]);
    refused("--netns all,7", &["--netns all"]);
    refused("--state NOPE", &["--state", "no such state", "CLOSE_WAIT"]);
    refused("--format xml", &["text, json"]);
    refused("8080", &["8080", "--help"]);
}

#[test]
fn list_takes_every_spelling_of_a_state() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for state in ["LISTEN", "listen", "listening", "close-wait,TCP_LISTEN"] {
        let output = sockwatch(&["list", "--port", &port, "--state", state]);
        let text = String::from_utf8(output.stdout).unwrap();
        let sockets = text.lines().filter(|line| line.starts_with("LISTEN ")).count();
        assert_eq!((output.status.code(), sockets), (Some(0), 1), "{state}: {text}");
    }
    for state in ["estab", "FIN-WAIT-1", "time_wait", "syn-recv", "NEW_SYN_RECV", "last_ack", "bound"] {
        let output = sockwatch(&["list", "--port", &port, "--state", state]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{state}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.lines().last().unwrap().starts_with("sockwatch: sockets=0"), "{said}");
    }
}

#[test]
fn list_has_a_schema_and_help() {
    let output = sockwatch(&["list-schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    assert!(!jsonschema::validator_for(&schema).unwrap().is_valid(&serde_json::json!({ "type": "socket" })));
    let asked = sockwatch(&["list", "--help"]);
    let text = String::from_utf8(asked.stdout).unwrap();
    assert!(text.contains("Examples:") && text.contains("--netns all") && text.contains("minisock"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "too wide:\n{text}");
}

#[test]
fn audit_and_reconcile_refuse_what_makes_no_sense() {
    let refused = |arguments: &[&str], words: &[&str]| refused_as(arguments, words);
    refused(&["audit", "--duration", "0s"], &["--duration", "more than nothing"]);
    refused(&["audit", "--interval", "5"], &["--interval", "500ms"]);
    refused(&["audit", "--port", "0"], &["--port", "1 to 65535"]);
    refused(&["audit", "--buffer", "3MiB"], &["--buffer", "power of two"]);
    refused(&["trace", "--reconcile", "never"], &["--reconcile", "off"]);
    refused(&["trace", "--reconcile", "1ms"], &["--reconcile", "between 50ms and 1h"]);
}

#[test]
fn diagnose_has_a_schema_and_help() {
    let output = sockwatch(&["diagnose-schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    assert!(!jsonschema::validator_for(&schema).unwrap().is_valid(&serde_json::json!({ "verdict": "healthy" })));
    let help = String::from_utf8(sockwatch(&["diagnose", "--help"]).stdout).unwrap();
    for words in ["Examples:", "sockwatch diagnose --port 8080", "0 healthy, 1 findings, 2 error", "--slow"] {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 120), "too wide:\n{help}");
}

#[test]
fn diagnose_refuses_what_trace_refuses() {
    refused_as(&["diagnose", "--port", "http"], &["--port", "1 to 65535"]);
    refused_as(&["diagnose", "--duration", "0s"], &["--duration"]);
    refused_as(&["diagnose", "--slow", "5"], &["--slow", "500ms"]);
    refused_as(&["diagnose", "--netns", "no-such-namespace"], &["ip netns"]);
}
