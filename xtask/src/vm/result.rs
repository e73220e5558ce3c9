//! What a guest's console says of its tests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::guest::MARK;

/// What one kernel showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    /// `uname -r`
    pub(crate) release: String,
    /// Each alternative of each probe: why it does not attach, if it does not.
    pub(crate) alternatives: Vec<Alternative>,
    /// The same with the kernel's BTF hidden.
    pub(crate) without_btf: Vec<Alternative>,
    /// What the probes would read and the kernel does not have: fields of structures and of tracepoints' records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) absent_fields: Option<Vec<String>>,
    /// The live tests by variant.
    pub(crate) tests: BTreeMap<String, Counts>,
}

/// One alternative on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alternative {
    pub(crate) probe: String,
    pub(crate) alternative: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

/// How the tests of a variant went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Which alternatives the probes took: `accept=fexit`.
    pub(crate) probes: Vec<String>,
    pub(crate) passed: u64,
    /// By name and reason.
    pub(crate) skipped: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<String>,
    /// Failed once, and passed when it was run by itself.
    #[serde(skip)]
    pub(crate) unsteady: Vec<String>,
    /// How the tests' process ended, as a shell says it: 134 is SIGABRT. A run that is kept ended well.
    #[serde(skip)]
    pub(crate) status: i32,
}

/// A survey that is being read.
#[derive(Debug)]
struct Survey {
    without_btf: bool,
    json: String,
}

/// Reads a console.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) column: Column,
    variant: Option<String>,
    survey: Option<Survey>,
    /// What the failed tests of the current variant said.
    failures: Vec<String>,
    in_failures: bool,
}

impl Reader {
    /// Returns what a person should see of this line.
    pub(crate) fn read(&mut self, line: &str) -> Option<String> {
        if let Some(told) = line.strip_prefix(MARK) {
            return self.told(told);
        }
        if let Some(survey) = &mut self.survey {
            survey.json.push_str(line);
            return None;
        }
        let variant = self.variant.clone()?;
        let counts = self.column.tests.entry(variant.clone()).or_default();
        if let Some(reason) = line.strip_prefix("skipped: ") {
            counts.skipped.push(reason.to_owned());
            return Some(format!("{variant:10} skipped {reason}"));
        }
        if line.starts_with("again, ") {
            self.in_failures = false;
            let failures = std::mem::take(&mut self.failures).join("\n");
            return Some(format!("{failures}\n{variant:10} {line}"));
        }
        if let Some(probes) = line.strip_prefix("tracing by eBPF: ") {
            counts.probes = probes.split(' ').map(str::to_owned).collect();
            return None;
        }
        if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... ")) {
            match outcome {
                "ok" => {
                    counts.passed += 1;
                    // It was run again.
                    let failed = counts.failed.extract_if(.., |failed| failed == name);
                    counts.unsteady.extend(failed);
                }
                "FAILED" if counts.failed.iter().any(|failed| failed == name) => {}
                "FAILED" => counts.failed.push(name.to_owned()),
                _ => return None,
            }
            return Some(format!("{variant:10} {outcome:7} {name}"));
        }
        self.in_failures |= line == "failures:";
        if self.in_failures {
            self.failures.push(line.to_owned());
        }
        None
    }

    fn told(&mut self, told: &str) -> Option<String> {
        let (word, rest) = told.split_once(' ').unwrap_or((told, ""));
        match word {
            "started" => {
                rest.clone_into(&mut self.column.release);
                return Some(format!("started {rest}"));
            }
            "survey" => self.survey = Some(Survey { without_btf: rest == "without-btf", json: String::new() }),
            "surveyed" => {
                let survey = self.survey.take()?;
                let report = match serde_json::from_str::<Report>(&survey.json) {
                    Ok(report) => report,
                    Err(error) => return Some(format!("the survey cannot be read: {error}: {}", survey.json)),
                };
                let column = &mut self.column;
                if survey.without_btf {
                    column.without_btf = report.alternatives;
                } else {
                    (column.alternatives, column.absent_fields) = (report.alternatives, report.absent_fields);
                }
            }
            "run" => {
                self.variant = Some(rest.to_owned());
                self.column.tests.entry(rest.to_owned()).or_default();
                self.in_failures = false;
                self.failures.clear();
            }
            "ran" => {
                self.variant = None;
                let (variant, status) = rest.rsplit_once(' ')?;
                let status = status.parse().unwrap_or(-1);
                self.column.tests.entry(variant.to_owned()).or_default().status = status;
                if status != 0 {
                    return Some(format!("{rest}\n{}", self.failures.join("\n")));
                }
            }
            _ => {}
        }
        None
    }
}

/// Of `sockwatch doctor --all --format json`.
#[derive(Deserialize)]
struct Report {
    alternatives: Vec<Alternative>,
    absent_fields: Option<Vec<String>>,
}

