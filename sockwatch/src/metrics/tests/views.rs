//! What packaging/ brings for Prometheus and Grafana: it names metrics, labels and values that there are, and pages
//! that can be read. Whether it is PromQL at all, and what it comes to, promtool says (`cargo xtask test`).

use std::{collections::HashMap, fs, path::PathBuf};

use serde_json::Value;

use super::{
    Arrivals, MS, Metrics, Run,
    strict::Parsed,
    table::{Kind, TABLE},
};
use crate::{
    explain,
    metrics::labels::{ENDS, ROLES},
};

/// What Prometheus adds to each series.
const OF_TARGETS: [&str; 2] = ["job", "instance"];

/// Words of PromQL that no parenthesis follows.
const KEYWORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "group_left"];

/// What follows a function, an aggregation, or a word before a list of labels.
const OPENING: [&str; 3] = ["(", "by (", "without ("];

/// A metric, and labels and values by which some of its series are chosen.
struct Selector<'a> {
    metric: &'a str,
    matchers: Vec<(&'a str, &'a str)>,
}

/// What an expression names. Labels are those by which it joins and sums.
#[derive(Default)]
struct Named<'a> {
    selectors: Vec<Selector<'a>>,
    labels: Vec<&'a str>,
}

fn read(expression: &str) -> Named<'_> {
    let (mut named, mut rest, mut is_within_braces) = (Named::default(), expression, false);
    while let Some(first) = rest.chars().next() {
        let is_word = |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
        let length = match first {
            '"' => 2 + rest[1..].find('"').unwrap(),
            '[' => 1 + rest.find(']').unwrap(),
            _ if is_word(first) => rest.find(|character| !is_word(character)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        match first {
            '{' => is_within_braces = true,
            '}' => is_within_braces = false,
            '"' => {
                let matchers = &mut named.selectors.last_mut().unwrap().matchers;
                matchers.last_mut().unwrap().1 = token.trim_matches('"');
            }
            _ if !is_word(first) || first.is_ascii_digit() => {}
            _ if is_within_braces => named.selectors.last_mut().unwrap().matchers.push((token, "")),
            _ if is_metric(token) => named.selectors.push(Selector { metric: token, matchers: Vec::new() }),
            _ if OPENING.iter().any(|opening| after.trim_start().starts_with(opening)) || KEYWORDS.contains(&token) => {
            }
            _ => named.labels.push(token),
        }
    }
    named
}

fn is_metric(word: &str) -> bool {
    word == "up" || word.contains(':') || word.starts_with("sockwatch_") || word.starts_with("process_")
}

/// What there is: metrics of the table, and those that rules have recorded.
struct Known {
    recorded: HashMap<String, Vec<&'static str>>,
    told: Parsed,
}

impl Known {
    fn new() -> Self {
        let mut run = Run::new(Metrics::new(200, Arrivals::Enqueues));
        Self { recorded: HashMap::new(), told: run.told(MS) }
    }

    /// The labels of a metric's series, if there is such a metric.
    fn labels(&self, metric: &str) -> Option<Vec<&'static str>> {
        let of_table = TABLE.iter().find_map(|row| {
            let own: &[&str] = match (row.kind, metric.strip_prefix(&row.exposed())?) {
                (Kind::Counter | Kind::Gauge | Kind::Info, "") | (Kind::Histogram, "_count" | "_sum") => &[],
                (Kind::Histogram, "_bucket") => &["le"],
                _ => return None,
            };
            Some(row.labels.iter().chain(own).copied().collect())
        });
        let up = (metric == "up").then(Vec::new);
        let labels = of_table.or_else(|| self.recorded.get(metric).cloned()).or(up)?;
        Some(OF_TARGETS.into_iter().chain(labels).collect())
    }

    /// Whether a label can have a value, as far as its values are known beforehand.
    fn has(&self, metric: &str, label: &str, value: &str) -> bool {
        match label {
            "role" => ROLES.iter().any(|role| role.word() == value),
            "end" => ENDS.contains(&value),
            "kind" | "state" => self.told.0.contains_key(&format!("{metric}{{{label}=\"{value}\"}}")),
            "source" if metric == "sockwatch_build_info" => ["ebpf", "poll"].contains(&value),
            _ => true,
        }
    }

    /// All labels that the result of an expression may have.
    #[track_caller]
    fn check(&self, expression: &str) -> Vec<&'static str> {
        let named = read(expression);
        let mut all = Vec::new();
        for Selector { metric, matchers } in &named.selectors {
            let labels = self.labels(metric).unwrap_or_else(|| panic!("there is no {metric}: {expression}"));
            for (label, value) in matchers {
                assert!(labels.contains(label), "{metric} has no label {label}: {expression}");
                for value in value.split('|').filter(|value| !value.contains('$')) {
                    assert!(self.has(metric, label, value), "{metric} has no {label} {value}: {expression}");
                }
            }
            all.extend(labels);
        }
        for label in named.labels {
            assert!(all.contains(&label), "there is no metric or label {label}: {expression}");
        }
        all
    }
}

/// A rule: `alert` or `record`, its name, its expression, and all of its text.
struct Rule<'a> {
    kind: &'a str,
    name: &'a str,
    expression: &'a str,
    text: &'a str,
}

