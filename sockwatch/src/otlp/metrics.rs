//! All metrics of an instant as one message. Temporality is cumulative: counts since their start, as /metrics has them.

use std::fmt;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point::Value,
    },
};

use super::{Origin, attributes::Attributes};
use crate::metrics::{
    Scrape,
    points::{Figure, Labels, Points},
    table::{Kind, Row, TABLE, Unit},
};

/// What the conventions call otherwise.
const CONVENTIONS: [(&str, &str); 2] =
    [("process_cpu", "process.cpu.time"), ("process_resident_memory", "process.memory.usage")];

/// When counting began: it must not move between two pushes, so it is read once.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Unix time of the start, in nanoseconds.
    pub unix_ns: u64,
    /// Unix time minus `CLOCK_MONOTONIC` then, in nanoseconds.
    pub offset_ns: u64,
}

/// A metric's name: that of /metrics with a dot behind `sockwatch`, without its unit. What translates it for Prometheus
/// adds unit and `_total`, and comes to the name of /metrics.
pub fn name(row: &Row) -> String {
    let known = CONVENTIONS.iter().find(|(ours, _)| *ours == row.name);
    match (known, row.name.split_once('_')) {
        (Some((_, theirs)), _) => (*theirs).to_owned(),
        (None, Some((namespace, name))) if row.kind == Kind::Info => format!("{namespace}.{name}_info"),
        (None, Some((namespace, name))) => format!("{namespace}.{name}"),
        (None, None) => row.name.to_owned(),
    }
}

/// A unit, as UCUM has it; empty where things are counted.
pub const fn unit(row: &Row) -> &'static str {
    match row.unit {
        Unit::None => "",
        Unit::Seconds => "s",
        Unit::Bytes => "By",
    }
}

/// Everything that a scrape tells, of this instant (Unix time in nanoseconds). Metrics without a series are left out.
pub fn request(scrape: &Scrape, origin: &Origin, start: Start, unix_ns: u64) -> ExportMetricsServiceRequest {
    let metrics = TABLE.iter().filter_map(|row| metric(row, scrape, start, unix_ns)).collect();
    let scope = ScopeMetrics { scope: Some(origin.scope()), metrics, ..ScopeMetrics::default() };
    let resource = Some(origin.resource());
    let all = ResourceMetrics { resource, scope_metrics: vec![scope], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![all] }
}

fn metric(row: &Row, scrape: &Scrape, start: Start, unix_ns: u64) -> Option<Metric> {
    let mut series = Series { kind: row.kind, start, unix_ns, numbers: Vec::new(), times: Vec::new() };
    row.tell(scrape, &mut series).expect("collecting series does not fail");
    let Series { numbers, times, .. } = series;
    if numbers.is_empty() && times.is_empty() {
        return None;
    }
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match row.kind {
        Kind::Counter => Data::Sum(Sum { data_points: numbers, aggregation_temporality, is_monotonic: true }),
        Kind::Gauge | Kind::Info => Data::Gauge(Gauge { data_points: numbers }),
        Kind::Histogram => Data::Histogram(Histogram { data_points: times, aggregation_temporality }),
    };
    let (name, description, unit) = (name(row), row.help.to_owned(), unit(row).to_owned());
    Some(Metric { name, description, unit, data: Some(data), ..Metric::default() })
}

/// The series of one metric.
struct Series {
    kind: Kind,
    start: Start,
    unix_ns: u64,
    numbers: Vec<NumberDataPoint>,
    times: Vec<HistogramDataPoint>,
}

impl Series {
    fn number(&mut self, attributes: Attributes, start_time_unix_nano: u64, value: Value) {
        self.numbers.push(NumberDataPoint {
            attributes: attributes.all(),
            start_time_unix_nano,
            time_unix_nano: self.unix_ns.max(start_time_unix_nano),
            value: Some(value),
            ..NumberDataPoint::default()
        });
    }
}

impl Points for Series {
    fn point(&mut self, labels: Labels<'_>, figure: Figure<'_>, since_ns: Option<u64>) -> fmt::Result {
        let mut attributes = Attributes::default();
        for (label, value) in labels {
            match self.kind {
                Kind::Info => attributes.own(label, value),
                Kind::Counter | Kind::Gauge | Kind::Histogram => attributes.label(label, value),
            }
        }
        // What was there before is counted since the start.
        let since = since_ns.map_or(0, |since_ns| since_ns.saturating_add(self.start.offset_ns));
        let since = since.max(self.start.unix_ns);
        match figure {
            Figure::Count(count) => self.number(attributes, since, Value::AsInt(count.try_into().unwrap_or(i64::MAX))),
            Figure::Amount(amount) => self.number(attributes, since, Value::AsDouble(amount)),
            // A gauge is as it is now, whenever it began.
            Figure::Level(level) => self.number(attributes, 0, Value::AsDouble(level)),
            Figure::Fact => self.number(attributes, 0, Value::AsInt(1)),
            Figure::Times(histogram) => {
                let (bounds, bucket_counts): (Vec<f64>, Vec<u64>) = histogram.buckets().into_iter().unzip();
                self.times.push(HistogramDataPoint {
                    attributes: attributes.all(),
                    start_time_unix_nano: since,
                    time_unix_nano: self.unix_ns.max(since),
                    count: histogram.count(),
                    sum: Some(histogram.sum_ns() as f64 / 1e9),
                    bucket_counts,
                    // The last bucket has no bound.
                    explicit_bounds: bounds.into_iter().filter(|bound| bound.is_finite()).collect(),
                    ..HistogramDataPoint::default()
                });
            }
        }
        Ok(())
    }
}
