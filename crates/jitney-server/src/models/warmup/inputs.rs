//! Inputs made up for a model of which nothing is known but its signature.

use bytes::Bytes;
use half::{bf16, f16};
use jitney_engine::tensor::{Data, element_count};
use jitney_engine::{DataType, Dim, Shape, Spec, Tensor, TensorSpec};

/// Larger inputs than this are not made up, in elements.
const LARGEST: usize = 1 << 26;

/// One of two rows that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    First,
    Second,
}

/// Rows of zeros and empty strings, with free dimensions set to `guess`; `None` where they would be too large.
pub(super) fn zeros(spec: &Spec, rows: usize, guess: usize) -> Option<Vec<Tensor>> {
    made(spec, rows, guess, |input, elements| {
        match input.datatype.width() {
            Some(width) => Data::Fixed(vec![0; elements * width].into()),
            None => Data::Elements(vec![Bytes::new(); elements]),
        }
    })
}

/// One row of values that most models take: numbers from 0 to 1, or to 4 in the second row, so that the two have different ranges.
/// Integers, booleans and texts are 0 or 1, since they may be positions in a small table, and where the one row has a 0 the other has a 1;
/// or they are zero in both rows, where `only_floats`. `None` where the row would be too large.
pub(super) fn row(spec: &Spec, guess: usize, row: Row, only_floats: bool) -> Option<Vec<Tensor>> {
    made(spec, 1, guess, |input, elements| {
        let word = |at| !only_floats && row.word(at);
        let numbers = (0..elements).map(|at| row.number(at));
        match (input.datatype, input.datatype.width()) {
            (DataType::Fp16, _) => flat(numbers.map(|number| f16::from_f32(number).to_le_bytes())),
            (DataType::Bf16, _) => flat(numbers.map(|number| bf16::from_f32(number).to_le_bytes())),
            (DataType::Fp32, _) => flat(numbers.map(f32::to_le_bytes)),
            (DataType::Fp64, _) => flat(numbers.map(|number| f64::from(number).to_le_bytes())),
            (_, Some(width)) => Data::Fixed(words(elements, width, word).into()),
            (_, None) => Data::Elements((0..elements).map(|at| text(word(at))).collect()),
        }
    })
}

impl Row {
    fn number(self, at: usize) -> f32 {
        let seed = match self {
            Row::First => 1,
            Row::Second => 2,
        };
        let unit = (scatter(at as u64 * 2 + seed) >> 40) as f32 / (1 << 24) as f32;
        match self {
            Row::First => unit,
            Row::Second => 4.0 * unit,
        }
    }

    fn word(self, at: usize) -> bool {
        (scatter(at as u64) & 1 == 1) == (self == Row::First)
    }
}

fn made(
    spec: &Spec,
    rows: usize,
    guess: usize,
    data: impl Fn(&TensorSpec, usize) -> Data,
) -> Option<Vec<Tensor>> {
    let tensor = |input: &TensorSpec| {
        let mut shape: Shape = input.shape.iter().map(|dim| size(*dim, guess)).collect();
        if let (true, Some(first)) = (spec.batched(), shape.first_mut()) {
            *first = rows;
        }
        let elements = element_count(&shape).filter(|count| *count <= LARGEST)?;
        Tensor::new(input.datatype, shape, data(input, elements)).ok()
    };
    spec.inputs.iter().map(tensor).collect()
}

fn size(dim: Dim, guess: usize) -> usize {
    match dim {
        Dim::Fixed(size) => size,
        Dim::Any => guess,
    }
}

fn flat<const WIDTH: usize>(values: impl Iterator<Item = [u8; WIDTH]>) -> Data {
    Data::Fixed(values.flatten().collect::<Vec<u8>>().into())
}

fn words(elements: usize, width: usize, word: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut bytes = vec![0; elements * width];
    for (at, element) in bytes.chunks_exact_mut(width).enumerate() {
        element[0] = u8::from(word(at));
    }
    bytes
}

fn text(word: bool) -> Bytes {
    Bytes::from_static(if word { b"1" } else { b"" })
}

/// A number that looks random, the same for the same seed.
fn scatter(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use jitney_engine::{BatchAxis, Items};

    use super::*;

    fn spec(datatype: DataType) -> Spec {
        Spec {
            inputs: vec![TensorSpec {
                name: "in".to_owned(),
                datatype,
                shape: vec![Dim::Any, Dim::Fixed(5), Dim::Any],
            }],
            outputs: Vec::new(),
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    #[test]
    fn the_two_rows_differ_and_stay_in_their_range() {
        for datatype in DataType::ALL {
            let made = |which| row(&spec(datatype), 7, which, false).unwrap().remove(0);
            let (first, second) = (made(Row::First), made(Row::Second));
            assert_eq!(first.shape(), [1, 5, 7], "{datatype}");
            assert_ne!(first, second, "{datatype}");
            let (Some(first), Some(second)) = (first.numbers(), second.numbers()) else {
                assert_eq!(datatype, DataType::Bytes);
                continue;
            };
            let most = |numbers: &[f64]| numbers.iter().copied().fold(0.0, f64::max);
            let float = matches!(
                datatype,
                DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64
            );
            if float {
                assert!(most(&first) <= 1.0 && (2.0..=4.0).contains(&most(&second)));
            } else {
                let all_differ = first.iter().zip(&second).all(|(a, b)| a + b == 1.0);
                assert!(all_differ, "{datatype}: {first:?} {second:?}");
                assert!(first.contains(&0.0) && first.contains(&1.0), "{datatype}");
            }
        }
    }

    #[test]
    fn what_is_no_float_can_be_left_at_zero() {
        for datatype in [DataType::Int64, DataType::Bool, DataType::Bytes] {
            let made = |which| row(&spec(datatype), 1, which, true);
            assert_eq!(made(Row::First), zeros(&spec(datatype), 1, 1));
            assert_eq!(made(Row::Second), zeros(&spec(datatype), 1, 1));
        }
    }

    #[test]
    fn inputs_of_any_size_are_not_made_up() {
        let spec = spec(DataType::Fp32);
        assert_eq!(zeros(&spec, usize::MAX, 2), None);
        assert_eq!(zeros(&spec, 1, 1 << 26), None);
        assert_eq!(row(&spec, 1 << 26, Row::First, false), None);
    }
}
