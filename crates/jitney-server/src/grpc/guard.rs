//! What a request may hold, counted before memory is taken for it.
//!
//! A field of two bytes can stand for an empty tensor, which takes hundreds of bytes in memory. So a request is looked through once: the
//! things that are larger in memory than on the wire are counted, and nothing else is looked at. What is not well-formed is left to be
//! found by the decoder.

use bytes::Bytes;

use crate::failure::{Code, Failure};
use crate::protocol::{MAX_DIMENSIONS, MAX_KEYS, MAX_STRINGS};

/// Most tensors of one request, of each kind.
const MAX_TENSORS: usize = 1024;

/// Checks the bytes of a `ModelInferRequest`. Gives how many bytes the elements of its typed tensors will take in memory, which a number of
/// one byte on the wire does eight of.
///
/// # Errors
/// `too_large`, with what there is too much of.
pub(super) fn check(request: &[u8]) -> Result<usize, Failure> {
    let mut count = Count::default();
    for (tag, value) in Fields(request) {
        match (tag, value) {
            (4, _) => Count::one(&mut count.parameters, MAX_KEYS, "parameters")?,
            (5, value) => {
                Count::one(&mut count.inputs, MAX_TENSORS, "inputs")?;
                count.input(value.unwrap_or_default())?;
            }
            (6, value) => {
                Count::one(&mut count.outputs, MAX_TENSORS, "outputs")?;
                parameters(value.unwrap_or_default(), 2)?;
            }
            (7, _) => Count::one(&mut count.raw, MAX_TENSORS, "raw contents")?,
            _ => (),
        }
    }
    Ok(count.elements)
}

#[derive(Default)]
struct Count {
    parameters: usize,
    inputs: usize,
    outputs: usize,
    raw: usize,
    /// Of all inputs.
    strings: usize,
    /// In bytes, as they will be in memory.
    elements: usize,
}

impl Count {
    fn one(count: &mut usize, most: usize, what: &str) -> Result<(), Failure> {
        *count += 1;
        if *count > most {
            return Err(too_many(what, most));
        }
        Ok(())
    }

    fn input(&mut self, input: &[u8]) -> Result<(), Failure> {
        parameters(input, 4)?;
        let mut dimensions = 0;
        for (tag, value) in Fields(input) {
            match (tag, value) {
                // In one field all of them, one or more bytes each; or one for each field.
                (3, Some(packed)) => dimensions += varints(packed),
                (3, None) => dimensions += 1,
                (5, Some(contents)) => self.contents(contents)?,
                _ => (),
            }
            if dimensions > MAX_DIMENSIONS {
                return Err(too_many("dimensions of a shape", MAX_DIMENSIONS));
            }
        }
        Ok(())
    }

    fn contents(&mut self, contents: &[u8]) -> Result<(), Failure> {
        for (tag, value) in Fields(contents) {
            let varints = || value.map_or(1, varints);
            self.elements += match tag {
                1 => varints(),
                2 | 4 => 4 * varints(),
                3 | 5 => 8 * varints(),
                6 | 7 => value.map_or(8, <[u8]>::len),
                8 => size_of::<Bytes>(),
                _ => 0,
            };
            if tag == 8 {
                Count::one(&mut self.strings, MAX_STRINGS, "elements of BYTES tensors")?;
            }
        }
        Ok(())
    }
}

/// How many numbers there are in packed bytes.
fn varints(packed: &[u8]) -> usize {
    packed.iter().filter(|byte| **byte < 0x80).count()
}

/// Counts the parameters of a tensor, which are the fields of that number.
fn parameters(tensor: &[u8], number: u32) -> Result<(), Failure> {
    let count = Fields(tensor).filter(|(tag, _)| *tag == number).count();
    if count > MAX_KEYS {
        return Err(too_many("parameters of a tensor", MAX_KEYS));
    }
    Ok(())
}

fn too_many(what: &str, most: usize) -> Failure {
    Failure::new(
        Code::TooLarge,
        format!("the request has more than {most} {what}"),
    )
}

/// The fields of a message in their order, with the bytes of those that have a length. Ends where the message is not well-formed.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Option<&'a [u8]>);

    fn next(&mut self) -> Option<(u32, Option<&'a [u8]>)> {
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.skip(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.skip(length)?)
            }
            // What stands in a group is counted as if it stood outside: too much there is no better than here.
            3 | 4 => None,
            5 => self.skip(4).map(|_| None)?,
            _ => return None,
        };
        Some((tag, value))
    }
}

