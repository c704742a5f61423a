//! Reading a large table page by page, by keyset.

use std::fmt;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FusedStream;

use super::producer::{ProducerError, Records, producer};

/// The items of all pages as one stream, read page after page by `fetch`, which gets the cursor of the page it is to read.
///
/// A cursor is the key of the last item that was read: `WHERE id > cursor ORDER BY id LIMIT n`. Unlike an offset it stays right
/// while the table changes, and the last page costs as much as the first.
///
/// While the consumer works on one page the next is being read, and no more than that: memory is bounded by two pages. An error
/// of `fetch` ends the stream as its last item. Everything else is as for a [`producer`], which this is.
///
/// ```
/// use futures_util::TryStreamExt;
/// use jitney::stream::{Page, ProducerError, paginate};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), ProducerError<String>> {
/// let table = [2, 3, 5, 7, 11];
/// let primes = paginate(0, move |last| async move {
///     let items: Vec<i32> = table.into_iter().filter(|n| *n > last).take(2).collect();
///     let next = items.last().copied(); // none after the last page, which is empty here
///     Ok(Page { items, next })
/// });
/// assert_eq!(primes.try_collect::<Vec<i32>>().await?, table);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// Polling the stream panics outside of a tokio runtime.
#[track_caller]
pub fn paginate<T, C, E, F, Fut>(first: C, mut fetch: F) -> Pages<T, E>
where
    F: FnMut(C) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Page<T, C>, E>> + Send + 'static,
    T: Send + 'static,
    C: Send + 'static,
    E: Send + 'static,
{
    let pages = producer(NonZeroUsize::MIN, move |pages| async move {
        let mut cursor = Some(first);
        while let Some(key) = cursor {
            // The place comes first: a page that is read early has no second one read behind it.
            let Ok(place) = pages.reserve().await else {
                break;
            };
            let page = fetch(key).await?;
            place.send(page.items);
            cursor = page.next;
        }
        Ok(())
    });
    Pages {
        pages: pages.named("pages"),
        page: Vec::new().into_iter(),
    }
}

/// One page of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, C> {
    /// Its items, in the order of the key.
    pub items: Vec<T>,
    /// Where the next page begins, or `None` if this is the last one.
    pub next: Option<C>,
}

/// The items of [`paginate`]. Every item is `Ok` but the last, which may be what went wrong.
#[must_use = "no page is read until the stream is polled"]
pub struct Pages<T, E> {
    pages: Records<Vec<T>, E>,
    page: std::vec::IntoIter<T>,
}

impl<T, E: Send + 'static> Pages<T, E> {
    /// As [`Records::named`]; `pages` by default.
    #[track_caller]
    pub fn named(self, name: impl AsRef<str>) -> Pages<T, E> {
        Pages {
            pages: self.pages.named(name),
            page: self.page,
        }
    }

    /// As [`Records::grace`]: how long a page that is being read may take when the stream is closed or dropped.
    pub fn grace(self, grace: Duration) -> Pages<T, E> {
        Pages {
            pages: self.pages.grace(grace),
            page: self.page,
        }
    }

    /// Stops reading and waits until that has ended. Items that were not taken are dropped.
    ///
    /// # Errors
    /// As [`Records::close`].
    ///
    /// # Cancel safety
    /// As [`Records::close`].
    pub async fn close(self) -> Result<(), ProducerError<E>> {
        self.pages.close().await
    }
}

impl<T, E: Send + 'static> Stream for Pages<T, E> {
    type Item = Result<T, ProducerError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(item) = this.page.next() {
                return Poll::Ready(Some(Ok(item)));
            }
            match ready!(Pin::new(&mut this.pages).poll_next(cx)) {
                Some(Ok(page)) => this.page = page.into_iter(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

// Nothing in it is pinned in place.
impl<T, E> Unpin for Pages<T, E> {}

impl<T, E: Send + 'static> FusedStream for Pages<T, E> {
    fn is_terminated(&self) -> bool {
        self.page.as_slice().is_empty() && self.pages.is_terminated()
    }
}

impl<T, E> fmt::Debug for Pages<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("left_of_page", &self.page.len())
            .finish_non_exhaustive()
    }
}
