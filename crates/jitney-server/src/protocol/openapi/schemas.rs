//! The bodies that are the same for every model, as schemas.

use jitney_engine::DataType;
use serde_json::{Map, Value, json};

use super::super::extension::configuration::data_type;
use super::super::{MAX_DIMENSIONS, MAX_KEYS};
use crate::failure::Code;

/// Where a schema of [`all`] stands.
pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Every schema by its name.
pub(crate) fn all() -> Value {
    let mut all = Map::new();
    for group in [common(), tensors(), extensions()] {
        if let Value::Object(group) = group {
            all.extend(group);
        }
    }
    Value::Object(all)
}

fn common() -> Value {
    let words: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    let text = || json!({"type": "string"});
    json!({
        "Error": object(&["error", "code"], json!({
            "error": {"type": "string", "description": "A sentence for people"},
            "code": {"enum": words, "description": "A stable word for programs"},
        })),
        "Prediction": object(&["prediction"], json!({"prediction": {}, "parameters": {"type": "object"}})),
        "Server": object(&["name", "version", "extensions"], json!({
            "name": text(), "version": text(), "extensions": {"type": "array", "items": text()},
        })),
        "Live": object(&["live"], json!({"live": {"const": true}})),
        "Ready": object(&["ready"], json!({"ready": {"const": true}})),
        "ModelReady": object(&["name", "ready"], json!({"name": text(), "ready": {"const": true}})),
        "Models": object(&["models"], json!({"models": {"type": "array", "items": text()}})),
        "Model": object(&["name", "versions", "platform", "inputs", "outputs"], json!({
            "name": text(), "versions": {"type": "array", "items": text()}, "platform": text(),
            "inputs": {"type": "array", "items": reference("TensorMetadata")},
            "outputs": {"type": "array", "items": reference("TensorMetadata")},
        })),
        "TensorMetadata": object(&["name", "datatype", "shape"], json!({
            "name": text(), "datatype": reference("Datatype"), "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
            "parameters": {"type": "object"},
        })),
        "Event": object(&["data"], json!({"event": text(), "data": text(), "id": text()})),
        "Status": object(&["server", "models"], json!({
            "server": {"type": "object"}, "models": {"type": "array", "items": {"type": "object"}},
        })),
    })
}

fn tensors() -> Value {
    let datatypes: Vec<&str> = DataType::ALL
        .iter()
        .map(|datatype| datatype.name())
        .collect();
    let text = || json!({"type": "string"});
    let parameters = || json!({"type": "object", "maxProperties": MAX_KEYS});
    let shape = json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MAX_DIMENSIONS});
    json!({
        "Datatype": {"enum": datatypes},
        "InferRequest": {
            "type": "object", "required": ["inputs"],
            "description": "Tensors in the order of rows, flat or nested. The shapes and the datatypes are those of the model's metadata.",
            "properties": {
                "id": {"type": ["string", "null"]},
                "parameters": {"anyOf": [reference("RequestParameters"), {"type": "null"}]},
                "inputs": {"type": "array", "minItems": 1, "items": object(&["name", "datatype", "shape"], json!({
                    "name": text(), "datatype": reference("Datatype"), "shape": shape, "parameters": parameters(),
                    "data": {"type": "array", "description": "Left out where raw bytes follow the JSON"},
                }))},
                "outputs": {"type": ["array", "null"], "items": object(&["name"], json!({"name": text(), "parameters": parameters()}))},
            },
        },
        "RequestParameters": {
            "type": "object", "maxProperties": MAX_KEYS,
            "description": "What is not listed here goes to the model as it is",
            "properties": {
                "timeout": {"type": "integer", "minimum": 0, "description": "Microseconds; 0 for none"},
                "priority": {"type": "integer", "minimum": 0, "description": "1 is the highest, 0 the default"},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "InferResponse": object(&["model_name", "model_version", "outputs"], json!({
            "model_name": text(), "model_version": text(), "id": text(), "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": object(&["name", "datatype", "shape"], json!({
                "name": text(), "datatype": reference("Datatype"), "shape": shape, "parameters": {"type": "object"},
                "data": {"type": "array", "description": "Flat. What JSON has no number for is \"NaN\", \"Infinity\" or \"-Infinity\", as it may be in a request"},
            }))},
        })),
        "GenerateRequest": {
            "type": "object",
            "description": "A value for each input by its name, as text_input; what names no input is a parameter of the request",
            "properties": {"id": text(), "parameters": reference("RequestParameters")},
        },
        "GenerateResponse": {
            "type": "object", "required": ["model_name", "model_version"],
            "description": "A value for each output by its name: of one element alone, of several as an array",
            "properties": {"id": text(), "model_name": text(), "model_version": text()},
        },
    })
}

