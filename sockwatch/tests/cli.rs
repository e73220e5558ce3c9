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
    let output = sockwatch(&arguments);
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
