//! Measures jitney against its targets, side by side in one run: the server on one core, the load on another.
//!
//! `cargo build --release --workspace && target/release/jitney-bench run` prints a table and keeps the raw run in `bench/runs`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod ask;
mod bare;
mod bare_tonic;
mod engine;
mod faults;
mod images;
mod load;
mod patterns;
mod payload;
mod peers;
mod plan;
mod process;
mod python;
mod report;
mod server;
mod wire;

use std::error::Error;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures jitney against its targets.
#[derive(Parser)]
enum Command {
    /// Runs the plan, or the named parts of it.
    Run(plan::Options),
    /// Compares servers of Python models: jitney, mosec, and FastAPI with a hand-made batcher.
    Python(python::Options),
    /// What the same servers do when models crash, raise and hang, and when workers are killed.
    Faults(faults::Options),
    /// Compares the library's patterns with asyncio: a gather of many, and a fan-out over HTTP.
    Patterns(patterns::Options),
    /// The forms of the protocol: binary tensors, gRPC, streams of events, idle connections.
    Wire(wire::Options),
    /// Serves a constant answer with nothing but hyper: the mark that the server is compared with.
    Bare,
    /// Echoes the tensors of gRPC messages with nothing but tonic: the mark for gRPC.
    BareTonic,
    /// Calls the echo engine back to back: the mark for what a device can give.
    Engine(engine::Options),
    /// Hands images to a Python model back to back, without a server around it.
    Images(images::Options),
}

fn main() -> Outcome<()> {
    match Command::parse() {
        Command::Run(options) => plan::run(&options),
        Command::Python(options) => python::run(&options),
        Command::Faults(options) => faults::run(&options),
        Command::Patterns(options) => patterns::run(&options),
        Command::Wire(options) => wire::run(&options),
        Command::Bare => bare::serve(),
        Command::BareTonic => bare_tonic::serve(),
        Command::Engine(options) => engine::back_to_back(&options),
        Command::Images(options) => images::run(&options),
    }
}