fn extensions() -> Value {
    let text = || json!({"type": "string"});
    let count = || json!({"type": "integer", "minimum": 0});
    let timed = || reference("Timed");
    let types: Vec<&str> = DataType::ALL.map(data_type).to_vec();
    let tensor = json!({
        "type": "object", "required": ["name", "data_type", "dims"],
        "properties": {"name": text(), "data_type": {"enum": types}, "dims": {"type": "array", "items": {"type": "integer", "minimum": -1}}},
    });
    json!({
        "Timed": object(&["count", "ns"], json!({"count": count(), "ns": count()})),
        "Statistics": object(&["model_stats"], json!({"model_stats": {"type": "array", "items": object(
            &["name", "version", "last_inference", "inference_count", "execution_count", "inference_stats", "batch_stats"],
            json!({
                "name": text(), "version": text(), "inference_count": count(), "execution_count": count(),
                "last_inference": {"type": "integer", "minimum": 0, "description": "Milliseconds since the epoch; 0 before the first request"},
                "inference_stats": {"type": "object", "additionalProperties": timed()},
                "batch_stats": {"type": "array", "items": object(&["batch_size", "compute_infer"], json!({
                    "batch_size": count(), "compute_input": timed(), "compute_infer": timed(), "compute_output": timed(),
                }))},
                "memory_usage": {"type": "array", "items": object(&["type", "id", "byte_size"], json!({
                    "type": text(), "id": count(), "byte_size": count(),
                }))},
            }),
        )}})),
        "Configuration": {
            "type": "object", "required": ["name", "platform", "max_batch_size", "input", "output", "model_transaction_policy"],
            "properties": {
                "name": text(), "platform": text(), "backend": text(), "max_batch_size": count(),
                "input": {"type": "array", "items": tensor}, "output": {"type": "array", "items": tensor},
                "model_transaction_policy": object(&["decoupled"], json!({"decoupled": {"type": "boolean"}})),
            },
        },
        "IndexRequest": closed(json!({"ready": {"type": "boolean", "description": "Only models that can be called"}})),
        "Index": {"type": "array", "items": object(&["name", "state", "reason"], json!({
            "name": text(), "version": text(), "state": {"enum": ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]}, "reason": text(),
        }))},
        "LoadRequest": closed(json!({"parameters": closed(json!({
            "config": {"type": "string", "description": "A model configuration as JSON, which holds for this load"},
        }))})),
        "Loaded": object(&["name", "load"], json!({"name": text(), "load": {"const": true}})),
        "UnloadRequest": closed(json!({"parameters": closed(json!({"unload_dependents": {"type": "boolean"}}))})),
        "Unloaded": object(&["name", "unload"], json!({"name": text(), "unload": {"const": true}})),
        "LogSettings": closed(json!({
            "log_info": {"type": "boolean"}, "log_warning": {"type": "boolean"}, "log_error": {"type": "boolean"},
            "log_verbose_level": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
            "log_file": {"const": ""}, "log_format": {"const": "default"},
        })),
        "TraceSettings": closed(json!({
            "trace_level": {"anyOf": [{"enum": ["OFF", "TIMESTAMPS", null]}, {"enum": [["OFF"], ["TIMESTAMPS"]]}]},
            "trace_rate": {"anyOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}, {"type": "null"}]},
            "trace_count": {"anyOf": [{"type": "string", "pattern": "^(-1|0|[1-9][0-9]{0,17})$"}, {"type": "null"}]},
            "log_frequency": {"enum": ["0", null]}, "trace_file": {"enum": ["", null]},
        })),
    })
}

/// An object that has these properties, and may have others.
fn object(required: &[&str], properties: Value) -> Value {
    let mut schema = json!({"type": "object", "required": required});
    schema["properties"] = properties;
    schema
}

/// An object that may have these properties and no others.
fn closed(properties: Value) -> Value {
    let mut schema = json!({"type": "object", "additionalProperties": false});
    schema["properties"] = properties;
    schema
}
