//! A receiver of OTLP as OpenTelemetry has it: its own messages and its own gRPC services. It answers as it is told to.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, header::HeaderMap, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{NumberDataPoint, metric::Data, number_data_point},
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service;

use crate::serve::PATIENCE;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Again, please.
    Later,
    /// Never.
    Refuse,
    /// Taken, but for so many.
    Reject(i64),
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http, Self::Grpc];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// What was taken.
#[derive(Debug)]
pub(crate) enum Taken {
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// What each connection needs.
#[derive(Clone)]
struct Desk {
    /// Replies to the next requests; then all are taken.
    replies: Arc<Mutex<VecDeque<Reply>>>,
    taken: mpsc::Sender<(Taken, Option<String>)>,
}

impl Desk {
    fn reply(&self) -> Option<Reply> {
        self.replies.lock().unwrap().pop_front()
    }

    /// What has been taken whole or in part is handed on, with its header `authorization`.
    fn take(&self, taken: Taken, authorization: Option<&[u8]>) {
        let authorization = authorization.map(|value| String::from_utf8_lossy(value).into_owned());
        // The test may be over.
        let _ = self.taken.send((taken, authorization));
    }
}

/// A running receiver.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    taken: mpsc::Receiver<(Taken, Option<String>)>,
    /// All records and all metrics that have come.
    pub(crate) records: Vec<LogRecord>,
    pub(crate) metrics: Vec<ExportMetricsServiceRequest>,
    pub(crate) authorizations: Vec<Option<String>>,
}

impl Receiver {
    pub(crate) fn start(protocol: Protocol) -> Self {
        Self::at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), protocol)
    }

    pub(crate) fn at(listener: TcpListener, protocol: Protocol) -> Self {
        Self::with(listener, None, protocol)
    }

    /// One that encrypts.
    pub(crate) fn secured(tls: TlsAcceptor, protocol: Protocol) -> Self {
        Self::with(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Some(tls), protocol)
    }

    fn with(listener: TcpListener, tls: Option<TlsAcceptor>, protocol: Protocol) -> Self {
        let address = listener.local_addr().unwrap();
        let (replies, (sender, taken)) = (Arc::default(), mpsc::channel());
        let desk = Desk { replies: Arc::clone(&replies), taken: sender };
        thread::spawn(move || serve(listener, tls.as_ref(), protocol, &desk));
        let (records, metrics, authorizations) = (Vec::new(), Vec::new(), Vec::new());
        Self { address, replies, taken, records, metrics, authorizations }
    }

    /// Answers the next requests so.
    pub(crate) fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().unwrap().extend(replies);
    }

    /// Takes until it fits.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, fits: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fits(self) {
            let next = self.taken.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let next = next.unwrap_or_else(|_| panic!("no {what}; records: {:?}", self.records));
            self.keep(next);
        }
    }

    /// Takes what has come already.
    pub(crate) fn drain(&mut self) {
        while let Ok(next) = self.taken.try_recv() {
            self.keep(next);
        }
    }

    fn keep(&mut self, (taken, authorization): (Taken, Option<String>)) {
        self.authorizations.push(authorization);
        match taken {
            Taken::Metrics(request) => self.metrics.push(request),
            Taken::Logs(request) => {
                let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
                self.records.extend(scopes.flat_map(|scope| scope.log_records));
            }
        }
    }

    /// The newest points of a metric; none if it has not come.
    pub(crate) fn points(&self, name: &str) -> Vec<NumberDataPoint> {
        let Some(last) = self.metrics.last() else { return Vec::new() };
        let scopes = last.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        let metric = scopes.flat_map(|scope| &scope.metrics).find(|metric| metric.name == name);
        match metric.and_then(|metric| metric.data.clone()) {
            Some(Data::Sum(sum)) => sum.data_points,
            Some(Data::Gauge(gauge)) => gauge.data_points,
            Some(other) => panic!("{name}: {other:?}"),
            None => Vec::new(),
        }
    }

    /// The sum of those with this attribute.
    pub(crate) fn sum(&self, name: &str, attribute: Option<(&str, &str)>) -> u64 {
        let points = self.points(name);
        let has = |point: &&NumberDataPoint| {
            attribute.is_none_or(|(name, value)| text(&point.attributes, name).as_deref() == Some(value))
        };
        points
            .iter()
            .filter(has)
            .map(|point| match point.value {
                Some(number_data_point::Value::AsInt(value)) => value.try_into().unwrap(),
                Some(number_data_point::Value::AsDouble(value)) => value as u64,
                None => panic!("{point:?}"),
            })
            .sum()
    }
}

