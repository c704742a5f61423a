//! The small documents about servers and models.

use jitney_engine::{Items, Spec, TensorSpec};
use serde::Serialize;

/// What a model's metadata says.
#[derive(Clone, Copy, Debug)]
pub struct ModelMetadata<'a> {
    /// The name by which requests call it.
    pub name: &'a str,
    /// The versions that are served.
    pub versions: &'a [&'a str],
    /// What runs it, such as `onnx_rten`.
    pub platform: &'a str,
    /// Its signature.
    pub spec: &'a Spec,
}

/// Writes the metadata of the server: `{"name", "version", "extensions"}`.
pub fn server(out: &mut Vec<u8>, name: &str, version: &str, extensions: &[&str]) {
    #[derive(Serialize)]
    struct Server<'a> {
        name: &'a str,
        version: &'a str,
        extensions: &'a [&'a str],
    }
    json(
        out,
        &Server {
            name,
            version,
            extensions,
        },
    );
}

/// Writes the metadata of a model: `{"name", "versions", "platform", "inputs", "outputs"}`, where dimensions of any size are -1.
///
/// Tensors whose elements are the texts of JSON values say so by `"parameters": {"content_type": "application/json"}`.
pub fn model(out: &mut Vec<u8>, metadata: &ModelMetadata<'_>) {
    #[derive(Serialize)]
    struct Model<'a> {
        name: &'a str,
        versions: &'a [&'a str],
        platform: &'a str,
        inputs: Vec<TensorMetadata<'a>>,
        outputs: Vec<TensorMetadata<'a>>,
    }
    let ModelMetadata {
        name,
        versions,
        platform,
        spec,
    } = *metadata;
    json(
        out,
        &Model {
            name,
            versions,
            platform,
            inputs: tensors(&spec.inputs, spec.items),
            outputs: tensors(&spec.outputs, spec.items),
        },
    );
}

/// Writes whether the server lives: `{"live": true}`.
pub fn live(out: &mut Vec<u8>, live: bool) {
    #[derive(Serialize)]
    struct Live {
        live: bool,
    }
    json(out, &Live { live });
}

/// Writes whether the server is ready: `{"ready": true}`.
pub fn ready(out: &mut Vec<u8>, ready: bool) {
    #[derive(Serialize)]
    struct Ready {
        ready: bool,
    }
    json(out, &Ready { ready });
}

/// Writes whether a model is ready: `{"name": "digits", "ready": true}`.
pub fn model_ready(out: &mut Vec<u8>, name: &str, ready: bool) {
    #[derive(Serialize)]
    struct ModelReady<'a> {
        name: &'a str,
        ready: bool,
    }
    json(out, &ModelReady { name, ready });
}

/// Writes the names of the models: `{"models": ["digits"]}`.
pub fn list(out: &mut Vec<u8>, models: &[&str]) {
    #[derive(Serialize)]
    struct List<'a> {
        models: &'a [&'a str],
    }
    json(out, &List { models });
}

#[derive(Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Parameters>,
}

#[derive(Clone, Copy, Serialize)]
struct Parameters {
    content_type: &'static str,
}

fn tensors(specs: &[TensorSpec], items: Items) -> Vec<TensorMetadata<'_>> {
    let json = Parameters {
        content_type: "application/json",
    };
    let parameters = match items {
        Items::Tensors => None,
        Items::Json => Some(json),
    };
    let tensor = |spec| TensorMetadata::of(spec, parameters);
    specs.iter().map(tensor).collect()
}

impl<'a> TensorMetadata<'a> {
    fn of(spec: &'a TensorSpec, parameters: Option<Parameters>) -> TensorMetadata<'a> {
        TensorMetadata {
            name: &spec.name,
            datatype: spec.datatype.name(),
            shape: spec.protocol_shape(),
            parameters,
        }
    }
}

fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Neither these types nor a vector can fail.
    let _ = serde_json::to_writer(out, value);
}
