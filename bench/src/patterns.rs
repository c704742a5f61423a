//! The library's patterns beside their asyncio forms: the same work on one core, in turns.

use std::future::ready;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use jitney::gather;
use serde_json::json;

use crate::Outcome;
use crate::peers::Python;
use crate::report::{Report, median};
use crate::server::{Server, pin_to_load_core, sibling};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Repetitions, interleaved; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// URLs to fetch.
    #[arg(long, default_value_t = 10_000)]
    urls: u32,
    /// The Python whose environment the asyncio forms get.
    #[arg(long, default_value = "python3")]
    python: String,
}

/// Futures that are ready at once, and how many are polled at a time.
const FUTURES: usize = 100_000;
const AT_ONCE: usize = 1_000;
/// Most requests at once.
const CONNECTIONS: &str = "100";
const SCRIPT: &str = "bench/peers/patterns.py";

pub(crate) fn run(options: &Options) -> Outcome<()> {
    pin_to_load_core()?;
    let python = Python::prepare(&options.python)?;
    let mut report = Report::default();
    python.note(&mut report)?;
    gather_many(options, &python, &mut report)?;
    fan_out(options, &python, &mut report)?;
    report.keep()
}

/// Futures a second that a bounded gather gets through.
fn gather_many(options: &Options, python: &Python, report: &mut Report) -> Outcome<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (count, at_once) = (FUTURES.to_string(), AT_ONCE.to_string());
    for _ in 0..options.repeat {
        ours.push(gather_rate()?);
        theirs.push(python.number_here(&[SCRIPT, "gather", &count, &at_once])?);
    }
    let ratio = median(ours.clone()) / median(theirs.clone());
    report.mark(
        "gather of 100,000: jitney, futures/s",
        median(ours.clone()),
        json!(ours),
    );
    report.mark(
        "gather of 100,000: asyncio, coroutines/s",
        median(theirs.clone()),
        json!(theirs),
    );
    report.at_least(
        "gather of 100,000: jitney / asyncio",
        ratio,
        20.0,
        json!(null),
    );
    Ok(())
}

fn gather_rate() -> Outcome<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let started = Instant::now();
    let settled = runtime.block_on(async {
        let futures = (0..FUTURES).map(|number| ready(Ok::<_, ()>(number)));
        gather(futures).limit(AT_ONCE).all().await
    });
    let rate = FUTURES as f64 / started.elapsed().as_secs_f64();
    match settled {
        Ok(values) if values.len() == FUTURES => Ok(rate),
        _ => Err("a gather lost something".into()),
    }
}

/// Requests a second of a client that fetches many URLs, with a bounded number at once.
fn fan_out(options: &Options, python: &Python, report: &mut Report) -> Outcome<()> {
    let example = sibling("examples/fan_out")?;
    let urls = options.urls.to_string();
    let server = Server::start(&sibling("jitney-bench")?, &["bare"])?;
    let base = format!("http://{}", server.address);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat {
        ours.push(fan_out_rate(&example, &base, &urls)?);
        theirs.push(python.number_here(&[SCRIPT, "fetch", &base, &urls, CONNECTIONS])?);
    }
    let ratio = median(ours.clone()) / median(theirs.clone());
    report.mark(
        "fan-out, 100 at once: jitney, requests/s",
        median(ours.clone()),
        json!(ours),
    );
    report.mark(
        "fan-out, 100 at once: httpx, requests/s",
        median(theirs.clone()),
        json!(theirs),
    );
    report.at_least(
        "fan-out, 100 at once: jitney / httpx",
        ratio,
        5.0,
        json!(null),
    );
    Ok(())
}

/// What the example says of itself: `.. 12345 requests/s` at the end of its first line.
fn fan_out_rate(example: &Path, base: &str, urls: &str) -> Outcome<f64> {
    let output = Command::new(example)
        .args(["--from", base, "--urls", urls, "--limit", CONNECTIONS])
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    let fetched_all = said.starts_with(&format!("{urls} of {urls} fetched"));
    let rate = said
        .lines()
        .next()
        .and_then(|line| line.strip_suffix(" requests/s")?.rsplit(' ').next())
        .filter(|_| fetched_all)
        .ok_or_else(|| format!("the example said {said:?}"))?;
    Ok(rate.parse()?)
}
