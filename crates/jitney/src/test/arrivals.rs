//! When requests come.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

/// The moments at which requests come, counted from the first: an open loop, in which nobody waits for answers. The same
/// arguments give the same schedule.
///
/// ```
/// use std::time::Duration;
/// use jitney::test::Schedule;
///
/// let second = Duration::from_secs(1);
/// let bursts = Schedule::bursts(2, second, 5);
/// assert_eq!(bursts.moments(), [0, 0, 1, 1, 2].map(Duration::from_secs));
///
/// let poisson = Schedule::poisson(1, second, 1000);
/// let last = poisson.moments()[999];
/// assert!((900.0..1100.0).contains(&last.as_secs_f64()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    moments: Vec<Duration>,
}

impl Schedule {
    /// A request at each of these moments.
    pub fn new(moments: impl IntoIterator<Item = Duration>) -> Schedule {
        let mut moments: Vec<_> = moments.into_iter().collect();
        moments.sort_unstable();
        Schedule { moments }
    }

    /// So many requests that know nothing of each other, with this time between two on average. The seed chooses one of all
    /// such schedules.
    pub fn poisson(seed: u64, mean_gap: Duration, count: usize) -> Schedule {
        let mut random = Random(seed);
        let mut now = Duration::ZERO;
        let mut next = || {
            let gap = -random.fraction().ln();
            now += mean_gap.mul_f64(gap);
            now
        };
        Schedule::new(std::iter::repeat_with(&mut next).take(count))
    }

    /// So many requests, `size` of them at a time, with `gap` between the bursts.
    pub fn bursts(size: usize, gap: Duration, count: usize) -> Schedule {
        let size = size.max(1);
        let burst = |request| u32::try_from(request / size).unwrap_or(u32::MAX);
        Schedule::new((0..count).map(|request| gap.saturating_mul(burst(request))))
    }

    /// When the requests come, the first ones first.
    pub fn moments(&self) -> &[Duration] {
        &self.moments
    }

    /// Sends each request at its moment of tokio's time, and waits for all answers, which come back in the order of sending.
    ///
    /// ```
    /// use std::time::Duration;
    /// use jitney::test::{self, Schedule};
    ///
    /// let at = test::run(async |_| {
    ///     let start = tokio::time::Instant::now();
    ///     Schedule::bursts(1, Duration::from_secs(1), 3).play(async |_| start.elapsed().as_secs()).await
    /// });
    /// assert_eq!(at, [0, 1, 2]);
    /// ```
    ///
    /// # Cancel safety
    /// Dropping it drops the requests.
    pub async fn play<T>(&self, send: impl AsyncFn(usize) -> T) -> Vec<T> {
        let start = Instant::now();
        let send = &send;
        let requests = self.moments.iter().enumerate().map(async |(at, moment)| {
            tokio::time::sleep_until(start + *moment).await;
            send(at).await
        });
        join_all(requests).await
    }
}

/// A closed loop: so many clients, each of which sends its next request when it has its answer. Gives the answers of each.
///
/// ```
/// let answers = jitney::test::run(async |_| {
///     jitney::test::closed_loop(2, 3, async |client, request| client * 10 + request).await
/// });
/// assert_eq!(answers, [[0, 1, 2], [10, 11, 12]]);
/// ```
///
/// # Cancel safety
/// Dropping it drops the requests.
pub async fn closed_loop<T>(
    clients: usize,
    requests: usize,
    send: impl AsyncFn(usize, usize) -> T,
) -> Vec<Vec<T>> {
    let send = &send;
    let client = async |client| {
        let mut answers = Vec::with_capacity(requests);
        for request in 0..requests {
            answers.push(send(client, request).await);
        }
        answers
    };
    join_all((0..clients).map(client)).await
}

/// The generator splitmix64.
struct Random(u64);

impl Random {
    /// Above zero and at most one.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 53 bits fit a float exactly.
        ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}
