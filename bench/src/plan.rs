//! What is measured, and against which target.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::report::{Report, median};
use crate::server::{Server, pin_to_load_core, pinned, sibling};
use crate::{Outcome, load, payload};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Parts of the plan: speed, device, poisson, overload, image, start. All when none is named.
    parts: Vec<String>,
    /// Repetitions, interleaved; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Seconds of load for each point.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Engine for the digits model.
    #[arg(long, default_value = "auto")]
    engine: String,
}

/// 5 ms a call and 0.1 ms a row.
const DEVICE: &str = "echo:FP32[16],call_ms=5,row_ms=0.1";
/// 20 ms a call and 1 ms a row.
const SLOW_DEVICE: &str = "echo:FP32[16],call_ms=20,row_ms=1";
const BENCH: &str = "/v2/models/bench/infer";

pub(crate) fn run(options: &Options) -> Outcome<()> {
    pin_to_load_core()?;
    type Part = fn(&Options, &mut Report) -> Outcome<()>;
    let parts: [(&str, Part); 6] = [
        ("speed", speed),
        ("device", device),
        ("poisson", poisson),
        ("overload", overload),
        ("image", image),
        ("start", start),
    ];
    let mut report = Report::default();
    for (name, part) in parts {
        if options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == name) {
            part(options, &mut report)?;
        }
    }
    report.keep()
}

/// Requests per second of the server in front of models that cost next to nothing, beside a bare hyper server.
fn speed(options: &Options, report: &mut Report) -> Outcome<()> {
    let echo_body = payload::infer("input", &[16]);
    let digits_body = payload::infer("pixels", &[64]);
    for clients in [64, 256] {
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..options.repeat {
            let bare = Server::start(&std::env::current_exe()?, &["bare"])?;
            rates[0].push(closed(&bare, BENCH, &echo_body, clients, options)?.rate());
            drop(bare);
            let echo = serve(&["bench=echo:FP32[16]"])?;
            rates[1].push(closed(&echo, BENCH, &echo_body, clients, options)?.rate());
            drop(echo);
            let digits = serve(&["examples/digits", "--engine", &options.engine])?;
            rates[2].push(
                closed(
                    &digits,
                    "/v2/models/digits/infer",
                    &digits_body,
                    clients,
                    options,
                )?
                .rate(),
            );
        }
        let raw = json!({"bare": rates[0], "echo": rates[1], "digits": rates[2]});
        let [bare, echo, digits] = rates.map(median);
        let line = |name: &str| format!("{name}, {clients} clients");
        report.row(&line("bare hyper, requests/s"), bare, "", true, raw);
        report.row(&line("echo, requests/s"), echo, "", true, Value::Null);
        report.row(
            &line("echo / bare hyper"),
            echo / bare,
            "at least 0.5",
            echo / bare >= 0.5,
            Value::Null,
        );
        report.row(&line("digits, requests/s"), digits, "", true, Value::Null);
        report.row(
            &line("digits / echo"),
            digits / echo,
            "at least 0.8",
            digits / echo >= 0.8,
            Value::Null,
        );
    }
    Ok(())
}

/// How much of a device of fixed cost the callers get.
fn device(options: &Options, report: &mut Report) -> Outcome<()> {
    let body = payload::infer("input", &[16]);
    let (_, best) = back_to_back(DEVICE, 32)?;
    report.row("device back to back, rows/s", best, "", true, Value::Null);
    for (clients, share) in [(32, 0.80), (64, 0.97), (256, 0.97)] {
        let mut rates = Vec::new();
        for _ in 0..options.repeat {
            let server = serve(&[&format!("bench={DEVICE}"), "--instances", "1"])?;
            rates.push(closed(&server, BENCH, &body, clients, options)?.rate());
        }
        let raw = json!(rates);
        let got = median(rates) / best;
        let target = format!("at least {share:.2}");
        report.row(
            &format!("share of the device, {clients} clients"),
            got,
            &target,
            got >= share,
            raw,
        );
    }
    let mut added = Vec::new();
    for _ in 0..options.repeat {
        let (alone, _) = back_to_back(DEVICE, 1)?;
        let server = serve(&[&format!("bench={DEVICE}"), "--instances", "1"])?;
        let latencies = load::lone(server.address, &payload::post(BENCH, &body, ""), 400)?;
        added.push(median(latencies) - alone);
    }
    let raw = json!(added);
    let added = median(added);
    report.row(
        "a lone client waits longer by, ms",
        added,
        "at most 0.3",
        added <= 0.3,
        raw,
    );
    Ok(())
}

