//! What a request to load a model says about its settings: a part of the protocol's model configuration, as JSON.

use std::num::NonZeroUsize;

use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::options::ModelOptions;
use super::versions::{Version, VersionPolicy};

/// Understands the model configuration of a request that loads the model `name`. Both spellings of keys are taken, and numbers as text too,
/// as JSON forms of protocol buffers have them. An empty text says nothing.
///
/// # Errors
/// What is wrong, or what is not understood: a setting that was silently left out would be worse than a refusal.
pub(crate) fn load_request(name: &str, json: &str) -> Result<ModelOptions, String> {
    if json.trim().is_empty() {
        return Ok(ModelOptions::default());
    }
    let config: ModelConfig = serde_json::from_str(json).map_err(|error| {
        format!(
            "config: {error}; what can be set are max_batch_size, dynamic_batching.max_queue_delay_microseconds, instance_group[0].count and version_policy"
        )
    })?;
    let options = config.into_options(name)?;
    let checked = options.check().map_err(|error| format!("config: {error}"));
    checked.map(|()| options)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelConfig {
    name: Option<String>,
    #[serde(default, alias = "maxBatchSize", deserialize_with = "whole")]
    max_batch_size: Option<u64>,
    #[serde(alias = "dynamicBatching")]
    dynamic_batching: Option<DynamicBatching>,
    #[serde(default, alias = "instanceGroup")]
    instance_group: Vec<InstanceGroup>,
    #[serde(alias = "versionPolicy")]
    version_policy: Option<Policy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DynamicBatching {
    #[serde(
        default,
        alias = "maxQueueDelayMicroseconds",
        deserialize_with = "whole"
    )]
    max_queue_delay_microseconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceGroup {
    #[serde(default, deserialize_with = "whole")]
    count: Option<u64>,
    kind: Option<Kind>,
}

/// Where instances run. There is no choice.
#[derive(Deserialize)]
enum Kind {
    #[serde(rename = "KIND_AUTO")]
    Auto,
    #[serde(rename = "KIND_CPU")]
    Cpu,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Policy {
    Latest(Latest),
    All(All),
    Specific(Specific),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latest {
    #[serde(default, alias = "numVersions", deserialize_with = "whole")]
    num_versions: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct All {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Specific {
    versions: Vec<Version>,
}

impl ModelConfig {
    fn into_options(self, name: &str) -> Result<ModelOptions, String> {
        if self.name.as_ref().is_some_and(|said| said != name) {
            return Err(format!(
                "config: name must be \"{name}\", the model that is loaded"
            ));
        }
        let delay = self
            .dynamic_batching
            .and_then(|batching| batching.max_queue_delay_microseconds);
        Ok(ModelOptions {
            // No batching is what 0 says there.
            max_batch: self.max_batch_size.map(|size| count(size).max(1)),
            max_wait_ms: delay.map(|microseconds| microseconds as f64 / 1e3),
            instances: instances(&self.instance_group)?,
            versions: self.version_policy.map(Policy::meant).transpose()?,
            ..ModelOptions::default()
        })
    }
}

impl Policy {
    fn meant(self) -> Result<VersionPolicy, String> {
        match self {
            Policy::Latest(Latest { num_versions }) => {
                let latest = NonZeroUsize::new(count(num_versions.unwrap_or(1)));
                latest.map(VersionPolicy::Latest).ok_or_else(|| {
                    "config: version_policy.latest.num_versions must be 1 or more".to_owned()
                })
            }
            Policy::All(All {}) => Ok(VersionPolicy::All),
            Policy::Specific(Specific { versions }) if versions.is_empty() => {
                Err("config: version_policy.specific.versions must name a version".to_owned())
            }
            Policy::Specific(Specific { versions }) => {
                let versions = versions.into_iter().map(|Version(version)| version);
                Ok(VersionPolicy::Listed(versions.collect()))
            }
        }
    }
}

fn instances(groups: &[InstanceGroup]) -> Result<Option<usize>, String> {
    match groups {
        [] => Ok(None),
        [
            InstanceGroup {
                count: said,
                kind: None | Some(Kind::Auto | Kind::Cpu),
            },
        ] => Ok(said.map(count)),
        _ => Err("config: instance_group must be one group".to_owned()),
    }
}

fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A whole number, as a number or as text.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer) {
        Ok(Either::Number(number)) => Ok(Some(number)),
        Ok(Either::Text(text)) => text.parse().map(Some).map_err(de::Error::custom),
        Err(_) => Err(de::Error::custom("expected a whole number from 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        let none = ModelOptions::default;
        let latest = |count| Some(VersionPolicy::Latest(NonZeroUsize::new(count).unwrap()));
        let table = [
            ("", none()),
            ("{}", none()),
            (r#"{"name":"m"}"#, none()),
            (
                r#"{"max_batch_size":8}"#,
                ModelOptions {
                    max_batch: Some(8),
                    ..none()
                },
            ),
            (
                r#"{"maxBatchSize":"8"}"#,
                ModelOptions {
                    max_batch: Some(8),
                    ..none()
                },
            ),
            (
                r#"{"max_batch_size":0}"#,
                ModelOptions {
                    max_batch: Some(1),
                    ..none()
                },
            ),
            (r#"{"dynamic_batching":{}}"#, none()),
            (
                r#"{"dynamic_batching":{"max_queue_delay_microseconds":"1500"}}"#,
                ModelOptions {
                    max_wait_ms: Some(1.5),
                    ..none()
                },
            ),
            (
                r#"{"instance_group":[{"count":3,"kind":"KIND_CPU"}]}"#,
                ModelOptions {
                    instances: Some(3),
                    ..none()
                },
            ),
            (
                r#"{"version_policy":{"latest":{}}}"#,
                ModelOptions {
                    versions: latest(1),
                    ..none()
                },
            ),
            (
                r#"{"versionPolicy":{"latest":{"numVersions":2}}}"#,
                ModelOptions {
                    versions: latest(2),
                    ..none()
                },
            ),
            (
                r#"{"version_policy":{"all":{}}}"#,
                ModelOptions {
                    versions: Some(VersionPolicy::All),
                    ..none()
                },
            ),
            (
                r#"{"version_policy":{"specific":{"versions":[1,"3"]}}}"#,
                ModelOptions {
                    versions: Some(VersionPolicy::Listed(vec!["1".into(), "3".into()])),
                    ..none()
                },
            ),
        ];
        for (json, expected) in table {
            assert_eq!(load_request("m", json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let table = [
            ("[", "config: "),
            ("7", "config: invalid type"),
            (r#"{"name":"other"}"#, "config: name must be \"m\""),
            (
                r#"{"backend":"onnxruntime"}"#,
                "config: unknown field `backend`",
            ),
            (
                r#"{"max_batch_size":-1}"#,
                "config: expected a whole number",
            ),
            (
                r#"{"max_batch_size":70000}"#,
                "config: max_batch must be a whole number from 1 to 65536",
            ),
            (
                r#"{"dynamic_batching":{"preferred_batch_size":[4]}}"#,
                "config: unknown field `preferred_batch_size`",
            ),
            (
                r#"{"instance_group":[{"kind":"KIND_GPU"}]}"#,
                "config: unknown variant `KIND_GPU`",
            ),
            (
                r#"{"instance_group":[{"count":1},{"count":1}]}"#,
                "config: instance_group must be one group",
            ),
            (
                r#"{"instance_group":[{"count":0}]}"#,
                "config: instances must be",
            ),
            (
                r#"{"version_policy":{"latest":{"num_versions":0}}}"#,
                "config: version_policy.latest",
            ),
            (
                r#"{"version_policy":{"specific":{"versions":["../1"]}}}"#,
                "config: invalid value: string \"../1\"",
            ),
            (
                r#"{"version_policy":{"specific":{"versions":[]}}}"#,
                "config: version_policy.specific",
            ),
        ];
        for (json, expected) in table {
            let error = load_request("m", json).unwrap_err();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }
}
