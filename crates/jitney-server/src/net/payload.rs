//! The body of an answer.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};

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
}

impl Body {
    /// How many bytes it has, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Body::Whole(bytes) => Some(bytes.len() as u64),
            Body::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Body::Stream(_) | Body::Grpc(_) => None,
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Pieces(pieces) => pieces.is_empty(),
            Body::Stream(_) => false,
            Body::Grpc(body) => http_body::Body::is_end_stream(&**body),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
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
}
