//! Labs' events in, metrics out: the figures are those of the events themselves.

mod strict;
mod views;

use std::{fs, path::PathBuf, sync::Arc};

use self::strict::{Parsed, parse};
use super::{
    snapshot::Cost,
    table::TABLE,
    text::{self, Format},
    *,
};
use crate::sink::selected::Selection;
use crate::tcp::{endpoint::Endpoint, notation, order::Order, tracker::Tracker};

const MS: u64 = 1_000_000;

/// After the last event of every lab.
const LATER_NS: u64 = 30_000 * MS;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/labs")
}

fn lab(name: &str) -> String {
    fs::read_to_string(directory().join(format!("{name}.events"))).unwrap()
}

/// A run that counts.
struct Run {
    metrics: Metrics,
    tracker: Tracker,
}

impl Run {
    fn new(metrics: Metrics) -> Self {
        Self { metrics, tracker: Tracker::default() }
    }

    /// Takes the events in that come until then, and says what is told then.
    fn until(&mut self, events: &str, until_ns: u64) -> Parsed {
        let events = events.lines().map(|line| notation::parse(line).unwrap());
        let (mut order, mut updates) = (Order::default(), Vec::new());
        order.append(&mut events.filter(|event| event.at_ns <= until_ns).collect());
        order.release_all(|event| self.tracker.apply(event, &mut updates));
        self.tracker.expire(until_ns, &mut updates);
        updates.iter().for_each(|update| self.metrics.take(update));
        self.told(until_ns)
    }

    fn told(&mut self, now_ns: u64) -> Parsed {
        let sight = Sight { now_ns, tracker: &self.tracker, is_last: false };
        let scrape = Scrape {
            snapshot: Arc::new(self.metrics.snapshot(&sight, &mut Selection::default())),
            cost: Cost::default(),
        };
        let told = text::write(scrape.clone(), Format::OpenMetrics).unwrap();
        check_classic(&text::write(scrape, Format::Classic).unwrap(), &told);
        let parsed = parse(&told);
        check_table(&parsed);
        parsed
    }
}

fn run(events: &str, until_ns: u64) -> Parsed {
    Run::new(Metrics::new(200, Arrivals::Enqueues)).until(events, until_ns)
}

/// The same samples; every one declared by its own name.
#[track_caller]
fn check_classic(classic: &str, told: &str) {
    let samples =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(samples(classic), samples(told));
    let mut declared = ("", "");
    for line in classic.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            declared = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&declared.1), "{line}");
        } else if line.starts_with("# ") {
            assert!(line.starts_with("# HELP "), "{line}");
        } else {
            let suffix = line.strip_prefix(declared.0).unwrap_or_else(|| panic!("{line} is not declared"));
            let suffix = suffix.split(['{', ' ']).next().unwrap();
            let its = if declared.1 == "histogram" { ["_bucket", "_sum", "_count"].as_slice() } else { &[""] };
            assert!(its.contains(&suffix), "{line} is not declared: {declared:?}");
        }
    }
}

/// Every sample is of a row, and has no label that the row does not name.
#[track_caller]
fn check_table(parsed: &Parsed) {
    for sample in parsed.0.keys() {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let row = TABLE.iter().find(|row| {
            let suffix = name.strip_prefix(&row.exposed());
            let histogram = row.kind == table::Kind::Histogram;
            suffix.is_some_and(|suffix| suffix.is_empty() || histogram && suffix.starts_with('_'))
        });
        let row = row.unwrap_or_else(|| panic!("{sample} is no row"));
        for label in labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(label, _)| label) {
            assert!(label == "le" || row.labels.contains(&label), "{sample}");
        }
    }
}

const SLOW: &str = "{netns=\"1\",listener=\"127.0.0.1:43525\",process=\"\"}";
const SERVER: &str = "{netns=\"1\",listener=\"127.0.0.1:8080\",process=\"server\"}";

/// A name with labels, and perhaps one more of them.
fn of(name: &str, labels: &str, more: &str) -> String {
    let labels = labels.trim_end_matches('}');
    if more.is_empty() { format!("sockwatch_{name}{labels}}}") } else { format!("sockwatch_{name}{labels},{more}}}") }
}

fn bucket(name: &str, bound: &str, labels: &str) -> String {
    format!("sockwatch_{name}_seconds_bucket{{le=\"{bound}\",{}", &labels[1..])
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} {expected}");
}

