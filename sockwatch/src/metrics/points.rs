//! What the table's rows tell, to whoever writes it down: Prometheus' texts, or OTLP's messages.

use std::fmt;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

use super::histogram::Histogram;

/// Labels of a series: names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// The figure of one series.
#[derive(Clone, Copy, Debug)]
pub enum Figure<'a> {
    /// A counter's.
    Count(u64),
    /// A counter's that is no whole number.
    Amount(f64),
    /// A gauge's.
    Level(f64),
    /// A histogram's.
    Times(&'a Histogram),
    /// An info's: always 1.
    Fact,
}

/// Takes the series of one metric, one after the other.
pub trait Points {
    /// A series. `since_ns` is when its figure was 0, in nanoseconds of `CLOCK_MONOTONIC`; `None`: when sockwatch
    /// started.
    ///
    /// # Errors
    /// If it cannot be written.
    fn point(&mut self, labels: Labels<'_>, figure: Figure<'_>, since_ns: Option<u64>) -> fmt::Result;
}

impl Points for MetricEncoder<'_> {
    /// Prometheus sees by itself when a counter begins anew.
    fn point(&mut self, labels: Labels<'_>, figure: Figure<'_>, _since_ns: Option<u64>) -> fmt::Result {
        if labels.is_empty() || matches!(figure, Figure::Fact) {
            encode(self, labels, figure)
        } else {
            encode(&mut self.encode_family(&labels)?, labels, figure)
        }
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, labels: Labels<'_>, figure: Figure<'_>) -> fmt::Result {
    match figure {
        Figure::Count(count) => encoder.encode_counter::<NoLabelSet, _, f64>(&count, None),
        Figure::Amount(amount) => encoder.encode_counter::<NoLabelSet, _, f64>(&amount, None),
        Figure::Level(level) => encoder.encode_gauge(&level),
        Figure::Times(histogram) => {
            let (sum_s, count) = (histogram.sum_ns() as f64 / 1e9, histogram.count());
            encoder.encode_histogram::<NoLabelSet>(sum_s, count, &histogram.buckets(), None)
        }
        // Its labels are what it tells.
        Figure::Fact => encoder.encode_info(&labels),
    }
}
