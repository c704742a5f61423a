//! The fake engine: it answers with its inputs, costs what it is told to cost, and fails when it is told to.
//!
//! It ships, so that a server can be tried, tested and measured without a model. It is also the smallest complete example of the
//! [contract](crate::contract).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::{Instant as Moment, sleep, sleep_until};

use crate::spec::{BatchAxis, Dim, Items, Spec, TensorSpec};
use crate::tensor::{Data, DataType, Shape, Tensor};
use crate::{
    Instance, LoadError, Model, Request, Results, RunError, StreamTerms, Streaming, stack,
};

/// What an [`Echo`] does. The default takes `FP32[16]`, answers with it, and costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The inputs, each with a batch axis in front.
    pub inputs: Vec<TensorSpec>,
    /// What the answer is.
    pub op: Op,
    /// The batch axis. Without one the inputs are one row each.
    pub batch: BatchAxis,
    /// What one call costs.
    pub call: Duration,
    /// What every row of a call costs on top.
    pub row: Duration,
    /// Pay by computing instead of sleeping.
    pub busy: bool,
    /// Let the first value of a row's first input choose a [`Fault`].
    pub faulty: bool,
    /// How long a row with [`Fault::Hang`] takes.
    pub hang: Duration,
    /// What [`Spec::rows_independent`] says.
    pub rows_independent: bool,
    /// How many instances are suggested.
    pub instances: NonZeroUsize,
    /// How long loading takes.
    pub load: Duration,
    /// Fail to load, with this message.
    pub fail_load: Option<String>,
    /// Answer every request with a stream of so many results, each of which is the answer. Nothing that a call costs is paid then.
    pub results: Option<u64>,
    /// How long each result of a stream takes.
    pub every: Duration,
    /// How many streams can go on at a time.
    pub places: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            inputs: vec![TensorSpec {
                name: "input".to_owned(),
                datatype: DataType::Fp32,
                shape: vec![Dim::Any, Dim::Fixed(16)],
            }],
            op: Op::Identity,
            batch: BatchAxis::Free,
            call: Duration::ZERO,
            row: Duration::ZERO,
            busy: false,
            faulty: false,
            hang: Duration::from_secs(60),
            rows_independent: true,
            instances: NonZeroUsize::MIN,
            load: Duration::ZERO,
            fail_load: None,
            results: None,
            every: Duration::ZERO,
            places: PLACES,
        }
    }
}

const PLACES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// What the answer of an [`Echo`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Every input comes back unchanged.
    Identity,
    /// For every input the sum of each row, as `FP32[1]`.
    Sum,
    /// For every input the mean of each row, as `FP32[1]`.
    Mean,
}

/// What a row can make a faulty [`Echo`] do. The row says it by the first value of its first input: a number, or in a `BYTES` input the
/// word. Any other value is an ordinary row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `-1` or `raise`: the call fails.
    Raise,
    /// `-2` or `panic`: the instance panics.
    Panic,
    /// `-3` or `short`: the answer has a row too few.
    Short,
    /// `-4` or `long`: the answer has a row too many.
    Long,
    /// `-5` or `hang`: the call takes [`Config::hang`].
    Hang,
    /// `-6` or `invalid`: the call refuses its input.
    Invalid,
}

