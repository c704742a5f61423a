//! Models in Python: jitney beside mosec and FastAPI with a hand-made batcher, in turns.

use serde_json::{Value, json};

use crate::peers::{Python, System, Work};
use crate::report::{Report, median};
use crate::server::{Server, pin_to_load_core};
use crate::{Outcome, load, payload, process};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Parts of the plan: noop, untyped, lone, sleep, digits, memory. All when none is named.
    parts: Vec<String>,
    /// Repetitions, interleaved; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Seconds of load for each point.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The systems to compare, such as `jitney,mosec`. All when none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// The Python whose environment the servers get.
    #[arg(long, default_value = "python3")]
    python: String,
}

const NOOP: Work = Work::new("noop", "Noop", 16);
const UNTYPED: Work = Work::new("noop", "NoopUntyped", 16);
const SLEEP: Work = Work::new("sleep", "Sleep", 16);
const DIGITS: Work = Work::new("digits", "Digits", 64);
const LONE_REQUESTS: usize = 400;

pub(crate) fn run(options: &Options) -> Outcome<()> {
    pin_to_load_core()?;
    let names = ["noop", "untyped", "lone", "sleep", "digits", "memory"];
    if let Some(unknown) = (options.parts.iter()).find(|wanted| !names.contains(&wanted.as_str())) {
        return Err(format!("there is no part {unknown:?}").into());
    }
    let mut plan = Plan {
        options,
        python: Python::prepare(&options.python)?,
        report: Report::default(),
    };
    plan.python.note(&mut plan.report)?;
    for name in names {
        if options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == name) {
            plan.part(name)?;
        }
    }
    plan.report.keep()
}

/// Requests per second of the systems that were measured.
#[derive(Default)]
struct Rates {
    jitney: Option<f64>,
    mosec: Option<f64>,
}

struct Plan<'a> {
    options: &'a Options,
    python: Python,
    report: Report,
}

