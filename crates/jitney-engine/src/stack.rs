//! Joins the rows of many requests into one batch, runs it, and splits the answer again.
//!
//! Joining copies every row once, into memory aligned for any element; a batch of one request is passed on as it is. Splitting copies
//! nothing: every answer is a slice of the batch's output.

use std::ops::Range;

use bytes::Bytes;

use crate::spec::{BatchAxis, Spec};
use crate::tensor::{Data, Shape, Tensor};
use crate::{Instance, RunError};

/// Why a batch was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The instance refused or failed it.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The instance answered with other outputs than its signature promises, or with another number of rows than it was given.
    #[error("{0}")]
    Mismatch(String),
}

/// Runs the requests together as far as the batch axis allows, and answers each with the rows that are its own, in the same order.
///
/// Every request must have passed [`Spec::check`] and all must be [`Spec::compatible`]; a request may have several rows. With
/// [`BatchAxis::Free`] this is one call of the instance. With [`BatchAxis::Fixed`] it is one call for every full size, the last one padded
/// by repeating a row whose answer is dropped; a request of the full size is never mixed with others. With [`BatchAxis::None`] it is
/// one call for each request.
///
/// # Errors
/// [`Error`], for the whole batch. Calls already made are thrown away.
///
/// # Panics
/// When the instance does.
///
/// ```
/// use jitney_engine::{echo::Echo, stack, Model, Tensor};
///
/// let echo = Echo::parse("echo:FP32[2]")?;
/// let requests = [
///     [Tensor::from_f32([1, 2], vec![1.0, 2.0])?],
///     [Tensor::from_f32([2, 2], vec![3.0, 4.0, 5.0, 6.0])?],
/// ];
/// let answers = stack::run(&mut *echo.instance()?, echo.spec(), &requests)?;
/// assert_eq!(answers[1][0].to_vec::<f32>(), Some(vec![3.0, 4.0, 5.0, 6.0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(
    instance: &mut (impl Instance + ?Sized),
    spec: &Spec,
    requests: &[impl AsRef<[Tensor]>],
) -> Result<Vec<Vec<Tensor>>, Error> {
    let requests: Vec<&[Tensor]> = requests.iter().map(AsRef::as_ref).collect();
    check_compatible(spec, &requests)?;
    match spec.batch {
        BatchAxis::Free => run_free(instance, spec, &requests),
        BatchAxis::Fixed(size) => run_fixed(instance, spec, &requests, size.max(1)),
        BatchAxis::None => requests
            .iter()
            .map(|request| call(instance, spec, request, None))
            .collect(),
    }
}

/// Holds an answer to the signature: so many outputs, of those datatypes, with `rows` rows where there is a batch axis.
///
/// # Errors
/// What was expected and what came, as a sentence.
pub fn check_outputs(spec: &Spec, outputs: &[Tensor], rows: Option<usize>) -> Result<(), String> {
    if outputs.len() != spec.outputs.len() {
        let (expected, got) = (spec.outputs.len(), outputs.len());
        return Err(format!(
            "the model answered wrongly: expected {expected} outputs, got {got}"
        ));
    }
    for (spec, output) in spec.outputs.iter().zip(outputs) {
        let wrong = |expected: &str, got: &str| {
            let name = &spec.name;
            format!("the model answered wrongly: output \"{name}\": expected {expected}, got {got}")
        };
        if output.datatype() != spec.datatype {
            return Err(wrong(spec.datatype.name(), output.datatype().name()));
        }
        if let Some(rows) = rows
            && output.shape().first() != Some(&rows)
        {
            let got = match output.shape().first() {
                Some(got) => got.to_string(),
                None => "a scalar".to_owned(),
            };
            return Err(wrong(&format!("{rows} rows"), &got));
        }
    }
    Ok(())
}

/// Refuses what the caller should have kept apart, since joining it would answer rows with each other's values.
fn check_compatible(spec: &Spec, requests: &[&[Tensor]]) -> Result<(), Error> {
    let Some(first) = requests.first().filter(|_| spec.batched()) else {
        return Ok(());
    };
    let alike = requests.iter().all(|request| {
        let rows = rows_of(request);
        Spec::compatible(first, request)
            && request
                .iter()
                .all(|input| input.shape().first() == Some(&rows))
    });
    if alike {
        return Ok(());
    }
    let message = "the requests of a batch differ in the shapes of their rows".to_owned();
    Err(Error::Run(RunError::InvalidInput(message)))
}

