//! A DONE frame as the answers to the requests of its run. It comes from a process that the user's code runs in, so every length in it is
//! checked as an enemy's.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::json;
use super::run::padding;
use crate::contract::RunError;
use crate::spec::Dim;
use crate::tensor::{Data, Shape, element_count};
use crate::{Items, Spec, Tensor, TensorSpec, stack};

const GOOD: u8 = 0;
const ALL_FAILED: u8 = 1;
const SOME_FAILED: u8 = 2;

/// What came of a run.
#[derive(Debug)]
pub(super) struct Reply {
    answers: Answers,
    /// Numbers that JSON cannot say and that became `null`.
    pub(super) non_finite: i64,
}

#[derive(Debug)]
enum Answers {
    /// The run failed as a whole.
    None(Failure),
    /// Each request has an answer or a failure of its own.
    Each(Vec<Result<Vec<Tensor>, Failure>>),
}

/// Why a request, or a whole run, has no answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Failure {
    /// The request's place in the run; `None` for the whole run.
    #[serde(default)]
    pub(super) request: Option<usize>,
    kind: Kind,
    error: String,
    pub(super) traceback: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// The model raised.
    Raised,
    /// The model answered what its signature does not allow.
    Mismatch,
    /// The input cannot be what the model takes.
    Invalid,
    /// There was no next result within the limit.
    Limit,
}

impl Reply {
    /// Reads the answer to a run of requests with so many rows.
    pub(super) fn parse(
        spec: &Spec,
        rows: &[usize],
        meta: &[u8],
        payload: &Bytes,
    ) -> Result<Reply, String> {
        let mut head = Head(meta);
        let status = head.u8()?;
        if !matches!(status, GOOD | ALL_FAILED | SOME_FAILED) {
            return Err(format!("status {status}"));
        }
        let heads = match spec.items {
            Items::Tensors => head.arrays()?,
            Items::Json => Vec::new(),
        };
        if status == ALL_FAILED {
            let failure =
                serde_json::from_slice(head.json()?).map_err(|error| error.to_string())?;
            head.end()?;
            return Ok(Reply {
                answers: Answers::None(failure),
                non_finite: 0,
            });
        }
        let failures = match status {
            SOME_FAILED => by_request(head.json()?, rows.len())?,
            _ => vec![None; rows.len()],
        };
        head.end()?;
        let good = || {
            rows.iter()
                .zip(&failures)
                .filter(|(_, failure)| failure.is_none())
        };
        let total = good().map(|(rows, _)| *rows).sum();
        let (outputs, non_finite) = match spec.items {
            Items::Tensors => (arrays(spec, &heads, total, payload)?, 0),
            Items::Json => texts(total, payload)?,
        };
        Ok(Reply {
            answers: Answers::Each(split(&outputs, rows, failures)?),
            non_finite,
        })
    }

    /// Everything that failed.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        let (whole, each) = match &self.answers {
            Answers::None(failure) => (Some(failure), &[][..]),
            Answers::Each(each) => (None, each.as_slice()),
        };
        whole
            .into_iter()
            .chain(each.iter().filter_map(|answer| answer.as_ref().err()))
    }

    /// The answers, as an instance gives them.
    pub(super) fn into_answers(
        self,
    ) -> Result<Vec<Result<Vec<Tensor>, stack::Error>>, stack::Error> {
        match self.answers {
            Answers::None(failure) => Err(failure.into()),
            Answers::Each(each) => Ok(each
                .into_iter()
                .map(|answer| answer.map_err(Into::into))
                .collect()),
        }
    }
}

impl From<Failure> for stack::Error {
    fn from(failure: Failure) -> stack::Error {
        match failure.kind {
            Kind::Raised => stack::Error::Run(RunError::Failed(failure.error)),
            Kind::Invalid => stack::Error::Run(RunError::InvalidInput(failure.error)),
            // Whoever set the limit knows it.
            Kind::Limit => stack::Error::Run(RunError::RunLimit(Duration::ZERO)),
            Kind::Mismatch => {
                stack::Error::Mismatch(format!("the model answered wrongly: {}", failure.error))
            }
        }
    }
}