impl Config {
    /// Reads a source text: `echo`, or `echo:` and a comma-separated list of inputs and options.
    ///
    /// An input is the type and shape of one row, such as `FP32[16]` or `ids=INT64[-1]`. The options are `op=identity|sum|mean`,
    /// `call_ms=N`, `row_ms=N`, `busy=true`, `batch=free|none|fixed:N`, `rows_independent=false`, `instances=N`, `load_ms=N`,
    /// `fail_load=true` (or a message), `faulty=true` and `hang_ms=N`; a number of milliseconds may have decimals.
    ///
    /// `results=N` makes it [`Streaming`]: every request is answered with N results, the first after `every_ms=N` and each of the others as
    /// long after the one before, by timers and without threads; `places=N` is how many such streams can go on at a time. A faulty row
    /// fails when half of its results are out.
    ///
    /// # Errors
    /// When a part is not understood; the message names it and what was expected.
    ///
    /// ```
    /// let config = jitney_engine::echo::Config::parse("echo:FP32[3,8,8],op=mean,call_ms=5,row_ms=0.1")?;
    /// assert_eq!(config.inputs[0].to_string(), "FP32[-1,3,8,8]");
    /// assert_eq!(config.row.as_micros(), 100);
    /// # Ok::<(), jitney_engine::LoadError>(())
    /// ```
    pub fn parse(source: &str) -> Result<Config, LoadError> {
        let text = match source.strip_prefix("echo") {
            Some("") => "",
            Some(rest) if rest.starts_with(':') => &rest[1..],
            _ => {
                return Err(LoadError::new(format!(
                    "expected echo:..., got \"{source}\""
                )));
            }
        };
        let mut config = Config::default();
        let mut inputs = Vec::new();
        for part in split_outside_brackets(text) {
            let (key, value) = part.split_once('=').unwrap_or(("", part));
            if DataType::from_name(value.split('[').next().unwrap_or_default()).is_some() {
                inputs.push((key, value));
            } else {
                config.set(key, value).map_err(|expected| {
                    LoadError::new(format!("echo: expected {expected}, got \"{part}\""))
                })?;
            }
        }
        if !inputs.is_empty() {
            config.inputs = named(&inputs)?;
        }
        Ok(config)
    }

    /// Sets an option; the error is what was expected.
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "op" => self.op = Op::from_name(value).ok_or("op=identity|sum|mean")?,
            "batch" => self.batch = batch(value).ok_or("batch=free|none|fixed:N")?,
            "call_ms" => self.call = milliseconds(value).ok_or("call_ms=MILLISECONDS")?,
            "row_ms" => self.row = milliseconds(value).ok_or("row_ms=MILLISECONDS")?,
            "hang_ms" => self.hang = milliseconds(value).ok_or("hang_ms=MILLISECONDS")?,
            "load_ms" => self.load = milliseconds(value).ok_or("load_ms=MILLISECONDS")?,
            "busy" => self.busy = value.parse().map_err(|_| "busy=true|false")?,
            "faulty" => self.faulty = value.parse().map_err(|_| "faulty=true|false")?,
            "rows_independent" => {
                self.rows_independent = value.parse().map_err(|_| "rows_independent=true|false")?;
            }
            "instances" => self.instances = value.parse().map_err(|_| "instances=NUMBER")?,
            "fail_load" if value == "false" => self.fail_load = None,
            "fail_load" if value == "true" => self.fail_load = Some("told to fail".to_owned()),
            "fail_load" => self.fail_load = Some(value.to_owned()),
            "results" => self.results = Some(value.parse().map_err(|_| "results=NUMBER")?),
            "every_ms" => self.every = milliseconds(value).ok_or("every_ms=MILLISECONDS")?,
            "places" => self.places = value.parse().map_err(|_| "places=NUMBER")?,
            _ => {
                return Err(
                    "an input such as FP32[16], or one of op, batch, call_ms, row_ms, busy, faulty, hang_ms, \
                     rows_independent, instances, load_ms, fail_load, results, every_ms, places",
                );
            }
        }
        Ok(())
    }

    fn spec(&self) -> Spec {
        let several = self.inputs.len() > 1;
        let outputs = self.inputs.iter().enumerate().map(|(at, input)| {
            let name = if several {
                format!("output{at}")
            } else {
                "output".to_owned()
            };
            self.op.output(name, input)
        });
        let mut spec = Spec {
            inputs: self.inputs.clone(),
            outputs: outputs.collect(),
            batch: self.batch,
            rows_independent: self.rows_independent,
            items: Items::Tensors,
        };
        if !spec.batched() {
            for tensor in spec.inputs.iter_mut().chain(&mut spec.outputs) {
                tensor.shape = tensor.row_shape().to_vec();
            }
        }
        spec
    }
}

impl Op {
    /// The operation of that name, as in `op=sum`.
    pub fn from_name(name: &str) -> Option<Op> {
        match name {
            "identity" => Some(Op::Identity),
            "sum" => Some(Op::Sum),
            "mean" => Some(Op::Mean),
            _ => None,
        }
    }

