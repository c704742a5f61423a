//! Triton's extensions: the methods beside those of the Open Inference Protocol.
//!
//! What they say is gathered in [`crate::extension`]; here it becomes messages.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::generated::log_settings_request::setting_value::ParameterChoice as LogChoice;
use super::generated::log_settings_response::SettingValue as LogAnswer;
use super::generated::log_settings_response::setting_value::ParameterChoice as LogAnswerChoice;
use super::generated::model_instance_group::Kind;
use super::generated::model_repository_parameter::ParameterChoice;
use super::generated::model_version_policy::{All, Latest, PolicyChoice, Specific};
use super::generated::repository_index_response::ModelIndex;
use super::generated::trace_setting_response::SettingValue as TraceAnswer;
use super::generated::{
    DataType, InferBatchStatistics, InferStatistics, LogSettingsRequest, LogSettingsResponse,
    MemoryUsage, ModelConfig, ModelConfigRequest, ModelConfigResponse, ModelDynamicBatching,
    ModelInput, ModelInstanceGroup, ModelOutput, ModelParameter, ModelRepositoryParameter,
    ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse, ModelTransactionPolicy,
    ModelVersionPolicy, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, StatisticDuration, TraceSettingRequest, TraceSettingResponse,
};
use super::service::{Caller, Service, decode, named};
use super::wire::{self, Pieces};
use crate::extension::repository::Wish;
use crate::extension::{configuration, logging, repository, statistics, trace};
use crate::failure::Failure;
use crate::protocol::extension::configuration::{Configuration, VersionPolicy};
use crate::protocol::extension::repository::{LoadRequest, unload_parameter};
use crate::protocol::extension::settings::{self, LogValue, TraceValues};
use crate::protocol::extension::statistics as facts;

/// A method of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
    TraceSetting,
    LogSettings,
}

impl Extension {
    /// The method of that name, if it is one of an extension.
    pub(super) fn find(method: &str) -> Option<Extension> {
        match method {
            "ModelConfig" => Some(Extension::ModelConfig),
            "ModelStatistics" => Some(Extension::ModelStatistics),
            "RepositoryIndex" => Some(Extension::RepositoryIndex),
            "RepositoryModelLoad" => Some(Extension::RepositoryModelLoad),
            "RepositoryModelUnload" => Some(Extension::RepositoryModelUnload),
            "TraceSetting" => Some(Extension::TraceSetting),
            "LogSettings" => Some(Extension::LogSettings),
            _ => None,
        }
    }
}

/// Answers a message to a method of an extension.
///
/// Cancel safety: a load or an unload that has begun is finished when the client leaves; nothing else waits.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    extension: Extension,
    message: Bytes,
) -> Result<Pieces, Failure> {
    let head = &caller.head;
    match extension {
        Extension::ModelConfig => wire::message(&config(service, caller, message)?, head).await,
        Extension::ModelStatistics => {
            wire::message(&statistics(service, caller, message)?, head).await
        }
        Extension::RepositoryIndex => {
            wire::message(&index(service, caller, message).await?, head).await
        }
        Extension::RepositoryModelLoad => {
            wire::message(&load(service, caller, message).await?, head).await
        }
        Extension::RepositoryModelUnload => {
            wire::message(&unload(service, caller, message).await?, head).await
        }
        Extension::TraceSetting => wire::message(&trace(service, caller, message)?, head).await,
        Extension::LogSettings => wire::message(&log(service, message)?, head).await,
    }
}

