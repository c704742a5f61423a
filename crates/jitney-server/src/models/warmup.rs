//! The first runs of a model, before anyone waits for it: they find memory, show whether the model runs at all and whether its rows can
//! be run together, and teach the batcher what a batch costs.

mod independence;
mod inputs;
mod stage;

use std::time::{Duration, Instant};

use jitney_engine::{BatchAxis, Dim, Instance, LoadError, Model, Spec};

use self::independence::Comparison;
use self::stage::Stage;

/// How a model is warmed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Runs for each batch size; 0 runs nothing.
    pub(super) runs: usize,
    /// How long a fast model is measured.
    pub(super) budget: Duration,
    /// Whether to find out if rows leave each other's answers alone.
    pub(super) compare_rows: bool,
    /// Whether the model is trusted: it has warmed itself up, and what it makes of made-up inputs says nothing against it. Then the runs are
    /// for their cost alone.
    pub(super) trusting: bool,
}

/// What the runs showed.
pub(super) struct Warmth {
    /// The instance that ran, warm.
    pub(super) instance: Box<dyn Instance>,
    /// What free dimensions were set to; `None` where nothing was run, or other instances need no run.
    pub(super) guess: Option<usize>,
    /// Rows, and the time that a batch of them took.
    pub(super) costs: Vec<(usize, Duration)>,
    /// Why rows cannot be run together, where that was found.
    pub(super) apart: Option<Apart>,
    /// Why nothing could be run, where the model's free dimensions could not be guessed.
    pub(super) skipped: Option<String>,
    /// How long comparing rows and measuring took.
    pub(super) measuring: Duration,
}

/// Why rows cannot be run together, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Apart {
    /// More than one at a time fail.
    Fails(String),
    /// A row's answer changes with the row beside it.
    Mixed(String),
}

impl Apart {
    /// The reason as the end of a sentence.
    pub(super) fn because(&self) -> &'static str {
        match self {
            Apart::Fails(_) => "it fails on more than one row at a time",
            Apart::Mixed(_) => {
                "a row's answer changes with the row beside it; row_by_row = false batches them all the same"
            }
        }
    }

    /// What was seen, for the log.
    pub(super) fn detail(&self) -> &str {
        match self {
            Apart::Fails(detail) | Apart::Mixed(detail) => detail,
        }
    }
}

/// Slow models are measured for as long as this many runs of the smallest batch take.
const SLOW_RUNS: u32 = 4;
/// What free dimensions are set to, one after the other, until the model runs. Convolutions want some room.
const GUESSES: [usize; 4] = [1, 16, 64, 224];
const TOO_LARGE: &str = "its inputs would be too large";