    fn output(self, name: String, input: &TensorSpec) -> TensorSpec {
        match self {
            Op::Identity => TensorSpec {
                name,
                ..input.clone()
            },
            Op::Sum | Op::Mean => TensorSpec {
                name,
                datatype: DataType::Fp32,
                shape: vec![Dim::Any, Dim::Fixed(1)],
            },
        }
    }
}

impl Fault {
    fn from_number(number: f64) -> Option<Fault> {
        [
            (-1.0, Fault::Raise),
            (-2.0, Fault::Panic),
            (-3.0, Fault::Short),
            (-4.0, Fault::Long),
            (-5.0, Fault::Hang),
            (-6.0, Fault::Invalid),
        ]
        .into_iter()
        .find_map(|(code, fault)| (number == code).then_some(fault))
    }

    fn from_word(word: &[u8]) -> Option<Fault> {
        match word {
            b"raise" => Some(Fault::Raise),
            b"panic" => Some(Fault::Panic),
            b"short" => Some(Fault::Short),
            b"long" => Some(Fault::Long),
            b"hang" => Some(Fault::Hang),
            b"invalid" => Some(Fault::Invalid),
            _ => None,
        }
    }
}

/// The fake model.
#[derive(Clone, Debug)]
pub struct Echo {
    config: Config,
    spec: Spec,
}

impl Echo {
    /// A fake model that does what the configuration says; takes [`Config::load`].
    ///
    /// # Errors
    /// When it is told to fail, and when it is told to add up `BYTES`.
    pub fn new(config: Config) -> Result<Echo, LoadError> {
        pause(config.load);
        if let Some(message) = &config.fail_load {
            return Err(LoadError::new(message.clone()));
        }
        if config.op != Op::Identity
            && let Some(input) = config.inputs.iter().find(|i| i.datatype == DataType::Bytes)
        {
            let message = format!(
                "echo: op=sum and op=mean need numbers, \"{}\" is BYTES",
                input.name
            );
            return Err(LoadError::new(message).hint("use op=identity"));
        }
        let spec = config.spec();
        Ok(Echo { config, spec })
    }

    /// The fake model of a source text; see [`Config::parse`].
    ///
    /// # Errors
    /// As [`Config::parse`] and [`Echo::new`].
    pub fn parse(source: &str) -> Result<Echo, LoadError> {
        Echo::new(Config::parse(source)?)
    }
}

impl Model for Echo {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn engine(&self) -> &'static str {
        "echo"
    }

    fn platform(&self) -> &'static str {
        "jitney_echo"
    }

    fn suggested_instances(&self, _cores: NonZeroUsize) -> NonZeroUsize {
        self.config.instances
    }

    fn streaming(&self) -> Option<Arc<dyn Streaming>> {
        let results = self.config.results?;
        let echo = self.clone();
        Some(Arc::new(EchoStreams { echo, results }))
    }

    fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
        Ok(Box::new(EchoInstance(self.clone())))
    }
}

struct EchoStreams {
    echo: Echo,
    results: u64,
}

impl Streaming for EchoStreams {
    fn places(&self) -> NonZeroUsize {
        self.echo.config.places
    }

    fn open(
        &self,
        request: &Request<'_>,
        terms: StreamTerms,
    ) -> BoxFuture<'static, Result<Results, stack::Error>> {
        let repeat = Repeat::of(&self.echo, self.results, request.inputs, terms.limit);
        ready(repeat.map(Repeat::into_results).map_err(Into::into)).boxed()
    }
}

/// One stream: the same answer again and again.
struct Repeat {
    answer: Vec<Tensor>,
    rows: usize,
    left: u64,
    every: Duration,
    /// What happens when so many results are left.
    fault: Option<(u64, Fault)>,
    hang: Duration,
    limit: Duration,
    /// When the last result was out; `None` before the first step.
    last: Option<Moment>,
}