#[test]
fn waits_of_a_slow_server() {
    let told = run(&lab("slow-accept"), LATER_NS);
    // 50.7, 100.9, 151.1, 201.3 and 255.8 ms.
    let within = |bound| told.get(&bucket("queue_wait", bound, SLOW));
    assert_eq!(["0.05", "0.1", "0.2", "0.5", "100.0", "+Inf"].map(within), [0.0, 1.0, 3.0, 5.0, 5.0, 5.0]);
    near(told.get(&of("queue_wait_seconds_sum", SLOW, "")), 0.759_814_756);
    // 20.6, 7.0, 6.6, 6.4 and 6.5 µs.
    let within = |bound| told.get(&bucket("handshake", bound, SLOW));
    assert_eq!(["0.00001", "0.00002", "0.00005", "+Inf"].map(within), [4.0, 4.0, 5.0, 5.0]);
    near(told.get(&of("handshake_seconds_sum", SLOW, "")), 0.000_047_134);
    for (name, expected) in [("arrivals", 5.0), ("accepts", 5.0), ("unqueued", 0.0), ("overflows", 0.0)] {
        assert_eq!(told.get(&of(&format!("accept_queue_{name}_total"), SLOW, "")), expected, "{name}");
    }
    let ends: Vec<_> = told.all("sockwatch_connections_ended_total").collect();
    let expected = [
        ("{role=\"active\",end=\"peer-fin\"}", 5.0),
        ("{role=\"listener\",end=\"stopped\"}", 1.0),
        ("{role=\"passive\",end=\"local-fin\"}", 5.0),
    ];
    assert_eq!(ends, expected);
    // The server has closed first.
    let states: Vec<_> = told.all("sockwatch_sockets").filter(|(_, count)| *count > 0.0).collect();
    assert_eq!(states, [("{state=\"TIME_WAIT\"}", 5.0)]);
}

#[test]
fn a_full_queue_as_it_is_now() {
    let mut run = Run::new(Metrics::new(200, Arrivals::Enqueues));
    let told = run.until(&lab("overflow"), 100 * MS);
    assert_eq!(told.get(&of("accept_queue_depth", SERVER, "")), 3.0);
    assert_eq!(told.get(&of("accept_queue_limit", SERVER, "")), 2.0);
    // The first was born at 0.313066 ms.
    near(told.get(&of("accept_queue_oldest_age_seconds", SERVER, "")), 0.099_686_934);
    assert_eq!(told.get(&of("accept_queue_overflows_total", SERVER, "")), 1.0);
    assert_eq!(told.get(&of("queue_wait_seconds_count", SERVER, "")), 0.0, "nobody was accepted yet");
    assert_eq!(told.get("sockwatch_sockets{state=\"LISTEN\"}"), 1.0);
    // Four clients, of which one believes to be connected; three children.
    assert_eq!(told.get("sockwatch_sockets{state=\"ESTABLISHED\"}"), 7.0);
    let taken = "sockwatch_local_ports_taken{netns=\"1\",source=\"127.0.0.1\",destination=\"127.0.0.1:8080\"}";
    assert_eq!(told.get(taken), 4.0);
}

#[test]
fn a_full_queue_afterwards() {
    let reasons = [(14, "TCP_DISCONNECT_WITH_DATA".to_owned()), (99, "NONE".to_owned())];
    let metrics = Metrics::new(200, Arrivals::Enqueues).naming(reasons.into_iter().collect());
    let told = Run::new(metrics).until(&lab("overflow"), LATER_NS);
    for (name, expected) in [("arrivals", 4.0), ("accepts", 4.0), ("overflows", 2.0)] {
        assert_eq!(told.get(&of(&format!("accept_queue_{name}_total"), SERVER, "")), expected, "{name}");
    }
    // 1.99, 224.7, 232.8 and 235.4 ms.
    let within = |bound| told.get(&bucket("queue_wait", bound, SERVER));
    assert_eq!(["0.001", "0.002", "0.2", "0.5"].map(within), [0.0, 1.0, 1.0, 4.0]);
    assert_eq!(told.get("sockwatch_resets_received_total{role=\"active\"}"), 4.0);
    let sent: Vec<_> = told.all("sockwatch_resets_sent_total").collect();
    assert_eq!(sent.iter().map(|(_, count)| count).sum::<f64>(), 4.0, "{sent:?}");
    assert!(sent.iter().any(|(cause, _)| *cause == "{cause=\"TCP_DISCONNECT_WITH_DATA\"}"), "{sent:?}");
    assert!(sent.iter().any(|(cause, count)| (*cause, *count) == ("{cause=\"11\"}", 2.0)), "no name: {sent:?}");
    assert_eq!(told.get("sockwatch_retransmits_total"), 2.0);
    for gauge in ["depth", "limit", "oldest_age_seconds"] {
        let told = told.all(&format!("sockwatch_accept_queue_{gauge}")).count();
        assert_eq!(told, 0, "nobody listens any more: {gauge}");
    }
}