impl Plan<'_> {
    fn part(&mut self, name: &str) -> Outcome<()> {
        match name {
            "noop" => self.noop(),
            "untyped" => self.untyped(),
            "lone" => self.lone(),
            "sleep" => self.sleep(),
            "digits" => self.digits(),
            _ => self.memory(),
        }
    }

    /// The sum of 16 numbers: what stands in front of the model is all there is to measure.
    fn noop(&mut self) -> Outcome<()> {
        for clients in [64, 256] {
            let what = format!("no-op, typed, {clients} clients");
            let rates = self.rates(&what, &NOOP, clients)?;
            self.beside(&what, "jitney / mosec", &rates, rates.mosec, 1.8);
        }
        Ok(())
    }

    fn untyped(&mut self) -> Outcome<()> {
        for clients in [64, 256] {
            let what = format!("no-op, untyped, {clients} clients");
            let rates = self.rates(&what, &UNTYPED, clients)?;
            self.beside(&what, "jitney / mosec", &rates, rates.mosec, 1.2);
        }
        Ok(())
    }

    /// One request at a time, with a window of 5 ms for others that do not come.
    fn lone(&mut self) -> Outcome<()> {
        for (kind, work) in [("typed", NOOP), ("untyped", UNTYPED)] {
            for (system, raw) in self.in_turns(|plan, system| {
                let server = plan.python.serve(system, &work)?;
                let request = system.request(&payload::numbers(work.width));
                load::lone(server.address, &request, LONE_REQUESTS / 4)?;
                Ok(median(load::lone(server.address, &request, LONE_REQUESTS)?))
            })? {
                let name = format!("lone request, {kind}: {}, p50 ms", system.name());
                let value = median(raw.clone());
                match system {
                    System::Jitney => self.report.at_most(&name, value, 0.4, json!(raw)),
                    _ => self.report.mark(&name, value, json!(raw)),
                }
            }
        }
        Ok(())
    }

    /// A device of 5 ms a call and 0.1 ms a row, beside the same model called back to back in Python.
    fn sleep(&mut self) -> Outcome<()> {
        let seconds = self.options.seconds.to_string();
        let script = ["bench/peers/models.py", "back-to-back", "sleep", "32"];
        for clients in [64, 256] {
            let best: Outcome<Vec<f64>> = (0..self.options.repeat)
                .map(|_| self.python.number(&[&script[..], &[&seconds]].concat()))
                .collect();
            let raw = best?;
            let best = median(raw.clone());
            let what = format!("sleep, {clients} clients");
            self.report
                .mark(&format!("{what}: back to back, rows/s"), best, json!(raw));
            let rates = self.rates(&what, &SLEEP, clients)?;
            self.beside(&what, "jitney / back to back", &rates, Some(best), 0.95);
        }
        Ok(())
    }

    /// The digits model by ONNX Runtime inside the Python model.
    fn digits(&mut self) -> Outcome<()> {
        let what = "digits in onnxruntime, 64 clients";
        let rates = self.rates(what, &DIGITS, 64)?;
        self.beside(what, "jitney / mosec", &rates, rates.mosec, 1.8);
        Ok(())
    }

    /// What a worker that has worked holds beyond an interpreter that has only imported what its model imports.
    fn memory(&mut self) -> Outcome<()> {
        for (kind, work, imports) in [
            ("typed", NOOP, "import models, numpy"),
            ("untyped", UNTYPED, "import models"),
        ] {
            let mut beyond = Vec::new();
            for _ in 0..self.options.repeat {
                let server = self.python.serve(System::Jitney, &work)?;
                self.rate(&server, System::Jitney, &work, 64)?;
                let workers = System::Jitney.workers(&server);
                let worker = workers.first().ok_or("no worker was found")?;
                let holds = process::resident(worker.pid)?;
                beyond.push(holds - self.python.resident_after(imports)?);
            }
            let name = format!("memory of a worker, {kind}, beyond its imports, MB");
            let value = median(beyond.clone());
            self.report.at_most(&name, value, 10.0, json!(beyond));
        }
        Ok(())
    }

    /// Measures each system in each repetition, taking turns, and reports the medians.
    fn rates(&mut self, what: &str, work: &Work, clients: usize) -> Outcome<Rates> {
        let found = self.in_turns(|plan, system| {
            let server = plan.python.serve(system, work)?;
            plan.rate(&server, system, work, clients)
        })?;
        let mut rates = Rates::default();
        for (system, raw) in found {
            let value = median(raw.clone());
            let name = format!("{what}: {}, requests/s", system.name());
            match system {
                System::Jitney => rates.jitney = Some(value),
                System::Mosec => rates.mosec = Some(value),
                System::Seed => {}
            }
            match system {
                System::Jitney if work.model == "noop" && work.class == "Noop" => {
                    self.report.at_least(&name, value, 20_000.0, json!(raw));
                }
                _ => self.report.mark(&name, value, json!(raw)),
            }
        }
        Ok(rates)
    }

    /// The ratio of jitney's rate to another, where both are known.
    fn beside(&mut self, what: &str, ratio: &str, rates: &Rates, other: Option<f64>, least: f64) {
        if let (Some(jitney), Some(other)) = (rates.jitney, other) {
            let name = format!("{what}: {ratio}");
            self.report
                .at_least(&name, jitney / other, least, Value::Null);
        }
    }

    fn in_turns(
        &self,
        mut measure: impl FnMut(&Self, System) -> Outcome<f64>,
    ) -> Outcome<Vec<(System, Vec<f64>)>> {
        let systems = System::chosen(&self.options.systems);
        let mut found: Vec<_> = systems.iter().map(|system| (*system, Vec::new())).collect();
        for _ in 0..self.options.repeat {
            for (system, values) in &mut found {
                values.push(measure(self, *system)?);
            }
        }
        Ok(found)
    }

    fn rate(&self, server: &Server, system: System, work: &Work, clients: usize) -> Outcome<f64> {
        let request = system.request(&payload::numbers(work.width));
        let result = load::closed(server.address, &request, clients, 0.5, self.options.seconds)?;
        let other = result.total() - result.count(200);
        if other > 0 {
            return Err(format!("{}: {other} answers were not 200", system.name()).into());
        }
        Ok(result.rate())
    }
}
