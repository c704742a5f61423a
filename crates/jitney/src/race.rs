//! Several attempts at one thing, of which one counts.
//!
//! What these functions are given runs as tasks. When they return, the losers are not only cancelled but have ended, with
//! everything they started: no loser still writes to what the winner's caller goes on with. For futures that borrow from the caller
//! there are the same endings of a plain [`gather`](crate::gather()), which drops the losers where they stand.

use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::gather::{NotEnough, Winner, gather, gather_stream};

/// The value of whichever is done first. All are started at once, and the others are cancelled and waited for.
///
/// # Errors
/// If the first one that is done has failed, or there are none.
///
/// # Cancel safety
/// Dropping the future cancels them all, and the nearest [`Scope`](crate::Scope) around waits for them.
///
/// # Panics
/// If the iterator panics, and outside of a tokio runtime. Panics of the futures are outcomes.
///
/// ```
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let after = async |seconds| {
///     tokio::time::sleep(Duration::from_secs(seconds)).await;
///     Ok::<_, String>(seconds)
/// };
/// let winner = jitney::first([30, 10, 20].map(after)).await.unwrap();
/// assert_eq!((winner.index, winner.value), (1, 10));
/// # }
/// ```
pub async fn first<I, F, T, E>(contenders: I) -> Result<Winner<T>, NotEnough<T, E>>
where
    I: IntoIterator<Item = F>,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let all = gather(contenders).named("first").limit(usize::MAX);
    all.parallel().first().await
}

/// The first value. All are started at once; those that fail are out, and those that are left when there is a value are cancelled
/// and waited for.
///
/// # Errors
/// If all fail, or there are none; every failure is in the error.
///
/// # Cancel safety
/// Dropping the future cancels them all, and the nearest [`Scope`](crate::Scope) around waits for them.
///
/// # Panics
/// If the iterator panics, and outside of a tokio runtime. Panics of the futures are outcomes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mirrors = [Err("down"), Ok("page")];
/// let winner = jitney::first_ok(mirrors.map(async |reply| reply)).await.unwrap();
/// assert_eq!((winner.index, winner.value), (1, "page"));
/// # }
/// ```
pub async fn first_ok<I, F, T, E>(contenders: I) -> Result<Winner<T>, NotEnough<T, E>>
where
    I: IntoIterator<Item = F>,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let all = gather(contenders).named("first_ok").limit(usize::MAX);
    all.parallel().first_ok().await
}

/// A second attempt for when the first is slow: `make` is called at once, and again if `delay` later there is no result. The first
/// value wins, and the other attempt is cancelled and waited for.
///
/// It makes rare slow answers rare squared, for the price of a few more calls: with the 95th percentile as the delay, one call in
/// twenty. Only for what may be done twice.
///
/// # Errors
/// A first attempt that fails before the delay is over is the result, without a second attempt: to repeat what fails is the matter
/// of [`Retry`](crate::Retry). Later an attempt fails alone, and both failures are in the error if there are two.
///
/// # Cancel safety
/// Dropping the future cancels the attempts, and the nearest [`Scope`](crate::Scope) around waits for them.
///
/// # Panics
/// If `make` panics, and outside of a tokio runtime with a timer. Panics of the attempts are outcomes.
///
/// ```
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let mut delays = [60, 1].map(Duration::from_secs).into_iter();
/// let ask = || {
///     let delay = delays.next().unwrap_or_default();
///     async move {
///         tokio::time::sleep(delay).await;
///         Ok::<_, String>(delay)
///     }
/// };
/// let winner = jitney::hedge(Duration::from_secs(5), ask).await.unwrap();
/// assert_eq!((winner.index, winner.value), (1, Duration::from_secs(1)));
/// # }
/// ```
pub async fn hedge<F, T, E>(
    delay: Duration,
    mut make: impl FnMut() -> F,
) -> Result<Winner<T>, NotEnough<T, E>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let first = stream::once(std::future::ready(make()));
    let second = stream::once(tokio::time::sleep(delay)).map(move |()| make());
    let attempts = gather_stream(first.chain(second)).named("hedge");
    attempts.parallel().first_ok_in_time().await
}