#[test]
fn clients_that_leave() {
    let told = run(&lab("queue-rst"), LATER_NS);
    assert_eq!(told.get(&of("accept_queue_abandoned_total", SERVER, "by=\"rst\"")), 1.0);
    assert_eq!(told.get(&of("accept_queue_abandoned_total", SERVER, "by=\"fin\"")), 0.0);
    assert_eq!(told.get(&of("accept_queue_dead_on_arrival_total", SERVER, "state=\"CLOSE\"")), 1.0);
    let told = run(&lab("queue-fin"), LATER_NS);
    assert_eq!(told.get(&of("accept_queue_abandoned_total", SERVER, "by=\"fin\"")), 2.0);
    assert_eq!(told.get(&of("accept_queue_dead_on_arrival_total", SERVER, "state=\"CLOSE_WAIT\"")), 1.0);
    assert_eq!(told.get(&of("accept_queue_dead_on_arrival_total", SERVER, "state=\"CLOSE\"")), 0.0);
    assert_eq!(told.get(&of("accept_queue_unqueued_total", SERVER, "")), 1.0);
    assert_eq!(told.get("sockwatch_connections_ended_total{role=\"passive\",end=\"unqueued\"}"), 1.0);
}

#[test]
fn accept_fails_by_name() {
    let told = run(&lab("out-of-descriptors"), LATER_NS);
    assert_eq!(told.get(&of("accept_errors_total", SERVER, "errno=\"EMFILE\"")), 1.0);
    assert_eq!(told.get(&of("accept_queue_accepts_total", SERVER, "")), 1.0);
}

/// Two processes at one address are two series; where there is room for one, the other is in the rest.
#[test]
fn too_many_listeners_are_folded() {
    let told = run(&lab("reuseport"), LATER_NS);
    let listeners: Vec<_> = told.all("sockwatch_accept_queue_arrivals_total").map(|(labels, _)| labels).collect();
    assert!(listeners[0].contains("server-1") && listeners[1].contains("server-2"), "{listeners:?}");
    assert_eq!((listeners.len(), told.get("sockwatch_listeners_folded_total")), (2, 0.0));

    let told = Run::new(Metrics::new(1, Arrivals::Enqueues)).until(&lab("reuseport"), LATER_NS);
    let arrivals: Vec<_> = told.all("sockwatch_accept_queue_arrivals_total").collect();
    assert_eq!(told.get("sockwatch_listeners_folded_total"), 1.0);
    assert_eq!(arrivals.len(), 2, "{arrivals:?}");
    assert!(arrivals.iter().any(|(labels, _)| *labels == "{listener=\"other\"}"), "{arrivals:?}");
    assert_eq!(arrivals.iter().map(|(_, count)| count).sum::<f64>(), 1.0, "{arrivals:?}");
}

#[test]
fn a_series_outlives_its_listener_by_minutes() {
    let mut run = Run::new(Metrics::new(1, Arrivals::Enqueues));
    run.until(&lab("overflow"), LATER_NS);
    let ended_ns = 450 * MS;
    let told = run.told(ended_ns + series::GONE_NS);
    assert_eq!(told.get(&of("accept_queue_accepts_total", SERVER, "")), 4.0);
    let told = run.told(ended_ns + series::GONE_NS + 60_000 * MS);
    assert_eq!(told.all("sockwatch_accept_queue_accepts_total").count(), 0);
    // What ended stays counted, and its place is free.
    assert_eq!(told.get("sockwatch_connections_ended_total{role=\"listener\",end=\"stopped\"}"), 1.0);
    let told = run.until(&lab("queue-rst"), LATER_NS);
    assert_eq!(told.get(&of("accept_queue_arrivals_total", SERVER, "")), 1.0);
    assert_eq!(told.get("sockwatch_listeners_folded_total"), 0.0);
}

