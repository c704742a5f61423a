//! A batch as a RUN frame: its head, and its payload in pieces that lie where the requests have them.

use std::io::IoSlice;
use std::time::Instant;

use serde::Serialize;
use serde_json::value::RawValue;

use super::greeting::Greeting;
use crate::contract::{Request, RunError};
use crate::tensor::Data;
use crate::{Items, Spec, Tensor, stack};

/// Every array begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 64;
const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// The flag of a head that ends with what is told of each request.
const WITH_CONTEXT: u32 = 1;

/// Requests that are run together.
pub(super) struct Run<'a> {
    pub(super) meta: Vec<u8>,
    /// How many rows each request has.
    pub(super) rows: Vec<usize>,
    requests: &'a [Request<'a>],
    items: Items,
    /// The lengths of all `BYTES` elements, in the order of the payload.
    prefixes: Vec<[u8; 4]>,
}

impl<'a> Run<'a> {
    /// Reads nothing but shapes and lengths: the values stay where they are. `deadline` knows when each request's caller leaves.
    pub(super) fn of(
        greeting: &Greeting,
        requests: &'a [Request<'a>],
        deadline: &dyn Fn(usize) -> Option<Instant>,
    ) -> Result<Run<'a>, stack::Error> {
        let rows = counts(requests)?;
        let mut run = Run {
            meta: Vec::with_capacity(64 + 4 * requests.len()),
            rows,
            requests,
            items: greeting.spec.items,
            prefixes: Vec::new(),
        };
        let flags = if greeting.context { WITH_CONTEXT } else { 0 };
        run.put_u32(flags as usize)?;
        run.put_u32(requests.len())?;
        run.put_u32(run.rows.iter().sum())?;
        for request in 0..requests.len() {
            run.put_u32(run.rows[request])?;
        }
        if run.items == Items::Tensors {
            for input in 0..greeting.spec.inputs.len() {
                run.put_array(input)?;
            }
        }
        if greeting.context {
            run.put_context(deadline)?;
        }
        Ok(run)
    }

    /// The payload, in pieces to be written one after another.
    pub(super) fn payload(&self) -> Vec<IoSlice<'_>> {
        let mut pieces = Vec::with_capacity(2 * self.requests.len() + 2);
        match self.items {
            Items::Json => self.push_texts(&mut pieces),
            Items::Tensors => self.push_arrays(&mut pieces),
        }
        pieces
    }

    /// One JSON array of all items.
    fn push_texts<'b>(&'b self, pieces: &mut Vec<IoSlice<'b>>) {
        let inputs = self.requests.iter().flat_map(|request| request.inputs);
        let items = inputs.filter_map(|item| item.byte_elements()).flatten();
        for (at, item) in items.enumerate() {
            pieces.push(IoSlice::new(if at == 0 { b"[" } else { b"," }));
            pieces.push(IoSlice::new(item));
        }
        pieces.push(IoSlice::new(b"]"));
    }

    /// One array after another, each with the rows of all requests.
    fn push_arrays<'b>(&'b self, pieces: &mut Vec<IoSlice<'b>>) {
        let mut prefixes = self.prefixes.iter();
        let inputs = self.requests.first().map_or(0, |first| first.inputs.len());
        for input in 0..inputs {
            let mut length = 0;
            let mut push = |bytes: &'b [u8]| {
                length += bytes.len();
                pieces.push(IoSlice::new(bytes));
            };
            for request in self.requests {
                match request.inputs[input].data() {
                    Data::Fixed(bytes) => push(bytes),
                    Data::Elements(elements) => {
                        for (element, prefix) in elements.iter().zip(prefixes.by_ref()) {
                            push(prefix);
                            push(element);
                        }
                    }
                }
            }
            pieces.push(IoSlice::new(&ZEROS[..padding(length)]));
        }
    }

    /// Shape of a row, and length of the array.
    fn put_array(&mut self, input: usize) -> Result<(), stack::Error> {
        let shape = self.requests.first().map_or(&[][..], |first| {
            first.inputs[input].shape().get(1..).unwrap_or_default()
        });
        let ndim = u8::try_from(shape.len()).map_err(|_| too_large("dimensions", shape.len()))?;
        self.meta.push(ndim);
        for &dim in shape {
            self.put_u32(dim)?;
        }
        let mut length = 0;
        for request in self.requests {
            match request.inputs[input].data() {
                Data::Fixed(bytes) => length += bytes.len(),
                Data::Elements(elements) => {
                    for element in elements {
                        let prefix = u32::try_from(element.len())
                            .map_err(|_| too_large("bytes in an element", element.len()))?;
                        self.prefixes.push(prefix.to_le_bytes());
                        length += 4 + element.len();
                    }
                }
            }
        }
        self.meta.extend_from_slice(&(length as u64).to_le_bytes());
        Ok(())
    }

    /// What the model may know of each request.
    fn put_context(
        &mut self,
        deadline: &dyn Fn(usize) -> Option<Instant>,
    ) -> Result<(), stack::Error> {
        let now = Instant::now();
        let told: Vec<Told<'_>> = self
            .requests
            .iter()
            .enumerate()
            .map(|(at, request)| Told {
                id: request.id,
                parameters: request
                    .parameters
                    .and_then(|text| serde_json::from_str(text).ok()),
                remaining: deadline(at)
                    .map(|deadline| deadline.saturating_duration_since(now).as_secs_f64()),
            })
            .collect();
        let text =
            serde_json::to_vec(&told).map_err(|error| RunError::InvalidInput(error.to_string()))?;
        self.put_u32(text.len())?;
        self.meta.extend_from_slice(&text);
        Ok(())
    }

    fn put_u32(&mut self, number: usize) -> Result<(), stack::Error> {
        let number = u32::try_from(number).map_err(|_| too_large("rows or dimensions", number))?;
        self.meta.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }
}

