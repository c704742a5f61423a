//! Trying again, within reason.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cancel::{Cancel, Cause, Deadline};

/// How something that fails is tried again: so many times, after waits that double and are drawn at random, and never beyond a
/// budget or a deadline.
///
/// The wait before retry `n` is drawn evenly between zero and `base * 2^(n-1)`, at most `longest`: callers that failed together do
/// not come back together. A wait that would end after the deadline is not begun. A `Retry` can be shared by any number of calls.
///
/// ```
/// use jitney::{Budget, Retry};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let retry = Retry::new(5).budget(&Budget::new(10, 100));
/// let mut answers = [Err("busy"), Err("busy"), Ok(7)].into_iter();
/// let value = retry.run(|| {
///     let answer = answers.next().unwrap();
///     async move { answer }
/// });
/// assert_eq!(value.await.unwrap(), 7);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it does nothing until `run`"]
pub struct Retry {
    attempts: u32,
    base: Duration,
    longest: Duration,
    budget: Option<Budget>,
    deadline: Option<Deadline>,
    dice: Dice,
}

impl Retry {
    /// At most `attempts` attempts, the first one included; zero counts as one. The first wait is at most 100 milliseconds, and
    /// the longest at most 10 seconds; there is no budget.
    pub fn new(attempts: u32) -> Retry {
        Retry {
            attempts: attempts.max(1),
            base: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            budget: None,
            deadline: None,
            dice: Dice::thrown(),
        }
    }

    /// The longest first wait, and the longest of all.
    pub fn backoff(mut self, base: Duration, longest: Duration) -> Retry {
        self.base = base;
        self.longest = longest;
        self
    }

    /// Shares this budget with everything else that has it.
    pub fn budget(mut self, budget: &Budget) -> Retry {
        self.budget = Some(budget.clone());
        self
    }

    /// No wait ends after this. The deadlines of the scopes around hold too. An attempt under way is not cut off.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Retry {
        self.deadline = Some(deadline.into());
        self
    }

    /// Makes the waits the same in every run of a test.
    pub fn seed(mut self, seed: u64) -> Retry {
        self.dice = Dice(AtomicU64::new(seed));
        self
    }

    /// Attempts until one succeeds. Every error is worth another attempt.
    ///
    /// # Errors
    /// The last error, and why there was no further attempt.
    ///
    /// # Cancel safety
    /// Dropping the future drops the attempt under way. A retry that was taken from the budget stays taken.
    ///
    /// # Panics
    /// When it has to wait outside of a tokio runtime with a timer. A panic of an attempt goes on into the caller.
    pub async fn run<T, E, F>(&self, make: impl FnMut() -> F) -> Result<T, GaveUp<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.run_if(|_| true, make).await
    }

    /// As [`run`](Retry::run), but only errors for which `worth_it` is true are worth another attempt.
    ///
    /// # Errors
    /// The last error, and why there was no further attempt.
    ///
    /// # Cancel safety
    /// As for [`run`](Retry::run).
    ///
    /// # Panics
    /// As [`run`](Retry::run), and if `worth_it` does.
    ///
    /// ```
    /// use jitney::{Retry, retry::Reason};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let gave_up = Retry::new(5)
    ///     .run_if(|status| *status >= 500, async || Err::<(), _>(404))
    ///     .await
    ///     .unwrap_err();
    /// assert_eq!((gave_up.attempts, gave_up.reason), (1, Reason::NotWorthIt));
    /// # }
    /// ```
    pub async fn run_if<T, E, F>(
        &self,
        mut worth_it: impl FnMut(&E) -> bool,
        mut make: impl FnMut() -> F,
    ) -> Result<T, GaveUp<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        if let Some(budget) = &self.budget {
            budget.earn();
        }
        let mut attempts = 0;
        loop {
            let error = match make().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            attempts += 1;
            let reason = match worth_it(&error) {
                true => self.wait(attempts).await.err(),
                false => Some(Reason::NotWorthIt),
            };
            if let Some(reason) = reason {
                return Err(GaveUp {
                    error,
                    attempts,
                    reason,
                });
            }
        }
    }

    /// Waits for the next attempt, if there may be one.
    async fn wait(&self, attempts: u32) -> Result<(), Reason> {
        if attempts >= self.attempts {
            return Err(Reason::Attempts);
        }
        let cancel = Cancel::current();
        let wait = self.draw(attempts);
        if self.ends_late(wait, &cancel) {
            return Err(Reason::Deadline);
        }
        if self.budget.as_ref().is_some_and(|budget| !budget.spend()) {
            return Err(Reason::Budget);
        }
        tokio::select! {
            biased;
            cause = cancel.cancelled() => Err(Reason::Cancelled(cause)),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    fn draw(&self, attempts: u32) -> Duration {
        let doubled = 2u32.saturating_pow(attempts.saturating_sub(1));
        let ceiling = self.base.saturating_mul(doubled).min(self.longest);
        ceiling.mul_f64(self.dice.roll())
    }

    fn ends_late(&self, wait: Duration, cancel: &Cancel) -> bool {
        let deadlines = self.deadline.into_iter().chain(cancel.deadline());
        deadlines.min().is_some_and(|at| at.remaining() < wait)
    }
}

/// The last error, and why it was the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GaveUp<E> {
    /// What the last attempt failed with.
    pub error: E,
    /// How many attempts there were.
    pub attempts: u32,
    /// Why there was no further one.
    pub reason: Reason,
}