/// Independent callers at half of what the device can give.
fn poisson(options: &Options, report: &mut Report) -> Outcome<()> {
    let (_, best) = back_to_back(DEVICE, 32)?;
    let request = payload::post(BENCH, &payload::infer("input", &[16]), "");
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat {
        let server = serve(&[&format!("bench={DEVICE}"), "--instances", "1"])?;
        load::open(server.address, &request, best / 2.0, 0.5)?;
        let result = load::open(
            server.address,
            &request,
            best / 2.0,
            options.seconds.max(5.0),
        )?;
        if result.count(200) < result.total() {
            return Err("at half load every request must be answered".into());
        }
        p50.push(result.percentile(200, 50.0));
        p99.push(result.percentile(200, 99.0));
    }
    let raw = json!({"p50": p50, "p99": p99});
    let (p50, p99) = (median(p50), median(p99));
    report.row(
        "Poisson at half load, p50 ms",
        p50,
        "at most 11",
        p50 <= 11.0,
        raw,
    );
    report.row(
        "Poisson at half load, p99 ms",
        p99,
        "at most 20",
        p99 <= 20.0,
        Value::Null,
    );
    Ok(())
}

/// Three times what the device can give, everybody with a deadline of 100 ms.
fn overload(options: &Options, report: &mut Report) -> Outcome<()> {
    let (_, best) = back_to_back(SLOW_DEVICE, 32)?;
    let body = payload::infer("input", &[16]);
    let request = payload::post(BENCH, &body, "X-Request-Timeout-Ms: 100\r\n");
    let lone = payload::post(BENCH, &body, "");
    let [
        mut good,
        mut slow_refusals,
        mut odd,
        mut wasted,
        mut recovery,
    ] = [const { Vec::new() }; 5];
    for _ in 0..options.repeat {
        let server = serve(&[&format!("bench={SLOW_DEVICE}"), "--instances", "1"])?;
        let usual = median(load::lone(server.address, &lone, 21)?);
        load::closed(server.address, &lone, 64, 0.5, 0.5)?;
        let before = rows_run(&server)?;
        let result = load::open(server.address, &request, 3.0 * best, 5.0)?;
        good.push(result.goodput(100.0) / best);
        slow_refusals.push(result.percentile(429, 99.9));
        odd.push(
            (result.total() - result.count(200) - result.count(429)) as f64 / result.total() as f64,
        );
        let ended = Instant::now();
        let run = rows_run(&server)? - before;
        wasted.push((run - result.count(200) as f64) / run);
        while load::lone(server.address, &lone, 3)?
            .iter()
            .any(|ms| *ms > 2.0 * usual)
        {
            if ended.elapsed().as_secs() > 20 {
                break;
            }
        }
        recovery.push(ended.elapsed().as_secs_f64());
    }
    let raw = json!({"goodput": good, "refused_p99.9_ms": slow_refusals, "neither_200_nor_429": odd, "wasted": wasted, "recovery_s": recovery});
    let [good, refusals, odd, wasted, recovery] =
        [good, slow_refusals, odd, wasted, recovery].map(median);
    report.row(
        "3 x overload, goodput of capacity",
        good,
        "at least 0.9",
        good >= 0.9,
        raw,
    );
    report.row(
        "3 x overload, p99.9 of refusals, ms",
        refusals,
        "under 50",
        refusals < 50.0,
        Value::Null,
    );
    report.row(
        "3 x overload, neither 200 nor 429",
        odd,
        "0",
        odd == 0.0,
        Value::Null,
    );
    report.row(
        "3 x overload, computed for those who left",
        wasted,
        "0",
        wasted <= 0.01,
        Value::Null,
    );
    report.row(
        "3 x overload, recovered within, s",
        recovery,
        "at most 1",
        recovery <= 1.0,
        Value::Null,
    );
    Ok(())
}