fn config(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<ModelConfigResponse, Failure> {
    let ModelConfigRequest { name, version } = decode(message)?;
    let lane = service.lane(caller, &name, &version)?;
    Ok(ModelConfigResponse {
        config: Some(model_config(configuration::of_lane(&lane))),
    })
}

fn model_config(configuration: Configuration) -> ModelConfig {
    let inputs = configuration.input.into_iter();
    let outputs = configuration.output.into_iter();
    let groups = configuration.instance_group.into_iter();
    let parameters = configuration.parameters.into_iter();
    ModelConfig {
        name: configuration.name,
        platform: configuration.platform,
        version_policy: Some(version_policy(configuration.version_policy)),
        max_batch_size: configuration.max_batch_size,
        input: inputs
            .map(|input| ModelInput {
                name: input.name,
                data_type: data_type(input.data_type),
                dims: input.dims,
            })
            .collect(),
        output: outputs
            .map(|output| ModelOutput {
                name: output.name,
                data_type: data_type(output.data_type),
                dims: output.dims,
                label_filename: output.label_filename.to_owned(),
            })
            .collect(),
        instance_group: groups
            .map(|group| ModelInstanceGroup {
                name: group.name,
                count: group.count,
                kind: Kind::from_str_name(group.kind).unwrap_or_default().into(),
            })
            .collect(),
        default_model_filename: configuration.default_model_filename.to_owned(),
        dynamic_batching: configuration
            .dynamic_batching
            .map(|batching| ModelDynamicBatching {
                preferred_batch_size: batching.preferred_batch_size,
                max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
            }),
        parameters: parameters
            .map(|(name, parameter)| {
                let string_value = parameter.string_value;
                (name.to_owned(), ModelParameter { string_value })
            })
            .collect(),
        backend: configuration.backend,
        model_transaction_policy: Some(ModelTransactionPolicy {
            decoupled: configuration.model_transaction_policy.decoupled,
        }),
    }
}

fn version_policy(policy: VersionPolicy) -> ModelVersionPolicy {
    let choice = match policy {
        VersionPolicy::Latest { num_versions } => PolicyChoice::Latest(Latest { num_versions }),
        VersionPolicy::All {} => PolicyChoice::All(All {}),
        VersionPolicy::Specific { versions } => PolicyChoice::Specific(Specific { versions }),
    };
    ModelVersionPolicy {
        policy_choice: Some(choice),
    }
}

fn data_type(word: &str) -> i32 {
    DataType::from_str_name(word).unwrap_or_default().into()
}

fn statistics(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<ModelStatisticsResponse, Failure> {
    let ModelStatisticsRequest { name, version } = decode(message)?;
    let statistics = if name.is_empty() {
        statistics::of_all(&service.catalog, |model| caller.grant.sees(model))
    } else {
        caller.grant.check(Some(&name))?;
        statistics::of_model(&service.catalog, &name, named(&version))?
    };
    let models = statistics.model_stats.into_iter();
    Ok(ModelStatisticsResponse {
        model_stats: models.map(model_statistics).collect(),
    })
}

fn model_statistics(model: facts::ModelStatistics) -> ModelStatistics {
    let stats = model.inference_stats;
    let batches = model.batch_stats.into_iter();
    let memory = model.memory_usage.into_iter();
    ModelStatistics {
        name: model.name,
        version: model.version,
        last_inference: model.last_inference,
        inference_count: model.inference_count,
        execution_count: model.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(stats.success),
            fail: duration(stats.fail),
            queue: duration(stats.queue),
            compute_input: duration(stats.compute_input),
            compute_infer: duration(stats.compute_infer),
            compute_output: duration(stats.compute_output),
            cache_hit: duration(stats.cache_hit),
            cache_miss: duration(stats.cache_miss),
        }),
        batch_stats: batches
            .map(|batch| InferBatchStatistics {
                batch_size: batch.batch_size,
                compute_input: duration(batch.compute_input),
                compute_infer: duration(batch.compute_infer),
                compute_output: duration(batch.compute_output),
            })
            .collect(),
        memory_usage: memory
            .map(|usage| MemoryUsage {
                r#type: usage.kind.to_owned(),
                id: usage.id,
                byte_size: usage.byte_size,
            })
            .collect(),
    }
}

fn duration(timed: facts::Timed) -> Option<StatisticDuration> {
    Some(StatisticDuration {
        count: timed.count,
        ns: timed.ns,
    })
}