/// Makes an instance and runs it at each of the sizes, the smallest first, as often as said but no longer than is reasonable.
///
/// # Errors
/// When there is no instance to be had, or the model fails on its smallest batch and no free dimension can be the reason.
pub(super) fn warm_up(
    model: &dyn Model,
    sizes: &[usize],
    effort: Effort,
) -> Result<Warmth, LoadError> {
    let mut stage = Stage::new(model)?;
    let first = match sizes.first() {
        Some(&smallest) if effort.runs > 0 => Some(first_run(&mut stage, smallest, effort)?),
        _ => None,
    };
    let (guess, skipped) = match first {
        Some(Ok(guess)) => (Some(guess), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let skipped = skipped.filter(|_| !effort.trusting);
    let since = Instant::now();
    let Comparison { costs, apart } = match guess {
        Some(guess) => study(&mut stage, sizes, guess, effort)?,
        None => Comparison::default(),
    };
    Ok(Warmth {
        instance: stage.into_instance(),
        // Other instances of such a model need no run of ours.
        guess: guess.filter(|_| !effort.trusting),
        costs,
        apart,
        skipped,
        measuring: since.elapsed(),
    })
}

/// One run of the smallest batch, for the instances that follow the first. It is not an error if it fails: the model has been found fit to
/// run.
pub(super) fn warm_quickly(spec: &Spec, instance: &mut dyn Instance, size: usize, guess: usize) {
    if let Some(inputs) = inputs::zeros(spec, size, guess) {
        let _ = stage::run(instance, spec, &[&inputs]);
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

/// Compares rows where that is asked for, and measures. What the comparison took counts as the first measurement.
fn study(
    stage: &mut Stage<'_>,
    sizes: &[usize],
    guess: usize,
    effort: Effort,
) -> Result<Comparison, LoadError> {
    let mut patience = Patience::new(effort.budget);
    let mut known = Comparison::default();
    if effort.compare_rows {
        known = independence::compare(stage, guess)?;
    }
    let sizes = match known.apart {
        Some(_) => &sizes[..1],
        None => sizes,
    };
    known.costs.retain(|(rows, _)| sizes.contains(rows));
    if let Some((_, one)) = known.costs.first() {
        patience.extend(*one);
    }
    let unjoined = measure(stage, sizes, guess, &mut patience, &mut known.costs)?;
    if let Some(why) = unjoined.filter(|_| !effort.trusting) {
        known.apart = Some(Apart::Fails(why));
    }
    measure_again(stage, guess, effort.runs - 1, &patience, &mut known.costs)?;
    Ok(known)
}

/// Runs each size that is not known yet, the smallest first, as far as time allows. The answer is why a size above the smallest failed, if
/// one did.
fn measure(
    stage: &mut Stage<'_>,
    sizes: &[usize],
    guess: usize,
    patience: &mut Patience,
    costs: &mut Vec<(usize, Duration)>,
) -> Result<Option<String>, LoadError> {
    for &rows in sizes.get(costs.len()..).unwrap_or_default() {
        // Twice the rows take at most twice the time, or nearly so.
        let expected = costs.last().map_or(Duration::ZERO, |(_, took)| *took * 2);
        let Some(inputs) = inputs::zeros(stage.spec(), rows, guess) else {
            break;
        };
        if !patience.allows(expected) {
            break;
        }
        match stage.run(&[&inputs])? {
            Ok(ran) => costs.push((rows, ran.took)),
            // It ran a moment ago, so this is chance, and no reason to refuse the model.
            Err(_) if costs.is_empty() => break,
            Err(why) => return Ok(Some(why)),
        }
        if let [(_, one)] = costs[..] {
            patience.extend(one);
        }
    }
    Ok(None)
}

/// Runs all known sizes again, round after round. The shortest time of a size counts, without its first: that one found memory.
fn measure_again(
    stage: &mut Stage<'_>,
    guess: usize,
    rounds: usize,
    patience: &Patience,
    costs: &mut [(usize, Duration)],
) -> Result<(), LoadError> {
    for round in 0..rounds {
        for (rows, best) in &mut *costs {
            let inputs = inputs::zeros(stage.spec(), *rows, guess);
            let Some(inputs) = inputs.filter(|_| patience.allows(*best)) else {
                return Ok(());
            };
            let Ok(ran) = stage.run(&[&inputs])? else {
                return Ok(());
            };
            *best = if round == 0 {
                ran.took
            } else {
                ran.took.min(*best)
            };
        }
    }
    Ok(())
}

/// How long the measuring may take.
struct Patience {
    since: Instant,
    budget: Duration,
}

impl Patience {
    fn new(budget: Duration) -> Patience {
        Patience {
            since: Instant::now(),
            budget,
        }
    }

    /// Slow models are measured for longer.
    fn extend(&mut self, one: Duration) {
        self.budget = self.budget.max(one * SLOW_RUNS);
    }

    fn allows(&self, more: Duration) -> bool {
        self.since.elapsed() + more <= self.budget
    }
}

/// Finds the guess for free dimensions at which the model runs. The inner error says why none was found, where guessing was the matter;
/// without free dimensions the model itself is.
fn first_run(
    stage: &mut Stage<'_>,
    size: usize,
    effort: Effort,
) -> Result<Result<usize, String>, LoadError> {
    let guesses = if has_free_dimensions(stage.spec()) {
        &GUESSES[..]
    } else {
        &GUESSES[..1]
    };
    let mut first_failure = None;
    for &guess in guesses {
        let ran = match inputs::zeros(stage.spec(), size, guess) {
            Some(inputs) => stage.run(&[&inputs])?.map(|_| ()),
            None => Err(TOO_LARGE.to_owned()),
        };
        match ran {
            Ok(()) => return Ok(Ok(guess)),
            Err(why) => first_failure.get_or_insert(why),
        };
    }
    let why = first_failure.unwrap_or_default();
    if guesses.len() > 1 || effort.trusting {
        return Ok(Err(why));
    }
    Err(
        LoadError::new(format!("the model failed its warm-up on zeros: {why}"))
            .hint("if it cannot take zeros, set warmup = 0"),
    )
}

/// Whether there are dimensions beside the batch axis that a request chooses.
fn has_free_dimensions(spec: &Spec) -> bool {
    let free = |dim: &Dim| *dim == Dim::Any;
    let skip = usize::from(spec.batched());
    spec.inputs
        .iter()
        .any(|input| input.shape.iter().skip(skip).any(free))
}

#[cfg(test)]
mod tests;
