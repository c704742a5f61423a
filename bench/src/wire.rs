//! The forms of the protocol: images as binary tensors, gRPC, streams of events, and connections that say nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jitney_server::grpc::generated::{ModelInferRequest, model_infer_request};
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::images::IMAGE;
use crate::peers::{Python, free_address};
use crate::plan::rows_run;
use crate::report::{Report, median};
use crate::server::{Server, pin_to_load_core, pinned, sibling};
use crate::{Outcome, load, payload, process};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Parts of the plan: image, python-image, grpc, events, idle. All when none is named.
    parts: Vec<String>,
    /// Repetitions, interleaved; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Seconds of load for each point.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The Python whose environment the models get.
    #[arg(long, default_value = "python3")]
    python: String,
}

const BENCH: &str = "/v2/models/bench/infer";
const GRPC: &str = "/inference.GRPCInferenceService/ModelInfer";
const IMAGE_CLIENTS: usize = 16;
const GRPC_CONNECTIONS: usize = 4;
const GRPC_STREAMS: usize = 64;
const EVENT_STREAMS: usize = 1000;
const EVENTS_PER_SECOND: usize = 10;
const IDLE: usize = 10_000;
const MODELS: &str = "bench/peers/jitney_models.py";

pub(crate) fn run(options: &Options) -> Outcome<()> {
    pin_to_load_core()?;
    type Part = fn(&Options, &mut Report) -> Outcome<()>;
    let parts: [(&str, Part); 5] = [
        ("image", image),
        ("python-image", python_image),
        ("grpc", grpc),
        ("events", events),
        ("idle", idle),
    ];
    let known = |wanted: &&String| parts.iter().any(|(name, _)| name == *wanted);
    if let Some(unknown) = options.parts.iter().find(|wanted| !known(wanted)) {
        return Err(format!("there is no part {unknown:?}").into());
    }
    let mut report = Report::default();
    for (name, part) in parts {
        if options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == name) {
            part(options, &mut report)?;
        }
    }
    report.keep()
}

fn serve(arguments: &[&str]) -> Outcome<Server> {
    let fixed = ["serve", "--http", "127.0.0.1:0", "--queue", "2048"];
    Server::start(&sibling("jitney")?, &[&fixed[..], arguments].concat())
}

/// An image as a binary tensor, beside a bare server that reads it and throws it away.
fn image(options: &Options, report: &mut Report) -> Outcome<()> {
    let request = binary_image();
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..options.repeat {
        let bare = Server::start(&std::env::current_exe()?, &["bare"])?;
        rates[0].push(images(&bare, &request, options)?);
        drop(bare);
        let mean = serve(&["bench=echo:FP32[3,224,224],op=mean"])?;
        rates[1].push(images(&mean, &request, options)?);
        drop(mean);
        let echo = serve(&["bench=echo:FP32[3,224,224]"])?;
        rates[2].push(images(&echo, &request, options)?);
    }
    let raw = json!({"bare": rates[0], "mean": rates[1], "echo": rates[2]});
    let [bare, mean, echo] = rates.map(median);
    report.mark("binary image, bare hyper, requests/s", bare, raw);
    report.mark("binary image, mean, requests/s", mean, Value::Null);
    report.at_least(
        "binary image, mean / bare hyper",
        mean / bare,
        0.5,
        Value::Null,
    );
    report.mark(
        "binary image, there and back, requests/s",
        echo,
        Value::Null,
    );
    Ok(())
}

/// The same to a Python model that returns its mean.
fn python_image(options: &Options, report: &mut Report) -> Outcome<()> {
    let python = Python::prepare(&options.python)?;
    let (request, mut rates) = (binary_image(), Vec::new());
    for _ in 0..options.repeat {
        let model = format!("bench={MODELS}:Mean");
        let server = serve(&[&model, "--python", python.path()?])?;
        rates.push(images(&server, &request, options)?);
    }
    let raw = json!(rates);
    report.at_least(
        "binary image, Python mean, requests/s",
        median(rates),
        1600.0,
        raw,
    );
    Ok(())
}

fn images(server: &Server, request: &[u8], options: &Options) -> Outcome<f64> {
    let result = load::closed(server.address, request, IMAGE_CLIENTS, 0.5, options.seconds)?;
    if result.count(200) < result.total() {
        return Err("not every answer was 200".into());
    }
    Ok(result.rate())
}