async fn index(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<RepositoryIndexResponse, Failure> {
    let RepositoryIndexRequest {
        repository_name,
        ready,
    } = decode(message)?;
    repository::check_repository(&repository_name)?;
    let wish = Wish {
        ready,
        reasons: service.private && caller.grant.is_admin(),
    };
    let sees = |model: &str| caller.grant.sees(model);
    let lines = repository::index(&service.catalog, wish, sees).await?;
    let models = lines.into_iter().map(|line| ModelIndex {
        name: line.name,
        version: line.version.unwrap_or_default(),
        state: line.state.to_owned(),
        reason: line.reason,
    });
    Ok(RepositoryIndexResponse {
        models: models.collect(),
    })
}

async fn load(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<RepositoryModelLoadResponse, Failure> {
    let request: RepositoryModelLoadRequest = decode(message)?;
    let model_name = meant(request.repository_name, request.model_name)?;
    caller.grant.check(Some(&model_name))?;
    let mut asked = LoadRequest::default();
    for (name, value) in request.parameters {
        let text = match value.parameter_choice {
            Some(ParameterChoice::StringParam(text)) => Some(text),
            _ => None,
        };
        asked.set(&name, text)?;
    }
    repository::load(&service.catalog, &model_name, &asked, service.private).await?;
    Ok(RepositoryModelLoadResponse {
        model_name,
        is_loaded: true,
    })
}

async fn unload(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<RepositoryModelUnloadResponse, Failure> {
    let request: RepositoryModelUnloadRequest = decode(message)?;
    let model_name = meant(request.repository_name, request.model_name)?;
    caller.grant.check(Some(&model_name))?;
    for (name, value) in &request.parameters {
        unload_parameter(name, is_bool(value))?;
    }
    service.catalog.unload(&model_name).await?;
    Ok(RepositoryModelUnloadResponse {
        model_name,
        is_unloaded: true,
    })
}

/// The model that is meant: Triton's clients name it in the second field, KServe's in the first, where others have the repository.
fn meant(first: String, second: String) -> Result<String, Failure> {
    match (first, second) {
        (name, empty) if empty.is_empty() => Ok(name),
        (repository, name) => {
            repository::check_repository(&repository)?;
            Ok(name)
        }
    }
}

fn is_bool(value: &ModelRepositoryParameter) -> bool {
    matches!(value.parameter_choice, Some(ParameterChoice::BoolParam(_)))
}

fn trace(
    service: &Service,
    caller: &Caller,
    message: Bytes,
) -> Result<TraceSettingResponse, Failure> {
    let request: TraceSettingRequest = decode(message)?;
    let model = named(&request.model_name);
    if let Some(model) = model {
        caller.grant.check(Some(model))?;
        service.catalog.known(model)?;
    }
    // A value without texts takes a setting back.
    let values = request.settings.into_iter();
    let values: TraceValues = values
        .map(|(name, value)| (name, (!value.value.is_empty()).then_some(value.value)))
        .collect();
    let settings = if values.is_empty() {
        trace::get(&service.metrics, model)
    } else {
        if model.is_none() {
            caller.grant.check_whole()?;
        }
        trace::set(&service.metrics, model, &values)?
    };
    Ok(TraceSettingResponse {
        settings: trace_settings(settings),
    })
}

fn trace_settings(settings: settings::TraceSettings) -> HashMap<String, TraceAnswer> {
    let rows = [
        ("trace_file", settings.trace_file.to_owned()),
        ("trace_level", settings.trace_level[0].to_owned()),
        ("trace_rate", settings.trace_rate),
        ("trace_count", settings.trace_count),
        ("log_frequency", settings.log_frequency.to_owned()),
    ];
    let answer = |value| TraceAnswer { value: vec![value] };
    rows.into_iter()
        .map(|(name, value)| (name.to_owned(), answer(value)))
        .collect()
}

fn log(service: &Service, message: Bytes) -> Result<LogSettingsResponse, Failure> {
    let request: LogSettingsRequest = decode(message)?;
    let mut values = BTreeMap::new();
    for (name, value) in request.settings {
        let value = match value.parameter_choice {
            Some(LogChoice::BoolParam(on)) => LogValue::Bool(on),
            Some(LogChoice::Uint32Param(level)) => LogValue::Level(level),
            Some(LogChoice::StringParam(text)) => LogValue::Text(text),
            // It says nothing.
            None => continue,
        };
        values.insert(name, value);
    }
    let levels = service.levels.as_deref();
    let settings = if values.is_empty() {
        logging::get(levels)?
    } else {
        logging::set(levels, &values)?
    };
    Ok(LogSettingsResponse {
        settings: log_settings(&settings),
    })
}

fn log_settings(settings: &settings::LogSettings) -> HashMap<String, LogAnswer> {
    use LogAnswerChoice::{BoolParam, StringParam, Uint32Param};
    let rows = [
        ("log_file", StringParam(settings.log_file.to_owned())),
        ("log_info", BoolParam(settings.log_info)),
        ("log_warning", BoolParam(settings.log_warning)),
        ("log_error", BoolParam(settings.log_error)),
        ("log_verbose_level", Uint32Param(settings.log_verbose_level)),
        ("log_format", StringParam(settings.log_format.to_owned())),
    ];
    let answer = |choice| LogAnswer {
        parameter_choice: Some(choice),
    };
    rows.into_iter()
        .map(|(name, choice)| (name.to_owned(), answer(choice)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_in_either_field() {
        let rows = [
            ("", "m", Some("m")),
            ("m", "", Some("m")),
            ("repository", "m", None),
        ];
        for (first, second, expected) in rows {
            let found = meant(first.to_owned(), second.to_owned());
            assert_eq!(found.ok().as_deref(), expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn every_datatype_has_its_number() {
        for datatype in jitney_engine::DataType::ALL {
            let word = crate::protocol::extension::configuration::data_type(datatype);
            assert_ne!(data_type(word), i32::from(DataType::TypeInvalid), "{word}");
        }
    }
}
