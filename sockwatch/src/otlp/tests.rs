//! Labs' events in, messages out; what they say is compared with what /metrics and `trace` say of the same events.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{HistogramDataPoint, Metric, NumberDataPoint, metric::Data, number_data_point},
};
use prost::Message;

use super::{
    Origin, attributes, document,
    logs::{self, Ended},
    metrics::{self, Start},
};
use crate::{
    metrics::{
        Arrivals, Cost, Metrics, Pushed, Scrape,
        table::{Kind, TABLE},
    },
    process::names::{Names, Told},
    sink::{Sight, selected::Selection},
    tcp::{
        notation,
        order::Order,
        tracker::Tracker,
        update::{Happening, Update},
    },
};

const MS: u64 = 1_000_000;

/// After the last event of every lab.
const LATER_NS: u64 = 30_000 * MS;

/// sockwatch started at this Unix time, 1 ms after the clock's zero.
const START: Start = Start { unix_ns: 1_700_000_000_000_000_000, offset_ns: 1_699_999_999_999_000_000 };

fn origin() -> Origin {
    Origin { version: "1.2.3".into(), host: "web-1".into(), port: 29798, kernel: "6.18.0".into() }
}

/// A lab's updates, and the tracker at its end.
fn lab(name: &str) -> (Tracker, Vec<Update>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/labs/{name}.events"));
    let text = fs::read_to_string(path).unwrap();
    let (mut tracker, mut order, mut updates) = (Tracker::default(), Order::default(), Vec::new());
    order.append(&mut text.lines().map(|line| notation::parse(line).unwrap()).collect());
    order.release_all(|event| tracker.apply(event, &mut updates));
    tracker.expire(LATER_NS, &mut updates);
    (tracker, updates)
}

/// All metrics after a lab, as a receiver decodes them.
fn pushed(name: &str) -> HashMap<String, Metric> {
    let (tracker, updates) = lab(name);
    let mut counted = Metrics::new(200, Arrivals::Enqueues);
    updates.iter().for_each(|update| counted.take(update));
    let sight = Sight { now_ns: LATER_NS, tracker: &tracker, is_last: false };
    let pushed = Pushed { records: vec![("delivered", 7)], waiting: 3, ..Pushed::default() };
    let cost = Cost { version: "1.2.3".into(), cpu_s: 0.5, otlp: Some(pushed), ..Cost::default() };
    let scrape = Scrape { snapshot: Arc::new(counted.snapshot(&sight, &mut Selection::default())), cost };
    let now_ns = START.offset_ns + LATER_NS;
    let bytes = metrics::request(&scrape, &origin(), START, now_ns).encode_to_vec();
    let mut request = ExportMetricsServiceRequest::decode(bytes.as_slice()).unwrap();
    let mut resource = request.resource_metrics.pop().unwrap();
    assert_eq!(text(&resource.resource.unwrap().attributes, "service.instance.id"), "web-1:29798");
    let scope = resource.scope_metrics.pop().unwrap();
    assert_eq!(scope.scope.unwrap().name, "sockwatch");
    scope.metrics.into_iter().map(|metric| (metric.name.clone(), metric)).collect()
}

fn find<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    let mut found = attributes.iter().filter(|attribute| attribute.key == name);
    let value = found.next()?.value.as_ref()?.value.as_ref();
    assert!(found.next().is_none(), "{name} stands there twice");
    value
}

