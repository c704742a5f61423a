//! The first runs of a model, before anyone waits for it: they find memory, show whether the model runs at all and whether its rows can
//! be joined, and teach the batcher what a batch costs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jitney_engine::tensor::{Data, element_count};
use jitney_engine::{BatchAxis, Dim, Instance, LoadError, Model, Shape, Spec, Tensor, stack};

use super::ENGINE_STACK;

/// What the runs showed.
pub(super) struct Warmth {
    /// The instance that ran, warm.
    pub(super) instance: Box<dyn Instance>,
    /// What free dimensions were set to; `None` where nothing was run.
    pub(super) guess: Option<usize>,
    /// Rows, and the time that a batch of them took.
    pub(super) costs: Vec<(usize, Duration)>,
    /// Why rows cannot be joined, where more than one at a time failed.
    pub(super) unjoined: Option<String>,
    /// Why nothing could be run, where the model's free dimensions could not be guessed.
    pub(super) skipped: Option<String>,
}

/// How long fast models are measured.
const BUDGET: Duration = Duration::from_millis(50);
/// Slow models are measured for as long as this many runs of the smallest batch take.
const SLOW_RUNS: u32 = 4;
/// What free dimensions are set to, one after the other, until the model runs. Convolutions want some room.
const GUESSES: [usize; 4] = [1, 16, 64, 224];
/// Larger inputs than this are not made up, in elements.
const LARGEST_INPUT: usize = 1 << 26;
const TOO_LARGE: &str = "its inputs would be too large";

/// What the thread that runs the model tells the one that waits for it.
enum Step {
    /// The model is about to run.
    Runs,
    /// It has run.
    Ran,
    Over(Result<Warmth, LoadError>),
}

/// Is told where the work stands.
type Watch<'a> = &'a dyn Fn(Step);

/// Does the work of [`warm_up`] on a thread of its own, and gives it up when one run takes longer than `limit`: a model can be made so that
/// it never ends, and must not be loading for ever then. An engine cannot be interrupted, so the thread is left behind with its run.
///
/// # Errors
/// As [`warm_up`], and when the limit is passed.
pub(super) fn warm_up_within(
    limit: Duration,
    model: &Arc<dyn Model>,
    sizes: &[usize],
    runs: usize,
) -> Result<Warmth, LoadError> {
    let (sender, steps) = sync_channel(1);
    let (model, sizes) = (Arc::clone(model), sizes.to_vec());
    let work = move || {
        // Whoever waits may have given up.
        let watch = |step| drop(sender.send(step));
        watch(Step::Over(warm_up(&*model, &sizes, runs, &watch)));
    };
    thread::Builder::new()
        .name("warm-up".to_owned())
        .stack_size(ENGINE_STACK)
        .spawn(work)
        .map_err(|error| LoadError::new(format!("no thread to warm it up on: {error}")))?;
    let lost = || LoadError::new("the engine panicked during the warm-up");
    loop {
        // Only a run is limited: making an instance of a large model takes its time.
        let mut step = steps.recv().map_err(|_| lost())?;
        if matches!(step, Step::Runs) {
            step = steps.recv_timeout(limit).map_err(|error| match error {
                RecvTimeoutError::Timeout => endless(limit),
                RecvTimeoutError::Disconnected => lost(),
            })?;
        }
        if let Step::Over(warmth) = step {
            return warmth;
        }
    }
}

fn endless(limit: Duration) -> LoadError {
    LoadError::new(format!(
        "one run of its warm-up took longer than run_limit_ms, which is {}",
        limit.as_millis()
    ))
    .hint("if it is only slow, raise run_limit_ms, or set warmup = 0")
}

/// Makes an instance and runs it on zeros at each of the sizes, the smallest first, as often as said but no longer than is reasonable.
///
/// # Errors
/// When there is no instance to be had, or the model fails on its smallest batch and no free dimension can be the reason.
fn warm_up(
    model: &dyn Model,
    sizes: &[usize],
    runs: usize,
    watch: Watch<'_>,
) -> Result<Warmth, LoadError> {
    let mut warmth = Warmth {
        instance: model.instance()?,
        guess: None,
        costs: Vec::new(),
        unjoined: None,
        skipped: None,
    };
    let (Some(&smallest), true) = (sizes.first(), runs > 0) else {
        return Ok(warmth);
    };
    match first_run(model, &mut warmth.instance, smallest, watch)? {
        Ok(guess) => warmth.guess = Some(guess),
        Err(why) => warmth.skipped = Some(why),
    }
    if let Some(guess) = warmth.guess {
        measure_all(model, &mut warmth, guess, sizes, runs, watch)?;
    }
    Ok(warmth)
}

