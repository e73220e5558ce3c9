//! Who is let in: a thread of its own accepts clients, and turns away what is too much, too large or too slow.
//!
//! HTTP/1.1, one request for each connection: a scrape every few seconds gains nothing from a connection that stays
//! open, and what stays open has to be limited.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use sockwatch::privilege::{Sandbox, confine, role::HTTP};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener as Listener, TcpStream},
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    answer::{Answers, Refusal},
    limits::Places,
    stream::Body,
    tls::Tls,
};

/// A request's line and header; no scraper needs a tenth of it. The least that hyper can be told.
const MOST_HEADER_BYTES: usize = 8192;
const MOST_HEADERS: usize = 64;

/// A client has so long to send its request, and so long until it has taken the answer.
const HEADER_TIME: Duration = Duration::from_secs(5);
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// An answer that goes on ends after so long.
const STREAM_TIME: Duration = Duration::from_secs(600);

/// Who takes nothing of what was sent for so long is gone (`TCP_USER_TIMEOUT`): else an answer that goes on would keep the place of
/// a client that does not read.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Where accept() fails, all descriptors are in use: others give some back.
const PAUSE: Duration = Duration::from_millis(100);

/// What is told to one client too many.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n";

/// The thread; dropping it ends it.
pub(super) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Takes the address, before anything is started that would have to be ended again.
pub(super) fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).with_context(|| {
        format!(
            "cannot listen at {listen} (`sockwatch list --local-port {}` says who does); --listen takes another",
            listen.port()
        )
    })?;
    listener.set_nonblocking(true).context("cannot make a listener that does not block")?;
    demand(&listener, TAKEN_WITHIN).context("cannot limit clients' time")?;
    Ok(listener)
}

/// Who is accepted and takes nothing for so long is gone: the limit is inherited.
fn demand(listener: &TcpListener, within: Duration) -> nix::Result<()> {
    setsockopt(listener, TcpUserTimeout, &(within.as_millis() as u32))
}

impl Server {
    /// Answers from now on.
    pub(super) fn start(
        listener: TcpListener,
        tls: Option<Arc<Tls>>,
        answers: Arc<Answers>,
        sandbox: Sandbox,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the HTTP server's runtime")?;
        let (stop, stopped) = oneshot::channel();
        let listener = {
            let _entered = runtime.enter();
            Listener::from_std(listener).context("cannot wait for clients")?
        };
        let thread = thread::Builder::new().name("http".into()).spawn(move || {
            if sandbox == Sandbox::On {
                // What a kernel cannot do is no reason not to go on: `doctor` says it.
                confine(&HTTP, &[], || true);
            }
            runtime.block_on(accept(listener, tls, answers, stopped));
            // What is still being answered is not worth waiting for.
            runtime.shutdown_background();
        });
        let thread = thread.context("cannot start the HTTP server's thread")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already if the thread has panicked: then there is nothing left to end.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: Listener, tls: Option<Arc<Tls>>, answers: Arc<Answers>, mut stopped: oneshot::Receiver<()>) {
    let places = Arc::new(Places::default());
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, client)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        match places.take(client.ip()) {
            Some(place) => {
                let (answers, tls) = (Arc::clone(&answers), tls.clone());
                tokio::spawn(async move {
                    serve(stream, client, tls.as_deref(), answers).await;
                    drop(place);
                });
            }
            None => {
                answers.refuse(Refusal::Clients);
                // Who does not hear it, or not in the clear, sees the end.
                if tls.is_none() {
                    let _ = stream.try_write(FULL);
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, tls: Option<&Tls>, answers: Arc<Answers>) {
    let Some(tls) = tls else { return converse(stream, client, answers).await };
    match tls.accept(stream, client.ip()).await {
        Ok(stream) => converse(stream, client, answers).await,
        Err(refusal) => refusal.into_iter().for_each(|refusal| answers.refuse(refusal)),
    }
}

/// One request, unless it is none.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, client: SocketAddr, answers: Arc<Answers>) {
    let goes_on = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let (answers, goes_on) = (Arc::clone(&answers), &goes_on);
        async move {
            let answer = answers.answer(&request, client.ip()).await;
            goes_on.store(matches!(answer.body(), Body::Parts(_)), Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS)
        .keep_alive(false);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut served = timeout(REQUEST_TIME, connection.as_mut()).await;
    if served.is_err() && goes_on.load(Ordering::Relaxed) {
        served = timeout(STREAM_TIME, connection).await;
        if served.is_err() {
            // Long enough: the client asks again.
            return;
        }
    }
    let refusal = match served {
        Ok(Ok(())) => return,
        Ok(Err(error)) if error.is_parse_too_large() => Refusal::Header,
        Ok(Err(error)) if error.is_parse() => Refusal::Malformed,
        Ok(Err(error)) if error.is_timeout() => Refusal::Slow,
        // It has gone.
        Ok(Err(_)) => return,
        Err(_elapsed) => Refusal::Slow,
    };
    answers.refuse(refusal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::{
        io::{ErrorKind, Write},
        net::TcpStream,
    };

    #[test]
    fn who_takes_nothing_is_gone() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(getsockopt(&accepted, TcpUserTimeout), Ok(30_000));
    }

    /// The same with a shorter time, seen by who writes: once all buffers are full, the kernel gives the client up.
    #[test]
    fn who_stops_reading_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        demand(&listener, Duration::from_secs(1)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        // Without the limit this is an error, too: another one.
        accepted.set_write_timeout(Some(TAKEN_WITHIN)).unwrap();
        let error = std::iter::repeat(()).find_map(|()| accepted.write_all(&[0; 65_536]).err());
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::TimedOut));
    }
}