#[track_caller]
fn text<'a>(attributes: &'a [KeyValue], name: &str) -> &'a str {
    match find(attributes, name) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn number(attributes: &[KeyValue], name: &str) -> i64 {
    match find(attributes, name) {
        Some(Value::IntValue(number)) => *number,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn numbers(metric: &Metric) -> &[NumberDataPoint] {
    match &metric.data {
        Some(Data::Sum(sum)) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{metric:?}");
            &sum.data_points
        }
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn times(metric: &Metric) -> &[HistogramDataPoint] {
    let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(histogram.aggregation_temporality, 2);
    &histogram.data_points
}

#[test]
fn waits_of_a_slow_server_are_those_of_metrics() {
    let told = pushed("slow-accept");
    let waits = &told["sockwatch.queue_wait"];
    assert_eq!(waits.unit, "s");
    let [waits] = times(waits) else { panic!("{waits:?}") };
    assert_eq!(
        (text(&waits.attributes, "server.address"), number(&waits.attributes, "server.port")),
        ("127.0.0.1", 43525)
    );
    assert_eq!(number(&waits.attributes, "sockwatch.netns"), 1);
    assert_eq!(find(&waits.attributes, "process.executable.name"), None, "it is not known");
    assert_eq!((waits.count, waits.bucket_counts.len(), waits.explicit_bounds.len()), (5, 23, 22));
    assert!((waits.sum.unwrap() - 0.759_814_756).abs() < 1e-9, "{waits:?}");
    // 50.7 in (0.05, 0.1], 100.9 and 151.1 in (0.1, 0.2], 201.3 and 255.8 ms in (0.2, 0.5]: none adds what is below.
    let within = |bound: f64| {
        let at = waits.explicit_bounds.iter().position(|its| *its == bound).unwrap();
        waits.bucket_counts[at]
    };
    assert_eq!([0.05, 0.1, 0.2, 0.5, 1.0].map(within), [0, 1, 2, 2, 0]);
    assert_eq!(waits.bucket_counts.iter().sum::<u64>(), waits.count);
}

#[test]
fn counts_begin_when_their_series_did() {
    let told = pushed("slow-accept");
    let ended = numbers(&told["sockwatch.connections_ended"]);
    let count = |role: &str, end: &str| {
        let has = |point: &&NumberDataPoint| {
            text(&point.attributes, "sockwatch.role") == role && text(&point.attributes, "sockwatch.end") == end
        };
        ended.iter().find(has).unwrap().value
    };
    assert_eq!(count("passive", "local-fin"), Some(number_data_point::Value::AsInt(5)));
    assert!(ended.iter().all(|point| point.start_time_unix_nano == START.unix_ns), "{ended:?}");
    assert!(ended.iter().all(|point| point.time_unix_nano == START.offset_ns + LATER_NS), "{ended:?}");
    for metric in ["sockwatch.accept_queue_accepts", "sockwatch.accept_queue_arrivals"] {
        let [point] = numbers(&told[metric]) else { panic!("{metric}") };
        assert_eq!(point.value, Some(number_data_point::Value::AsInt(5)), "{metric}");
        let since_ns = point.start_time_unix_nano;
        assert!(since_ns >= START.unix_ns && since_ns < point.time_unix_nano, "{point:?}");
    }
    let [waiting] = numbers(&told["sockwatch.otlp_records_waiting"]) else { panic!("{told:?}") };
    assert_eq!((waiting.start_time_unix_nano, waiting.value), (0, Some(number_data_point::Value::AsDouble(3.0))));
    let [cpu] = numbers(&told["process.cpu.time"]) else { panic!("{told:?}") };
    assert_eq!(cpu.value, Some(number_data_point::Value::AsDouble(0.5)));
}

#[test]
fn states_are_spelled_as_the_conventions_do() {
    let told = pushed("slow-accept");
    let states = numbers(&told["sockwatch.sockets"]);
    let waiting = states.iter().find(|point| text(&point.attributes, "network.connection.state") == "time_wait");
    assert_eq!(waiting.unwrap().value, Some(number_data_point::Value::AsDouble(5.0)));
    let mut words: Vec<_> = states.iter().map(|point| text(&point.attributes, "network.connection.state")).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), states.len(), "two series are the same: {words:?}");
}

/// A label that the table does not know would become one of ours, unseen.
#[test]
fn every_label_has_a_name() {
    for row in TABLE.iter().filter(|row| row.kind != Kind::Info) {
        for label in row.labels {
            assert!(attributes::told(label).is_some(), "{} {label}", row.name);
        }
    }
    let told = pushed("overflow");
    for row in TABLE {
        let name = metrics::name(row);
        assert!(name.starts_with("sockwatch.") || name.starts_with("process."), "{name}");
        assert!(document::page().contains(&format!("| `{name}` |")), "{name}");
    }
    let [build] = numbers(&told["sockwatch.build_info"]) else { panic!("{told:?}") };
    assert_eq!(text(&build.attributes, "sockwatch.version"), "1.2.3");
}

#[test]
fn ends_are_addresses_and_ports() {
    let check = |value: &str, address: &str, port: Option<i64>| {
        let mut told = attributes::Attributes::default();
        told.label("listener", value);
        let told = told.all();
        assert_eq!(text(&told, "server.address"), address, "{value}");
        assert_eq!(find(&told, "server.port"), port.map(Value::IntValue).as_ref(), "{value}");
    };
    check("127.0.0.1:80", "127.0.0.1", Some(80));
    check("[2001:db8::1]:443", "2001:db8::1", Some(443));
    check("0.0.0.0:*", "0.0.0.0", None);
    check("other", "other", None);
}

/// Records of all that has ended in a lab, as a receiver decodes them.
fn records(name: &str) -> Vec<LogRecord> {
    let (_, updates) = lab(name);
    let mut names = Names::told(Told::default());
    let ended = updates.iter().filter_map(|update| match &update.happening {
        Happening::Ended(connection) => Some(Ended::of(update.at_ns, connection, &mut names)),
        _other => None,
    });
    let ended: Vec<_> = ended.collect();
    let bytes = logs::request(&ended, &origin(), START.offset_ns, START.unix_ns).encode_to_vec();
    let mut request = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap();
    let mut resource = request.resource_logs.pop().unwrap();
    assert_eq!(text(&resource.resource.unwrap().attributes, "host.name"), "web-1");
    resource.scope_logs.pop().unwrap().log_records
}

#[test]
fn a_record_tells_what_trace_does() {
    let records = records("slow-accept");
    let roles: Vec<_> = records.iter().map(|record| text(&record.attributes, "sockwatch.role")).collect();
    let count = |role| roles.iter().filter(|its| **its == role).count();
    assert_eq!((count("active"), count("passive"), count("listener")), (5, 5, 1), "{roles:?}");
    for record in &records {
        let told = &record.attributes;
        assert_eq!(text(told, "network.transport"), "tcp");
        assert_eq!(text(told, "network.type"), "ipv4");
        assert!(record.time_unix_nano > START.offset_ns, "{record:?}");
        assert_eq!((record.observed_time_unix_nano, &*record.severity_text), (START.unix_ns, "INFO"));
        let Some(Value::StringValue(body)) = &record.body.as_ref().unwrap().value else { panic!("{record:?}") };
        match text(told, "sockwatch.role") {
            "passive" => {
                assert_eq!(record.event_name, "sockwatch.connection.end");
                assert_eq!(text(told, "sockwatch.end"), "local-fin");
                assert!(body.contains("closed first"), "{body}");
                // The server's port is the destination's, on both ends of a connection.
                assert_eq!((number(told, "destination.port"), number(told, "network.local.port")), (43525, 43525));
                assert!(number(told, "sockwatch.queue_wait_ns") > 0 && number(told, "sockwatch.lifetime_ns") > 0);
            }
            "active" => {
                assert_eq!((number(told, "destination.port"), number(told, "network.peer.port")), (43525, 43525));
                assert_eq!(find(told, "sockwatch.queue_wait_ns"), None);
            }
            "listener" => {
                assert_eq!(record.event_name, "sockwatch.listener.end");
                assert_eq!(number(told, "server.port"), 43525);
                assert_eq!(find(told, "network.peer.address"), None);
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn what_somebody_did_not_get_is_a_warning() {
    let check = |lab: &str, end: &str| {
        let records = records(lab);
        let found = records.iter().find(|record| text(&record.attributes, "sockwatch.end") == end);
        let found = found.unwrap_or_else(|| panic!("no {end} in {lab}: {records:?}"));
        assert_eq!((found.severity_number, &*found.severity_text), (13, "WARN"), "{lab}");
    };
    check("refused", "refused");
    check("queue-rst", "peer-rst");
    check("queue-fin", "unqueued");
    check("linger-zero", "peer-rst");
}

/// The page names every attribute that a record of any lab has, and none that no record can have twice.
#[test]
fn the_page_names_every_attribute() {
    let known: Vec<_> = document::RECORD.iter().map(|(name, ..)| *name).collect();
    for lab in ["slow-accept", "overflow", "queue-rst", "refused", "linger-zero", "fast-open", "unread-bytes"] {
        for record in records(lab) {
            for attribute in &record.attributes {
                assert!(known.contains(&&*attribute.key), "{lab}: {}", attribute.key);
                assert!(find(&record.attributes, &attribute.key).is_some());
            }
            let Some(Value::ArrayValue(states)) = find(&record.attributes, "sockwatch.states") else {
                panic!("{lab}: {record:?}")
            };
            assert!(states.values.iter().all(|stay| matches!(stay.value, Some(Value::KvlistValue(_)))), "{lab}");
        }
    }
}
