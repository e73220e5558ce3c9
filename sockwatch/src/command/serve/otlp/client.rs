//! A receiver's client: one connection, one request at a time, by HTTP/1.1 or gRPC.
//!
//! Of gRPC this is all that a push needs: a message behind five bytes in an HTTP/2 request, and a status in the
//! trailers (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). hyper speaks both versions of HTTP;
//! tonic would bring a dozen more crates for what is done here. The tests' receiver is tonic.

use std::{io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    client::conn::{http1, http2},
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, TE, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sockwatch::otlp::{
    Signal,
    answer::{Trailers, Verdict, of_grpc, of_http},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::tls::Trust;
use crate::cli::{OtlpProtocol, Receiver};

/// A request has so long, connecting included: the exporters' usual time.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// And each of the receiver's addresses so long to take a connection.
const ADDRESS_TIME: Duration = Duration::from_secs(3);

/// A receiver has little to say.
const MOST_ANSWER_BYTES: usize = 64 << 10;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot agree on TLS: {0} (--otlp-ca names other authorities to trust)")]
    Tls(io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("its answer cannot be read: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    #[error("no request can be made of it: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("no answer within {time:?}", time = REQUEST_TIME)]
    Late,
}

/// An open connection. Its other half, a task, ends with it.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(requests) => requests.is_closed(),
            Self::Http2(requests) => requests.is_closed(),
        }
    }
}

/// The client.
pub(super) struct Client {
    receiver: Receiver,
    trust: Option<Trust>,
    protocol: OtlpProtocol,
    headers: HeaderMap,
    connection: Option<Connection>,
}

impl Client {
    pub(super) fn new(receiver: Receiver, trust: Option<Trust>, protocol: OtlpProtocol, headers: HeaderMap) -> Self {
        Self { receiver, trust, protocol, headers, connection: None }
    }

    /// Where it goes.
    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Sends a message; what the answer means.
    ///
    /// # Errors
    /// A [`Failure`] if there is none. The receiver may have got the message all the same.
    pub(super) async fn push(&mut self, signal: Signal, message: Bytes) -> Result<Verdict, Failure> {
        // Taken out: after an error, or given up half way, a connection is not used again.
        let connection = self.connection.take().filter(|connection| !connection.is_closed());
        let request = self.request(signal, message)?;
        let exchange = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let verdict = match &mut connection {
                Connection::Http1(requests) => {
                    requests.ready().await?;
                    heard_http(signal, requests.send_request(request).await?).await?
                }
                Connection::Http2(requests) => {
                    requests.ready().await?;
                    heard_grpc(signal, requests.send_request(request).await?).await?
                }
            };
            Ok::<_, Failure>((connection, verdict))
        };
        let (connection, verdict) = timeout(REQUEST_TIME, exchange).await.map_err(|_elapsed| Failure::Late)??;
        self.connection = Some(connection);
        Ok(verdict)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let Receiver { host, port, .. } = &self.receiver;
        let stream = reach(host, *port).await.map_err(Failure::Connect)?;
        // A request is written at once.
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        match &self.trust {
            None => self.speak(stream).await,
            Some(Trust { connector, name }) => {
                self.speak(connector.connect(name.clone(), stream).await.map_err(Failure::Tls)?).await
            }
        }
    }

    /// How a connection ends is told by the request that it fails.
    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Connection, Failure> {
        let io = TokioIo::new(stream);
        Ok(match self.protocol {
            OtlpProtocol::Http => {
                let (requests, connection) = http1::handshake(io).await?;
                tokio::spawn(async { drop(connection.await) });
                Connection::Http1(requests)
            }
            OtlpProtocol::Grpc => {
                let (requests, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(async { drop(connection.await) });
                Connection::Http2(requests)
            }
        })
    }

    fn request(&self, signal: Signal, message: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let authority = self.receiver.authority();
        let request = Request::builder().method(Method::POST);
        let (request, body) = match self.protocol {
            OtlpProtocol::Http => {
                let path = format!("{}{}", self.receiver.path, signal.http_path());
                let request = request.uri(path).header(HOST, authority);
                (request.header(CONTENT_TYPE, "application/x-protobuf"), message)
            }
            OtlpProtocol::Grpc => {
                let uri = Uri::builder()
                    .scheme(self.receiver.scheme())
                    .authority(authority)
                    .path_and_query(signal.grpc_path());
                let request = request.version(Version::HTTP_2).uri(uri.build()?).header(TE, "trailers");
                (request.header(CONTENT_TYPE, "application/grpc"), framed(&message))
            }
        };
        let agent = HeaderValue::from_static(concat!("sockwatch/", env!("CARGO_PKG_VERSION")));
        let mut request = request.header(USER_AGENT, agent).body(Full::new(body))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

/// The first address of a name that answers: one that does not must not keep the others from being tried.
async fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in lookup_host((host, port)).await? {
        match timeout(ADDRESS_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(refused)) => error = refused,
            Err(_elapsed) => error = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(error)
}

/// A message behind its prefix: not compressed, and its length.
fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().expect("a message is of 512 records, or of a few hundred metrics"));
    frame.put_slice(message);
    frame.freeze()
}

async fn heard_http(signal: Signal, response: Response<Incoming>) -> Result<Verdict, Failure> {
    let (head, body) = response.into_parts();
    // The status says enough, should there be more to read than anybody would: asking again would bring the same.
    let body = Limited::new(body, MOST_ANSWER_BYTES).collect().await.map_or_else(|_| Bytes::new(), Collected::to_bytes);
    Ok(of_http(signal, head.status.as_u16(), text(&head.headers, RETRY_AFTER.as_str()), &body))
}

async fn heard_grpc(signal: Signal, response: Response<Incoming>) -> Result<Verdict, Failure> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        // Who answered is not gRPC's, but a proxy: what it says means what it means by HTTP.
        return Ok(of_http(signal, head.status.as_u16(), text(&head.headers, RETRY_AFTER.as_str()), &[]));
    }
    let collected = Limited::new(body, MOST_ANSWER_BYTES).collect().await.map_err(Failure::Answer)?;
    // Without a message there may be no trailers of their own: the header has them.
    let trailers = collected.trailers().filter(|trailers| trailers.contains_key(STATUS)).unwrap_or(&head.headers);
    let trailers = trailers.clone();
    let told = Trailers {
        status: text(&trailers, STATUS).and_then(|status| status.parse().ok()),
        message: text(&trailers, "grpc-message").unwrap_or_default(),
        details: trailers.get("grpc-status-details-bin").map(HeaderValue::as_bytes),
    };
    Ok(of_grpc(signal, told, &collected.to_bytes()))
}

const STATUS: &str = "grpc-status";

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
