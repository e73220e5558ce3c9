//! Recordings, and what is made of them.

mod several;

use serde_json::Value;

use super::{refused_as, sockwatch};

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
    record(&["-o", "/dev/null", "--force"], &["/dev/null", "no file"]);
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
    refused_as(&["replay", file, RECORDING], &["2 recordings", file, RECORDING]);
    assert_eq!(run(&["info", file, RECORDING]).0.matches("nothing was lost").count(), 2);
    let empty = format!("{file}.empty");
    std::fs::write(&empty, "").unwrap();
    assert!(run(&["info", file, &empty]).1.contains("is empty"));
    refused_as(&["info", &empty], &["ends before it has begun"]);
    std::fs::remove_file(empty).unwrap();
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
    refused_as(&export(&["--to", "csv", "-o", "/dev/null", "--force"]), &["/dev/null", "no file"]);
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
    assert!(!text.contains("web-1"), "the machine's name is hidden, too");
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

/// Five clients wait for a server that accepts one every 50 ms.
#[test]
fn sockets_of_any_instant_are_listed() {
    let list = |at: &[&str]| {
        let output = sockwatch(&[&["list", "--recording", RECORDING, "--format", "json"], at].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{at:?}: {said}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, said)
    };
    let (early, said) = list(&["--at", "20ms"]);
    assert!(said.contains("web-1 at 2026-11-21 09:30:00.020 UTC, 20.0ms after the beginning: sockets=10"), "{said}");
    assert_eq!(early[0]["recording"]["after_ns"], 20_000_000);
    let summary = early.last().unwrap();
    assert_eq!((&summary["states"]["ESTABLISHED"], &summary["standings"]["queued"]), (&10.into(), &5.into()));
    let queued: Vec<_> = early.iter().filter(|line| line["standing"] == "queued").collect();
    // The first entered after 63 us, the beginning is after one.
    let waits: Vec<_> = queued.iter().map(|line| line["wait_ns"].as_u64().unwrap()).collect();
    assert!(waits.iter().all(|wait_ns| (19_500_000..20_000_000).contains(wait_ns)), "{waits:?}");
    assert!(queued.iter().all(|line| line["listener"] == 3 && line["age_ns"].is_u64()), "{queued:?}");
    let (later, _) = list(&["--at", "09:30:00.130", "--state", "ESTABLISHED,TIME_WAIT"]);
    let count = |standing: &str| later.iter().filter(|line| line["standing"] == standing).count();
    assert_eq!((count("queued"), count("minisock")), (3, 2), "two were accepted, and closed by the server: {later:?}");
    let (last, _) = list(&["--local-port", "43525"]);
    assert!(last.iter().all(|line| line["type"] != "recorded_socket" || line["state"] == "TIME_WAIT"), "{last:?}");
    refused_as(&["list", "--recording", RECORDING, "--at", "5s"], &["ends", "without --at"]);
    refused_as(&["list", "--recording", RECORDING, "--at", "2026-11-21 09:00:00"], &["begins later", "09:30:00.000"]);
    refused_as(&["list", "--recording", RECORDING, "--at", "noon"], &["not a time", "09:30:05.2"]);
    refused_as(&["list", "--at", "20ms"], &["--recording"]);
}

#[test]
fn what_info_prints_fits_its_schema() {
    let schema = serde_json::from_slice(&sockwatch(&["info-schema"]).stdout).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let info: Value = serde_json::from_slice(&sockwatch(&["info", RECORDING, "--format", "json"]).stdout).unwrap();
    schema.validate(&info).unwrap_or_else(|error| panic!("{error}: {info}"));
    assert_eq!((&info["host"], &info["version"]), (&"web-1".into(), &1.into()));
    assert!(!schema.is_valid(&serde_json::json!({ "version": 1 })));
}

/// The report for people, whole: what it says of a recording is the same each time.
#[test]
fn a_recording_is_diagnosed_in_words() {
    let output = sockwatch(&["diagnose", "--recording", RECORDING]);
    let expected = std::fs::read_to_string("tests/recordings/format-1.0.diagnosis.txt").unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(output.status.code(), Some(1));
}