/// An image of 3 x 224 x 224 floats as JSON.
fn image(options: &Options, report: &mut Report) -> Outcome<()> {
    let body = payload::infer("input", &[3, 224, 224]);
    let mut rates = Vec::new();
    for _ in 0..options.repeat {
        let server = serve(&["bench=echo:FP32[3,224,224],op=mean"])?;
        rates.push(closed(&server, BENCH, &body, 16, options)?.rate());
    }
    let raw = json!({"rates": rates, "body_bytes": body.len()});
    let rate = median(rates);
    report.row(
        "3x224x224 FP32 as JSON, requests/s",
        rate,
        "at least 150",
        rate >= 150.0,
        raw,
    );
    Ok(())
}

/// From nothing to ready with the digits model, and what that takes.
fn start(options: &Options, report: &mut Report) -> Outcome<()> {
    let binary = sibling("jitney")?;
    let (mut ready, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat.max(5) {
        let server = Server::start(
            &binary,
            &[
                "serve",
                "examples/digits",
                "--http",
                "127.0.0.1:0",
                "--engine",
                "onnx",
            ],
        )?;
        ready.push(server.ready * 1e3);
        resident.push(server.resident()?);
    }
    let raw = json!({"ready_ms": ready, "resident_mb": resident});
    let (ready, resident) = (median(ready), median(resident));
    let size = fs::metadata(&binary)?.len() as f64 / 1e6;
    report.row(
        "start to ready with digits, ms",
        ready,
        "under 100",
        ready < 100.0,
        raw,
    );
    report.row(
        "resident memory with digits, MB",
        resident,
        "under 30",
        resident < 30.0,
        Value::Null,
    );
    report.row("binary, MB", size, "under 40", size < 40.0, Value::Null);
    Ok(())
}

fn serve(arguments: &[&str]) -> Outcome<Server> {
    let fixed = ["serve", "--http", "127.0.0.1:0", "--queue", "2048"];
    Server::start(&sibling("jitney")?, &[&fixed[..], arguments].concat())
}

fn closed(
    server: &Server,
    path: &str,
    body: &str,
    clients: usize,
    options: &Options,
) -> Outcome<load::Result> {
    let request = payload::post(path, body, "");
    let result = load::closed(server.address, &request, clients, 0.5, options.seconds)?;
    if result.count(200) < result.total() {
        return Err(format!(
            "{} of {} answers were not 200",
            result.total() - result.count(200),
            result.total()
        )
        .into());
    }
    Ok(result)
}

/// Median milliseconds a call, and rows per second, of an engine without a server.
fn back_to_back(source: &str, rows: usize) -> Outcome<(f64, f64)> {
    let rows = rows.to_string();
    let output = pinned(&std::env::current_exe()?)
        .args(["engine", source, "--rows", &rows])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let (call, rate) = text
        .trim()
        .split_once(' ')
        .ok_or("the engine printed nothing")?;
    Ok((call.parse()?, rate.parse()?))
}

/// Rows that the model has run so far, from the server's own metrics.
pub(crate) fn rows_run(server: &Server) -> Outcome<f64> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(server.address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let sum = text
        .lines()
        .find(|line| line.starts_with("jitney_batch_rows_sum"));
    Ok(sum
        .and_then(|line| line.rsplit(' ').next())
        .ok_or("no jitney_batch_rows_sum in /metrics")?
        .parse()?)
}
