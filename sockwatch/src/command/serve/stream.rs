//! Answers that go on: one event after the other, for as long as the client takes them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

/// From event to event.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// A client that takes nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients that look at once.
const MOST: usize = 8;

/// What is answered: everything at once, or one part after the other.
pub(super) enum Body {
    /// All of it; `None` once it is taken.
    Whole(Option<Bytes>),
    /// What comes.
    Parts(mpsc::Receiver<Bytes>),
}

impl Body {
    pub(super) fn whole(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match self.get_mut() {
            Self::Whole(text) => text.take(),
            Self::Parts(parts) => ready!(parts.poll_recv(context)),
        };
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Parts(_) => SizeHint::default(),
        }
    }
}

/// Those that are open.
pub(super) struct Streams {
    room: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(MOST)) }
    }
}

/// Where events go; dropping it ends the stream.
pub(super) struct Writer {
    parts: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Streams {
    /// One more; `None` if there are too many.
    pub(super) fn open(&self) -> Option<(Writer, Body)> {
        let place = Arc::clone(&self.room).try_acquire_owned().ok()?;
        // One is on its way while the next is made.
        let (parts, received) = mpsc::channel(1);
        Some((Writer { parts, _place: place }, Body::Parts(received)))
    }
}

impl Writer {
    /// Sends an event; `data` is one line. Returns whether the client is still there.
    pub(super) async fn event(&mut self, name: &str, data: &str) -> bool {
        let event = Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
        matches!(timeout(PATIENCE, self.parts.send(event)).await, Ok(Ok(())))
    }
}
