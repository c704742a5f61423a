//! `jitney check`.

use std::fmt::Write as _;
use std::time::Duration;

use jitney_engine::{BatchAxis, Items, TensorSpec};
use jitney_server::models::{Lane, ModelStatus, Sharing};

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
    line("engine", &engine(lane));
    if lane.spec().items == Items::Json {
        line("item", "any JSON value, and so is the prediction");
    } else {
        for input in &lane.spec().inputs {
            line("input", &tensor(input));
        }
        for output in &lane.spec().outputs {
            line("output", &tensor(output));
        }
    }
    line("loaded in", &time(lane.took_to_load()));
    line("instances", &instances(lane));
    line("served", &served(lane));
    let costs_known = !lane.stats().costs.is_empty();
    if let (Sharing::Together { .. }, true) = (lane.sharing(), costs_known) {
        line("batching", &lane.batching());
    }
    if lane.streams() {
        text.push_str("  no batch was measured: requests are not run together\n");
    } else if lane.spec().items == Items::Json {
        text.push_str("  no batch was measured: no inputs can be made up for it\n");
    } else {
        text.push_str(&costs(&lane.stats().costs, lane.max_batch()));
    }
    text.push_str("  can be served\n");
    text
}

fn engine(lane: &Lane) -> String {
    match lane.runtime() {
        Some(runtime) => format!("{}: {runtime}", lane.engine()),
        None => lane.engine().to_owned(),
    }
}

fn instances(lane: &Lane) -> String {
    match lane.workers().len() {
        0 => threads(lane),
        1 => "1, a process".to_owned(),
        workers => format!("{workers}, each a process"),
    }
}

fn threads(lane: &Lane) -> String {
    let threads = match lane.threads() {
        1 => "one thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    match lane.instances() {
        1 => format!("1, with {threads}"),
        instances => format!("{instances}, each with {threads}"),
    }
}

fn served(lane: &Lane) -> String {
    match (lane.sharing(), lane.spec().batch) {
        (Sharing::Alone { because }, _) => format!("row by row, since {because}"),
        (Sharing::Together { max_batch }, BatchAxis::Fixed(_)) => {
            format!("in batches of {max_batch} rows, the size of the model; short ones are padded")
        }
        (Sharing::Together { max_batch }, _) => format!("in batches of up to {max_batch} rows"),
    }
}

fn title(status: &ModelStatus) -> String {
    format!("model {} version {}", status.name, status.version)
}

fn tensor(tensor: &TensorSpec) -> String {
    format!("{} {tensor}", tensor.name)
}

/// What was measured: a line for each batch size. The gain compares with as many single rows.
fn costs(costs: &[(usize, Duration)], max_batch: usize) -> String {
    let (Some((_, one)), Some((largest, _))) = (costs.first(), costs.last()) else {
        return "  no batch was measured: no input for a warm-up could be made up (--log warn says more), or warmup is 0\n".to_owned();
    };
    let mut table = format!(
        "  {:>6} {:>12} {:>12} {:>8}\n",
        "rows", "a batch", "rows/s", "gain"
    );
    for (rows, took) in costs {
        let rate = *rows as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        let gain = rate * one.as_secs_f64();
        let took = time(*took);
        let _ = writeln!(table, "  {rows:>6} {took:>12} {rate:>12.0} {gain:>7.2}x");
    }
    if *largest < max_batch {
        table.push_str("  larger batches take too long, or too much memory, to be measured here\n");
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

    #[test]
    fn sizes_that_were_not_measured_are_said_to_be_missing() {
        let ms = Duration::from_millis;
        let measured = [(1, ms(10)), (2, ms(16))];
        let whole = costs(&measured, 2);
        let lines: Vec<Vec<&str>> = whole
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                vec!["rows", "a", "batch", "rows/s", "gain"],
                vec!["1", "10.00", "ms", "100", "1.00x"],
                vec!["2", "16.00", "ms", "125", "1.25x"],
            ]
        );
        let partly = costs(&measured, 32);
        let note = partly.strip_prefix(&whole).unwrap();
        assert!(note.contains("larger batches"), "{note}");
        assert!(costs(&[], 32).contains("no batch was measured"));
    }

    /// A fixed size costs the same however few of its rows are asked for.
    #[test]
    fn a_full_batch_of_a_fixed_size_is_compared_with_padded_ones() {
        let table = costs(&[(4, Duration::from_millis(8))], 4);
        assert!(table.contains("4.00x"), "{table}");
    }
}
