//! The command line's edges: what needs no root and no eBPF.
#![allow(clippy::unwrap_used, reason = "tests")]

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
fn refused_as(arguments: &[&str], words: &[&str]) {
    let output = sockwatch(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {:?}", String::from_utf8_lossy(&output.stdout));
    for word in words {
        assert!(said.contains(word), "{arguments:?}: no `{word}` in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
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

#[test]
fn recordings_that_cannot_be() {
    let scratch = std::env::temp_dir().join(format!("sockwatch-cli-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let path = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let (there, absent) = (path("there.swr"), path("absent/web.swr"));
    std::fs::write(&there, "{}\n").unwrap();
    let record = |arguments: &[&str], words: &[&str]| {
        refused_as(&[&["record", "--source", "poll", "--duration", "1ms"], arguments].concat(), words);
    };
    record(&["-o", &there], &["exists", "--force"]);
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "{}\n");
    record(&["-o", &absent], &["cannot create", "No such file"]);
    record(&["-o", &path("a.swr"), "--keep", "3"], &["--rotate-size", "--rotate-every"]);
    record(&["-o", &path("a.swr"), "--flush", "1ms"], &["100ms"]);
    record(&["-o", &path("a.swr"), "--max-size", "lots"], &["8MiB", "1GB"]);
    for command in ["replay", "info"] {
        refused_as(&[command, &there], &["not a recording"]);
        refused_as(&[command, &absent], &["No such file"]);
        refused_as(&[command, scratch.to_str().unwrap()], &["directory"]);
        refused_as(&[command], &["FILE"]);
    }
    std::fs::remove_dir_all(&scratch).unwrap();
}

/// By polling, as any user may.
#[test]
fn a_recording_is_written_and_replayed() {
    let path = std::env::temp_dir().join(format!("sockwatch-cli-{}.swr", std::process::id()));
    let file = path.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = sockwatch(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let (_, said) = run(&["record", "--source", "poll", "--duration", "300ms", "-o", file]);
    assert!(said.contains("recorded ") && said.contains(file), "{said}");
    assert!(run(&["info", file]).0.contains("nothing was lost"));
    assert!(run(&["replay", file, "--format", "json"]).0.starts_with("{\"type\":\"start\""));
    std::fs::remove_file(path).unwrap();
}

const RECORDING: &str = "tests/recordings/format-1.0.swr";

/// Directories of tests; what a test leaves is the next run's to remove.
fn fresh_directory(name: &str) -> std::path::PathBuf {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn exports_that_cannot_be() {
    let directory = fresh_directory("exports-refused");
    let there = directory.join("there.csv");
    std::fs::write(&there, "mine").unwrap();
    let there = there.to_str().unwrap();
    let export = |more: &[&'static str]| [&["export", RECORDING], more].concat();
    refused_as(&export(&[]), &["--to", "parquet"]);
    refused_as(&export(&["-o", "web.txt"]), &["web.txt", "--to"]);
    refused_as(&export(&["--to", "xml"]), &["perfetto"]);
    refused_as(&export(&["--to", "csv", "--partition"]), &["--output"]);
    refused_as(&export(&["--to", "csv", "--partition", "-o", "lake"]), &["--partition", "Parquet"]);
    refused_as(&export(&["--to", "csv", "--redact", ""]), &["--redact", "empty"]);
    refused_as(&export(&["--to", "csv", "--redact", "@/no/key"]), &["/no/key"]);
    refused_as(&export(&["-o", "/no/directory/web.csv"]), &["/no/directory/web.csv"]);
    refused_as(&["export", RECORDING, "-o", there], &[there, "exists", "--force"]);
    refused_as(&["export", "README.md", "--to", "csv"], &["README.md"]);
    assert_eq!(std::fs::read_to_string(there).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing half-written is left");
    let forced = sockwatch(&["export", RECORDING, "-o", there, "--force"]);
    assert!(forced.status.success() && std::fs::read_to_string(there).unwrap().starts_with("host,"), "{forced:?}");
}

#[test]
fn exports_hold_what_replay_shows() {
    let replayed = sockwatch(&["replay", RECORDING, "--format", "json", "--time", "wall"]).stdout;
    let exported = sockwatch(&["export", RECORDING, "--to", "jsonl"]).stdout;
    assert_eq!(String::from_utf8(exported).unwrap(), String::from_utf8(replayed).unwrap());
    let csv = String::from_utf8(sockwatch(&["export", RECORDING, "--to", "csv"]).stdout).unwrap();
    let told = sockwatch(&["replay", RECORDING, "--connections", "--format", "json"]).stdout;
    let connections =
        String::from_utf8(told).unwrap().lines().filter(|line| line.contains(r#""type":"connection""#)).count();
    assert_eq!(csv.lines().count(), connections + 1, "and the columns' names");
    let folded = String::from_utf8(sockwatch(&["export", RECORDING, "--to", "folded"]).stdout).unwrap();
    assert!(folded.lines().any(|line| line.starts_with("slow-accept;passive;43525;ESTABLISHED 7")), "{folded}");
}

/// By host and date, and once only.
#[test]
fn partitions_are_named_after_host_and_day() {
    let directory = fresh_directory("exports-lake");
    let lake = directory.join("lake");
    let arguments = ["export", RECORDING, "--partition", "-o", lake.to_str().unwrap()];
    assert!(sockwatch(&arguments).status.success());
    let day = lake.join("host=web-1/date=2026-11-21");
    let files: Vec<_> = std::fs::read_dir(&day).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(std::fs::read(&files[0]).unwrap().starts_with(b"PAR1"));
    refused_as(&arguments, &["host=web-1", "exists"]);
    assert_eq!(files.len(), 1);
    assert!(std::fs::read(&files[0]).unwrap().ends_with(b"PAR1"), "it is still whole");
}

#[test]
fn reports() {
    let directory = fresh_directory("reports");
    let page = directory.join("web.html");
    let page = page.to_str().unwrap();
    let report = |more: &[&str]| sockwatch(&[&["report", RECORDING, "-o", page], more].concat());
    let made = report(&["--redact", "key"]);
    assert!(made.status.success() && String::from_utf8_lossy(&made.stderr).contains(page), "{made:?}");
    let text = std::fs::read_to_string(page).unwrap();
    let (_, data) = text.split_once("id=\"data\">").unwrap();
    let data: serde_json::Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let (course, diagnosis) = (&data["after"]["course"], &data["after"]["diagnosis"]);
    assert_eq!(diagnosis["listeners"][0]["accepted"], 5);
    assert_eq!(course["slowest"].as_array().unwrap().len(), 5);
    assert_eq!(course["slowest"][0]["wait_ns"], diagnosis["listeners"][0]["wait"]["max_ns"], "the longest first");
    let cells = course["heat"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.iter().map(|cell| cell[2].as_u64().unwrap()).sum::<u64>(), 5, "every wait is in the map");
    let most = |name: &str| {
        let states = course["states"]["states"].as_array().unwrap();
        let state = states.iter().find(|state| state[0] == name).unwrap();
        state[1].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).max().unwrap()
    };
    assert_eq!((most("ESTABLISHED"), most("TIME_WAIT")), (10, 5));

    let again = report(&[]);
    assert!(again.status.code() == Some(2) && String::from_utf8_lossy(&again.stderr).contains("--force"), "{again:?}");
    assert!(report(&["--force", "--compare", RECORDING]).status.success());
    assert!(std::fs::read_to_string(page).unwrap().contains("\"before\":{"));
    refused_as(&["report", RECORDING, "-o", page, "--force", "--compare", "README.md"], &["README.md"]);
    assert!(std::fs::read_to_string(page).unwrap().contains("\"before\":{"), "what was there stays");
}
