//! What a receiver's answer means: taken, again later, or never again. The rules are those of the OTLP specification
//! (<https://opentelemetry.io/docs/specs/otlp/>, "Failures"), for HTTP and for gRPC.

use std::time::Duration;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
};
use prost::Message;

use super::Signal;
use crate::tcp::event::is_unprintable;

/// A receiver that wants to be left alone is left alone so long at most: what waits for it is bounded.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Of what a receiver says so many characters are shown.
const MOST_CHARACTERS: usize = 200;

/// What an answer comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken, but for so many records or points, and why not those.
    Taken {
        /// How many were not.
        rejected: u64,
        /// What the receiver says.
        why: String,
    },
    /// It is to be sent again.
    Later {
        /// No earlier than after this time, if the receiver says so.
        after: Option<Duration>,
        /// What the receiver says.
        why: String,
    },
    /// It will never be taken.
    Refused {
        /// What the receiver says.
        why: String,
    },
}

/// An answer by gRPC, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Trailers<'a> {
    /// `grpc-status`.
    pub status: Option<u32>,
    /// `grpc-message`.
    pub message: &'a str,
    /// `grpc-status-details-bin`.
    pub details: Option<&'a [u8]>,
}

/// An answer by HTTP: its status, its header `Retry-After` and its body.
pub fn of_http(signal: Signal, status: u16, retry_after: Option<&str>, body: &[u8]) -> Verdict {
    match status {
        200..=299 => taken(signal, body),
        429 | 502 | 503 | 504 => Verdict::Later { after: retry_after.and_then(seconds), why: why_http(status, body) },
        _ => Verdict::Refused { why: why_http(status, body) },
    }
}

/// An answer by gRPC, whose HTTP status was 200. The body is one message behind a prefix of five bytes.
pub fn of_grpc(signal: Signal, trailers: Trailers<'_>, body: &[u8]) -> Verdict {
    let Trailers { status, message, details } = trailers;
    let Some(status) = status else {
        return Verdict::Later { after: None, why: "an answer without a gRPC status".into() };
    };
    let retry = details.and_then(retry_delay);
    let why = format!("gRPC status {status} {}", printable(message)).trim_end().to_owned();
    match status {
        0 => taken(signal, body.get(5..).unwrap_or_default()),
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
        1 | 4 | 10 | 11 | 14 | 15 => Verdict::Later { after: retry, why },
        // RESOURCE_EXHAUSTED: only if the receiver says that it will have room again.
        8 if retry.is_some() => Verdict::Later { after: retry, why },
        _ => Verdict::Refused { why },
    }
}

/// A body that is no message was taken all the same: the status said so.
fn taken(signal: Signal, body: &[u8]) -> Verdict {
    let partial = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| (partial.rejected_data_points, partial.error_message)),
        Signal::Logs => ExportLogsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| (partial.rejected_log_records, partial.error_message)),
    };
    let (rejected, why) = partial.unwrap_or_default();
    Verdict::Taken { rejected: u64::try_from(rejected).unwrap_or(0), why: printable(&why) }
}

/// `Retry-After` in seconds. A date is not understood: who sends one is asked again as if it had sent none.
fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// The body is a `google.rpc.Status`, whose message is text; another body says nothing.
fn why_http(status: u16, body: &[u8]) -> String {
    let message = Status::decode(body).map(|status| printable(&status.message)).unwrap_or_default();
    format!("HTTP status {status} {message}").trim_end().to_owned()
}

/// What a receiver says, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .take(MOST_CHARACTERS)
        .map(|character| if is_unprintable(character) { '?' } else { character })
        .collect()
}

/// `google.rpc.Status` (google/rpc/status.proto).
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo` (google/rpc/error_details.proto).
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanoseconds: i32,
}

/// The `RetryInfo` in a status' details, which come in base64, with or without padding.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config).decode(details).ok()?;
    let status = Status::decode(bytes.as_slice()).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(detail.value.as_slice()).ok()?.delay?;
    let (seconds, nanoseconds) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanoseconds).ok()?);
    Some(Duration::new(seconds, nanoseconds.min(999_999_999)).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    fn later(after: Option<u64>) -> impl Fn(&Verdict) -> bool {
        move |verdict| matches!(verdict, Verdict::Later { after: its, .. } if *its == after.map(Duration::from_secs))
    }

    fn is_refused(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Refused { .. })
    }

    #[test]
    fn http_says_when_to_come_again() {
        let check = |status, retry_after, fits: &dyn Fn(&Verdict) -> bool| {
            let verdict = of_http(Signal::Logs, status, retry_after, b"");
            assert!(fits(&verdict), "{status} {retry_after:?}: {verdict:?}");
        };
        for status in [429, 502, 503, 504] {
            check(status, None, &later(None));
            check(status, Some("7"), &later(Some(7)));
        }
        check(503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), &later(None));
        check(503, Some("99999999"), &later(Some(300)));
        for status in [301, 400, 401, 404, 413, 500, 501] {
            check(status, Some("7"), &is_refused);
        }
    }

    #[test]
    fn what_was_rejected_is_told() {
        let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "too\x1b old".into() };
        let answer = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let expected = Verdict::Taken { rejected: 3, why: "too? old".into() };
        assert_eq!(of_http(Signal::Logs, 200, None, &answer), expected);
        let framed = [&[0, 0, 0, 0, answer.len() as u8], answer.as_slice()].concat();
        let fine = Trailers { status: Some(0), message: "", details: None };
        assert_eq!(of_grpc(Signal::Logs, fine, &framed), expected);
        let nothing = Verdict::Taken { rejected: 0, why: String::new() };
        for body in [b"".as_slice(), b"{}", b"\xff\xff"] {
            assert_eq!(of_http(Signal::Metrics, 200, None, body), nothing);
        }
        assert_eq!(of_grpc(Signal::Metrics, fine, b""), nothing);
    }

    #[test]
    fn grpc_says_when_to_come_again() {
        let delay = RetryInfo { delay: Some(Delay { seconds: 7, nanoseconds: 0 }) }.encode_to_vec();
        let detail = Detail { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: delay };
        let status = Status { code: 8, message: "full".into(), details: vec![detail] };
        let details = base64::prelude::BASE64_STANDARD.encode(status.encode_to_vec());
        let check = |status, details: Option<&str>, fits: &dyn Fn(&Verdict) -> bool| {
            let trailers = Trailers { status, message: "why", details: details.map(str::as_bytes) };
            let verdict = of_grpc(Signal::Logs, trailers, b"");
            assert!(fits(&verdict), "{status:?} {details:?}: {verdict:?}");
        };
        for status in [1, 4, 10, 11, 14, 15] {
            check(Some(status), None, &later(None));
            check(Some(status), Some("no base64"), &later(None));
        }
        check(Some(14), Some(&details), &later(Some(7)));
        check(Some(14), Some(details.trim_end_matches('=')), &later(Some(7)));
        check(Some(8), Some(&details), &later(Some(7)));
        check(None, None, &later(None));
        for status in [2, 3, 5, 7, 8, 12, 13, 16] {
            check(Some(status), None, &is_refused);
        }
    }

    #[test]
    fn a_status_in_the_body_says_why() {
        let body = Status { code: 3, message: "no such tenant\n".into(), details: Vec::new() }.encode_to_vec();
        let expected = Verdict::Refused { why: "HTTP status 400 no such tenant?".into() };
        assert_eq!(of_http(Signal::Logs, 400, None, &body), expected);
        let expected = Verdict::Refused { why: "HTTP status 404".into() };
        assert_eq!(of_http(Signal::Logs, 404, None, b"<html>"), expected);
    }
}
