//! `jitney serve`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jitney_server::config::Config;
use jitney_server::models::{ModelState, ModelStatus};
use jitney_server::observe::logging::{self, Levels};
use jitney_server::server::{Running, Server, StartError};

use crate::args::serve::ServeArgs;
use crate::cmd::{block_on, print};
use crate::exit::Problem;
use crate::settings;
use crate::signals::Signals;

/// Within this time of the first signal, another is the same wish: `timeout`, and shells that pass signals on, send two at once.
const ONE_WISH: Duration = Duration::from_millis(100);

/// Serves until a signal says to stop.
pub(crate) fn run(args: ServeArgs, levels: Arc<dyn Levels>) -> Result<(), Problem> {
    let started = Instant::now();
    let config = Config {
        levels: Some(levels),
        ..settings::serve(args)?
    };
    block_on(serve(config, started))
}

async fn serve(config: Config, started: Instant) -> Result<(), Problem> {
    let mut signals = Signals::listen().map_err(Problem::failure)?;
    let running = Server::start(config).map_err(start_problem)?;
    tracing::info!(http = %running.http_addr(), grpc = running.grpc_addr().map(tracing::field::display), "listening");
    let signal = tokio::select! {
        signal = signals.next() => signal,
        problem = attend(&running, started) => return Err(problem),
    };
    drain(running, signal, &mut signals).await
}

/// Stays with a server until something is wrong with it, and says what.
async fn attend(running: &Running, started: Instant) -> Problem {
    running.wait_ready().await;
    if let Err(problem) = announce(running, started) {
        return problem;
    }
    match running.wait().await {
        Ok(_) => Problem::failure("the server ended though nobody told it to"),
        Err(lost) => Problem::failure(lost),
    }
}

/// Says that the server is ready, unless it has nothing to serve.
fn announce(running: &Running, started: Instant) -> Result<(), Problem> {
    let statuses = running.catalog().statuses();
    let total = statuses.len();
    let ready = statuses
        .iter()
        .filter(|status| status.state == ModelState::Ready)
        .count();
    // Where models come later, none at the start is no failure.
    if ready == 0 && total > 0 {
        return Err(nothing_to_serve(&statuses));
    }
    if ready < total {
        tracing::warn!(
            failed = total - ready,
            ready,
            "some models could not be loaded; the others are served"
        );
    }
    let http = running.http_addr();
    let grpc = running
        .grpc_addr()
        .map_or_else(String::new, |address| format!(" grpc={address}"));
    let took = started.elapsed().as_secs_f64();
    print(&format!(
        "jitney ready http={http}{grpc} models={ready} in={took:.2}s\n"
    ))
}

/// Says why, where there is one reason only.
fn nothing_to_serve(statuses: &[ModelStatus]) -> Problem {
    match statuses {
        [
            ModelStatus {
                state: ModelState::Failed { message },
                ..
            },
        ] => Problem::failure(message),
        _ => Problem::failure("no model could be loaded; the log says why")
            .hint("`jitney check SOURCE` tells more about one"),
    }
}

async fn drain(running: Running, signal: &str, signals: &mut Signals) -> Result<(), Problem> {
    tracing::info!(
        signal,
        "stopping: what was accepted is answered; a second signal ends the server at once"
    );
    running.drain();
    let ended = tokio::select! {
        ended = running.wait() => ended,
        signal = insisted(signals) => {
            // Its threads may be busy with a model for long, and who signals twice does not want to wait for them.
            std::mem::forget(running);
            return Err(Problem::failure(format!("a second signal, {signal}, ended the server before it had drained")));
        }
    };
    let drained = ended.map_err(Problem::failure)?;
    if drained.is_clean() {
        tracing::info!("drained: every accepted request was answered");
        return Ok(());
    }
    Err(Problem::failure(format!(
        "the drain took too long: {} accepted requests were not answered",
        drained.cut
    ))
    .hint("allow more time with --drain-ms"))
}

/// Waits for a signal of somebody who does not want to wait any longer.
async fn insisted(signals: &mut Signals) -> &'static str {
    let first = Instant::now();
    loop {
        let signal = signals.next().await;
        if first.elapsed() >= ONE_WISH {
            return signal;
        }
    }
}

/// Sources and keys that cannot be meant are a matter of what was typed.
fn start_problem(error: StartError) -> Problem {
    match error {
        StartError::Keys(error) => Problem::usage(logging::chain(&error)),
        StartError::Models(_) | StartError::Tls(_) | StartError::Open { .. } => {
            Problem::usage(error)
        }
        error => Problem::failure(error),
    }
}