/// One run of the smallest batch, for the instances that follow the first. It is not an error if it fails: the model has been found fit to
/// run.
pub(super) fn warm_quickly(spec: &Spec, instance: &mut dyn Instance, size: usize, guess: usize) {
    if let Some(inputs) = zeros(spec, size, guess) {
        let _ = run(instance, spec, &inputs, &|_| ());
    }
}

/// The batch sizes to try: powers of two up to the largest, and the largest itself.
pub(super) fn sizes(spec: &Spec, max_batch: usize) -> Vec<usize> {
    match spec.batch {
        BatchAxis::None => vec![1],
        BatchAxis::Fixed(size) => vec![size.max(1)],
        BatchAxis::Free => {
            let doubling = std::iter::successors(Some(1_usize), |size| size.checked_mul(2));
            let mut sizes: Vec<usize> = doubling.take_while(|size| *size < max_batch).collect();
            sizes.push(max_batch);
            sizes
        }
    }
}

fn measure_all(
    model: &dyn Model,
    warmth: &mut Warmth,
    guess: usize,
    sizes: &[usize],
    runs: usize,
    watch: Watch<'_>,
) -> Result<(), LoadError> {
    let mut patience = Patience {
        watch,
        since: Instant::now(),
        budget: BUDGET,
    };
    let mut last = Duration::ZERO;
    for (at, &size) in sizes.iter().enumerate() {
        // Twice the rows take at most twice the time, or nearly so.
        if !patience.allows(last * 2) {
            break;
        }
        let measured = measure(
            &mut *warmth.instance,
            model.spec(),
            size,
            guess,
            runs,
            &patience,
        );
        match measured {
            Ok(took) => last = took,
            // It ran a moment ago, so this is chance, and no reason to refuse the model.
            Err(_) if at == 0 => break,
            Err(why) => {
                warmth.unjoined = Some(why);
                // It may have panicked, and then its state is anybody's guess.
                warmth.instance = model.instance()?;
                break;
            }
        }
        warmth.costs.push((size, last));
        if at == 0 {
            patience.budget = BUDGET.max(last * SLOW_RUNS);
        }
    }
    Ok(())
}

/// The shortest of some runs, without the first if there are more: that one finds memory.
fn measure(
    instance: &mut dyn Instance,
    spec: &Spec,
    size: usize,
    guess: usize,
    runs: usize,
    patience: &Patience<'_>,
) -> Result<Duration, String> {
    let inputs = zeros(spec, size, guess).ok_or(TOO_LARGE)?;
    let mut best = run(instance, spec, &inputs, patience.watch)?;
    for again in 1..runs {
        if !patience.allows(best) {
            break;
        }
        let took = run(instance, spec, &inputs, patience.watch)?;
        best = if again == 1 { took } else { best.min(took) };
    }
    Ok(best)
}

/// How long the measuring may take.
struct Patience<'a> {
    watch: Watch<'a>,
    since: Instant,
    budget: Duration,
}

impl Patience<'_> {
    fn allows(&self, more: Duration) -> bool {
        self.since.elapsed() + more <= self.budget
    }
}

/// Finds the guess for free dimensions at which the model runs. The inner error says why none was found, where guessing was the matter;
/// without free dimensions the model itself is.
fn first_run(
    model: &dyn Model,
    instance: &mut Box<dyn Instance>,
    size: usize,
    watch: Watch<'_>,
) -> Result<Result<usize, String>, LoadError> {
    let spec = model.spec();
    let guesses = if has_free_dimensions(spec) {
        &GUESSES[..]
    } else {
        &GUESSES[..1]
    };
    let mut first_failure = None;
    for &guess in guesses {
        let ran = match zeros(spec, size, guess) {
            Some(inputs) => run(&mut **instance, spec, &inputs, watch),
            None => Err(TOO_LARGE.to_owned()),
        };
        match ran {
            Ok(_) => return Ok(Ok(guess)),
            Err(why) => first_failure.get_or_insert(why),
        };
        *instance = model.instance()?;
    }
    let why = first_failure.unwrap_or_default();
    if guesses.len() > 1 {
        return Ok(Err(why));
    }
    Err(
        LoadError::new(format!("the model failed its warm-up on zeros: {why}"))
            .hint("if it cannot take zeros, set warmup = 0"),
    )
}