#[derive(Serialize)]
struct Told<'a> {
    id: Option<&'a str>,
    parameters: Option<&'a RawValue>,
    remaining: Option<f64>,
}

/// How many zeros follow an array of that length.
pub(super) fn padding(length: usize) -> usize {
    length.wrapping_neg() % ALIGNMENT
}

/// The rows of each request. Requests that do not go together would be answered with each other's values.
fn counts(requests: &[Request<'_>]) -> Result<Vec<usize>, stack::Error> {
    let Some(first) = requests.first() else {
        return Ok(Vec::new());
    };
    let count = |request: &Request<'_>| {
        let rows = request.inputs.first().map(Tensor::rows)?;
        let alike = Spec::compatible(first.inputs, request.inputs)
            && (request.inputs.iter()).all(|input| input.shape().first() == Some(&rows));
        alike.then_some(rows)
    };
    let counts: Option<Vec<usize>> = requests.iter().map(count).collect();
    counts.ok_or_else(|| {
        let message = "the requests of a batch differ in the shapes of their rows".to_owned();
        stack::Error::Run(RunError::InvalidInput(message))
    })
}

fn too_large(what: &str, number: usize) -> stack::Error {
    let message = format!("expected at most {} {what}, got {number}", u32::MAX);
    stack::Error::Run(RunError::InvalidInput(message))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn greeting(inputs: Option<&str>, context: bool) -> Greeting {
        let tensors = inputs.unwrap_or("null");
        let body = format!(
            r#"{{"protocol":1,"python":"3.9.1","numpy":null,"inputs":{tensors},"outputs":{tensors},"mode":"batch",
                "context":{context},"idempotent":true,"max_concurrency":null}}"#
        );
        Greeting::parse(body.as_bytes()).unwrap()
    }

    fn request(inputs: &[Tensor]) -> Request<'_> {
        Request {
            inputs,
            id: Some("a\"b"),
            parameters: Some(r#"{"k":1}"#),
        }
    }

    fn encoded(greeting: &Greeting, requests: &[Request<'_>]) -> (Vec<u8>, Vec<u8>) {
        let run = Run::of(greeting, requests, &|_| None).unwrap();
        let payload: Vec<u8> = run
            .payload()
            .iter()
            .flat_map(|piece| piece.to_vec())
            .collect();
        (run.meta, payload)
    }

    fn numbers(meta: &[u8]) -> Vec<u32> {
        meta.chunks_exact(4)
            .map(|chunk| u32::from_le_bytes(chunk.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn items_become_one_array() {
        let items = |texts: &[&'static str]| {
            let elements = texts.iter().map(|text| Bytes::from_static(text.as_bytes()));
            vec![Tensor::from_bytes([texts.len()], elements.collect()).unwrap()]
        };
        let (one, two) = (items(&["1"]), items(&["[2]", "\"3\""]));
        let (meta, payload) = encoded(&greeting(None, false), &[request(&one), request(&two)]);
        assert_eq!(numbers(&meta), [0, 2, 3, 1, 2]);
        assert_eq!(payload, b"[1,[2],\"3\"]");
    }

    #[test]
    fn what_is_told_of_a_request_is_json() {
        let item = vec![Tensor::from_bytes([1], vec![Bytes::from_static(b"1")]).unwrap()];
        let (meta, _) = encoded(&greeting(None, true), &[request(&item)]);
        assert_eq!(numbers(&meta[..16]), [1, 1, 1, 1]);
        let text = std::str::from_utf8(&meta[20..]).unwrap();
        assert_eq!(numbers(&meta[16..20]), [text.len() as u32]);
        assert_eq!(
            text,
            r#"[{"id":"a\"b","parameters":{"k":1},"remaining":null}]"#
        );
    }

    #[test]
    fn arrays_follow_one_another_at_aligned_places() {
        let of = |rows: usize| {
            vec![
                Tensor::from_vec([rows, 3], vec![rows as u8; 3 * rows]).unwrap(),
                Tensor::from_bytes([rows], vec![Bytes::from_static(b"xy"); rows]).unwrap(),
            ]
        };
        let (one, two) = (of(1), of(2));
        let greeting = greeting(Some(r#"{"b":"UINT8[3]","a":"BYTES"}"#), false);
        assert_eq!(greeting.spec.inputs[0].name, "b");
        let (meta, payload) = encoded(&greeting, &[request(&one), request(&two)]);
        assert_eq!(numbers(&meta[..20]), [0, 2, 3, 1, 2]);
        assert_eq!(
            meta[20..],
            [&[1, 3, 0, 0, 0, 9][..], &[0; 7], &[0, 18], &[0; 7]].concat()
        );
        assert_eq!(payload.len(), 128);
        assert_eq!(payload[..9], [1, 1, 1, 2, 2, 2, 2, 2, 2]);
        assert_eq!(payload[64..82], *b"\x02\0\0\0xy\x02\0\0\0xy\x02\0\0\0xy");
    }

    #[test]
    fn rows_that_differ_are_not_mixed() {
        let (one, two) = (
            vec![Tensor::from_vec([1, 2], vec![0_u8; 2]).unwrap()],
            vec![Tensor::from_vec([1, 3], vec![0_u8; 3]).unwrap()],
        );
        let greeting = greeting(Some(r#"{"x":"UINT8[-1]"}"#), false);
        let requests = [request(&one), request(&two)];
        assert!(Run::of(&greeting, &requests, &|_| None).is_err());
    }
}
