//! Attributes: the names of OpenTelemetry's semantic conventions where there are such, else `sockwatch.*`.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};

use crate::tcp::endpoint::Endpoint;

/// The conventions that names are taken from (<https://opentelemetry.io/docs/specs/semconv/>).
pub const CONVENTIONS: &str = "1.37.0";

/// What a label of /metrics becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A string.
    Text(&'static str),
    /// An integer.
    Number(&'static str),
    /// An address (string) and a port (integer), the latter where there is one.
    End(&'static str, &'static str),
    /// A TCP state in the conventions' spelling.
    State(&'static str),
}

/// Every label of /metrics, but for those of infos: these have their own names behind `sockwatch.`.
pub const LABELS: &[(&str, Told)] = &[
    ("netns", Told::Number("sockwatch.netns")),
    ("listener", Told::End("server.address", "server.port")),
    ("process", Told::Text("process.executable.name")),
    ("by", Told::Text("sockwatch.by")),
    ("state", Told::State("network.connection.state")),
    ("errno", Told::Text("error.type")),
    ("role", Told::Text("sockwatch.role")),
    ("end", Told::Text("sockwatch.end")),
    ("cause", Told::Text("sockwatch.cause")),
    ("source", Told::Text("source.address")),
    ("destination", Told::End("destination.address", "destination.port")),
    ("kind", Told::Text("sockwatch.kind")),
    ("program", Told::Text("sockwatch.program")),
    ("path", Told::Text("url.path")),
    ("code", Told::Number("http.response.status_code")),
    ("reason", Told::Text("sockwatch.reason")),
    ("outcome", Told::Text("sockwatch.outcome")),
    ("signal", Told::Text("sockwatch.signal")),
];

/// Attributes in the making.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// All of them.
    pub fn all(self) -> Vec<KeyValue> {
        self.0
    }

    /// A string; an empty one says nothing.
    pub fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.add(name, Value::StringValue(text.to_owned()));
        }
    }

    /// An integer. What is greater than 2⁶³ - 1 is that.
    pub fn number(&mut self, name: &str, number: impl TryInto<i64>) {
        self.add(name, integer(number));
    }

    /// An integer, if it is known.
    pub fn number_if(&mut self, name: &str, number: Option<impl TryInto<i64>>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    /// An address, and a port that is not 0.
    pub fn end(&mut self, prefix: &str, end: Endpoint) {
        self.text(&format!("{prefix}.address"), &end.address.to_string());
        if end.port != 0 {
            self.number(&format!("{prefix}.port"), end.port);
        }
    }

    /// A list of groups of attributes.
    pub fn list(&mut self, name: &str, groups: impl IntoIterator<Item = Self>) {
        let group = |group: Self| any(Value::KvlistValue(KeyValueList { values: group.0 }));
        self.add(name, Value::ArrayValue(ArrayValue { values: groups.into_iter().map(group).collect() }));
    }

    /// What a label of /metrics becomes. An empty one says nothing.
    pub(super) fn label(&mut self, label: &str, value: &str) {
        match told(label) {
            Some(Told::Text(name)) => self.text(name, value),
            Some(Told::State(name)) => self.text(name, &state(value)),
            Some(Told::Number(name)) => match value.parse::<i64>() {
                Ok(number) => self.number(name, number),
                Err(_none) => self.text(name, value),
            },
            Some(Told::End(address, port)) => {
                // `[::1]:80`, `0.0.0.0:*`, `other`.
                let (text, number) = value.rsplit_once(':').unwrap_or((value, ""));
                self.text(address, text.trim_start_matches('[').trim_end_matches(']'));
                if let Ok(number) = number.parse::<u16>() {
                    self.number(port, number);
                }
            }
            None => self.own(label, value),
        }
    }

    /// A name of ours.
    pub(super) fn own(&mut self, name: &str, value: &str) {
        self.text(&format!("sockwatch.{name}"), value);
    }

    fn add(&mut self, name: &str, value: Value) {
        self.0.push(KeyValue { key: name.to_owned(), value: Some(any(value)), ..KeyValue::default() });
    }
}

/// What a label becomes, if the table knows it.
pub(super) fn told(label: &str) -> Option<Told> {
    LABELS.iter().find(|(its, _)| *its == label).map(|(_, told)| *told)
}

/// A string as a value of any kind.
pub(super) fn string(text: String) -> AnyValue {
    any(Value::StringValue(text))
}

fn integer(number: impl TryInto<i64>) -> Value {
    Value::IntValue(number.try_into().unwrap_or(i64::MAX))
}

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

/// The kernel's name of a state in the conventions' spelling (`network.connection.state`). The two that they do not
/// have are spelled alike.
pub(super) fn state(name: &str) -> String {
    match name {
        "CLOSE" => "closed".into(),
        "FIN_WAIT1" => "fin_wait_1".into(),
        "FIN_WAIT2" => "fin_wait_2".into(),
        "SYN_RECV" => "syn_received".into(),
        other => other.to_ascii_lowercase(),
    }
}
