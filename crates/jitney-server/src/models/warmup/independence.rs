//! Whether the rows of a batch leave each other's answers alone.
//!
//! A signature calls its first dimension the batch by little more than its name, and what lies between input and output may look at the
//! whole of it: statistics over a batch, values quantized by its range, one step after the other. So a row is run beside another and beside
//! itself, in the same place of two batches of the same size. An engine then does the same steps in the same order, and where rows are
//! independent the answers are equal nearly to the last bit; in batches of different sizes they need not be, since additions are ordered
//! otherwise and some models magnify that.

use std::time::Duration;

use jitney_engine::{BatchAxis, DataType, LoadError, Spec, Tensor};

use super::Apart;
use super::inputs::{Row, row};
use super::stage::{Ran, Stage};

/// How far, as a part of the largest value, a row's answer may lie from the one that it gets alone: further than any order of additions
/// can lead, as far as wrong answers do.
const ALONE: f64 = 0.05;

/// What the comparison showed.
#[derive(Default)]
pub(super) struct Comparison {
    /// Why rows cannot be run together, if so.
    pub(super) apart: Option<Apart>,
    /// Rows, and the time that a run of them took, in ascending order.
    pub(super) costs: Vec<(usize, Duration)>,
}

/// Compares a row's answers in four short runs, and one more where they differ. Shows nothing where the model refuses the made-up rows, or
/// draws random numbers.
///
/// # Errors
/// When the model fails and there is no other instance to be had.
pub(super) fn compare(stage: &mut Stage<'_>, guess: usize) -> Result<Comparison, LoadError> {
    for only_floats in [false, true] {
        let made = |which| row(stage.spec(), guess, which, only_floats);
        let (Some(first), Some(second)) = (made(Row::First), made(Row::Second)) else {
            break;
        };
        let Ok(alone) = stage.run(&[&first])? else {
            continue;
        };
        let firsts = match stage.run(&[&first, &first])? {
            Ok(firsts) => firsts,
            Err(why) => return Ok(unjoined(why)),
        };
        let Ok(seconds) = stage.run(&[&second, &second])? else {
            continue;
        };
        let both = match stage.run(&[&first, &second])? {
            Ok(both) => both,
            Err(why) => return Ok(unjoined(why)),
        };
        let runs = Runs {
            alone,
            firsts,
            seconds,
            both,
        };
        let mut apart = runs.difference(stage.spec());
        if apart.is_some() {
            let again = stage.run(&[&first, &second])?;
            apart.take_if(|_| again.is_ok_and(|again| runs.is_random(stage.spec(), &again)));
        }
        return Ok(Comparison {
            apart: apart.map(Apart::Mixed),
            costs: runs.costs(stage.spec()),
        });
    }
    Ok(Comparison::default())
}

fn unjoined(why: String) -> Comparison {
    Comparison {
        apart: Some(Apart::Fails(why)),
        ..Comparison::default()
    }
}

/// The runs that are compared.
struct Runs {
    alone: Ran,
    firsts: Ran,
    seconds: Ran,
    both: Ran,
}

impl Runs {
    /// The first output in which a row is answered differently, and how far; `None` where all are alike.
    fn difference(&self, spec: &Spec) -> Option<String> {
        let mut outputs = spec.outputs.iter().enumerate();
        outputs.find_map(|(at, output)| {
            let [alone, first, second] = [
                &self.alone.answers[0][at],
                &self.firsts.answers[0][at],
                &self.seconds.answers[1][at],
            ];
            let [beside_second, beside_first] = [0, 1].map(|row| &self.both.answers[row][at]);
            let scale = largest(first).max(largest(second));
            let by_company = distance(first, beside_second).max(distance(second, beside_first));
            let by_size = distance(alone, beside_second);
            let apart = match output.datatype {
                _ if by_company > tolerance(output.datatype) * scale => by_company,
                // Counts and labels jump where numbers hardly move.
                _ if !is_float(output.datatype) => return None,
                _ if by_size > ALONE * scale => by_size,
                _ => return None,
            };
            Some(format!(
                "output \"{}\" changed {}",
                output.name,
                far(apart / scale)
            ))
        })
    }

    /// Whether the same batch is answered differently again.
    fn is_random(&self, spec: &Spec, again: &Ran) -> bool {
        let answers = self.both.answers.iter().zip(&again.answers);
        answers
            .flat_map(|(before, after)| spec.outputs.iter().zip(before.iter().zip(after)))
            .any(|(output, (before, after))| {
                distance(before, after) > tolerance(output.datatype) * largest(before)
            })
    }

    /// What the runs cost. A model of a fixed size always runs that many rows, and the first run of two finds memory.
    fn costs(&self, spec: &Spec) -> Vec<(usize, Duration)> {
        let two = self.seconds.took.min(self.both.took);
        match spec.batch {
            BatchAxis::Fixed(size) => vec![(size, two)],
            BatchAxis::Free | BatchAxis::None => vec![(1, self.alone.took), (2, two)],
        }
    }
}

/// How far two answers for one row may lie apart in batches of one size, as a part of the largest value: the last bits of the type, and room
/// for threads that add up in the order in which they come. Quantizing by the range of the batch moves answers by 1e-2.
fn tolerance(datatype: DataType) -> f64 {
    match datatype {
        DataType::Fp32 | DataType::Fp64 => 1e-4,
        DataType::Fp16 => 2e-3,
        DataType::Bf16 => 2e-2,
        _ => 0.0,
    }
}

fn is_float(datatype: DataType) -> bool {
    tolerance(datatype) > 0.0
}

/// The largest absolute value; 1 for texts.
fn largest(tensor: &Tensor) -> f64 {
    let Some(numbers) = tensor.numbers() else {
        return 1.0;
    };
    let finite = numbers.iter().filter(|number| number.is_finite());
    finite.map(|number| number.abs()).fold(0.0, f64::max)
}

/// The largest difference between two values in the same place; infinite where shapes or texts differ, or only one value is a number.
fn distance(left: &Tensor, right: &Tensor) -> f64 {
    if left.shape() != right.shape() {
        return f64::INFINITY;
    }
    let (Some(lefts), Some(rights)) = (left.numbers(), right.numbers()) else {
        return if left == right { 0.0 } else { f64::INFINITY };
    };
    let pairs = lefts.iter().zip(&rights);
    pairs
        .map(|(left, right)| match (left - right).abs() {
            apart if apart.is_finite() => apart,
            _ if left == right || (left.is_nan() && right.is_nan()) => 0.0,
            _ => f64::INFINITY,
        })
        .fold(0.0, f64::max)
}

fn far(share: f64) -> String {
    if share.is_finite() {
        format!("by {share:.1e} of its largest value")
    } else {
        "altogether".to_owned()
    }
}

#[cfg(test)]
mod tests;
