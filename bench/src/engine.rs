//! The echo engine called back to back, without a server around it.

use std::time::{Duration, Instant};

use jitney_engine::Tensor;
use jitney_engine::echo::Echo;

use crate::Outcome;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The model, such as `echo:FP32[16],call_ms=5,row_ms=0.1`.
    source: String,
    /// Rows in each call.
    #[arg(long, default_value_t = 32)]
    rows: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// Prints the median milliseconds a call and the rows per second.
pub(crate) fn back_to_back(options: &Options) -> Outcome<()> {
    use jitney_engine::Model as _;
    let model = Echo::parse(&options.source)?;
    let mut instance = model.instance()?;
    let input = Tensor::from_vec(&[options.rows, 16][..], vec![0.5f32; options.rows * 16])?;
    let limit = Duration::from_secs_f64(options.seconds);
    let (started, mut calls) = (Instant::now(), Vec::new());
    while started.elapsed() < limit {
        let call = Instant::now();
        instance.run(std::slice::from_ref(&input))?;
        calls.push(call.elapsed().as_secs_f64() * 1e3);
    }
    let rows = (calls.len() * options.rows) as f64 / started.elapsed().as_secs_f64();
    calls.sort_by(f64::total_cmp);
    println!("{} {rows}", calls[calls.len() / 2]);
    Ok(())
}