/// How long one run takes. A panic of the engine is an error like any other here.
fn run(
    instance: &mut dyn Instance,
    spec: &Spec,
    inputs: &[Tensor],
    watch: Watch<'_>,
) -> Result<Duration, String> {
    let started = Instant::now();
    watch(Step::Runs);
    let ran = catch_unwind(AssertUnwindSafe(|| stack::run(instance, spec, &[inputs])));
    let took = started.elapsed();
    watch(Step::Ran);
    match ran {
        Ok(Ok(_)) => Ok(took),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the engine panicked".to_owned()),
    }
}

/// Whether there are dimensions beside the batch axis that a request chooses.
fn has_free_dimensions(spec: &Spec) -> bool {
    let free = |dim: &Dim| *dim == Dim::Any;
    let skip = usize::from(spec.batched());
    spec.inputs
        .iter()
        .any(|input| input.shape.iter().skip(skip).any(free))
}

/// Inputs of zeros and empty strings; `None` where they would be too large.
fn zeros(spec: &Spec, rows: usize, guess: usize) -> Option<Vec<Tensor>> {
    spec.inputs
        .iter()
        .map(|input| {
            let mut shape: Shape = input.shape.iter().map(|dim| size(*dim, guess)).collect();
            if let (true, Some(first)) = (spec.batched(), shape.first_mut()) {
                *first = rows;
            }
            let elements = element_count(&shape).filter(|count| *count <= LARGEST_INPUT)?;
            let data = match input.datatype.width() {
                Some(width) => Data::Fixed(vec![0; elements * width].into()),
                None => Data::Elements(vec![Bytes::new(); elements]),
            };
            Tensor::new(input.datatype, shape, data).ok()
        })
        .collect()
}