/// Why something was not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There were as many attempts as there may be.
    Attempts,
    /// The budget is spent: too much of what shares it is failing.
    Budget,
    /// The deadline would have passed before the next attempt.
    Deadline,
    /// The error is not one that goes away.
    NotWorthIt,
    /// The group was cancelled.
    Cancelled(Cause),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Attempts => f.write_str("no attempts are left"),
            Reason::Budget => f.write_str("the budget for retries is spent"),
            Reason::Deadline => f.write_str("the next attempt would come after the deadline"),
            Reason::NotWorthIt => f.write_str("the error is not worth another attempt"),
            Reason::Cancelled(cause) => cause.fmt(f),
        }
    }
}

impl<E: fmt::Display> fmt::Display for GaveUp<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GaveUp {
            error,
            attempts,
            reason,
        } = self;
        let s = if *attempts == 1 { "" } else { "s" };
        write!(
            f,
            "gave up after {attempts} attempt{s}, because {reason}: {error}"
        )
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for GaveUp<E> {}

/// How many retries there may be, counted over everything that shares it. Clones are the same budget.
///
/// Each call earns a fraction of a retry, and each retry spends a whole one; so when everything fails, the load grows by that
/// fraction and not by the number of attempts. Up to `reserve` retries are saved for bad moments, and there from the start.
///
/// ```
/// use jitney::{Budget, Retry};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let budget = Budget::new(10, 20);
/// let retry = Retry::new(4).budget(&budget);
/// let mut attempts = 0;
/// for _ in 0..1000 {
///     let down = retry.run(|| {
///         attempts += 1;
///         async { Err::<(), _>("down") }
///     });
///     down.await.unwrap_err();
/// }
/// assert_eq!(attempts, 1000 + 20 + 99); // without a budget it would be 4000
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// In hundredths of a retry.
    balance: AtomicU64,
    percent: u64,
    most: u64,
}

const RETRY: u64 = 100;

impl Budget {
    /// A retry for every hundred calls times `percent`, and up to `reserve` saved ones.
    pub fn new(percent: u32, reserve: u32) -> Budget {
        let most = u64::from(reserve) * RETRY;
        Budget {
            shared: Arc::new(Shared {
                balance: AtomicU64::new(most),
                percent: percent.into(),
                most: most.max(RETRY),
            }),
        }
    }

    /// How many retries there could be now.
    pub fn left(&self) -> u64 {
        self.shared.balance.load(Ordering::Relaxed) / RETRY
    }

    fn earn(&self) {
        let Shared {
            balance,
            percent,
            most,
        } = &*self.shared;
        let more = |balance: u64| Some((balance + percent).min(*most));
        let _unrefused = balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        let less = |balance: u64| balance.checked_sub(RETRY);
        let balance = &self.shared.balance;
        balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// Numbers that look random: the generator splitmix64, which can be shared without a lock.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn thrown() -> Dice {
        // The standard library seeds its hashers from the operating system.
        Dice(AtomicU64::new(RandomState::new().build_hasher().finish()))
    }

    /// At least zero and below one.
    fn roll(&self) -> f64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The upper 53 bits are as many as a float of this size keeps.
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}
