//! What one model takes and gives as plain JSON, as schemas.

use jitney_engine::tensor::DataType;
use jitney_engine::{Dim, Items, Spec, TensorSpec};
use serde_json::{Map, Value, json};

use super::schemas::reference;
use crate::protocol::MAX_ITEMS;

/// One item: an object with a value for each input, or the value alone where there is one input.
pub(crate) fn item(spec: &Spec) -> Value {
    if spec.items == Items::Json {
        return json!({"description": "Any JSON value: the model has no types"});
    }
    let inputs = spec.inputs.iter();
    let properties: Map<String, Value> = inputs
        .map(|input| (input.name.clone(), value(input, spec)))
        .collect();
    let required: Vec<&String> = properties.keys().collect();
    let object = json!({
        "type": "object", "required": required, "properties": properties, "additionalProperties": false,
    });
    match spec.inputs.as_slice() {
        [input] => json!({"anyOf": [object, value(input, spec)]}),
        _ => object,
    }
}

/// The answer to one item.
pub(crate) fn prediction(spec: &Spec) -> Value {
    let outputs = spec.outputs.iter();
    let properties: Map<String, Value> = outputs
        .map(|output| (output.name.clone(), answer(output, spec)))
        .collect();
    let required: Vec<&String> = properties.keys().collect();
    let prediction = match spec.items {
        Items::Json => json!({}),
        Items::Tensors => {
            json!({"type": "object", "required": required, "properties": properties})
        }
    };
    json!({
        "type": "object", "required": ["prediction"],
        "properties": {"prediction": prediction, "parameters": {"type": "object"}},
    })
}

/// Many items. Each is answered for itself, so what is wrong with one is no reason to refuse the body.
pub(crate) fn batch_body(item: &Value) -> Value {
    json!({"type": "array", "maxItems": MAX_ITEMS, "items": {"anyOf": [item, {}]}})
}

/// The answer to many items: as many, in their order.
pub(crate) fn batch_answer(prediction: &Value) -> Value {
    json!({"type": "array", "items": {"anyOf": [prediction, reference("Error")]}})
}

/// An item of zeros, where it is not too large to look at.
pub(crate) fn item_example(spec: &Spec) -> Option<Value> {
    if spec.items == Items::Json {
        return Some(json!({}));
    }
    let inputs = spec.inputs.iter();
    let values = inputs.map(|input| Some((input.name.clone(), zeros(input, row(input, spec))?)));
    Some(Value::Object(values.collect::<Option<_>>()?))
}

/// A request of one row of zeros by the protocol, where it is not too large to look at.
pub(crate) fn infer_example(spec: &Spec) -> Option<Value> {
    let inputs = spec.inputs.iter().map(|input| {
        if matches!(input.datatype, DataType::Fp16 | DataType::Bf16) {
            return None;
        }
        let shape: Vec<usize> = input.shape.iter().map(|dim| fixed(*dim).unwrap_or(1)).collect();
        let data = match spec.items {
            Items::Json => json!(["null"]),
            Items::Tensors => zeros(input, &[Dim::Fixed(shape.iter().product())])?,
        };
        Some(json!({"name": input.name, "datatype": input.datatype.name(), "shape": shape, "data": data}))
    });
    Some(json!({"inputs": inputs.collect::<Option<Vec<_>>>()?}))
}

/// More numbers than that are no example.
const EXAMPLE_MAX: usize = 256;

fn zeros(input: &TensorSpec, dims: &[Dim]) -> Option<Value> {
    let sizes = dims.iter().map(|dim| fixed(*dim).unwrap_or(1));
    if sizes.clone().product::<usize>() > EXAMPLE_MAX {
        return None;
    }
    let zero = match input.datatype {
        DataType::Bool => json!(false),
        DataType::Bytes => json!(""),
        _ => json!(0),
    };
    Some(
        sizes
            .rev()
            .fold(zero, |value, size| json!(vec![value; size])),
    )
}

/// A value of an input: nested like a row, or flat where every dimension is fixed.
fn value(input: &TensorSpec, spec: &Spec) -> Value {
    let dims = row(input, spec);
    let element = element(input.datatype);
    let nested = nested(&element, dims);
    let sizes: Option<Vec<usize>> = dims.iter().map(|dim| fixed(*dim)).collect();
    match sizes {
        Some(sizes) if sizes.len() > 1 => {
            let flat = Dim::Fixed(sizes.iter().product());
            json!({"anyOf": [nested, self::nested(&element, &[flat])]})
        }
        _ => nested,
    }
}

/// A value of an output, where what is not finite is a word.
fn answer(output: &TensorSpec, spec: &Spec) -> Value {
    let element = match output.datatype {
        DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => {
            or_word(&json!({"type": "number"}))
        }
        datatype => element(datatype),
    };
    nested(&element, row(output, spec))
}