fn size(dim: Dim, guess: usize) -> usize {
    match dim {
        Dim::Fixed(size) => size,
        Dim::Any => guess,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Mutex;

    use jitney_engine::{DataType, RunError, TensorSpec};

    type Accepts = fn(&[usize]) -> Result<(), RunError>;

    /// A model whose instances answer with their only input if `accepts` says so, and write down what they were given.
    struct Probe {
        spec: Spec,
        accepts: Accepts,
        seen: Arc<Mutex<Vec<Vec<usize>>>>,
    }

    struct ProbeInstance {
        accepts: Accepts,
        seen: Arc<Mutex<Vec<Vec<usize>>>>,
    }

    impl Probe {
        fn new(datatype: DataType, shape: &[Dim], batch: BatchAxis, accepts: Accepts) -> Probe {
            let tensor = |name: &str| TensorSpec {
                name: name.to_owned(),
                datatype,
                shape: shape.to_vec(),
            };
            Probe {
                spec: Spec {
                    inputs: vec![tensor("in")],
                    outputs: vec![tensor("out")],
                    batch,
                    rows_independent: true,
                },
                accepts,
                seen: Arc::default(),
            }
        }

        fn seen(&self) -> Vec<Vec<usize>> {
            self.seen.lock().unwrap().clone()
        }
    }

    impl Model for Probe {
        fn spec(&self) -> &Spec {
            &self.spec
        }
        fn engine(&self) -> &'static str {
            "probe"
        }
        fn platform(&self) -> &'static str {
            "probe"
        }
        fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
            Ok(Box::new(ProbeInstance {
                accepts: self.accepts,
                seen: Arc::clone(&self.seen),
            }))
        }
    }

    impl Instance for ProbeInstance {
        fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
            let shape = inputs[0].shape();
            self.seen.lock().unwrap().push(shape.to_vec());
            (self.accepts)(shape)?;
            Ok(inputs.to_vec())
        }
    }

    fn refuse(why: &str) -> Result<(), RunError> {
        Err(RunError::Failed(why.to_owned()))
    }

    #[test]
    fn sizes_double_up_to_the_largest() {
        let probe = |batch| Probe::new(DataType::Fp32, &[Dim::Any], batch, |_| Ok(())).spec;
        let table: [(BatchAxis, usize, &[usize]); 6] = [
            (BatchAxis::Free, 1, &[1]),
            (BatchAxis::Free, 2, &[1, 2]),
            (BatchAxis::Free, 32, &[1, 2, 4, 8, 16, 32]),
            (BatchAxis::Free, 5, &[1, 2, 4, 5]),
            (BatchAxis::Fixed(8), 32, &[8]),
            (BatchAxis::None, 32, &[1]),
        ];
        for (batch, max_batch, expected) in table {
            assert_eq!(
                sizes(&probe(batch), max_batch),
                expected,
                "{batch:?} {max_batch}"
            );
        }
    }

    #[test]
    fn every_size_is_run_and_measured() {
        let shape = [Dim::Any, Dim::Fixed(2)];
        let probe = Probe::new(DataType::Bytes, &shape, BatchAxis::Free, |_| Ok(()));
        let warmth = warm_up(&probe, &[1, 2, 3], 2, &|_| ()).unwrap();
        let measured: Vec<usize> = warmth.costs.iter().map(|(rows, _)| *rows).collect();
        assert_eq!(measured, [1, 2, 3]);
        let rows: Vec<usize> = probe.seen().iter().map(|shape| shape[0]).collect();
        assert_eq!(rows, [1, 1, 1, 2, 2, 3, 3]);
        assert_eq!((warmth.unjoined, warmth.skipped), (None, None));
    }

    #[test]
    fn free_dimensions_are_guessed() {
        let shape = [Dim::Any, Dim::Fixed(3), Dim::Any, Dim::Any];
        let roomy = |shape: &[usize]| match shape[2] {
            64.. => Ok(()),
            _ => refuse("too small for the kernel"),
        };
        let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, roomy);
        let warmth = warm_up(&probe, &[1], 1, &|_| ()).unwrap();
        assert_eq!(warmth.costs.len(), 1);
        let last = probe.seen().pop().unwrap();
        assert_eq!(last, [1, 3, 64, 64]);
    }

    #[test]
    fn what_cannot_be_guessed_is_not_held_against_the_model() {
        let shape = [Dim::Any, Dim::Any];
        let never = |_: &[usize]| refuse("seventeen, please");
        let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, never);
        let warmth = warm_up(&probe, &[1, 2], 2, &|_| ()).unwrap();
        assert_eq!(warmth.skipped.as_deref(), Some("seventeen, please"));
        assert!(warmth.costs.is_empty());
    }

    #[test]
    fn a_model_that_cannot_run_at_all_is_refused() {
        let table: [(Accepts, &str); 2] = [
            (|_| refuse("no kernel for Foo"), "no kernel for Foo"),
            (|_| panic!("no kernel"), "the engine panicked"),
        ];
        for (never, expected) in table {
            let probe = Probe::new(DataType::Fp32, &[Dim::Fixed(4)], BatchAxis::None, never);
            let error = warm_up(&probe, &[1], 2, &|_| ()).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn rows_that_cannot_be_joined_are_found() {
        let shape = [Dim::Any, Dim::Fixed(2)];
        let one = |shape: &[usize]| match shape[0] {
            1 => Ok(()),
            _ => refuse("cannot reshape [2,2] to [1,2]"),
        };
        let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, one);
        let warmth = warm_up(&probe, &[1, 2, 4], 2, &|_| ()).unwrap();
        assert_eq!(
            warmth.unjoined.as_deref(),
            Some("cannot reshape [2,2] to [1,2]")
        );
        assert_eq!(warmth.costs.len(), 1);
    }

    #[test]
    fn inputs_of_any_size_are_not_made_up() {
        let shape = [Dim::Any, Dim::Fixed(usize::MAX), Dim::Fixed(2)];
        let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, |_| Ok(()));
        let error = warm_up(&probe, &[1], 1, &|_| ()).err().unwrap().to_string();
        assert!(error.contains("too large"), "{error}");
        assert!(probe.seen().is_empty());
    }

    #[test]
    fn a_slow_model_is_not_measured_for_ever() {
        let shape = [Dim::Any, Dim::Fixed(2)];
        let slow = |_: &[usize]| {
            std::thread::sleep(Duration::from_millis(40));
            Ok(())
        };
        let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, slow);
        let warmth = warm_up(&probe, &[1, 2, 4, 8, 16, 32], 2, &|_| ()).unwrap();
        let runs = probe.seen().len();
        assert!((2..=5).contains(&runs), "{runs} runs");
        assert!(!warmth.costs.is_empty());
    }

    #[test]
    fn a_model_that_never_ends_is_given_up() {
        let stuck = |_: &[usize]| {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        };
        let shape = [Dim::Any, Dim::Fixed(2)];
        let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, stuck);
        let model: Arc<dyn Model> = Arc::new(probe);
        let error = warm_up_within(Duration::from_millis(20), &model, &[1], 2)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("run_limit_ms, which is 20"), "{error}");
    }
}
