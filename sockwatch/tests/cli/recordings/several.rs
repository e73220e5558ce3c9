//! Recordings of several files: clocks that move between them, damaged ones, and very many.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{RECORDING, fresh_directory};
use crate::{refused_as, sockwatch};

/// The clock is set forward by an hour after three seconds, and back by two in the second file.
const MOVED: [&str; 2] = ["tests/recordings/clock-moves-0001.swr", "tests/recordings/clock-moves-0002.swr"];

/// A row of every kind, with arbitrary values.
const EVERY_ROW: &str = "tests/recordings/every-row-1.0.swr";

fn run(arguments: &[&str]) -> (String, String) {
    let output = sockwatch(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

#[test]
fn all_times_of_day_are_by_the_newest_clock() {
    let expected = ["2026-11-21T09:30:02", "2026-11-21T10:30:04", "2026-11-21T08:30:09", "2026-11-21T08:30:11"];
    let csv = run(&["export", MOVED[0], MOVED[1], "--to", "csv"]).0;
    let ended: Vec<_> = csv.lines().skip(1).map(|line| line.split(',').nth(2).unwrap()[..19].to_owned()).collect();
    assert_eq!(ended, expected);
    let text = run(&["replay", MOVED[1], MOVED[0], "--connections", "--time", "wall"]).0;
    let times: Vec<_> = text.lines().filter_map(|line| line.get(..8)).filter(|it| it.starts_with(['0', '1'])).collect();
    assert_eq!(times, expected.map(|it| &it[11..]));
    let jsonl = run(&["export", MOVED[0], MOVED[1], "--to", "jsonl"]).0;
    let lines = jsonl.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let seconds: Vec<_> = lines
        .filter(|line| line["type"] == "connection")
        .map(|line| line["at_ns"].as_i64().unwrap() / 1_000_000_000 - 1_795_253_400)
        .collect();
    assert_eq!(seconds, [2, 3604, -3591, -3589]);
}

#[test]
fn a_time_of_day_is_found_where_the_clock_showed_it() {
    let list = |at: &str| run(&["list", "--recording", MOVED[0], MOVED[1], "--at", at]).1;
    assert!(list("10:30:03.5").contains("10:30:03.500 UTC, 2.50s after"), "{}", list("10:30:03.5"));
    let left_out = list("10:00:00");
    assert!(left_out.contains("at 2026-11-21 10:30:03.000 UTC, 2.00s after"), "{left_out}");
    assert!(list("10s").contains("at 2026-11-21 08:30:11.000 UTC"), "{}", list("10s"));
    refused_as(&["list", "--recording", MOVED[0], "--at", "10:31:00"], &["ends 55.9s before", "10:30:04.1"]);
}

/// Within a file and between two.
#[test]
fn info_tells_how_the_clock_moved() {
    let text = run(&["info", MOVED[0], MOVED[1]]).0;
    assert!(text.contains("moved by 1h00m to 2026-11-21 10:30:03.000 UTC"), "{text}");
    assert!(text.contains("moved by -2h00m to 2026-11-21 08:30:09.000 UTC"), "{text}");
    let info: Value = serde_json::from_str(&run(&["info", MOVED[0], MOVED[1], "--format", "json"]).0).unwrap();
    assert_eq!(info["clock_moved_ns"], -3_600_000_000_000_i64);
    assert_eq!(info["clock_moves"].as_array().unwrap().len(), 2);
    assert_eq!(info["last_unix_ns"], 1_795_249_811_100_000_000_u64);
}

#[test]
fn a_report_tells_how_the_clock_moved() {
    let page = fresh_directory("clock-report").join("web.html");
    run(&["report", MOVED[0], MOVED[1], "-o", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains(r#""clock_moves":[[2000000000,3600000],[8000000000,-7200000]]"#), "in the script's words");
    assert!(page.contains("the time of day moved by 1h00m to 2026-11-21 10:30:03.000 UTC."), "and in a person's");
}

/// Makes the first batch of events something else.
fn damaged(path: &str, to: &Path) -> String {
    let mut bytes = fs::read(path).unwrap();
    // The end's mark is the last of them.
    let at = (0..bytes.len()).step_by(8).rfind(|at| bytes[*at..].starts_with(&[0xff; 4]) && bytes[at + 4] > 0).unwrap();
    bytes[at..at + 4].fill(0xa5);
    fs::write(to, bytes).unwrap();
    to.to_str().unwrap().to_owned()
}

/// The other is told whole, and then that there is an error.
#[test]
fn a_damaged_file_hides_no_other() {
    let directory = fresh_directory("one-damaged");
    let other = damaged(MOVED[0], &directory.join("clock-moves-0001.swr"));
    let no_recording = directory.join("foreign.swr");
    fs::write(&no_recording, "no recording").unwrap();
    let told = |command: &[&str], rest: &[&str], bad: &str| {
        let output = sockwatch(&[command, &[bad, MOVED[1]], rest].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
        assert!(said.contains(bad) && said.contains("all else") || command[0] == "list", "{command:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let whole = |command: &[&str], rest: &[&str]| run(&[command, &[MOVED[1]], rest].concat()).0;
    for bad in [other.as_str(), no_recording.to_str().unwrap()] {
        assert_eq!(told(&["export"], &["--to", "csv"], bad), whole(&["export"], &["--to", "csv"]));
        let options = ["--connections", "--time", "wall"];
        assert_eq!(told(&["replay"], &options, bad), whole(&["replay"], &options));
        assert!(told(&["info"], &[], bad).contains("clock-moves-0002.swr"));
        assert!(!told(&["diagnose", "--recording"], &[], bad).is_empty(), "{bad}");
        told(&["list", "--recording"], &[], bad);
        let page = directory.join("web.html");
        told(&["report"], &["--force", "-o", page.to_str().unwrap()], bad);
        assert!(fs::read_to_string(&page).unwrap().contains("all else is told"));
    }
    let info = told(&["info"], &["--format", "json"], &other);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert!(info["files"][0]["damage"].as_str().unwrap().contains("damaged at byte"), "{info}");
    assert!(told(&["info"], &[], &other).starts_with("NOT COMPLETE"));
    refused_as(&["info", no_recording.to_str().unwrap()], &["not a recording"]);
}

/// A thousand files with ninety descriptors.
#[test]
fn files_are_not_all_open_at_once() {
    let directory = fresh_directory("very-many");
    let bytes = fs::read(RECORDING).unwrap();
    let mut files = Vec::new();
    for number in 0..1_000 {
        // Each is a recording of its own.
        let path = directory.join(format!("{number:04}.swr"));
        let mut its = bytes.clone();
        let name = b"6fa459ea-ee8a-3ca4-894e-";
        let at = its.windows(name.len()).position(|window| window == name).unwrap() + name.len();
        its[at..at + 4].copy_from_slice(format!("{number:04}").as_bytes());
        fs::write(&path, its).unwrap();
        files.push(path);
    }
    let lowered = "ulimit -n 90 && exec \"$0\" info \"$@\"";
    let told = Command::new("sh").args(["-c", lowered, env!("CARGO_BIN_EXE_sockwatch")]).args(&files).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.matches("nothing was lost").count(), files.len());
}

/// The steps of docs/record-an-incident.md behind the recording itself, as they stand: after the service was started again.
#[test]
fn an_incident_is_looked_at_as_documented() {
    let directory = fresh_directory("incident");
    let earlier = directory.join("web-20261121T080000Z-0001.swr");
    fs::copy(RECORDING, earlier).unwrap();
    for (number, file) in MOVED.iter().enumerate() {
        fs::copy(file, directory.join(format!("web-20261121T180000Z-{:04}.swr", number + 1))).unwrap();
    }
    let page = fs::read_to_string("../docs/record-an-incident.md").unwrap();
    let steps = page.split_once("\n2. ").unwrap().1;
    let steps: Vec<_> = steps.lines().filter_map(|line| line.strip_prefix("       ")).collect();
    assert!(steps.len() >= 8 && steps.iter().any(|step| step.contains("report")), "{steps:?}");
    // Nobody need be root here, and what was recorded is from another time.
    let script = steps.join("\n").replace("sudo ", "").replace("/var/log/sockwatch", directory.to_str().unwrap());
    let script = script.replace("03:10:00", "09:30:02");
    let program = Path::new(env!("CARGO_BIN_EXE_sockwatch")).parent().unwrap().display().to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    let ran = Command::new("sh").args(["-uc", &script]).env("PATH", path).current_dir(&directory).output().unwrap();
    let (told, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{script}\n{told}\n{said}");
    assert_eq!(told.matches("nothing was lost").count(), 2, "{told}");
    assert!(fs::read_to_string(directory.join("incident.html")).unwrap().contains("</html>"));
    assert_eq!(fs::read_to_string(directory.join("incident.csv")).unwrap().lines().count(), 5);
}

/// By another export of the same parts, of more, and of some that are there.
#[test]
fn partitions_are_never_there_twice() {
    let directory = fresh_directory("partitions-again");
    let lake = directory.join("lake");
    let lake = lake.to_str().unwrap();
    let files = || {
        let mut days: Vec<_> =
            fs::read_dir(format!("{lake}/host=web-1")).unwrap().map(|it| it.unwrap().path()).collect();
        days.sort();
        let files = days.iter().flat_map(|day| fs::read_dir(day).unwrap());
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let name = |parts: &str| format!("2c5ea4c0-4067-4e99-8bad-9b1deb4d3b7d-{parts}.parquet");
    fn export<'a>(lake: &'a str, files: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [&["export"], files, &["--partition", "-o", lake], more].concat()
    }
    let plain = |files| export(lake, files, &[]);
    let forced = |files| export(lake, files, &["--force"]);
    run(&plain(&[MOVED[1]]));
    assert_eq!(files(), [name("0002")]);
    run(&plain(&[MOVED[0]]));
    assert_eq!(files().len(), 2, "another part goes beside it");
    refused_as(&plain(&MOVED), &["exists", "--force"]);
    refused_as(&plain(&[MOVED[1]]), &["exists", "parts 2 to 2"]);
    assert_eq!(files().len(), 2);
    run(&forced(&MOVED));
    assert_eq!(files(), [name("0001-0002")], "it has all of them");
    run(&forced(&MOVED));
    assert_eq!(files(), [name("0001-0002")]);
    refused_as(&forced(&[MOVED[1]]), &["exists", "parts 1 to 2"]);
    assert_eq!(files(), [name("0001-0002")], "nothing of it is lost");
}

/// Two seconds, as fast as they were, would take two.
#[test]
fn replay_takes_the_time_that_is_asked_for() {
    let replay = |more: &[&str]| {
        let began = Instant::now();
        (run(&[&["replay", MOVED[0]], more].concat()).0, began.elapsed())
    };
    let (at_once, _) = replay(&[]);
    let (told, took) = replay(&["--speed", "4"]);
    assert_eq!(told, at_once, "the same lines");
    assert!(took >= Duration::from_millis(500), "{took:?}");
    let (told, _) = replay(&["--speed", "1000000"]);
    assert_eq!(told, at_once);
    refused_as(&["replay", MOVED[0], "--speed", "0"], &["--speed"]);
}

/// By itself, and with all that was written until then.
#[test]
fn a_recording_ends_when_it_is_large_enough() {
    let file = fresh_directory("max-size").join("web.swr");
    let file = file.to_str().unwrap();
    let (_, said) = run(&["record", "--source", "poll", "-o", file, "--flush", "100ms", "--max-size", "1kB"]);
    assert!(said.contains("as much as --max-size allows"), "{said}");
    let info: Value = serde_json::from_str(&run(&["info", file, "--format", "json"]).0).unwrap();
    assert_eq!(info["files"][0]["complete"], true);
    assert!(info["bytes"].as_u64().unwrap() >= 1_000, "{info}");
}

/// Any values in rows of every kind: each command says what it can, and ends.
#[test]
fn rows_that_make_no_sense_are_told_all_the_same() {
    let directory = fresh_directory("every-row");
    let out = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (parquet, perfetto, page) = (out("a.parquet"), out("a.pftrace"), out("a.html"));
    let commands: &[&[&str]] = &[
        &["info"],
        &["info", "--format", "json"],
        &["replay", "--why"],
        &["replay", "--format", "json", "--time", "wall"],
        &["export", "--to", "csv"],
        &["export", "--to", "jsonl", "--redact", "key"],
        &["export", "--to", "folded"],
        &["export", "-o", &parquet],
        &["export", "-o", &perfetto],
        &["diagnose", "--recording"],
        &["diagnose", "--format", "json", "--recording"],
        &["report", "-o", &page],
        &["list", "--recording"],
        &["list", "--format", "json", "--at", "500ms", "--recording"],
    ];
    for command in commands {
        let output = sockwatch(&[command, &[EVERY_ROW][..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code < 2), "{command:?}: {:?} {said}", output.status);
        assert!(!said.contains("panicked") && output.stdout.len() < 1_000_000, "{command:?}: {said}");
    }
}
