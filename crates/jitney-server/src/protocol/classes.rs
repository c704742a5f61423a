//! Classification: the highest numbers of an output, with the places where they stand and what those places mean.

use std::cmp::Ordering;
use std::fmt::{Display, Write};

use bytes::Bytes;
use half::{bf16, f16};
use jitney_engine::tensor::{DataType, Element, Tensor};

use super::data::cut;

/// The `classes` highest numbers of each row as a `BYTES` tensor of shape `[rows, classes]`, or `[classes]` for a tensor without a batch
/// axis, highest first: `VALUE:PLACE`, or `VALUE:PLACE:LABEL` where the place has a label. A row of more than one dimension counts its places
/// through. Equal numbers stand in the order of their places, NaN behind everything. A row with fewer numbers gives as many as it has.
///
/// `None` for tensors of other things than numbers: see [`is_classifiable`].
///
/// ```text
/// [[0.1, 0.7, 0.2]], 2 classes => [["0.7:1:dog", "0.2:2:bird"]]
/// ```
pub(crate) fn classify(
    tensor: &Tensor,
    batched: bool,
    classes: usize,
    labels: &[String],
) -> Option<Tensor> {
    let rows = if batched { tensor.rows() } else { 1 };
    let wanted = Wanted {
        rows,
        classes: classes.min(tensor.elements().checked_div(rows).unwrap_or(0)),
        labels,
    };
    let elements = match tensor.datatype() {
        DataType::Uint8 => wanted.of::<u8>(tensor),
        DataType::Uint16 => wanted.of::<u16>(tensor),
        DataType::Uint32 => wanted.of::<u32>(tensor),
        DataType::Uint64 => wanted.of::<u64>(tensor),
        DataType::Int8 => wanted.of::<i8>(tensor),
        DataType::Int16 => wanted.of::<i16>(tensor),
        DataType::Int32 => wanted.of::<i32>(tensor),
        DataType::Int64 => wanted.of::<i64>(tensor),
        DataType::Fp16 => wanted.of::<f16>(tensor),
        DataType::Bf16 => wanted.of::<bf16>(tensor),
        DataType::Fp32 => wanted.of::<f32>(tensor),
        DataType::Fp64 => wanted.of::<f64>(tensor),
        DataType::Bool | DataType::Bytes => None,
    }?;
    let shape = [rows, wanted.classes];
    Tensor::from_bytes(&shape[usize::from(!batched)..], elements).ok()
}

/// Whether a tensor of that datatype has a highest number.
pub(crate) fn is_classifiable(datatype: DataType) -> bool {
    !matches!(datatype, DataType::Bool | DataType::Bytes)
}

/// What is wanted of a tensor.
struct Wanted<'l> {
    rows: usize,
    /// Not more than a row has.
    classes: usize,
    labels: &'l [String],
}

impl Wanted<'_> {
    fn of<T: Element + PartialOrd + Display>(&self, tensor: &Tensor) -> Option<Vec<Bytes>> {
        let values = tensor.values::<T>()?;
        let row = values.len().checked_div(self.rows).unwrap_or(0);
        let mut texts = Texts::default();
        // A row without numbers has no highest one, and no size to cut by.
        for row in values.chunks_exact(row.max(1)) {
            for place in highest(row, self.classes) {
                texts.push(row.get(place)?, place, self.labels.get(place));
            }
        }
        Some(texts.elements())
    }
}

/// The places of the highest values.
fn highest<T: PartialOrd>(row: &[T], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| descending(&row[*a], &row[*b]).then(a.cmp(b));
    let mut places: Vec<usize> = (0..row.len()).collect();
    if count < places.len() {
        places.select_nth_unstable_by(count, order);
        places.truncate(count);
    }
    places.sort_unstable_by(order);
    places
}

/// The order of falling values, with those that are not comparable to themselves behind all others.
fn descending<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    let is_nan = |value: &T| value.partial_cmp(value).is_none();
    b.partial_cmp(a)
        .unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)))
}

/// Texts behind each other, so that they cost one allocation and not one each.
#[derive(Default)]
struct Texts {
    text: String,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, value: &impl Display, place: usize, label: Option<&String>) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "{value}:{place}");
        if let Some(label) = label {
            let _ = write!(self.text, ":{label}");
        }
        self.ends.push(self.text.len());
    }

    fn elements(self) -> Vec<Bytes> {
        cut(&self.text.into(), &self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(tensor: &Tensor) -> Vec<&str> {
        let elements = tensor.byte_elements().unwrap();
        elements
            .iter()
            .map(|element| str::from_utf8(element).unwrap())
            .collect()
    }

    #[test]
    fn the_highest_come_first_with_their_labels() {
        let scores = Tensor::from_f32([2, 3], vec![0.25, -1.0, 0.5, f32::NAN, 3e-9, 7.0]).unwrap();
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let two = classify(&scores, true, 2, &labels).unwrap();
        assert_eq!(two.shape(), [2, 2]);
        assert_eq!(
            texts(&two),
            ["0.5:2", "0.25:0:cat", "7:2", "0.000000003:1:dog"]
        );
        let all = classify(&scores, true, usize::MAX, &[]).unwrap();
        assert_eq!(all.shape(), [2, 3]);
        assert_eq!(texts(&all)[5], "NaN:0");
    }

    #[test]
    fn without_a_batch_axis_there_is_one_row() {
        let counts = Tensor::from_vec([2, 2], vec![i64::MAX - 1, -5, i64::MAX, i64::MAX]).unwrap();
        let top = classify(&counts, false, 3, &[]).unwrap();
        assert_eq!(top.shape(), [3]);
        assert_eq!(
            texts(&top),
            [
                "9223372036854775807:2",
                "9223372036854775807:3",
                "9223372036854775806:0"
            ]
        );
    }

    #[test]
    fn rows_without_numbers_and_tensors_of_other_things() {
        let empty = Tensor::from_f32([2, 0], Vec::new()).unwrap();
        assert_eq!(classify(&empty, true, 1, &[]).unwrap().shape(), [2, 0]);
        let words = Tensor::from_bytes([1], vec![Bytes::from_static(b"a")]).unwrap();
        assert_eq!(classify(&words, true, 1, &[]), None);
        let no_rows = Tensor::from_f32([0, 2], Vec::new()).unwrap();
        assert_eq!(classify(&no_rows, true, 1, &[]).unwrap().shape(), [0, 0]);
    }
}
