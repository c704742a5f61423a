//! Handing a batch's answers to a runtime in one go.

use std::fmt;
use std::future::Future;

use tokio::sync::mpsc;

use super::Model;
use super::ticket::Due;

/// Answers on their way. Small, since what does not fit is delivered at once by whoever has it.
const ANSWERS_MAX: usize = 64;

/// Delivers the answers of batches from within a runtime.
///
/// An instance's thread that answers thirty callers wakes thirty tasks of a runtime it is not part of; each time the runtime's thread may
/// have to be woken too, and may take the processor away before the next answer is sent. A courier gets them all at once and wakes their
/// tasks from within, where that costs next to nothing.
///
/// ```
/// use std::convert::Infallible;
/// use jitney::batch::{Batcher, Batching, Context, Courier, Model, Surroundings};
///
/// # struct Doubler;
/// # impl Model for Doubler {
/// #     type In = u32;
/// #     type Out = u32;
/// #     type Error = Infallible;
/// #     fn run(&mut self, items: &[u32], _: &Context<'_>) -> Result<Vec<Result<u32, Infallible>>, Infallible> {
/// #         Ok(items.iter().map(|item| Ok(item * 2)).collect())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (courier, deliver) = Courier::new();
/// let surroundings = Surroundings { courier: Some(courier), ..Surroundings::default() };
/// let batcher = Batcher::start_with("doubler", Batching::default(), surroundings, || Ok::<_, Infallible>(Doubler))?;
/// let ask = async { Ok::<_, Box<dyn std::error::Error>>(batcher.submit(21, None)?.await?.value) };
/// tokio::select! {
///     answer = ask => assert_eq!(answer?, 42),
///     () = deliver => unreachable!("the courier has work for as long as there is a batcher"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Courier(mpsc::Sender<Parcel>);

/// Answers of one batch, of whichever model. Dropping it delivers them.
type Parcel = Box<dyn Send>;

struct Answers<M: Model>(Vec<Due<M>>);

impl Courier {
    /// A courier, and its work: a future to be spawned where the callers are. It ends when every batcher that has the courier has ended.
    ///
    /// Cancel safety: dropping the future loses nothing. What it holds is delivered, and from then on the instances' threads answer by
    /// themselves.
    pub fn new() -> (Courier, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut parcels) = mpsc::channel(ANSWERS_MAX);
        let deliver = async move { while parcels.recv().await.is_some() {} };
        (Courier(sender), deliver)
    }

    /// Takes the answers along; delivers them here and now when there are too many on their way already, or nobody does the work.
    pub(crate) fn take<M: Model>(&self, answers: Vec<Due<M>>) {
        drop(self.0.try_send(Box::new(Answers(answers))));
    }
}

impl<M: Model> Drop for Answers<M> {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Due::send);
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").finish_non_exhaustive()
    }
}
