//! The document that describes the server's paths: OpenAPI 3.1.
//!
//! What is said here of bodies holds to the letter: a body that fits its schema is understood, and one that does not is refused. Where a
//! schema cannot say a rule, the description does.

mod items;
pub(crate) mod schemas;

use std::collections::BTreeMap;

/// A schema, or a value.
pub(crate) use serde_json::Value as Schema;
use serde_json::{Map, Value, json};

pub(crate) use self::items::{
    batch_answer, batch_body, infer_example, item, item_example, prediction,
};
use crate::failure::Code;

/// One method of one path.
pub(crate) struct Operation {
    /// The path, with names in braces where it has any.
    pub(crate) path: String,
    /// `get` or `post`.
    pub(crate) method: &'static str,
    /// A name for programs, unlike that of any other operation; empty where it has none.
    pub(crate) id: String,
    /// What it belongs to.
    pub(crate) tag: &'static str,
    /// What it does, as one line.
    pub(crate) summary: String,
    /// What else there is to know.
    pub(crate) description: &'static str,
    /// The forms of the body; none where there is no body.
    pub(crate) body: Vec<Content>,
    /// Whether there must be one.
    pub(crate) body_required: bool,
    /// The status of the answer.
    pub(crate) status: u16,
    /// Its forms.
    pub(crate) answer: Vec<Content>,
    /// How it can fail beside what every request can fail of.
    pub(crate) failures: Vec<Code>,
    /// Whether it takes a key where there are keys.
    pub(crate) key: bool,
    /// Whether the caller can say how long it will wait.
    pub(crate) timed: bool,
}

/// A body of one media type.
pub(crate) struct Content {
    pub(crate) media: &'static str,
    pub(crate) schema: Value,
    pub(crate) example: Option<Value>,
}

/// What a path that names a model can be tried with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Example {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
}

/// How every request can fail, whatever it asks for.
const ALWAYS: [Code; 6] = [
    Code::InvalidInput,
    Code::Forbidden,
    Code::RequestTimeout,
    Code::MisdirectedRequest,
    Code::Overloaded,
    Code::HeadersTooLarge,
];

impl Operation {
    /// An operation without a body that is answered in one of these forms.
    pub(crate) fn new(tag: &'static str, summary: &str, answer: Vec<Content>) -> Operation {
        Operation {
            path: String::new(),
            method: "",
            id: String::new(),
            tag,
            summary: summary.to_owned(),
            description: "",
            body: Vec::new(),
            body_required: false,
            status: 200,
            answer,
            failures: Vec::new(),
            key: true,
            timed: false,
        }
    }

    /// The same with a body of one of these forms.
    pub(crate) fn taking(self, body: Vec<Content>) -> Operation {
        Operation { body, ..self }
    }

    /// The same, which can fail in these ways too.
    pub(crate) fn failing(mut self, codes: &[Code]) -> Operation {
        self.failures.extend_from_slice(codes);
        self
    }
}

impl Content {
    /// JSON of that schema.
    pub(crate) fn json(schema: Value) -> Content {
        Content::of("application/json", schema)
    }

    /// A body of that type and schema.
    pub(crate) fn of(media: &'static str, schema: Value) -> Content {
        Content {
            media,
            schema,
            example: None,
        }
    }

    /// Text of a type that says it all.
    pub(crate) fn text(media: &'static str) -> Content {
        Content::of(media, json!({"type": "string"}))
    }
}

/// The schema of anything of that type; of anything at all where none is said.
pub(crate) fn anything(of_type: &str) -> Schema {
    match of_type {
        "" => json!({}),
        of_type => json!({"type": of_type}),
    }
}