/// As they are indented in the file.
fn rules(text: &str) -> Vec<Rule<'_>> {
    let rules = text.split("\n      - ").skip(1).map(|text| {
        let (kind, name) = text.lines().next().unwrap().split_once(": ").unwrap();
        let expression = text.split_once(" expr: ").unwrap().1;
        let ends = ["\n        for:", "\n        labels:", "\n\n", "\n      #"];
        let end = ends.iter().filter_map(|end| expression.find(end)).min().unwrap_or(expression.len());
        Rule { kind, name, expression: &expression[..end], text }
    });
    rules.collect()
}

/// Names that follow a prefix.
fn words_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(prefix).skip(1).map(|rest| rest.split(|character: char| !is_label(character)).next().unwrap_or(rest))
}

fn is_label(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// A file of the workspace; in a package of the crate alone there is none.
fn file(name: &str) -> Option<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("packaging").exists().then(|| fs::read_to_string(root.join(name)).unwrap())
}

#[test]
fn rules_name_what_there_is() {
    let Some(text) = file("packaging/prometheus/sockwatch.rules.yml") else { return };
    let mut known = Known::new();
    let (mut records, mut alerts) = (0, 0);
    for Rule { kind, name, expression, text } in rules(&text) {
        let labels = known.check(expression);
        if kind == "record" {
            records += 1;
            known.recorded.insert(name.to_owned(), labels);
            continue;
        }
        alerts += 1;
        for label in words_after(text, "$labels.") {
            assert!(labels.contains(&label), "{name}: no label {label}");
        }
        for part in ["severity", "summary", "description", "runbook"] {
            assert!(text.contains(&format!(" {part}: ")), "{name} has no {part}");
        }
    }
    assert!(records >= 9 && alerts >= 21, "{records} {alerts}");
}

#[test]
fn runbooks_can_be_read() {
    let Some(text) = file("packaging/prometheus/sockwatch.rules.yml") else { return };
    let page = file("docs/monitoring.md").unwrap();
    for Rule { name, expression, text, .. } in rules(&text).iter().filter(|rule| rule.kind == "alert") {
        assert!(page.contains(&format!("`{name}`")), "docs/monitoring.md does not name {name}");
        let runbook = text.split_once(" runbook: ").unwrap().1.lines().next().unwrap();
        let Some(topic) = runbook.strip_prefix("sockwatch explain ") else {
            assert!(file(runbook).is_some(), "{name}: {runbook}");
            continue;
        };
        // A label stands for each of its values.
        let Some(label) = words_after(topic, "{{ $labels.").next() else {
            assert!(explain::find(topic).is_some(), "{name}: {runbook}");
            continue;
        };
        let named = read(expression);
        let matchers = named.selectors.iter().flat_map(|selector| &selector.matchers);
        let values: Vec<_> =
            matchers.filter(|(its, _)| *its == label).flat_map(|(_, value)| value.split('|')).collect();
        assert!(!values.is_empty(), "{name}: {runbook}");
        for value in values {
            assert!(explain::find(value).is_some(), "{name}: {value}");
        }
    }
}

/// promtool runs the tests; that there is one for each alert it does not look at.
#[test]
fn each_alert_fires_in_a_test_and_has_figures_of_a_healthy_host() {
    let Some(text) = file("packaging/prometheus/sockwatch.rules.yml") else { return };
    let tests: String = ["accept-queue", "connections", "sockwatch"]
        .iter()
        .filter_map(|name| file(&format!("packaging/prometheus/tests/{name}.yml")))
        .collect();
    let healthy = tests.split_once("- name: healthy\n").unwrap().1;
    for Rule { kind, name, expression, .. } in rules(&text) {
        for Selector { metric, .. } in read(expression).selectors {
            let has_figures = metric.contains(':') || healthy.contains(&format!("series: {metric}{{"));
            assert!(has_figures, "{metric} is not in the test of a healthy host");
        }
        let fires = tests.split("- alertname: ").any(|test| {
            let (its, rest) = test.split_once('\n').unwrap();
            its == name && rest.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:")
        });
        assert!(kind == "record" || fires, "{name} fires in no test");
    }
}

#[test]
fn panels_name_what_there_is() {
    let Some(text) = file("packaging/grafana/sockwatch.json") else { return };
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let known = Known::new();
    let mut queries = 0;
    for target in
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten()
    {
        let labels = known.check(target["expr"].as_str().unwrap());
        for label in words_after(target["legendFormat"].as_str().unwrap(), "{{") {
            assert!(labels.contains(&label), "no label {label}: {target}");
        }
        queries += 1;
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            known.check(variable["query"]["query"].as_str().unwrap());
            queries += 1;
        }
    }
    assert!(queries > 40, "{queries}");
}

#[test]
#[should_panic(expected = "sockwatch_accept_queue_depth has no label by")]
fn a_label_of_another_metric_is_seen() {
    Known::new().check("sum(sockwatch_accept_queue_depth{by=\"fin\"})");
}

#[test]
#[should_panic(expected = "sockwatch_losses_total has no kind ring_ful")]
fn a_value_that_cannot_be_is_seen() {
    Known::new().check("rate(sockwatch_losses_total{kind=~\"ring_ful|skipped\"}[5m])");
}

#[test]
#[should_panic(expected = "there is no sockwatch_sockets_total")]
fn a_metric_that_is_none_is_seen() {
    Known::new().check("sum without (state) (sockwatch_sockets_total)");
}

#[test]
#[should_panic(expected = "there is no metric or label listner")]
fn a_label_that_is_summed_by_is_seen() {
    Known::new().check("sum by (listner) (sockwatch_accept_queue_depth) > 5 or vector(0) offset 5m");
}