fn row<'t>(tensor: &'t TensorSpec, spec: &Spec) -> &'t [Dim] {
    if spec.batched() {
        tensor.row_shape()
    } else {
        &tensor.shape
    }
}

fn nested(element: &Value, dims: &[Dim]) -> Value {
    let mut schema = element.clone();
    for dim in dims.iter().rev() {
        let mut array = json!({"type": "array", "items": schema});
        if let Some(size) = fixed(*dim) {
            array["minItems"] = json!(size);
            array["maxItems"] = json!(size);
        }
        schema = array;
    }
    schema
}

fn fixed(dim: Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(size) => Some(size),
        Dim::Any => None,
    }
}

/// A number, or a word for what JSON has no number for.
fn or_word(number: &Value) -> Value {
    json!({"anyOf": [number, {"enum": ["NaN", "Infinity", "-Infinity"]}]})
}

fn element(datatype: DataType) -> Value {
    let integer = |minimum: i64, maximum: u64| json!({"type": "integer", "minimum": minimum, "maximum": maximum});
    let number = |most: f64| or_word(&json!({"type": "number", "minimum": -most, "maximum": most}));
    match datatype {
        DataType::Bool => json!({"type": "boolean"}),
        DataType::Uint8 => integer(0, u8::MAX.into()),
        DataType::Uint16 => integer(0, u16::MAX.into()),
        DataType::Uint32 => integer(0, u32::MAX.into()),
        DataType::Uint64 => integer(0, u64::MAX),
        DataType::Int8 => integer(i8::MIN.into(), i8::MAX as u64),
        DataType::Int16 => integer(i16::MIN.into(), i16::MAX as u64),
        DataType::Int32 => integer(i32::MIN.into(), i32::MAX as u64),
        DataType::Int64 => integer(i64::MIN, i64::MAX as u64),
        DataType::Fp16 => number(half::f16::MAX.into()),
        DataType::Bf16 => number(half::bf16::MAX.into()),
        // What is nearer to the largest number than to the next power of two is rounded down to it. In between lies this one exactly, but not
        // its shortest text.
        DataType::Fp32 => number(f64::from(f32::MAX) + 2_f64.powi(103)),
        DataType::Fp64 => number(f64::MAX),
        DataType::Bytes => json!({"type": "string"}),
    }
}

#[cfg(test)]
mod tests {
    use jitney_engine::BatchAxis;

    use super::*;

    fn spec(inputs: &[(&str, &str)]) -> Spec {
        let tensors = |tensors: &[(&str, &str)]| {
            let tensors = tensors.iter();
            tensors
                .map(|(name, text)| TensorSpec::parse_row(name, text).unwrap())
                .collect()
        };
        Spec {
            inputs: tensors(inputs),
            outputs: tensors(&[("y", "FP32[2]")]),
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    #[test]
    fn one_input_may_come_without_its_name() {
        let bit =
            json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2});
        let object = json!({"type": "object", "required": ["x"], "properties": {"x": bit}, "additionalProperties": false});
        assert_eq!(
            item(&spec(&[("x", "BOOL[2]")])),
            json!({"anyOf": [object, bit]})
        );
        let two = item(&spec(&[("x", "BOOL"), ("ids", "INT8[-1]")]));
        assert_eq!(two["required"], json!(["ids", "x"]));
        assert_eq!(two["properties"]["x"], json!({"type": "boolean"}));
        assert_eq!(two["properties"]["ids"]["items"]["minimum"], json!(-128));
        assert_eq!(two["properties"]["ids"].get("minItems"), None);
    }

    #[test]
    fn fixed_dimensions_may_come_flat() {
        let image = item(&spec(&[("x", "UINT8[2,3]"), ("z", "BYTES")]));
        let forms = image["properties"]["x"]["anyOf"].as_array().unwrap();
        assert_eq!(forms[0]["items"]["minItems"], json!(3));
        assert_eq!(forms[1]["minItems"], json!(6));
    }

    #[test]
    fn the_largest_numbers_are_the_largest_that_are_read() {
        use crate::protocol::predict::decode_item;
        let read = |datatype: &str, change: fn(f64) -> f64| {
            let spec = spec(&[("x", datatype)]);
            let most = &item(&spec)["anyOf"][1]["anyOf"][0]["maximum"];
            let most = most.as_f64().unwrap();
            decode_item(format!("{:e}", change(most)).as_bytes(), &spec).is_ok()
        };
        for datatype in ["FP16", "BF16", "FP32", "FP64"] {
            assert!(read(datatype, |most| most), "{datatype}");
        }
        assert!(!read("FP32", f64::next_up));
    }

    #[test]
    fn answers_may_have_words_for_numbers() {
        let answer = prediction(&spec(&[("x", "BOOL")]));
        let element = &answer["properties"]["prediction"]["properties"]["y"]["items"];
        assert_eq!(
            *element,
            json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]})
        );
        assert_eq!(
            prediction(&Spec::json())["properties"]["prediction"],
            json!({})
        );
    }
}