/// The whole document. `secured` says whether there are keys.
pub(crate) fn document(
    version: &str,
    operations: &[Operation],
    example: &Example,
    secured: bool,
) -> Vec<u8> {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let path = paths
            .entry(&operation.path)
            .or_insert_with(|| path_item(&operation.path, example));
        path[operation.method] = self::operation(operation, secured);
    }
    let mut components = json!({"schemas": schemas::all()});
    if secured {
        components["securitySchemes"] = json!({"key": {"type": "http", "scheme": "bearer"}});
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "jitney",
            "version": version,
            "description": "Models served over HTTP: as plain JSON under /predict, and by the Open Inference Protocol under /v2.",
        },
        "tags": [
            {"name": "predict", "description": "A JSON value for each input, without shapes and datatypes"},
            {"name": "protocol", "description": "The Open Inference Protocol, version 2"},
            {"name": "extensions", "description": "Triton's extensions of it"},
            {"name": "server", "description": "What the server says of itself"},
        ],
        "paths": paths,
        "components": components,
    });
    // Every key is a string, and writing to memory cannot fail.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// A path with what its names stand for.
fn path_item(path: &str, example: &Example) -> Value {
    let names = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names.map(|name| path_parameter(name, example)).collect();
    match parameters.is_empty() {
        true => json!({}),
        false => json!({"parameters": parameters}),
    }
}

fn path_parameter(name: &str, example: &Example) -> Value {
    let (description, example) = match name {
        "name" => ("The name of a model", example.name.as_ref()),
        "version" => (
            "A version of the model, or a label that stands for one",
            example.version.as_ref(),
        ),
        _ => ("The name of a repository; there is none", None),
    };
    let schema = json!({"type": "string", "minLength": 1});
    let mut parameter = json!({
        "name": name, "in": "path", "required": true, "description": description, "schema": schema,
    });
    if let Some(example) = example {
        parameter["example"] = json!(example);
    }
    parameter
}

fn operation(operation: &Operation, secured: bool) -> Value {
    let mut value = json!({
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": header_parameters(operation.timed),
        "responses": responses(operation, secured),
    });
    if !operation.id.is_empty() {
        value["operationId"] = json!(operation.id);
    }
    if !operation.description.is_empty() {
        value["description"] = json!(operation.description);
    }
    if !operation.body.is_empty() {
        value["requestBody"] =
            json!({"required": operation.body_required, "content": contents(&operation.body)});
    }
    if secured {
        let key = json!([{"key": []}]);
        value["security"] = if operation.key { key } else { json!([]) };
    }
    value
}

fn header_parameters(timed: bool) -> Value {
    let mut parameters = vec![json!({
        "name": "X-Request-Id", "in": "header", "schema": {"type": "string"},
        "description": "A name for the request, which the answer and the log repeat",
    })];
    if timed {
        parameters.push(json!({
            "name": "X-Request-Timeout-Ms", "in": "header",
            "schema": {"type": "integer", "minimum": 1, "maximum": u64::MAX},
            "description": "After how many milliseconds the answer is worth nothing",
        }));
    }
    json!(parameters)
}

fn contents(contents: &[Content]) -> Value {
    let content = |content: &Content| {
        let mut value = json!({"schema": content.schema});
        if let Some(example) = &content.example {
            value["example"] = example.clone();
        }
        (content.media.to_owned(), value)
    };
    Value::Object(contents.iter().map(content).collect())
}

fn responses(operation: &Operation, secured: bool) -> Value {
    let mut responses = Map::new();
    let mut answer = json!({"description": "The answer"});
    if operation.status == 101 {
        answer = json!({"description": "The connection is a WebSocket from now on"});
    }
    if !operation.answer.is_empty() {
        answer["content"] = contents(&operation.answer);
    }
    responses.insert(operation.status.to_string(), answer);
    let unauthenticated = (secured && operation.key).then_some(Code::Unauthenticated);
    let codes = ALWAYS.into_iter().chain(unauthenticated);
    let mut by_status: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
    for code in codes.chain(operation.failures.iter().copied()) {
        let words = by_status.entry(code.http_status().as_u16()).or_default();
        if !words.contains(&code.word()) {
            words.push(code.word());
        }
    }
    for (status, words) in by_status {
        responses.insert(status.to_string(), refusal(status, &words));
    }
    Value::Object(responses)
}

fn refusal(status: u16, words: &[&str]) -> Value {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    let mut response = json!({
        "description": words.join(", "),
        "content": {"application/json": {"schema": schemas::reference("Error")}},
    });
    if matches!(status, 429 | 503) {
        response["headers"] = json!({
            "Retry-After": {"description": "Seconds after which to come back", "schema": {"type": "integer", "minimum": 1}},
        });
    }
    response
}