/// Without the enqueue probe nothing tells whose queue a connection is in, but for its address.
#[test]
fn addresses_stand_in_for_the_enqueue_probe() {
    let events = lab("overflow");
    let events: Vec<_> = events.lines().filter(|line| !line.contains(" enqueue ")).collect();
    let told = Run::new(Metrics::new(200, Arrivals::Births)).until(&events.join("\n"), LATER_NS);
    for (name, expected) in [("arrivals", 4.0), ("accepts", 4.0)] {
        assert_eq!(told.get(&of(&format!("accept_queue_{name}_total"), SERVER, "")), expected, "{name}");
    }
    assert_eq!(told.get(&of("queue_wait_seconds_count", SERVER, "")), 4.0);
    assert_eq!(told.get("sockwatch_accepts_unattributed_total"), 0.0);
    // Of two listeners at one address it is not known which it was.
    let events: Vec<_> = events.into_iter().map(|line| line.replace("0.000000000 1:1 ", "0.000000000 1:90 ")).collect();
    let second = "0.000000100 1:91 @91 127.0.0.1:8080 0.0.0.0:* opening new=LISTEN by=second/9/9 limit=2";
    let events = format!("{}\n{second}\n{}", events[0], events[1..].join("\n"));
    let told = Run::new(Metrics::new(200, Arrivals::Births)).until(&events, 400 * MS);
    assert_eq!(told.get("sockwatch_accepts_unattributed_total"), 3.0);
}

#[test]
fn a_name_in_a_label_is_printable() {
    let mut metrics = Metrics::new(200, Arrivals::Enqueues);
    let mut listen = |cookie: u64, comm: &[u8]| {
        let mut name = [0; 16];
        name[..comm.len()].copy_from_slice(comm);
        let owner = Some(Task { pid: 1, tid: 1, comm: Comm(name) });
        let local = Endpoint::v4([127, 0, 0, 1], 80);
        let remote = Endpoint::v4([0; 4], 0);
        let key = SocketKey { netns: 1, cookie };
        let subject = Subject { key, incarnation: 0, role: Role::Listener, local, remote, owner };
        let happening = Happening::Listed { state: TcpState::Listen, queue: None, expires_ns: None };
        metrics.take(&Update { at_ns: 1, subject, happening });
    };
    listen(1, b"a\"\\\n");
    // Names that look the same are the same: two series of one name would be refused by every scraper.
    listen(2, b"b\x01");
    listen(3, b"b\x02");
    listen(4, b"\xff\xfe");
    let told = Run::new(metrics).told(MS);
    let listeners: Vec<_> = told.all("sockwatch_accept_queue_accepts_total").map(|(labels, _)| labels).collect();
    assert_eq!(listeners.len(), 3, "{listeners:?}");
    assert!(listeners.iter().any(|labels| labels.ends_with("process=\"a\\\"\\\\?\"}")), "{listeners:?}");
    assert!(listeners.iter().any(|labels| labels.ends_with("process=\"b?\"}")), "{listeners:?}");
}

/// A listener is told of by a child before it tells of itself: its counts stay, and get its name.
#[test]
fn a_listener_that_is_named_late_keeps_its_counts() {
    let late = "0.500000000 1:3 @b 0.0.0.0:43525 0.0.0.0:* held by=late/1/1\n";
    let events = lab("slow-accept");
    let events: Vec<_> = events.lines().take(26).collect();
    let mut run = Run::new(Metrics::new(200, Arrivals::Enqueues));
    let told = run.until(&events.join("\n"), 100 * MS);
    assert_eq!(told.get(&of("queue_wait_seconds_count", SLOW, "")), 1.0);
    let listed = "0.400000000 1:3 @b 0.0.0.0:43525 0.0.0.0:* listed state=LISTEN queue=4/128 interval_ns=1\n";
    let told = run.until(&format!("{listed}{late}"), 600 * MS);
    let named = "{netns=\"1\",listener=\"0.0.0.0:43525\",process=\"late\"}";
    assert_eq!(told.get(&of("queue_wait_seconds_count", named, "")), 1.0);
    assert_eq!(told.get(&of("accept_queue_arrivals_total", named, "")), 5.0);
    assert_eq!(told.all("sockwatch_accept_queue_arrivals_total").count(), 1);
}

/// Of every lab, at many instants, what is told can be read.
#[test]
fn what_is_told_of_any_lab_is_open_metrics() {
    let mut labs = 0;
    for file in fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "events") {
            let events = fs::read_to_string(&file).unwrap();
            for until_ns in [10 * MS, 100 * MS, 1000 * MS, LATER_NS] {
                run(&events, until_ns);
            }
            labs += 1;
        }
    }
    assert!(labs >= 40, "{labs}");
}

#[test]
fn the_table_keeps_to_conventions() {
    let mut names = std::collections::HashSet::new();
    for row in TABLE {
        assert!(names.insert(row.exposed()), "{} stands there twice", row.exposed());
        assert!(row.exposed().starts_with("sockwatch_") || row.exposed().starts_with("process_"), "{}", row.exposed());
        assert!(row.help.ends_with('.') && !row.help.contains('|') && !row.help.contains("  "), "{}", row.help);
    }
}