impl Repeat {
    fn of(
        echo: &Echo,
        results: u64,
        inputs: &[Tensor],
        limit: Duration,
    ) -> Result<Repeat, RunError> {
        let Echo { config, spec } = echo;
        let rows = rows(spec, inputs);
        let faults = config.faulty.then(|| faults(inputs, rows));
        let fault = faults.and_then(|faults| faults.first().copied());
        if let Some(Fault::Invalid) = fault {
            fail(Fault::Invalid, config, rows)?;
        }
        let answers = inputs.iter().map(|i| answer(config.op, spec, i, rows));
        Ok(Repeat {
            answer: answers.collect::<Result<_, _>>()?,
            rows,
            left: results,
            every: config.every,
            fault: fault.map(|fault| (results.div_ceil(2), fault)),
            hang: config.hang,
            limit,
            last: None,
        })
    }

    fn into_results(self) -> Results {
        let step = |repeat: Option<Repeat>| async move { repeat?.step().await };
        stream::unfold(Some(self), step).boxed()
    }

    /// The next result; nothing is left after an error.
    async fn step(mut self) -> Option<(Result<Vec<Tensor>, stack::Error>, Option<Repeat>)> {
        if self.left == 0 {
            return None;
        }
        let fault = self.fault.filter(|(left, _)| *left == self.left);
        let result = self.result(fault.map(|(_, fault)| fault)).await;
        self.left -= 1;
        let rest = result.is_ok().then_some(self);
        Some((result.map_err(Into::into), rest))
    }

    async fn result(&mut self, fault: Option<Fault>) -> Result<Vec<Tensor>, RunError> {
        let wait = match fault {
            Some(Fault::Hang) => self.hang,
            _ => self.every,
        };
        self.wait(wait).await?;
        let answered = match fault {
            Some(Fault::Raise) => {
                return Err(RunError::Failed("EchoError: told to raise".to_owned()));
            }
            #[expect(clippy::panic, reason = "the fault that was asked for")]
            Some(Fault::Panic) => panic!("told to panic"),
            Some(Fault::Short) => self.rows.saturating_sub(1),
            Some(Fault::Long) => self.rows + 1,
            Some(Fault::Hang | Fault::Invalid) | None => return Ok(self.answer.clone()),
        };
        let outputs = self.answer.iter().cloned();
        outputs.map(|o| resize(o, self.rows, answered)).collect()
    }

    /// Results are due at equal distances; a reader who comes late does not get the next ones sooner for that.
    async fn wait(&mut self, wait: Duration) -> Result<(), RunError> {
        if wait > self.limit {
            sleep(self.limit).await;
            return Err(RunError::RunLimit(self.limit));
        }
        if wait.is_zero() {
            return Ok(());
        }
        let now = Moment::now();
        let due = self.last.unwrap_or(now) + wait;
        sleep_until(due).await;
        self.last = Some(if due + wait < now { now } else { due });
        Ok(())
    }
}

struct EchoInstance(Echo);

impl Instance for EchoInstance {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let Echo { config, spec } = &self.0;
        let rows = rows(spec, inputs);
        spend(config, rows);
        let mut answered = rows;
        if config.faulty {
            for fault in faults(inputs, rows) {
                answered = fail(fault, config, rows)?;
            }
        }
        inputs
            .iter()
            .map(|input| answer(config.op, spec, input, rows))
            .map(|output| resize(output?, rows, answered))
            .collect()
    }
}

fn rows(spec: &Spec, inputs: &[Tensor]) -> usize {
    match inputs.first() {
        Some(first) if spec.batched() => first.rows(),
        _ => 1,
    }
}

fn spend(config: &Config, rows: usize) {
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let cost = config.call.saturating_add(config.row.saturating_mul(rows));
    if config.busy {
        let start = Instant::now();
        while start.elapsed() < cost {
            std::hint::spin_loop();
        }
    } else {
        pause(cost);
    }
}

/// Waits without computing. The system wakes a sleeper some 60 to 100 microseconds late, always, so that costs stay comparable between runs;
/// spinning for the rest would steal the core from the server that is being measured.
fn pause(time: Duration) {
    if !time.is_zero() {
        std::thread::sleep(time);
    }
}

