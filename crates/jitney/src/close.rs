//! Resources that must be closed, and waited for.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::sync::oneshot;

/// Something that is closed by waiting: a pool of connections, a file with buffers, a child process.
///
/// Rust drops without waiting, so who owns such a thing needs a place where closing it is awaited. [`Group::enter`]
/// is that place.
///
/// ```
/// use std::convert::Infallible;
/// use jitney::{AsyncClose, Group, GroupError, Scope};
///
/// struct Connection(Vec<&'static str>);
///
/// impl AsyncClose for Connection {
///     type Error = Infallible;
///
///     async fn close(self) -> Result<(), Infallible> {
///         tokio::task::yield_now().await; // as it would to say goodbye
///         assert_eq!(self.0, ["question"]);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), GroupError<Infallible>> {
/// Scope::named("session")
///     .run(async |group: Group<Infallible>| {
///         let mut connection = group.named("connection").enter(Connection(Vec::new()));
///         connection.0.push("question");
///         Ok(())
///     })
///     .await
/// # }
/// ```
///
/// [`Group::enter`]: crate::Group::enter
pub trait AsyncClose: Send + 'static {
    /// Why it could not be closed well.
    type Error: fmt::Display + Send;

    /// Closes it. What is left to drop when this is dropped halfway must be harmless.
    ///
    /// # Errors
    /// Whatever the resource answers.
    fn close(self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// How long closing it may take, as a scope sees it when the resource is entered. Five seconds unless it says otherwise.
    fn close_limit(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// A resource in use, which its scope will close; see [`Group::enter`](crate::Group::enter).
///
/// Dropping it only ends the use of the resource, and closes nothing yet. To use it in several tasks put it in an
/// [`Arc`](std::sync::Arc).
#[must_use = "dropping it ends the use of the resource, which is closed with its scope"]
pub struct Entered<R: AsyncClose> {
    resource: Option<R>,
    back: Option<oneshot::Sender<R>>,
}

impl<R: AsyncClose> Entered<R> {
    /// Lends a resource. The future closes it when it has come back; an error is its text.
    pub(crate) fn lend(resource: R) -> (Entered<R>, impl Future<Output = Result<(), String>>) {
        let (back, returned) = oneshot::channel();
        let entered = Entered {
            resource: Some(resource),
            back: Some(back),
        };
        let closed = async move {
            match returned.await {
                Ok(resource) => resource.close().await.map_err(|error| error.to_string()),
                // Whoever had it forgot it, in the sense of `mem::forget`.
                Err(_) => Ok(()),
            }
        };
        (entered, closed)
    }
}

#[expect(
    clippy::expect_used,
    reason = "the resource is taken out only by dropping, after which nobody can call this"
)]
impl<R: AsyncClose> Deref for Entered<R> {
    type Target = R;

    fn deref(&self) -> &R {
        self.resource.as_ref().expect("it is lent")
    }
}

#[expect(
    clippy::expect_used,
    reason = "the resource is taken out only by dropping, after which nobody can call this"
)]
impl<R: AsyncClose> DerefMut for Entered<R> {
    fn deref_mut(&mut self) -> &mut R {
        self.resource.as_mut().expect("it is lent")
    }
}

impl<R: AsyncClose> Drop for Entered<R> {
    fn drop(&mut self) {
        if let (Some(resource), Some(back)) = (self.resource.take(), self.back.take()) {
            // It comes back if the scope is over already, and is only dropped.
            drop(back.send(resource));
        }
    }
}

impl<R: AsyncClose + fmt::Debug> fmt::Debug for Entered<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entered").field(&**self).finish()
    }
}