/// The whole HTTP request with one image as a binary tensor.
fn binary_image() -> Vec<u8> {
    let elements: usize = IMAGE.iter().product();
    let size = elements * size_of::<f32>();
    let [channels, height, width] = IMAGE;
    let head = format!(
        r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":[1,{channels},{height},{width}],"parameters":{{"binary_data_size":{size}}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let mut request = format!(
        "POST {BENCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n{head}",
        head.len(),
        head.len() + size,
    )
    .into_bytes();
    for element in 0..elements {
        request.extend_from_slice(&(element as f32 / elements as f32).to_le_bytes());
    }
    request
}

/// Sixteen floats, raw, beside a bare tonic server that echoes the message. The load is h2load's (Debian package nghttp2-client).
fn grpc(options: &Options, report: &mut Report) -> Outcome<()> {
    let file = Path::new("target").join("bench-grpc-message");
    std::fs::write(&file, grpc_message())?;
    let file = file.to_str().ok_or("the path is not text")?;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..options.repeat {
        let bare = Server::start(&std::env::current_exe()?, &["bare-tonic"])?;
        rates[0].push(h2load(bare.address, file, options.seconds)?.0);
        drop(bare);
        // One port for both, so that the ready line names it.
        let address = free_address()?.to_string();
        let jitney = Server::announced(
            pinned(&sibling("jitney")?)
                .args(["serve", "--http", &address, "--grpc", &address])
                .args(["--queue", "2048", "bench=echo:FP32[16]"]),
        )?;
        let (rate, count) = h2load(jitney.address, file, options.seconds)?;
        // h2load sees the status of HTTP alone, which is 200 for errors too.
        if rows_run(&jitney)? < count {
            return Err("fewer rows were run than requests answered".into());
        }
        rates[1].push(rate);
    }
    let raw = json!({"bare": rates[0], "jitney": rates[1]});
    let [bare, jitney] = rates.map(median);
    report.mark("gRPC, bare tonic echo, requests/s", bare, raw);
    report.mark("gRPC, echo, requests/s", jitney, Value::Null);
    report.at_least("gRPC, echo / bare tonic", jitney / bare, 0.5, Value::Null);
    Ok(())
}

/// Requests per second, and how many there were.
fn h2load(address: SocketAddr, message: &str, seconds: f64) -> Outcome<(f64, f64)> {
    let output = Command::new("h2load")
        .args(["-D", &seconds.to_string(), "--warm-up-time", "1", "-t", "1"])
        .args(["-c", &GRPC_CONNECTIONS.to_string()])
        .args(["-m", &(GRPC_STREAMS / GRPC_CONNECTIONS).to_string()])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .args(["-d", message, &format!("http://{address}{GRPC}")])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let number = |before: &str, after: &str| -> Option<f64> {
        let (head, _) = text.split_once(after)?;
        let (_, number) = head.rsplit_once(before)?;
        number.trim().parse().ok()
    };
    let rate = number(", ", " req/s").ok_or("h2load printed no rate")?;
    let succeeded = number(",", " succeeded").ok_or("h2load printed no count")?;
    let failed = number(",", " failed").ok_or("h2load printed no failures")?;
    if failed > 0.0 {
        return Err(format!("h2load: {failed} requests failed").into());
    }
    Ok((rate, succeeded))
}

/// A message with its length before it, as gRPC frames it.
fn grpc_message() -> Vec<u8> {
    let values: Vec<u8> = (0..16u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let message = ModelInferRequest {
        model_name: "bench".to_owned(),
        inputs: vec![model_infer_request::InferInputTensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 16],
            ..Default::default()
        }],
        raw_input_contents: vec![values.into()],
        ..Default::default()
    }
    .encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat()
}