impl<'a> Fields<'a> {
    fn skip(&mut self, count: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(skipped)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost::Message;

    use super::*;
    use crate::grpc::generated::model_infer_request::{
        InferInputTensor, InferRequestedOutputTensor,
    };
    use crate::grpc::generated::{InferParameter, InferTensorContents, ModelInferRequest};

    fn parameters(count: usize) -> HashMap<String, InferParameter> {
        let parameter = |at: usize| (at.to_string(), InferParameter::default());
        (0..count).map(parameter).collect()
    }

    fn inputs(count: usize, input: &InferInputTensor) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![input.clone(); count],
            ..ModelInferRequest::default()
        }
    }

    fn input(parameter_count: usize, shape: usize, strings: usize) -> InferInputTensor {
        InferInputTensor {
            parameters: parameters(parameter_count),
            shape: vec![-1; shape],
            contents: Some(InferTensorContents {
                bytes_contents: vec![Bytes::new(); strings],
                int_contents: vec![8; 100_000],
                ..InferTensorContents::default()
            }),
            ..InferInputTensor::default()
        }
    }

    #[test]
    fn what_is_larger_in_memory_than_on_the_wire_is_counted() {
        let small = InferInputTensor::default();
        let outputs = |count: usize, parameter_count: usize| ModelInferRequest {
            outputs: vec![
                InferRequestedOutputTensor {
                    parameters: parameters(parameter_count),
                    ..InferRequestedOutputTensor::default()
                };
                count
            ],
            ..ModelInferRequest::default()
        };
        let raw = |count: usize| ModelInferRequest {
            raw_input_contents: vec![Bytes::from_static(&[0x2a; 30]); count],
            ..ModelInferRequest::default()
        };
        let own = |count: usize| ModelInferRequest {
            parameters: parameters(count),
            ..ModelInferRequest::default()
        };
        let rows = [
            (inputs(MAX_TENSORS, &small), None),
            (inputs(MAX_TENSORS + 1, &small), Some("1024 inputs")),
            (inputs(1, &input(MAX_KEYS, MAX_DIMENSIONS, 10)), None),
            (
                inputs(1, &input(MAX_KEYS + 1, 1, 1)),
                Some("128 parameters of a tensor"),
            ),
            (
                inputs(1, &input(1, MAX_DIMENSIONS + 1, 1)),
                Some("32 dimensions of a shape"),
            ),
            (inputs(2, &input(1, 1, MAX_STRINGS / 2)), None),
            (
                inputs(2, &input(1, 1, MAX_STRINGS / 2 + 1)),
                Some("elements of BYTES tensors"),
            ),
            (outputs(MAX_TENSORS, 1), None),
            (outputs(MAX_TENSORS + 1, 0), Some("1024 outputs")),
            (outputs(1, MAX_KEYS + 1), Some("128 parameters of a tensor")),
            (raw(MAX_TENSORS), None),
            (raw(MAX_TENSORS + 1), Some("1024 raw contents")),
            (own(MAX_KEYS), None),
            (own(MAX_KEYS + 1), Some("128 parameters")),
        ];
        for (request, expected) in rows {
            match (check(&request.encode_to_vec()), expected) {
                (Ok(_), None) => (),
                (Err(failure), Some(words)) => {
                    assert_eq!(failure.code, Code::TooLarge);
                    assert!(failure.message.contains(words), "{failure}");
                }
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn typed_tensors_count_as_they_are_in_memory() {
        let whole = |contents: InferTensorContents| {
            let input = InferInputTensor {
                contents: Some(contents),
                ..InferInputTensor::default()
            };
            check(&inputs(2, &input).encode_to_vec()).unwrap() / 2
        };
        let none = InferTensorContents::default;
        let rows = [
            (none(), 0),
            (
                InferTensorContents {
                    bool_contents: vec![true; 10],
                    ..none()
                },
                10,
            ),
            (
                InferTensorContents {
                    int_contents: vec![1; 10],
                    ..none()
                },
                40,
            ),
            (
                InferTensorContents {
                    int_contents: vec![-1; 10],
                    ..none()
                },
                40,
            ),
            (
                InferTensorContents {
                    int64_contents: vec![1; 10],
                    ..none()
                },
                80,
            ),
            (
                InferTensorContents {
                    uint_contents: vec![1; 10],
                    ..none()
                },
                40,
            ),
            (
                InferTensorContents {
                    uint64_contents: vec![u64::MAX; 10],
                    ..none()
                },
                80,
            ),
            (
                InferTensorContents {
                    fp32_contents: vec![1.0; 10],
                    ..none()
                },
                40,
            ),
            (
                InferTensorContents {
                    fp64_contents: vec![1.0; 10],
                    ..none()
                },
                80,
            ),
            (
                InferTensorContents {
                    bytes_contents: vec![Bytes::new(); 10],
                    ..none()
                },
                10 * size_of::<Bytes>(),
            ),
        ];
        for (contents, expected) in rows {
            assert_eq!(whole(contents.clone()), expected, "{contents:?}");
        }
        let raw = ModelInferRequest {
            raw_input_contents: vec![Bytes::from_static(&[7; 1000])],
            ..ModelInferRequest::default()
        };
        assert_eq!(check(&raw.encode_to_vec()), Ok(0));
        // Each number in a field of its own.
        assert_eq!(check(&[0x2a, 6, 0x2a, 4, 0x18, 1, 0x18, 1]), Ok(16));
    }

    /// A shape may come as a field for each size too, and a message within a message in parts.
    #[test]
    fn forms_that_encoders_do_not_write_are_counted_too() {
        let sizes = [0x18, 1].repeat(MAX_DIMENSIONS + 1);
        let mut request = vec![0x2a, u8::try_from(sizes.len()).unwrap()];
        request.extend(sizes);
        assert!(check(&request).is_err());
        // Each part of the contents has one element.
        let parts = [0x2a, 2, 0x42, 0].repeat(MAX_STRINGS + 1);
        let mut request = vec![0x2a];
        prost::encoding::encode_varint(parts.len() as u64, &mut request);
        request.extend(parts);
        assert!(check(&request).is_err());
    }

    #[test]
    fn what_is_not_well_formed_is_left_to_the_decoder() {
        for bytes in [&[0xff; 20][..], &[0x2a, 200], &[0x2b], &[0x2e], &[0x21, 0]] {
            assert_eq!(check(bytes), Ok(0), "{bytes:?}");
        }
    }
}