/// The faults that the rows ask for, in their order.
fn faults(inputs: &[Tensor], rows: usize) -> Vec<Fault> {
    let Some(input) = inputs.first() else {
        return Vec::new();
    };
    let width = input.elements().checked_div(rows).unwrap_or(0).max(1);
    if let Some(elements) = input.byte_elements() {
        let words = elements.iter().step_by(width);
        return words.filter_map(|word| Fault::from_word(word)).collect();
    }
    let numbers = input.numbers().unwrap_or_default();
    let first = numbers.into_iter().step_by(width);
    first.filter_map(Fault::from_number).collect()
}

/// Does the fault; the number of rows to answer with, where it comes to that.
fn fail(fault: Fault, config: &Config, rows: usize) -> Result<usize, RunError> {
    match fault {
        Fault::Raise => Err(RunError::Failed("EchoError: told to raise".to_owned())),
        Fault::Invalid => Err(RunError::InvalidInput("told to refuse".to_owned())),
        #[expect(clippy::panic, reason = "the fault that was asked for")]
        Fault::Panic => panic!("told to panic"),
        Fault::Short => Ok(rows.saturating_sub(1)),
        Fault::Long => Ok(rows + 1),
        Fault::Hang => {
            pause(config.hang);
            Ok(rows)
        }
    }
}

fn answer(op: Op, spec: &Spec, input: &Tensor, rows: usize) -> Result<Tensor, RunError> {
    if op == Op::Identity {
        return Ok(input.clone());
    }
    let totals = totals(input, rows)
        .ok_or_else(|| RunError::Failed("only numbers can be added up".to_owned()))?;
    let width = input.elements().checked_div(rows).unwrap_or(0);
    let result = |total: f64| match op {
        Op::Mean if width > 0 => (total / width as f64) as f32,
        _ => total as f32,
    };
    let mut shape = Shape::new();
    if spec.batched() {
        shape.push(rows);
    }
    shape.push(1);
    tensor(shape, totals.into_iter().map(result).collect())
}

/// The sum of each row; `None` where its elements are no numbers.
fn totals(input: &Tensor, rows: usize) -> Option<Vec<f64>> {
    let width = input.elements().checked_div(rows).unwrap_or(0);
    let row = |at: usize| at * width..(at + 1) * width;
    if let Some(numbers) = input.values::<f32>() {
        return Some((0..rows).map(|at| total(&numbers[row(at)])).collect());
    }
    let numbers = input.numbers()?;
    Some((0..rows).map(|at| numbers[row(at)].iter().sum()).collect())
}

/// Adds in lanes, which can be done side by side: one after the other, each addition would wait for the one before. A few are added as they
/// are before they are made wider, which takes longer than adding.
fn total(row: &[f32]) -> f64 {
    const LANES: usize = 8;
    const TOGETHER: usize = 4 * LANES;
    let (chunks, rest) = row.as_chunks::<TOGETHER>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            let few = (chunk[lane] + chunk[lane + LANES])
                + (chunk[lane + 2 * LANES] + chunk[lane + 3 * LANES]);
            *sum += f64::from(few);
        }
    }
    let rest: f64 = rest.iter().copied().map(f64::from).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The output with another number of rows: cut off, or the last repeated.
fn resize(output: Tensor, rows: usize, wanted: usize) -> Result<Tensor, RunError> {
    if wanted == rows {
        return Ok(output);
    }
    let wrong = || RunError::Failed("a tensor without rows has no wrong number of them".to_owned());
    if wanted < rows {
        return output.slice_rows(0, wanted).ok_or_else(wrong);
    }
    let mut shape = Shape::from_slice(output.shape());
    *shape.first_mut().ok_or_else(wrong)? += wanted - rows;
    let data = match output.data() {
        Data::Fixed(bytes) => {
            let row = bytes.len().checked_div(rows).unwrap_or(0);
            let last = &bytes[bytes.len() - row..];
            Data::Fixed([bytes, last].concat().into())
        }
        Data::Elements(elements) => {
            let row = elements.len().checked_div(rows).unwrap_or(0);
            let last = &elements[elements.len() - row..];
            Data::Elements([elements, last].concat())
        }
    };
    Tensor::new(output.datatype(), shape, data).map_err(|error| RunError::Failed(error.to_string()))
}

fn tensor(shape: Shape, values: Vec<f32>) -> Result<Tensor, RunError> {
    Tensor::from_f32(shape, values).map_err(|error| RunError::Failed(error.to_string()))
}

