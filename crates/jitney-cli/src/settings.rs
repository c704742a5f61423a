//! What was typed becomes what it means: flags, else the environment (both read by the argument parser), else the file, else the default.

use std::time::Duration;

use jitney_server::config::{
    AtStart, Config, ConfigFile, Control, Engine, ModelOptions, ModelSource, NetOptions, Settings,
    VersionPolicy,
};
use jitney_server::observe::logging;

use crate::args::check::CheckArgs;
use crate::args::load::LoadArgs;
use crate::args::serve::ServeArgs;
use crate::exit::Problem;

/// How often, and for how long, a check runs each batch size: more than a server that is waited for.
const CHECK_RUNS: usize = 10;
const CHECK_MEASURING: Duration = Duration::from_secs(2);

/// Everything that `jitney serve` runs with.
pub(crate) fn serve(args: ServeArgs) -> Result<Config, Problem> {
    let file = match &args.config {
        Some(path) => {
            ConfigFile::read(path).map_err(|error| Problem::usage(logging::chain(&error)))?
        }
        None => ConfigFile::default(),
    };
    let models = sources(&args.sources, file.models)?;
    let control = control(&args, file.control)?;
    let at_start = at_start(args.load_model, file.load_model, control)?;
    let given_net = NetOptions {
        http: args.http,
        grpc: args.grpc,
        drain_ms: args.limits.drain_ms,
        allowed_hosts: args.allowed_host,
        forward_header_pattern: args.forward_header_pattern,
        allowed_origins: args.allowed_origin,
        keys_file: args.access.keys_file,
        insecure: args.access.insecure.then_some(true),
        tls_cert: args.access.tls_cert,
        tls_key: args.access.tls_key,
        tls_client_ca: args.access.tls_client_ca,
        max_connections_per_client: args.access.max_connections_per_client,
        max_requests_per_second: args.access.max_requests_per_second,
        ..NetOptions::default()
    };
    let given = ModelOptions {
        max_batch: args.batching.max_batch,
        max_wait_ms: args.batching.max_wait_ms,
        instances: args.batching.instances,
        queue: args.limits.queue,
        deadline_ms: args.limits.deadline_ms,
        run_limit_ms: args.limits.run_limit_ms,
        versions: args.versions.as_deref().map(versions).transpose()?,
        ..load_options(&args.load)?
    };
    given.check().map_err(Problem::usage)?;
    Ok(Config {
        net: given_net.or(file.net).resolve().map_err(Problem::usage)?,
        settings: Settings {
            given,
            file: file.options,
            python: args.load.python.or(file.python),
            control,
            at_start,
            ..Settings::default()
        },
        models,
        levels: None,
    })
}

/// What `jitney predict` loads its model with.
pub(crate) fn load(args: LoadArgs) -> Result<Settings, Problem> {
    let given = load_options(&args)?;
    given.check().map_err(Problem::usage)?;
    Ok(Settings {
        given,
        python: args.python,
        ..Settings::default()
    })
}

/// What `jitney check` loads its model with.
pub(crate) fn check(args: &CheckArgs) -> Result<Settings, Problem> {
    let given = ModelOptions {
        max_batch: args.max_batch,
        ..load_options(&args.load)?
    };
    given.check().map_err(Problem::usage)?;
    Ok(Settings {
        given,
        // Said where the model's own file can overrule it: a model that takes no zeros must not fail here and be served there.
        file: ModelOptions {
            warmup: Some(CHECK_RUNS),
            ..ModelOptions::default()
        },
        python: args.load.python.clone(),
        measuring: Some(CHECK_MEASURING),
        ..Settings::default()
    })
}

/// The source as it was typed.
pub(crate) fn source(text: &str) -> Result<ModelSource, Problem> {
    ModelSource::parse(text).map_err(|error| Problem::usage(format!("{text:?}: {error}")))
}

/// Models named on the command line replace those of the file.
fn sources(typed: &[String], file: Vec<ModelSource>) -> Result<Vec<ModelSource>, Problem> {
    let typed = typed
        .iter()
        .map(|text| source(text))
        .collect::<Result<Vec<_>, _>>()?;
    let models = if typed.is_empty() { file } else { typed };
    if models.is_empty() {
        return Err(Problem::usage("there is no model to serve")
            .hint("name one, as in `jitney serve model.onnx`, or in the file given with --config, as in models = [\"model.onnx\"]"));
    }
    Ok(models)
}

/// Of two flags, the one that says more exactly what is meant wins.
fn control(args: &ServeArgs, file: Option<Control>) -> Result<Control, Problem> {
    let said = args.control.as_deref().map(str::parse::<Control>);
    let said = said.transpose().map_err(Problem::usage)?;
    let reload = args.reload.then_some(Control::Poll);
    Ok(said.or(reload).or(file).unwrap_or_default())
}

fn at_start(
    typed: Option<Vec<String>>,
    file: Option<Vec<String>>,
    control: Control,
) -> Result<AtStart, Problem> {
    match typed.or(file) {
        Some(_) if control != Control::Explicit => Err(Problem::usage(
            "--load-model chooses models only where others can be loaded later",
        )
        .hint(
            "say --control explicit too, or name the folders of the models that are to be served",
        )),
        Some(names) => Ok(AtStart::of(names)),
        None => Ok(AtStart::All),
    }
}

fn versions(text: &str) -> Result<VersionPolicy, Problem> {
    text.parse()
        .map_err(|error| Problem::usage(format!("--versions: {error}")))
}

fn load_options(args: &LoadArgs) -> Result<ModelOptions, Problem> {
    let engine = args.engine.as_deref().map(str::parse::<Engine>).transpose();
    Ok(ModelOptions {
        engine: engine.map_err(Problem::usage)?,
        threads: args.threads,
        ..ModelOptions::default()
    })
}