/// The failures at the places of their requests.
fn by_request(text: &[u8], requests: usize) -> Result<Vec<Option<Failure>>, String> {
    let failures: Vec<Failure> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut by_request = vec![None; requests];
    for failure in failures {
        let place = failure
            .request
            .and_then(|request| by_request.get_mut(request));
        match place {
            Some(place) if place.is_none() => *place = Some(failure),
            _ => return Err("a failure of no request, or a second one".to_owned()),
        }
    }
    Ok(by_request)
}

/// Gives each good request its own rows.
fn split(
    outputs: &[Tensor],
    rows: &[usize],
    failures: Vec<Option<Failure>>,
) -> Result<Vec<Result<Vec<Tensor>, Failure>>, String> {
    let mut start = 0;
    let mut own = |count: usize| {
        start += count;
        let slice = |output: &Tensor| output.slice_rows(start - count, count);
        let slices: Option<Vec<Tensor>> = outputs.iter().map(slice).collect();
        slices.ok_or_else(|| "too few rows".to_owned())
    };
    rows.iter()
        .zip(failures)
        .map(|(rows, failure)| match failure {
            Some(failure) => Ok(Err(failure)),
            None => own(*rows).map(Ok),
        })
        .collect()
}

/// The results of an untyped model, with the counts of what became `null` where something did, and how many that are.
fn texts(rows: usize, payload: &Bytes) -> Result<(Vec<Tensor>, i64), String> {
    let (elements, non_finite) = json::elements(payload)?;
    if elements.len() != rows {
        return Err(format!("{} results for {rows} items", elements.len()));
    }
    let total = non_finite.iter().sum();
    let mut outputs = vec![Tensor::from_bytes([rows], elements)];
    if total > 0 {
        outputs.push(Tensor::from_vec([rows], non_finite));
    }
    let outputs: Result<Vec<_>, _> = outputs.into_iter().collect();
    Ok((outputs.map_err(|error| error.to_string())?, total))
}

/// The outputs of a typed model.
fn arrays(
    spec: &Spec,
    heads: &[ArrayHead],
    rows: usize,
    payload: &Bytes,
) -> Result<Vec<Tensor>, String> {
    if heads.len() != spec.outputs.len() {
        let (got, expected) = (heads.len(), spec.outputs.len());
        return Err(format!("{got} outputs instead of {expected}"));
    }
    let mut start = 0_usize;
    let mut outputs = Vec::with_capacity(heads.len());
    for (spec, head) in spec.outputs.iter().zip(heads) {
        let end = start.checked_add(head.length);
        let data = end
            .filter(|end| *end <= payload.len())
            .map(|end| payload.slice(start..end))
            .ok_or("an output beyond the end of the payload")?;
        outputs.push(array(spec, &head.row, rows, data)?);
        start += head.length + padding(head.length);
    }
    Ok(outputs)
}

fn array(spec: &TensorSpec, row: &[usize], rows: usize, data: Bytes) -> Result<Tensor, String> {
    let fits = spec.row_shape().len() == row.len()
        && spec
            .row_shape()
            .iter()
            .zip(row)
            .all(|(dim, size)| admits(*dim, *size, rows));
    if !fits {
        return Err(format!(
            "output \"{}\" with rows of shape {row:?}",
            spec.name
        ));
    }
    let mut shape = Shape::from_slice(&[rows]);
    shape.extend_from_slice(row);
    let data = match spec.datatype.width() {
        Some(_) => Data::Fixed(data),
        None => Data::Elements(prefixed(&shape, &data)?),
    };
    Tensor::new(spec.datatype, shape, data).map_err(|error| error.to_string())
}

/// Where there are no rows, nothing is known of those dimensions that may have any size.
fn admits(dim: Dim, size: usize, rows: usize) -> bool {
    rows == 0 || dim.admits(size)
}

/// Elements that each follow their length.
fn prefixed(shape: &[usize], data: &Bytes) -> Result<Vec<Bytes>, String> {
    let wrong = || "elements that do not fit their lengths".to_owned();
    let expected = element_count(shape).ok_or_else(wrong)?;
    let mut elements = Vec::with_capacity(expected.min(data.len() / 4));
    let mut at = 0;
    while at < data.len() {
        let mut head = Head(&data[at..]);
        let length = head.u32()? as usize;
        let end = (at + 4)
            .checked_add(length)
            .filter(|end| *end <= data.len());
        let end = end.ok_or_else(wrong)?;
        elements.push(data.slice(at + 4..end));
        at = end;
    }
    if elements.len() != expected {
        return Err(wrong());
    }
    Ok(elements)
}

