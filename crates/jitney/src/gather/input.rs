//! Where the items come from.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

use super::{Ahead, Report};
use crate::cancel::Cause;

/// A stream of items, counted, and never polled again after its end.
pub(super) struct Input<'a, S> {
    stream: Pin<&'a mut S>,
    pulled: usize,
    ended: bool,
}

impl<'a, S: Stream> Input<'a, S> {
    pub(super) fn new(stream: Pin<&'a mut S>) -> Input<'a, S> {
        Input {
            stream,
            pulled: 0,
            ended: false,
        }
    }

    /// The next item and its place.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, S::Item)>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.stream.as_mut().poll_next(cx));
        self.ended = item.is_none();
        let index = self.pulled;
        self.pulled += usize::from(!self.ended);
        Poll::Ready(item.map(|item| (index, item)))
    }

    pub(super) fn ahead(&self, running: usize) -> Ahead {
        let unstarted = match self.ended {
            true => Some(0),
            false => self.stream.size_hint().1,
        };
        Ahead { running, unstarted }
    }

    /// Reports everything that is there at once as cut off, without running it.
    pub(super) async fn forgo<T, E>(
        &mut self,
        cause: Cause,
        mut sink: impl FnMut(Report<T, E>, Ahead) -> ControlFlow<()>,
    ) {
        let mut rest = |cx: &mut Context<'_>| {
            while let Poll::Ready(Some((index, item))) = self.poll(cx) {
                drop(item);
                let report = Report::unstarted(index, cause);
                if sink(report, self.ahead(0)).is_break() {
                    break;
                }
            }
            Poll::Ready(())
        };
        std::future::poll_fn(&mut rest).await;
    }
}
