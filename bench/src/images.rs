//! Images on their way to a Python model, without a server around it: what the engine and its worker cost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jitney::batch::Context;
use jitney_engine::python::{self, PythonOptions};
use jitney_engine::{Model, Request, Tensor};

use crate::Outcome;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The Python that runs the model.
    #[arg(long)]
    python: PathBuf,
    /// Images in each batch.
    #[arg(long, default_value_t = 32)]
    rows: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// The row of one image.
pub(crate) const IMAGE: [usize; 3] = [3, 224, 224];
const MODEL: &str = "bench/peers/jitney_models.py";
const LIMIT: Duration = Duration::from_secs(30);

/// Prints the bytes of input per second that reach a model which only looks at the corner of each image.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let settings = PythonOptions {
        python: Some(options.python.clone()),
        ..PythonOptions::default()
    };
    let model = python::load(Path::new(MODEL), "Image", "image", &settings)?;
    // As they come from clients: a tensor for each.
    let size: usize = IMAGE.iter().product();
    let images: Outcome<Vec<Tensor>> = (0..options.rows)
        .map(|row| {
            Ok(Tensor::from_vec(
                &[&[1], &IMAGE[..]].concat()[..],
                vec![row as f32; size],
            )?)
        })
        .collect();
    let images = images?;
    let batches = batches(&*model, &images, options.seconds)?;
    let bytes = size_of::<f32>() * size * images.len();
    println!("{}", bytes as f64 * batches);
    Ok(())
}

/// Batches per second, after one that makes the shared memory.
fn batches(model: &dyn Model, images: &[Tensor], seconds: f64) -> Outcome<f64> {
    let mut instance = model.instance()?;
    let requests: Vec<Request<'_>> = images
        .iter()
        .map(|image| Request {
            inputs: std::slice::from_ref(image),
            id: None,
            parameters: None,
        })
        .collect();
    let mut run = || -> Outcome<()> {
        let context = Context::detached(requests.len(), LIMIT);
        let answers = instance.run_requests(model.spec(), &requests, &context)?;
        for (row, answer) in answers.into_iter().enumerate() {
            let corner = answer?.first().and_then(Tensor::to_vec::<f32>);
            if corner != Some(vec![row as f32; 3]) {
                return Err("an answer is not that of its image".into());
            }
        }
        Ok(())
    };
    run()?;
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed().as_secs_f64() < seconds {
        run()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}
