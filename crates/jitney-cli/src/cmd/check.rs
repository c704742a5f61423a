//! `jitney check`.

use std::fmt::Write as _;
use std::time::Duration;

use jitney_engine::{BatchAxis, Spec, TensorSpec};
use jitney_server::models::{Lane, Loaded, ModelStatus, Sharing};

use crate::args::check::CheckArgs;
use crate::cmd::models::Models;
use crate::cmd::{block_on, print};
use crate::exit::Problem;
use crate::settings;

/// Loads the models of a source and reports on each.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Problem> {
    let source = settings::source(&args.source)?;
    let settings = settings::check(args)?;
    let models = block_on(Models::load(&source, &settings))?;
    let statuses = models.statuses();
    let mut failed = Vec::new();
    for status in &statuses {
        match models.lane(status) {
            Ok(lane) => print(&report(status, &lane))?,
            Err(problem) => failed.push((status, problem)),
        }
    }
    verdict(statuses.len(), failed)
}

/// One failure is told as it is; of several, each is told with its name, and the last word is their number.
fn verdict(total: usize, mut failed: Vec<(&ModelStatus, Problem)>) -> Result<(), Problem> {
    match (total, failed.len()) {
        (0, _) => Err(Problem::failure("the source holds no model")),
        (_, 0) => Ok(()),
        (1, _) => failed.pop().map_or(Ok(()), |(_, problem)| Err(problem)),
        (total, count) => {
            for (status, problem) in &failed {
                problem.within(&title(status)).report();
            }
            Err(Problem::failure(format!(
                "{count} of {total} models cannot be served"
            )))
        }
    }
}

fn report(status: &ModelStatus, lane: &Lane) -> String {
    let mut text = format!("{}\n", title(status));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    if let Some(description) = &status.description {
        line("description", description);
    }
    line(
        "engine",
        &format!("{} ({})", lane.engine(), lane.platform()),
    );
    for input in &lane.spec().inputs {
        line("input", &tensor(input));
    }
    for output in &lane.spec().outputs {
        line("output", &tensor(output));
    }
    line("batch axis", batch_axis(lane.spec()));
    if let Some(loaded) = &status.loaded {
        line("loaded in", &time(loaded.took_to_load));
        line("instances", &loaded.stats.instances.to_string());
        line("batching", &loaded.batching);
        text.push_str(&costs(loaded));
    }
    text.push_str("  can be served\n");
    text
}

fn title(status: &ModelStatus) -> String {
    format!("model {} version {}", status.name, status.version)
}

fn tensor(tensor: &TensorSpec) -> String {
    format!("{} {tensor}", tensor.name)
}

fn batch_axis(spec: &Spec) -> &'static str {
    match spec.batch {
        BatchAxis::Free => "free: any number of rows can be run together",
        BatchAxis::Fixed(1) => "fixed: the model takes one row at a time",
        BatchAxis::Fixed(_) => "fixed: short batches are padded to the model's own size",
        BatchAxis::None => "none: requests are run one by one",
    }
}

/// What the warm-up measured: a line for each batch size. The gain compares with as many single rows.
fn costs(loaded: &Loaded) -> String {
    let costs = &loaded.stats.costs;
    let Some((rows_one, one)) = costs
        .first()
        .map(|(rows, took)| (*rows, took.as_secs_f64()))
    else {
        return "  no batch was measured: no input for a warm-up could be made up (--log warn says more), or warmup is 0\n".to_owned();
    };
    let mut table = format!(
        "  {:>6} {:>12} {:>12} {:>8}\n",
        "rows", "a batch", "rows/s", "gain"
    );
    for (rows, took) in costs {
        let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = *rows as f64 / seconds;
        let gain = rate * one / rows_one as f64;
        let took = time(*took);
        let _ = writeln!(table, "  {rows:>6} {took:>12} {rate:>12.0} {gain:>7.2}x");
    }
    if let Sharing::Alone { because } = &loaded.sharing {
        let _ = writeln!(
            table,
            "  rows of different requests are kept apart: {because}"
        );
    }
    table
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_unit() {
        let table = [
            (Duration::from_nanos(1_500), "1.5 us"),
            (Duration::from_micros(1_500), "1.50 ms"),
            (Duration::from_millis(1_500), "1.50 s"),
        ];
        for (given, expected) in table {
            assert_eq!(time(given), expected);
        }
    }
}
