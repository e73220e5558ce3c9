//! What is pushed to an OTLP receiver: the metrics of [`crate::metrics`] and a log record for each connection that has
//! ended, as OpenTelemetry's messages. Pure: no I/O, no clock; who sends them is `command/serve/otlp`.
//!
//! The messages are the official ones (`opentelemetry-proto`), without OpenTelemetry's SDK: its metrics are instruments
//! that it aggregates itself, and ours are aggregated already. Every metric is a row of
//! [`crate::metrics::table::TABLE`], as for /metrics; [`attributes::LABELS`] says what its labels are called here.

pub mod answer;
pub mod attributes;
pub mod document;
pub mod logs;
pub mod metrics;

use opentelemetry_proto::tonic::{common::v1::InstrumentationScope, resource::v1::Resource};

use self::attributes::Attributes;

/// The kinds of telemetry that are pushed, each in requests of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// All metrics, as they are at an instant.
    Metrics,
    /// What has ended.
    Logs,
}

impl Signal {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Metrics, Self::Logs];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// Where requests go by HTTP, behind the URL's own path.
    pub const fn http_path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }

    /// The gRPC method.
    pub const fn grpc_path(self) -> &'static str {
        match self {
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }
}

/// Who pushes: the resource of every message.
#[derive(Clone, Debug)]
pub struct Origin {
    /// sockwatch's version.
    pub version: String,
    /// The host's name; empty if it is not known.
    pub host: String,
    /// The port at which this sockwatch answers: on one host no two have the same.
    pub port: u16,
    /// The kernel's release.
    pub kernel: String,
}

impl Origin {
    /// Its attributes.
    pub fn resource(&self) -> Resource {
        let mut attributes = Attributes::default();
        attributes.text("service.name", "sockwatch");
        attributes.text("service.version", &self.version);
        attributes.text("service.instance.id", &format!("{}:{}", self.host, self.port));
        attributes.text("host.name", &self.host);
        attributes.text("os.type", "linux");
        attributes.text("sockwatch.kernel", &self.kernel);
        Resource { attributes: attributes.all(), ..Resource::default() }
    }

    fn scope(&self) -> InstrumentationScope {
        let (name, version) = ("sockwatch".into(), self.version.clone());
        InstrumentationScope { name, version, ..InstrumentationScope::default() }
    }
}

#[cfg(test)]
mod tests;