/// An attribute in words.
pub(crate) fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}

/// A client's bytes, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

fn serve(listener: TcpListener, tls: Option<&TlsAcceptor>, protocol: Protocol, desk: &Desk) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let wire: Box<dyn Wire> = match tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    // It does not trust us.
                    Err(_) => continue,
                },
            };
            let (io, desk) = (TokioIo::new(wire), desk.clone());
            // A connection that breaks is the client's business.
            match protocol {
                Protocol::Http => {
                    let service = service_fn(move |request| by_http(request, desk.clone()));
                    let connection = conn::http1::Builder::new().serve_connection(io, service);
                    tokio::spawn(async { drop(connection.await) });
                }
                Protocol::Grpc => {
                    let service = service_fn(move |request| by_grpc(request, desk.clone()));
                    let http2 = conn::http2::Builder::new(TokioExecutor::new());
                    let connection = http2.serve_connection(io, service);
                    tokio::spawn(async { drop(connection.await) });
                }
            }
        }
    });
}

async fn by_http(request: Request<Incoming>, desk: Desk) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    assert_eq!((&head.method, header(&head.headers, "content-type")), (&hyper::Method::POST, "application/x-protobuf"));
    let body = body.collect().await.unwrap().to_bytes();
    let authorization = head.headers.get("authorization").map(|value| value.as_bytes());
    let answer = |status, body: Vec<u8>| Response::builder().status(status).body(Full::new(body.into())).unwrap();
    let reply = desk.reply();
    let rejected = match reply {
        Some(Reply::Later) => return Ok(answer(503, Vec::new())),
        Some(Reply::Refuse) => return Ok(answer(400, Vec::new())),
        Some(Reply::Reject(count)) => Some(count),
        None => None,
    };
    Ok(match head.uri.path() {
        "/v1/metrics" => {
            let request = ExportMetricsServiceRequest::decode(body).unwrap();
            desk.take(Taken::Metrics(request), authorization);
            answer(200, metrics_answer(rejected).encode_to_vec())
        }
        "/v1/logs" => {
            desk.take(Taken::Logs(ExportLogsServiceRequest::decode(body).unwrap()), authorization);
            answer(200, logs_answer(rejected).encode_to_vec())
        }
        other => panic!("{other}"),
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn metrics_answer(rejected: Option<i64>) -> ExportMetricsServiceResponse {
    let partial_success = rejected
        .map(|count| ExportMetricsPartialSuccess { rejected_data_points: count, error_message: "too old".into() });
    ExportMetricsServiceResponse { partial_success }
}

fn logs_answer(rejected: Option<i64>) -> ExportLogsServiceResponse {
    let partial_success =
        rejected.map(|count| ExportLogsPartialSuccess { rejected_log_records: count, error_message: "too old".into() });
    ExportLogsServiceResponse { partial_success }
}

/// Both of OpenTelemetry's services at one address.
async fn by_grpc(request: Request<Incoming>, desk: Desk) -> Result<Response<tonic::body::Body>, Infallible> {
    match request.uri().path().split('/').nth(1).unwrap() {
        "opentelemetry.proto.collector.metrics.v1.MetricsService" => {
            MetricsServiceServer::new(desk).call(request).await
        }
        "opentelemetry.proto.collector.logs.v1.LogsService" => LogsServiceServer::new(desk).call(request).await,
        other => panic!("{other}"),
    }
}

impl Desk {
    /// What is said of a request; `Ok` with how many are rejected.
    fn status(&self) -> Result<Option<i64>, tonic::Status> {
        match self.reply() {
            Some(Reply::Later) => Err(tonic::Status::unavailable("busy")),
            Some(Reply::Refuse) => Err(tonic::Status::invalid_argument("no")),
            Some(Reply::Reject(count)) => Ok(Some(count)),
            None => Ok(None),
        }
    }
}

#[tonic::async_trait]
impl MetricsService for Desk {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let rejected = self.status()?;
        let authorization = request.metadata().get("authorization").map(|value| value.as_bytes().to_vec());
        self.take(Taken::Metrics(request.into_inner()), authorization.as_deref());
        Ok(tonic::Response::new(metrics_answer(rejected)))
    }
}

#[tonic::async_trait]
impl LogsService for Desk {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let rejected = self.status()?;
        let authorization = request.metadata().get("authorization").map(|value| value.as_bytes().to_vec());
        self.take(Taken::Logs(request.into_inner()), authorization.as_deref());
        Ok(tonic::Response::new(logs_answer(rejected)))
    }
}