fn run_free(
    instance: &mut (impl Instance + ?Sized),
    spec: &Spec,
    requests: &[&[Tensor]],
) -> Result<Vec<Vec<Tensor>>, Error> {
    let counts: Vec<usize> = requests.iter().map(|request| rows_of(request)).collect();
    let rows = counts.iter().sum();
    let outputs = match requests {
        [] => return Ok(Vec::new()),
        [only] => return Ok(vec![call(instance, spec, only, Some(rows))?]),
        many => call(instance, spec, &join_requests(many)?, Some(rows))?,
    };
    let mut start = 0;
    counts
        .into_iter()
        .map(|count| {
            start += count;
            rows_from(&outputs, start - count, count)
        })
        .collect()
}

fn run_fixed(
    instance: &mut (impl Instance + ?Sized),
    spec: &Spec,
    requests: &[&[Tensor]],
    size: usize,
) -> Result<Vec<Vec<Tensor>>, Error> {
    let counts: Vec<usize> = requests.iter().map(|request| rows_of(request)).collect();
    let mut answers: Vec<Vec<Vec<Tensor>>> = vec![Vec::new(); requests.len()];
    for bus in fill(&counts, size) {
        let inputs = bus
            .iter()
            .map(|piece| rows_from(requests[piece.request], piece.rows.start, piece.rows.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = call(instance, spec, &padded(inputs, size)?, Some(size))?;
        let mut start = 0;
        for piece in bus {
            answers[piece.request].push(rows_from(&outputs, start, piece.rows.len())?);
            start += piece.rows.len();
        }
    }
    answers.into_iter().map(join_pieces).collect()
}

/// Some of the rows of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    request: usize,
    rows: Range<usize>,
}

/// Distributes rows over calls of `size`: every full size of a request goes alone, as its sender meant it; what is left of each is joined
/// with the others' in order and never torn apart.
fn fill(counts: &[usize], size: usize) -> Vec<Vec<Piece>> {
    let mut buses = Vec::new();
    let mut open: Vec<Piece> = Vec::new();
    let mut taken = 0;
    for (request, count) in counts.iter().copied().enumerate() {
        let whole = count - count % size;
        for start in (0..whole).step_by(size) {
            let rows = start..start + size;
            buses.push(vec![Piece { request, rows }]);
        }
        let rest = count - whole;
        if taken + rest > size {
            buses.push(std::mem::take(&mut open));
            taken = 0;
        }
        if rest > 0 {
            let rows = whole..count;
            open.push(Piece { request, rows });
            taken += rest;
        }
    }
    if !open.is_empty() {
        buses.push(open);
    }
    buses
}

/// Joins the pieces into a batch of exactly `size` rows, repeating the last row, which is a value the model is known to take.
fn padded(mut pieces: Vec<Vec<Tensor>>, size: usize) -> Result<Vec<Tensor>, Error> {
    let rows: usize = pieces.iter().map(|piece| rows_of(piece)).sum();
    if let Some(last) = pieces.last()
        && rows < size
    {
        let row = rows_from(last, rows_of(last) - 1, 1)?;
        pieces.resize(pieces.len() + size - rows, row);
    }
    join_pieces(pieces)
}

fn join_pieces(mut pieces: Vec<Vec<Tensor>>) -> Result<Vec<Tensor>, Error> {
    if pieces.len() == 1 {
        return Ok(pieces.swap_remove(0));
    }
    let pieces: Vec<&[Tensor]> = pieces.iter().map(Vec::as_slice).collect();
    join_requests(&pieces)
}

fn join_requests(requests: &[&[Tensor]]) -> Result<Vec<Tensor>, Error> {
    let inputs = requests.first().map_or(0, |first| first.len());
    (0..inputs)
        .map(|at| {
            let parts: Vec<&Tensor> = requests.iter().map(|request| &request[at]).collect();
            join(&parts)
        })
        .collect()
}

/// One tensor with the rows of all parts. The parts have the same datatype and row shape.
fn join(parts: &[&Tensor]) -> Result<Tensor, Error> {
    let Some(first) = parts.first() else {
        return Err(Error::Mismatch("expected rows, got none".to_owned()));
    };
    let mut shape = Shape::from_slice(first.shape());
    if let Some(rows) = shape.first_mut() {
        *rows = parts.iter().map(|part| part.rows()).sum();
    }
    let data = match first.data() {
        Data::Fixed(_) => Data::Fixed(join_bytes(parts)),
        Data::Elements(_) => Data::Elements(join_elements(parts)),
    };
    Tensor::new(first.datatype(), shape, data)
        .map_err(|error| Error::Mismatch(format!("the rows cannot be joined: {error}")))
}

fn join_bytes(parts: &[&Tensor]) -> Bytes {
    let fixed = || {
        parts.iter().filter_map(|part| match part.data() {
            Data::Fixed(bytes) => Some(bytes),
            Data::Elements(_) => None,
        })
    };
    let mut joined = Aligned::zeroed(fixed().map(Bytes::len).sum());
    let mut rest = joined.as_mut();
    for bytes in fixed() {
        let (now, later) = rest.split_at_mut(bytes.len());
        now.copy_from_slice(bytes);
        rest = later;
    }
    Bytes::from_owner(joined)
}

fn join_elements(parts: &[&Tensor]) -> Vec<Bytes> {
    let elements = parts.iter().filter_map(|part| part.byte_elements());
    let mut joined = Vec::with_capacity(elements.clone().map(<[Bytes]>::len).sum());
    elements.for_each(|elements| joined.extend_from_slice(elements));
    joined
}

/// Calls the instance and holds it to its signature.
fn call(
    instance: &mut (impl Instance + ?Sized),
    spec: &Spec,
    inputs: &[Tensor],
    rows: Option<usize>,
) -> Result<Vec<Tensor>, Error> {
    let outputs = instance.run(inputs)?;
    check_outputs(spec, &outputs, rows).map_err(Error::Mismatch)?;
    Ok(outputs)
}

fn rows_of(tensors: &[Tensor]) -> usize {
    tensors.first().map_or(1, Tensor::rows)
}

fn rows_from(tensors: &[Tensor], start: usize, rows: usize) -> Result<Vec<Tensor>, Error> {
    tensors
        .iter()
        .map(|tensor| {
            tensor.slice_rows(start, rows).ok_or_else(|| {
                let got = tensor.rows();
                Error::Mismatch(format!("expected {} rows, got {got}", start + rows))
            })
        })
        .collect()
}

/// Bytes that start where any element may: typed views of them need no copy.
struct Aligned {
    words: Vec<u128>,
    len: usize,
}

impl Aligned {
    fn zeroed(len: usize) -> Aligned {
        let words = vec![0; len.div_ceil(size_of::<u128>())];
        Aligned { words, len }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

#[cfg(test)]
mod tests {

    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::{Items, TensorSpec};
    use crate::tensor::{DataType, element_count};

    /// Answers what `answer` makes of the inputs and keeps what it was given.
    struct Fake<F> {
        answer: F,
        calls: Vec<Vec<Tensor>>,
    }

    impl<F> Fake<F> {
        fn new(answer: F) -> Fake<F> {
            let calls = Vec::new();
            Fake { answer, calls }
        }
    }

    impl<F> Instance for Fake<F>
    where
        F: FnMut(&[Tensor]) -> Result<Vec<Tensor>, RunError> + Send,
    {
        fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
            self.calls.push(inputs.to_vec());
            (self.answer)(inputs)
        }
    }

    fn echo() -> Fake<impl FnMut(&[Tensor]) -> Result<Vec<Tensor>, RunError> + Send> {
        Fake::new(|inputs: &[Tensor]| Ok(inputs.to_vec()))
    }

    fn spec(batch: BatchAxis, rows: &[&str]) -> Spec {
        let tensors: Vec<_> = rows
            .iter()
            .map(|row| TensorSpec::parse_row("x", row).unwrap())
            .collect();
        Spec {
            inputs: tensors.clone(),
            outputs: tensors,
            batch,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    fn rows(values: &[f32]) -> Vec<Tensor> {
        vec![Tensor::from_f32([values.len(), 1], values.to_vec()).unwrap()]
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_vec().unwrap()
    }

    #[test]
    fn a_single_request_is_not_copied() {
        let mut fake = echo();
        let request = rows(&[1.0, 2.0]);
        let answers = run(
            &mut fake,
            &spec(BatchAxis::Free, &["FP32[1]"]),
            &[&request[..]],
        );
        let pointer = |tensor: &Tensor| tensor.values::<f32>().unwrap().as_ptr();
        assert_eq!(pointer(&fake.calls[0][0]), pointer(&request[0]));
        assert_eq!(answers.unwrap(), [request]);
    }

    #[test]
    fn joined_rows_are_aligned_whatever_the_requests_were() {
        let body = Bytes::from([&[0_u8][..], &[0; 64]].concat());
        let odd = |start: usize, rows: usize| {
            let data = Data::Fixed(body.slice(start..start + rows * 8));
            vec![Tensor::new(DataType::Fp64, Shape::from_slice(&[rows, 1]), data).unwrap()]
        };
        let mut fake = echo();
        let spec = spec(BatchAxis::Free, &["FP64[1]"]);
        run(&mut fake, &spec, &[odd(1, 3), odd(2, 1), odd(3, 2)]).unwrap();
        let stacked = &fake.calls[0][0];
        assert_eq!(stacked.shape(), [6, 1]);
        assert!(matches!(stacked.values::<f64>(), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn a_fixed_batch_is_padded_with_its_last_row() {
        let mut fake = echo();
        let requests = [rows(&[1.0]), rows(&[2.0, 3.0])];
        let answers = run(
            &mut fake,
            &spec(BatchAxis::Fixed(4), &["FP32[1]"]),
            &requests,
        )
        .unwrap();
        assert_eq!(fake.calls.len(), 1);
        assert_eq!(values(&fake.calls[0][0]), [1.0, 2.0, 3.0, 3.0]);
        assert_eq!(answers, requests);
    }

    #[test]
    fn fixed_batches_keep_full_requests_alone_and_rests_whole() {
        let pieces = |counts: &[usize], size| -> Vec<Vec<(usize, Range<usize>)>> {
            fill(counts, size)
                .into_iter()
                .map(|bus| bus.into_iter().map(|p| (p.request, p.rows)).collect())
                .collect()
        };
        assert_eq!(
            pieces(&[4, 1, 9, 3], 4),
            [
                vec![(0, 0..4)],
                vec![(2, 0..4)],
                vec![(2, 4..8)],
                vec![(1, 0..1), (2, 8..9)],
                vec![(3, 0..3)],
            ]
        );
        assert_eq!(pieces(&[1, 1], 1), [[(0, 0..1)], [(1, 0..1)]]);
        assert!(pieces(&[], 3).is_empty());
    }

    #[test]
    fn without_a_batch_axis_requests_go_one_by_one() {
        let mut fake = echo();
        let mut spec = spec(BatchAxis::None, &["FP32"]);
        spec.inputs[0].shape.clear();
        let scalar = |value| vec![Tensor::from_f32(Shape::new(), vec![value]).unwrap()];
        let requests = [scalar(1.0), scalar(2.0)];
        assert_eq!(run(&mut fake, &spec, &requests).unwrap(), requests);
        assert_eq!(fake.calls.len(), 2);
    }

    #[test]
    fn wrong_answers_are_named() {
        let free = spec(BatchAxis::Free, &["FP32[1]"]);
        let scalar = || Tensor::from_f32(Shape::new(), vec![1.0]).unwrap();
        let table: [(Vec<Tensor>, &str); 5] = [
            (rows(&[1.0]), r#"output "x": expected 2 rows, got 1"#),
            (rows(&[1.0; 3]), r#"output "x": expected 2 rows, got 3"#),
            (
                vec![scalar()],
                r#"output "x": expected 2 rows, got a scalar"#,
            ),
            (vec![], "expected 1 outputs, got 0"),
            (
                vec![Tensor::from_vec([2, 1], vec![1_i32, 2]).unwrap()],
                r#"output "x": expected FP32, got INT32"#,
            ),
        ];
        for (answer, expected) in table {
            let mut fake = Fake::new(move |_: &[Tensor]| Ok(answer.clone()));
            let error = run(&mut fake, &free, &[rows(&[1.0]), rows(&[2.0])]).unwrap_err();
            let Error::Mismatch(message) = error else {
                panic!("{error}");
            };
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn an_instance_error_is_the_error_of_all() {
        let failed = RunError::Failed("no".to_owned());
        let mut fake = Fake::new(|_: &[Tensor]| Err(RunError::Failed("no".to_owned())));
        let free = spec(BatchAxis::Free, &["FP32[1]"]);
        assert_eq!(
            run(&mut fake, &free, &[rows(&[1.0])]),
            Err(Error::Run(failed))
        );
    }

    #[test]
    fn requests_that_do_not_fit_together_are_refused_not_mixed() {
        let mut fake = echo();
        let wide = vec![Tensor::from_f32([1, 2], vec![1.0, 2.0]).unwrap()];
        let ragged = [rows(&[1.0]), rows(&[1.0, 2.0])].concat();
        let one = spec(BatchAxis::Free, &["FP32[-1]"]);
        let two = spec(BatchAxis::Free, &["FP32[-1]", "FP32[-1]"]);
        for (spec, requests) in [(one, [rows(&[1.0]), wide]), (two, [ragged.clone(), ragged])] {
            let error = run(&mut fake, &spec, &requests).unwrap_err();
            assert!(
                matches!(error, Error::Run(RunError::InvalidInput(_))),
                "{error}"
            );
        }
        assert!(fake.calls.is_empty());
    }

    /// A tensor of pseudo-random contents.
    fn tensor(datatype: DataType, shape: &[usize], seed: u8) -> Tensor {
        let count = element_count(shape).unwrap();
        let byte = |at: usize| seed.wrapping_mul(31).wrapping_add(at as u8);
        let data = match datatype.width() {
            Some(width) if datatype != DataType::Bool => {
                Data::Fixed((0..count * width).map(byte).collect())
            }
            Some(_) => Data::Fixed((0..count).map(|at| byte(at) & 1).collect()),
            None => {
                let element = |at: usize| Bytes::from(vec![byte(at); at % 5]);
                Data::Elements((0..count).map(element).collect())
            }
        };
        Tensor::new(datatype, Shape::from_slice(shape), data).unwrap()
    }

    fn batch_axis() -> impl Strategy<Value = BatchAxis> {
        prop_oneof![
            Just(BatchAxis::Free),
            Just(BatchAxis::None),
            (1_usize..6).prop_map(BatchAxis::Fixed),
        ]
    }

    proptest! {
        #[test]
        fn stacking_then_splitting_changes_nothing(
            inputs in prop::collection::vec(
                (prop::sample::select(&DataType::ALL[..]), prop::collection::vec(0_usize..4, 0..3)),
                1..4,
            ),
            counts in prop::collection::vec(1_usize..9, 0..7),
            batch in batch_axis(),
            seed in any::<u8>(),
        ) {
            let request = |(at, rows): (usize, &usize)| -> Vec<Tensor> {
                inputs
                    .iter()
                    .map(|(datatype, row)| {
                        let shape = [&[*rows], &row[..]].concat();
                        tensor(*datatype, &shape, seed.wrapping_add(at as u8))
                    })
                    .collect()
            };
            let requests: Vec<Vec<Tensor>> = counts.iter().enumerate().map(request).collect();
            let texts: Vec<String> = inputs
                .iter()
                .map(|(datatype, row)| format!("{datatype}{row:?}"))
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let spec = spec(batch, &texts);
            for request in &requests {
                prop_assert!(spec.check(request).is_ok());
            }
            let mut fake = echo();
            let answers = run(&mut fake, &spec, &requests).unwrap();
            prop_assert_eq!(answers, requests);
            if let BatchAxis::Fixed(size) = batch {
                for call in &fake.calls {
                    prop_assert!(call.iter().all(|input| input.rows() == size));
                }
            }
            if batch == BatchAxis::Free {
                prop_assert!(fake.calls.len() <= 1);
            }
        }
    }
}