impl Column {
    /// What must not be: failed tests, tests that did not run, alternatives that attach and that no test ran with.
    pub(crate) fn faults(&self, variants: &[&str]) -> Vec<String> {
        let mut faults = self.failures();
        for variant in variants {
            if self.tests.get(*variant).is_none_or(Counts::is_empty) {
                faults.push(format!("{variant}: no tests ran"));
            }
        }
        if self.alternatives.is_empty() || self.without_btf.is_empty() {
            faults.push("no survey of the probes' alternatives".into());
        }
        for row in self.alternatives.iter().filter(|row| row.refused.is_none()) {
            let taken = format!("{}={}", row.probe, row.alternative);
            if !self.tests.values().any(|counts| counts.probes.contains(&taken)) {
                faults.push(format!("{taken} attaches, and no test ran with it"));
            }
        }
        faults
    }

    /// The same where only tests whose names contain `only` were asked for.
    pub(crate) fn faults_of(&self, only: &str) -> Vec<String> {
        let mut faults = self.failures();
        if self.tests.values().all(Counts::is_empty) {
            faults.push(format!("no test's name contains {only}"));
        }
        faults
    }

    /// What failed once and passed by itself.
    pub(crate) fn unsteady(&self) -> Vec<String> {
        let each =
            self.tests.iter().flat_map(|(variant, counts)| counts.unsteady.iter().map(move |name| (variant, name)));
        each.map(|(variant, name)| format!("{variant}: {name}")).collect()
    }

    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (variant, counts) in &self.tests {
            failures.extend(counts.failed.iter().map(|name| format!("{variant}: {name} failed")));
            if counts.failed.is_empty() && counts.status != 0 {
                failures.push(format!("{variant}: the tests ended with status {}", counts.status));
            }
        }
        failures
    }
}

impl Counts {
    /// Nothing ran, and nothing else is wrong.
    fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed.is_empty() && self.status == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(console: &str) -> Reader {
        let mut reader = Reader::default();
        console.lines().for_each(|line| drop(reader.read(line)));
        reader
    }

    const SURVEY: &str = r#"@sockwatch started 6.1
@sockwatch survey
{"alternatives": [
{"probe": "accept", "alternative": "fexit"}, {"probe": "drop", "alternative": "btf", "refused": "no"}],
"absent_fields": ["segs_out"]}
@sockwatch surveyed
@sockwatch survey without-btf
{"alternatives": [{"probe": "accept", "alternative": "fexit", "refused": "no BTF"}]}
@sockwatch surveyed
"#;

    #[test]
    fn tests_are_counted_by_variant() {
        let reader = read(&format!(
            "{SURVEY}@sockwatch run default\ntracing by eBPF: accept=fexit drop=off\ntest a::b ... ok\n\
             skipped: c: why\ntest c ... ok\ntest d ... FAILED\n@sockwatch ran default 101\n"
        ));
        let counts = &reader.column.tests["default"];
        assert_eq!((counts.passed, counts.skipped.len(), counts.failed.len()), (2, 1, 1));
        assert_eq!(reader.column.faults(&["default"]), ["default: d failed"]);
        assert_eq!(reader.column.release, "6.1");
        assert_eq!(reader.column.absent_fields, Some(vec!["segs_out".to_owned()]));
    }

    /// A test that passes when it is run again has passed; one that fails again has failed once.
    #[test]
    fn what_is_run_again_counts_by_its_last_run() {
        let run = |text: &str| {
            let reader =
                read(&format!("@sockwatch run x\ntest a ... FAILED\nfailures:\nwhy\nagain, by itself: a\n{text}"));
            let counts = &reader.column.tests["x"];
            (counts.passed, reader.column.unsteady(), reader.column.failures())
        };
        assert_eq!(run("test a ... ok\n@sockwatch ran x 0"), (1, vec!["x: a".into()], Vec::new()));
        assert_eq!(run("test a ... FAILED\n@sockwatch ran x 101"), (0, Vec::new(), vec!["x: a failed".into()]));
    }

    #[test]
    fn tests_that_crash_are_a_fault() {
        let reader = read(&format!(
            "{SURVEY}@sockwatch run default\ntracing by eBPF: accept=fexit\ntest a ... ok\n@sockwatch ran default 134\n"
        ));
        let expected = ["default: the tests ended with status 134"];
        assert_eq!(reader.column.faults(&["default"]), expected);
        assert_eq!(reader.column.faults_of("a"), expected);
    }

    #[test]
    fn of_some_tests_failures_count_and_that_there_are_any() {
        let run = |console: &str| read(&format!("@sockwatch run x\n{console}\n")).column.faults_of("b");
        assert_eq!(run("test a::b ... ok\n@sockwatch ran x 0"), [""; 0]);
        assert_eq!(run("test a::b ... FAILED\n@sockwatch ran x 101"), ["x: a::b failed"]);
        assert_eq!(run("@sockwatch ran x 0"), ["no test's name contains b"]);
    }

    #[test]
    fn what_did_not_run_is_a_fault() {
        let reader = read(&format!("{SURVEY}@sockwatch run default\n@sockwatch ran default 0\n"));
        let expected = ["default: no tests ran", "x: no tests ran", "accept=fexit attaches, and no test ran with it"];
        assert_eq!(reader.column.faults(&["default", "x"]), expected);
    }
}