/// A thousand streams of events at once, from the echo engine and from an async Python model: order, processor time and memory.
fn events(options: &Options, report: &mut Report) -> Outcome<()> {
    let python = Python::prepare(&options.python)?;
    let count = (options.seconds.ceil() as usize + 2) * EVENTS_PER_SECOND;
    let every_ms = 1000 / EVENTS_PER_SECOND;
    let source = format!("bench=echo:FP32[1],results={count},every_ms={every_ms}");
    let echo = serve(&[&source])?;
    let body = r#"{"input":[1]}"#;
    stream_events("echo", &echo, body, count, options, report)?;
    drop(echo);
    let model = format!("bench={MODELS}:Ticks");
    let server = serve(&[&model, "--python", python.path()?])?;
    let body = format!(r#"{{"count":{count},"every":{}}}"#, every_ms as f64 / 1e3);
    stream_events("async Python", &server, &body, count, options, report)
}

fn stream_events(
    what: &str,
    server: &Server,
    body: &str,
    count: usize,
    options: &Options,
    report: &mut Report,
) -> Outcome<()> {
    let request = payload::post("/predict/bench/stream", body, "");
    let pid = server.pid();
    let window = Duration::from_secs_f64(options.seconds);
    let (streams, cpu, resident) = load::block_on(async {
        let streams: Vec<_> = (0..EVENT_STREAMS)
            .map(|_| tokio::task::spawn_local(read_events(server.address, request.clone())))
            .collect();
        // The middle of the streams' time: they have all begun, and none has ended.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let before = cpu_seconds(server, pid)?;
        tokio::time::sleep(window).await;
        let after = cpu_seconds(server, pid)?;
        let resident = process::resident(pid)?;
        let mut whole = Vec::new();
        for stream in streams {
            whole.push(stream.await??);
        }
        let seconds = window.as_secs_f64();
        let cpu = (
            (after.0 - before.0) / seconds,
            (after.1 - before.1) / seconds,
        );
        Ok((whole, cpu, resident))
    })?;
    if let Some(wrong) = streams.iter().find(|events| **events != count) {
        return Err(
            format!("{what}: a stream had {wrong} events in order instead of {count}").into(),
        );
    }
    let raw = json!({"streams": EVENT_STREAMS, "events": count, "server_cores": cpu.0, "all_cores": cpu.1});
    report.at_most(
        &format!("{EVENT_STREAMS} streams, {what}: server, cores"),
        cpu.0,
        0.5,
        raw,
    );
    if cpu.1 > cpu.0 {
        report.mark(
            &format!("{EVENT_STREAMS} streams, {what}: worker, cores"),
            cpu.1 - cpu.0,
            Value::Null,
        );
    }
    report.at_most(
        &format!("{EVENT_STREAMS} streams, {what}: server, MB"),
        resident,
        100.0,
        Value::Null,
    );
    Ok(())
}

/// Processor time of the server itself, and with its workers.
fn cpu_seconds(server: &Server, pid: u32) -> Outcome<(f64, f64)> {
    let all: Outcome<Vec<f64>> = server
        .tree()
        .iter()
        .map(|process| process::cpu(process.pid))
        .collect();
    Ok((process::cpu(pid)?, all?.iter().sum()))
}

/// Reads a stream of events to its end, and counts those that carry a result, in the order of their numbers where they have some.
async fn read_events(address: SocketAddr, request: Vec<u8>) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&request).await?;
    let (mut text, mut events) = (Vec::new(), 0);
    loop {
        let read = stream.read_buf(&mut text).await?;
        while let Some(end) = find(&text, b"\n\n") {
            let event = String::from_utf8_lossy(&text[..end]).into_owned();
            text.drain(..end + 2);
            let Some((_, data)) = event.split_once("data: {\"prediction\":") else {
                continue;
            };
            let tick = data.split_once("\"tick\":").map(|(_, number)| number);
            let expected = events.to_string();
            if tick.is_some_and(|tick| !tick.trim_start().starts_with(&expected)) {
                return Ok(events);
            }
            events += 1;
        }
        if read == 0 || text.ends_with(b"0\r\n\r\n") {
            return Ok(events);
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Ten thousand connections that were used once and are kept.
fn idle(options: &Options, report: &mut Report) -> Outcome<()> {
    let request = payload::post(BENCH, &payload::infer("input", &[16]), "");
    let (mut memory, mut slower) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat {
        let server = serve(&[
            "bench=echo:FP32[16]",
            "--max-connections-per-client",
            "20000",
        ])?;
        let p99 = |server: &Server| -> Outcome<f64> {
            let result = load::closed(server.address, &request, 16, 0.5, options.seconds)?;
            Ok(result.percentile(200, 99.0))
        };
        let alone = p99(&server)?;
        let before = server.resident()?;
        let kept = load::keep(server.address, &request, IDLE)?;
        // Those that came last come to rest.
        std::thread::sleep(Duration::from_secs(2));
        memory.push(server.resident()? - before);
        slower.push(p99(&server)? / alone);
        drop(kept);
    }
    let raw = json!({"mb": memory, "p99_ratio": slower});
    report.at_most(
        &format!("{IDLE} idle connections, MB more"),
        median(memory),
        200.0,
        raw,
    );
    report.at_most(
        &format!("{IDLE} idle connections, p99 of others"),
        median(slower),
        1.2,
        Value::Null,
    );
    Ok(())
}
