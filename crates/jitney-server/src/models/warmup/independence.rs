//! Whether the rows of a batch leave each other's answers alone.
//!
//! A signature calls its first dimension the batch by little more than its name, and what lies between input and output may look at the
//! whole of it: statistics over a batch, values quantized by its range, one step after the other. So two rows are run alone, then side by
//! side, and both must be answered as they were alone, each in its place.

use std::time::Duration;

use jitney_engine::{BatchAxis, DataType, LoadError, Spec, Tensor};

use super::Apart;
use super::inputs::{Row, row};
use super::stage::{Ran, Stage};

/// What the comparison showed.
#[derive(Default)]
pub(super) struct Comparison {
    /// Why rows cannot be run together, if so.
    pub(super) apart: Option<Apart>,
    /// Rows, and the time that a run of them took, in ascending order.
    pub(super) costs: Vec<(usize, Duration)>,
}

/// Compares two rows alone with the same rows side by side: three short runs, and one more where they differ. Shows nothing where the model
/// refuses the made-up rows, or draws random numbers.
///
/// # Errors
/// When the model fails and there is no other instance to be had.
pub(super) fn compare(stage: &mut Stage<'_>, guess: usize) -> Result<Comparison, LoadError> {
    for only_floats in [false, true] {
        let made = |which| row(stage.spec(), guess, which, only_floats);
        let (Some(first), Some(second)) = (made(Row::First), made(Row::Second)) else {
            break;
        };
        let Ok(first_alone) = stage.run(&[&first])? else {
            continue;
        };
        let Ok(second_alone) = stage.run(&[&second])? else {
            continue;
        };
        let alone = [first_alone, second_alone];
        let together = match stage.run(&[&first, &second])? {
            Ok(together) => together,
            Err(why) => return Ok(unjoined(why)),
        };
        let mut apart = difference(stage.spec(), &alone, &together.answers);
        if apart.is_some() && is_random(stage, &first, &alone)? {
            apart = None;
        }
        return Ok(Comparison {
            apart: apart.map(Apart::Mixed),
            costs: costs(stage.spec(), &alone, &together),
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

/// Whether the same row, alone again, is answered differently again.
fn is_random(stage: &mut Stage<'_>, first: &[Tensor], alone: &[Ran; 2]) -> Result<bool, LoadError> {
    let Ok(again) = stage.run(&[first])? else {
        return Ok(false);
    };
    let [_, second] = alone;
    let answers = [again.answers, second.answers.clone()].concat();
    Ok(difference(stage.spec(), alone, &answers).is_some())
}

/// A model of a fixed size always runs that many.
fn costs(spec: &Spec, alone: &[Ran; 2], together: &Ran) -> Vec<(usize, Duration)> {
    let one = alone[0].took.min(alone[1].took);
    match spec.batch {
        BatchAxis::Fixed(size) => vec![(size, one.min(together.took))],
        BatchAxis::Free | BatchAxis::None => vec![(1, one), (2, together.took)],
    }
}

/// The first output in which a row is answered differently than it was alone, and how far; `None` where all are alike.
fn difference(spec: &Spec, alone: &[Ran; 2], answers: &[Vec<Tensor>]) -> Option<String> {
    let mut outputs = spec.outputs.iter().enumerate();
    outputs.find_map(|(at, output)| {
        let alone: Vec<&Tensor> = alone.iter().map(|ran| &ran.answers[0][at]).collect();
        let scale = alone.iter().copied().map(largest).fold(0.0, f64::max);
        let rows = alone.iter().zip(answers);
        let apart = rows.map(|(alone, answer)| distance(alone, &answer[at]));
        let apart = apart.fold(0.0, f64::max);
        (apart > tolerance(output.datatype) * scale).then(|| {
            let share = apart / scale;
            let far = if share.is_finite() {
                format!("by {share:.1e} of its largest value")
            } else {
                "altogether".to_owned()
            };
            format!("output \"{}\" changed {far}", output.name)
        })
    })
}

/// How far two answers for one row may lie apart, as a part of the largest value. Engines add up in another order where a batch has another
/// size, which moves `FP32` answers by 1e-6 to 1e-4; quantizing by the range of the whole batch moves them by 1e-2. The shorter types are
/// rounded to 5e-4 and 4e-3. Counts, labels and texts have no excuse.
fn tolerance(datatype: DataType) -> f64 {
    match datatype {
        DataType::Fp32 | DataType::Fp64 => 1e-3,
        DataType::Fp16 => 5e-3,
        DataType::Bf16 => 4e-2,
        _ => 0.0,
    }
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

#[cfg(test)]
mod tests;
