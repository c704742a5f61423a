//! The body of an answer.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::grpc;

/// Why a body ended early. Its client sees that it did.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What an answer carries.
pub(crate) enum Body {
    /// One piece; none where it is empty.
    Whole(Bytes),
    /// Pieces that are written one after another without being joined.
    Pieces(VecDeque<Bytes>),
    /// Pieces that come as they are made. Dropping the body cancels what makes them.
    Stream(BoxStream<'static, Bytes>),
    /// An answer of gRPC, which ends with its status. On the heap, so that no other answer sets room aside for it.
    Grpc(Box<grpc::Body>),
    /// One that goes on, which may be given up.
    Watched(Arc<Mutex<Taking>>),
}

impl Body {
    /// The same body, and what can give it up when nobody takes it.
    pub(crate) fn watched(self) -> (Body, Watch) {
        let taking = Arc::new(Mutex::new(Taking {
            body: Some(self),
            rest: Bytes::new(),
            offered: None,
        }));
        let watch = Watch(Arc::downgrade(&taking));
        (Body::Watched(taking), watch)
    }

    /// How many bytes it has, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Body::Whole(bytes) => Some(bytes.len() as u64),
            Body::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Body::Stream(_) | Body::Grpc(_) | Body::Watched(_) => None,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length() {
            Some(length) => write!(f, "Body({length} bytes)"),
            None => f.write_str("Body(stream)"),
        }
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::Whole(Bytes::new())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(bytes)
    }
}

impl From<grpc::Body> for Body {
    fn from(body: grpc::Body) -> Body {
        Body::Grpc(Box::new(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let data = |bytes| Ok(Frame::data(bytes));
        match self.get_mut() {
            Body::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| data(bytes)))
            }
            Body::Pieces(pieces) => Poll::Ready(pieces.pop_front().map(data)),
            Body::Stream(stream) => stream.as_mut().poll_next(cx).map(|next| next.map(data)),
            Body::Grpc(body) => Pin::new(&mut **body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Body::Watched(taking) => lock(taking).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Pieces(pieces) => pieces.is_empty(),
            Body::Stream(_) => false,
            Body::Grpc(body) => http_body::Body::is_end_stream(&**body),
            Body::Watched(taking) => lock(taking).is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A look from outside at a body that goes on, whose reader may take nothing of it.
pub(crate) struct Watch(Weak<Mutex<Taking>>);

/// A body of which it is known whether it is taken.
pub(crate) struct Taking {
    /// `None` when it was given up.
    body: Option<Body>,
    /// What is left of the piece that is being taken.
    rest: Bytes,
    /// Since when there has been something that is not asked for. HTTP/2 asks when its client has made room.
    offered: Option<Instant>,
}

/// Bytes that are offered together, so that a reader who is slow is seen to read.
const OFFERED: usize = 64 * 1024;

impl Watch {
    /// Ends the body, and with it what makes it, when nothing has been taken of what has been there for so long.
    pub(crate) fn give_up_after(&self, patience: Duration) {
        let Some(taking) = self.0.upgrade() else {
            return;
        };
        let mut taking = lock(&taking);
        if taking.offered.is_some_and(|at| at.elapsed() >= patience) {
            taking.body = None;
            taking.rest = Bytes::new();
        }
    }

    /// Whether the body is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

fn lock(taking: &Mutex<Taking>) -> MutexGuard<'_, Taking> {
    taking.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taking {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.offered = None;
        let Some(body) = &mut self.body else {
            let given_up = "the client took nothing of the answer for too long";
            return Poll::Ready(Some(Err(given_up.into())));
        };
        if self.rest.is_empty() {
            match ready!(http_body::Body::poll_frame(Pin::new(body), cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        self.offered = Some(Instant::now());
        let piece = self.rest.split_to(self.rest.len().min(OFFERED));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = |body| http_body::Body::is_end_stream(body);
        self.rest.is_empty() && self.body.as_ref().is_some_and(ended)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    async fn read(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn every_kind_is_read_whole() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let pieces = || Body::Pieces([bytes("a"), bytes("bc")].into());
        assert_eq!(read(Body::Whole(bytes("abc"))).await, b"abc");
        assert_eq!(pieces().length(), Some(3));
        assert_eq!(read(pieces()).await, b"abc");
        let stream = Body::Stream(Box::pin(stream::iter([bytes("a"), bytes("bc")])));
        assert_eq!(stream.length(), None);
        assert_eq!(read(stream).await, b"abc");
        assert!(http_body::Body::is_end_stream(&Body::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_given_up_when_nobody_takes_what_is_there() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let large = Bytes::from(vec![7; 3 * OFFERED]);
        let pieces = stream::iter([large, Bytes::from_static(b"a")]);
        let pieces = pieces.chain(stream::pending()).inspect(move |_| {
            let _held = &held;
        });
        let (mut body, watch) = Body::Stream(pieces.boxed()).watched();
        // However slowly a large piece is taken, its parts show that it is.
        for expected in [OFFERED, OFFERED, OFFERED, 1] {
            tokio::time::advance(PATIENCE - Duration::from_secs(1)).await;
            watch.give_up_after(PATIENCE);
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), expected);
        }
        // Nothing is there, so nothing can be taken.
        assert!(futures_util::poll!(std::pin::pin!(body.frame())).is_pending());
        tokio::time::advance(10 * PATIENCE).await;
        watch.give_up_after(PATIENCE);
        assert_eq!(Arc::strong_count(&alive), 2);

        drop(body);
        assert!(watch.is_over() && Arc::strong_count(&alive) == 1);

        let held = Arc::clone(&alive);
        let pieces = stream::repeat_with(move || Bytes::from(vec![0; Arc::strong_count(&held)]));
        let (mut body, watch) = Body::Stream(pieces.boxed()).watched();
        body.frame().await.unwrap().unwrap();
        tokio::time::advance(PATIENCE).await;
        watch.give_up_after(PATIENCE);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(body.frame().await.unwrap().is_err());
    }
}