/// The shape of one row, and the length in bytes.
struct ArrayHead {
    row: Vec<usize>,
    length: usize,
}

/// What is left of the head of a reply.
struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("a head that ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes
            .try_into()
            .map_err(|_| "a head that ends too early".to_owned())
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.number()?))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn arrays(&mut self) -> Result<Vec<ArrayHead>, String> {
        let outputs = self.u8()?;
        (0..outputs).map(|_| self.array()).collect()
    }

    fn array(&mut self) -> Result<ArrayHead, String> {
        let ndim = self.u8()?;
        let row = (0..ndim)
            .map(|_| Ok(self.u32()? as usize))
            .collect::<Result<_, String>>()?;
        let length = u64::from_le_bytes(self.number()?);
        let length = usize::try_from(length).map_err(|error| error.to_string())?;
        Ok(ArrayHead { row, length })
    }

    fn json(&mut self) -> Result<&'a [u8], String> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn end(&self) -> Result<(), String> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(format!("{left} bytes too many in the head")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::BatchAxis;

    fn typed(outputs: &[&str]) -> Spec {
        let outputs: Vec<TensorSpec> = outputs
            .iter()
            .map(|row| TensorSpec::parse_row("y", row).unwrap())
            .collect();
        Spec {
            inputs: outputs.clone(),
            outputs,
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    fn head(status: u8, arrays: &[(&[u32], u64)], json: Option<&str>) -> Vec<u8> {
        let mut head = vec![status, arrays.len() as u8];
        for (row, length) in arrays {
            head.push(row.len() as u8);
            row.iter().for_each(|dim| head.extend(dim.to_le_bytes()));
            head.extend(length.to_le_bytes());
        }
        if let Some(json) = json {
            head.extend((json.len() as u32).to_le_bytes());
            head.extend(json.as_bytes());
        }
        head
    }

    fn untyped(status: u8, json: Option<&str>) -> Vec<u8> {
        let mut head = head(status, &[], json);
        head.remove(1);
        head
    }

    const TWO: &str =
        r#"[{"request":1,"kind":"raised","error":"ValueError: two","traceback":"t"}]"#;

    #[test]
    fn rows_go_to_their_requests() {
        let payload = Bytes::from_static(&[1, 2, 3, 4]);
        let spec = typed(&["UINT8[2]"]);
        let reply = Reply::parse(&spec, &[1, 1], &head(0, &[(&[2], 4)], None), &payload).unwrap();
        let answers = reply.into_answers().unwrap();
        assert_eq!(
            answers[1].as_ref().unwrap()[0].to_vec::<u8>(),
            Some(vec![3, 4])
        );

        let reply = head(2, &[(&[2], 4)], Some(TWO));
        let reply = Reply::parse(&spec, &[1, 5, 1], &reply, &payload).unwrap();
        assert_eq!(reply.failures().count(), 1);
        let answers = reply.into_answers().unwrap();
        let failed = stack::Error::Run(RunError::Failed("ValueError: two".to_owned()));
        assert_eq!(answers[1], Err(failed));
        assert_eq!(
            answers[2].as_ref().unwrap()[0].to_vec::<u8>(),
            Some(vec![3, 4])
        );
    }

    #[test]
    fn results_go_to_their_requests() {
        let payload = Bytes::from_static(b"[1,NaN,[3]]");
        let reply = Reply::parse(&Spec::json(), &[1, 2], &untyped(0, None), &payload).unwrap();
        assert_eq!(reply.non_finite, 1);
        let answers = reply.into_answers().unwrap();
        let second = answers[1].as_ref().unwrap();
        assert_eq!(
            second[0].byte_elements().unwrap(),
            [&b"\"NaN\""[..], b"[3]"]
        );
        assert_eq!(second[1].to_vec::<i64>().unwrap(), [1, 0]);
    }

    #[test]
    fn a_run_that_failed_says_why() {
        let table = [
            (
                "raised",
                stack::Error::Run(RunError::Failed("x".to_owned())),
            ),
            (
                "invalid",
                stack::Error::Run(RunError::InvalidInput("x".to_owned())),
            ),
            (
                "mismatch",
                stack::Error::Mismatch("the model answered wrongly: x".to_owned()),
            ),
        ];
        for (kind, expected) in table {
            let json = format!(r#"{{"kind":"{kind}","error":"x","traceback":null}}"#);
            let reply = Reply::parse(&Spec::json(), &[1], &untyped(1, Some(&json)), &Bytes::new());
            assert_eq!(reply.unwrap().into_answers(), Err(expected));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let two = Bytes::from_static(&[0, 1]);
        let elements = Bytes::from_static(&[9, 0, 0, 0, 1]);
        let table = [
            (typed(&["UINT8"]), vec![], two.clone()),
            (typed(&["UINT8"]), head(3, &[(&[], 2)], None), two.clone()),
            (typed(&["UINT8"]), head(0, &[], None), two.clone()),
            (
                typed(&["UINT8"]),
                head(0, &[(&[], 2), (&[], 0)], None),
                two.clone(),
            ),
            (typed(&["UINT8"]), head(0, &[(&[], 3)], None), two.clone()),
            (typed(&["UINT8"]), head(0, &[(&[], 1)], None), two.clone()),
            (
                typed(&["UINT8"]),
                head(0, &[(&[], u64::MAX)], None),
                two.clone(),
            ),
            (
                typed(&["UINT8", "UINT8"]),
                head(0, &[(&[], 2), (&[], u64::MAX)], None),
                two.clone(),
            ),
            (typed(&["UINT8"]), head(0, &[(&[1], 2)], None), two.clone()),
            (
                typed(&["UINT8[-1]"]),
                head(0, &[(&[u32::MAX], 2)], None),
                two.clone(),
            ),
            (
                typed(&["UINT8[-1,-1,-1]"]),
                head(0, &[(&[u32::MAX; 3], 2)], None),
                two.clone(),
            ),
            (
                typed(&["UINT8"]),
                [head(0, &[(&[], 2)], None), vec![0]].concat(),
                two.clone(),
            ),
            (
                typed(&["BOOL"]),
                head(0, &[(&[], 2)], None),
                Bytes::from_static(&[1, 7]),
            ),
            (
                typed(&["BYTES"]),
                head(0, &[(&[], 5)], None),
                elements.clone(),
            ),
            (typed(&["BYTES"]), head(0, &[(&[], 2)], None), two.clone()),
            (
                typed(&["BYTES[-1,-1,-1]"]),
                head(0, &[(&[u32::MAX; 3], 0)], None),
                two.clone(),
            ),
            (
                typed(&["UINT8"]),
                head(2, &[(&[], 2)], Some("[{}]")),
                two.clone(),
            ),
            (
                typed(&["UINT8"]),
                head(2, &[(&[], 2)], Some(&TWO.replace('1', "2"))),
                two.clone(),
            ),
            (
                typed(&["UINT8"]),
                head(2, &[(&[], 2)], Some(TWO)),
                two.clone(),
            ),
            (typed(&["UINT8"]), head(1, &[], Some("{}")), two.clone()),
            (Spec::json(), untyped(0, None), Bytes::from_static(b"[1]")),
            (
                Spec::json(),
                untyped(0, None),
                Bytes::from_static(b"[1,2,3]"),
            ),
            (Spec::json(), untyped(0, None), Bytes::from_static(b"{}")),
        ];
        for (at, (spec, meta, payload)) in table.into_iter().enumerate() {
            let reply = Reply::parse(&spec, &[1, 1], &meta, &payload);
            assert!(reply.is_err(), "{at}: {reply:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_panics(meta in prop::collection::vec(0_u8..4, 0..60), payload in prop::collection::vec(any::<u8>(), 0..60)) {
            for spec in [typed(&["BYTES[-1]", "FP32[2,-1]"]), typed(&["BOOL[-1,0]"]), Spec::json()] {
                let _ = Reply::parse(&spec, &[1, 2], &meta, &Bytes::from(payload.clone()));
            }
        }
    }
}