/// The comma-separated parts; a comma within brackets separates dimensions.
fn split_outside_brackets(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let parts = text.split(move |c| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// The inputs with the names they were given, or `input`, or `input0`, `input1` and so on.
fn named(inputs: &[(&str, &str)]) -> Result<Vec<TensorSpec>, LoadError> {
    let mut specs: Vec<TensorSpec> = Vec::with_capacity(inputs.len());
    for (at, (name, row)) in inputs.iter().enumerate() {
        let name = match *name {
            "" if inputs.len() == 1 => "input".to_owned(),
            "" => format!("input{at}"),
            name => name.to_owned(),
        };
        if specs.iter().any(|spec| spec.name == name) {
            return Err(LoadError::new(format!(
                "echo: expected inputs of different names, got \"{name}\" twice"
            )));
        }
        let spec = TensorSpec::parse_row(&name, row)
            .map_err(|error| LoadError::new(format!("echo: input \"{name}\": {error}")))?;
        specs.push(spec);
    }
    Ok(specs)
}

fn batch(text: &str) -> Option<BatchAxis> {
    match text {
        "free" => Some(BatchAxis::Free),
        "none" => Some(BatchAxis::None),
        _ => {
            let size: NonZeroUsize = text.strip_prefix("fixed:")?.parse().ok()?;
            Some(BatchAxis::Fixed(size.get()))
        }
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    let milliseconds: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::Bytes;

    use super::*;

    fn run(source: &str, requests: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, stack::Error> {
        let echo = Echo::parse(source).unwrap();
        for request in requests {
            echo.spec().check(request).unwrap();
        }
        stack::run(&mut *echo.instance().unwrap(), echo.spec(), requests)
    }

    fn pairs(rows: usize, values: &[f32]) -> Vec<Tensor> {
        vec![Tensor::from_f32([rows, 2], values.to_vec()).unwrap()]
    }

    #[test]
    fn sources_are_read() {
        let config = Config::parse("echo: FP32[3,8,8], ids=INT64[-1], op=sum, call_ms=5, row_ms=0.1, busy=true, batch=fixed:4, faulty=true, hang_ms=10, rows_independent=false, instances=3, load_ms=1, fail_load=no memory, results=5, every_ms=100, places=7").unwrap();
        let expected = Config {
            inputs: vec![
                TensorSpec::parse_row("input0", "FP32[3,8,8]").unwrap(),
                TensorSpec::parse_row("ids", "INT64[-1]").unwrap(),
            ],
            op: Op::Sum,
            batch: BatchAxis::Fixed(4),
            call: Duration::from_millis(5),
            row: Duration::from_micros(100),
            busy: true,
            faulty: true,
            hang: Duration::from_millis(10),
            rows_independent: false,
            instances: NonZeroUsize::new(3).unwrap(),
            load: Duration::from_millis(1),
            fail_load: Some("no memory".to_owned()),
            results: Some(5),
            every: Duration::from_millis(100),
            places: NonZeroUsize::new(7).unwrap(),
        };
        assert_eq!(config, expected);
        assert_eq!(Config::parse("echo").unwrap(), Config::default());
        assert_eq!(Config::parse("echo:FP32[16]").unwrap(), Config::default());
    }

    #[test]
    fn sources_that_are_not_understood_are_refused_by_part() {
        let table = [
            ("echoes", "expected echo:..., got \"echoes\""),
            ("echo:FP99[1]", "expected an input such as FP32[16]"),
            (
                "echo:FP32[x]",
                "input \"input\": expected a datatype and the shape of a row",
            ),
            ("echo:a=FP32[1],a=FP32[2]", "\"a\" twice"),
            (
                "echo:op=max",
                "expected op=identity|sum|mean, got \"op=max\"",
            ),
            ("echo:call_ms=-1", "expected call_ms=MILLISECONDS"),
            ("echo:row_ms=NaN", "expected row_ms=MILLISECONDS"),
            ("echo:batch=fixed:0", "expected batch=free|none|fixed:N"),
            ("echo:instances=0", "expected instances=NUMBER"),
            (
                "echo:BYTES[1],op=sum",
                "\"input\" is BYTES\n  hint: use op=identity",
            ),
            ("echo:fail_load=true", "told to fail"),
            ("echo:fail_load=no memory", "no memory"),
        ];
        for (source, expected) in table {
            let error = Echo::parse(source).unwrap_err().to_string();
            assert!(error.contains(expected), "{source}: {error}");
        }
    }

    #[test]
    fn rows_are_answered_by_the_operation() {
        let requests = [pairs(1, &[1.0, 2.0]), pairs(2, &[3.0, 5.0, -1.0, 1.0])];
        assert_eq!(run("echo:FP32[2]", &requests).unwrap(), requests);
        let table = [("sum", [3.0, 8.0, 0.0]), ("mean", [1.5, 4.0, 0.0])];
        for (op, expected) in table {
            let answers = run(&format!("echo:FP32[2],op={op}"), &requests).unwrap();
            let got: Vec<f32> = answers
                .iter()
                .flat_map(|outputs| outputs[0].to_vec::<f32>().unwrap())
                .collect();
            assert_eq!(got, expected, "{op}");
            assert_eq!(answers[1][0].shape(), [2, 1]);
        }
    }

    #[test]
    fn every_number_can_be_added_up() {
        for datatype in DataType::ALL.into_iter().filter(|d| *d != DataType::Bytes) {
            let bytes = datatype.width().unwrap() * 3;
            let data = Data::Fixed(vec![0; bytes].into());
            let zeros = Tensor::new(datatype, [1, 3].as_slice().into(), data).unwrap();
            let answers = run(&format!("echo:{datatype}[3],op=sum"), &[vec![zeros]]).unwrap();
            assert_eq!(answers[0][0].to_vec::<f32>().unwrap(), [0.0], "{datatype}");
        }
    }

    #[test]
    fn without_a_batch_axis_the_tensors_are_the_rows() {
        let scalar = vec![Tensor::from_f32(Shape::new(), vec![4.0]).unwrap()];
        let answers = run("echo:FP32,batch=none,op=sum", std::slice::from_ref(&scalar)).unwrap();
        assert_eq!(answers[0][0].shape(), [1]);
        assert_eq!(answers[0][0].to_vec::<f32>().unwrap(), [4.0]);
        assert_eq!(
            run("echo:FP32,batch=none", std::slice::from_ref(&scalar)).unwrap(),
            [scalar]
        );
    }

    #[test]
    fn faulty_rows_do_what_they_say() {
        let source = "echo:FP32[2],faulty=true,hang_ms=1";
        let with = |code: f32| [pairs(2, &[1.0, 2.0, code, 0.0]), pairs(1, &[0.0, 0.0])];
        let error = |code| run(source, &with(code)).unwrap_err().to_string();
        assert!(error(-1.0).contains("told to raise"));
        assert!(error(-3.0).contains("expected 3 rows, got 2"));
        assert!(error(-4.0).contains("expected 3 rows, got 4"));
        assert!(error(-6.0).contains("told to refuse"));
        assert!(catch_unwind(AssertUnwindSafe(|| run(source, &with(-2.0)))).is_err());
        assert_eq!(run(source, &with(-5.0)).unwrap(), with(-5.0));
        assert_eq!(run("echo:FP32[2]", &with(-1.0)).unwrap(), with(-1.0));
    }

    #[test]
    fn faults_are_words_in_bytes() {
        let element = |word: &'static str| {
            let elements = vec![Bytes::from_static(b"raise").slice(..0), Bytes::from(word)];
            vec![Tensor::from_bytes([2], elements).unwrap()]
        };
        let source = "echo:BYTES,faulty=true";
        let fine = [element("fine")];
        assert_eq!(run(source, &fine).unwrap(), fine);
        for word in ["raise", "short", "long", "invalid"] {
            run(source, &[element(word)]).unwrap_err();
        }
    }

    #[test]
    fn a_call_takes_at_least_what_it_costs() {
        for way in ["busy=true", "busy=false"] {
            let source = format!("echo:FP32[2],call_ms=2,row_ms=1,{way}");
            let start = Instant::now();
            run(&source, &[pairs(3, &[0.0; 6])]).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(5), "{way}");
        }
    }
}
