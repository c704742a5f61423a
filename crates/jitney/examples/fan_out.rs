//! Fetches many URLs from a local server: bounded, with deadlines, retries within a budget, partial failure and a progress bar.
//!
//! `cargo run --release -p jitney --example fan_out -- --urls 10000 --limit 100 --failing 5`
#![expect(
    clippy::print_stdout,
    reason = "the summary is what the example is for"
)]

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use indicatif::ProgressBar;
use jitney::{Budget, Cause, Group, Outcome, Retry, Scope, gather};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Options {
    /// How many URLs to fetch.
    #[arg(long, default_value_t = 10_000)]
    urls: u32,
    /// Most requests at once.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// How many of a hundred URLs answer 503, each time.
    #[arg(long, default_value_t = 0)]
    failing: u32,
    /// Another server to fetch from, such as `http://127.0.0.1:8000`, instead of one of its own.
    #[arg(long)]
    from: Option<String>,
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if let Some(base) = &options.from {
        let fetched = fetch_all(base, &options).await;
        println!("{fetched}");
        return Ok(());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let scope = Scope::named("fan_out").run(async |group: Group<Failure>| {
        drop(
            group
                .named("server")
                .spawn(serve(listener, group.clone(), options.failing)),
        );
        let fetched = fetch_all(&format!("http://{address}"), &options).await;
        // The server would go on for ever.
        group.cancel(Cause::Requested);
        Ok(fetched)
    });
    let summary = scope.await?;
    println!("{summary}");
    Ok(())
}

/// Fetches every URL, and says how that went.
async fn fetch_all(base: &str, options: &Options) -> String {
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(options.limit)
        .build(HttpConnector::new());
    // Three attempts, but all in all no more than one call in ten is made again.
    let budget = Budget::new(10, 100);
    let retry = Retry::new(3).backoff(Duration::from_millis(20), Duration::from_secs(1));
    let retry = Arc::new(retry.budget(&budget));
    let urls = (0..options.urls).map(|number| {
        let (client, retry, url) = (client.clone(), retry.clone(), format!("{base}/{number}"));
        async move { retry.run(|| fetch(&client, &url)).await }
    });
    let began = Instant::now();
    let bar = ProgressBar::new(options.urls.into());
    let mut fetched = gather(urls)
        .named("fetch")
        .limit(options.limit)
        .deadline(Duration::from_secs(60))
        .parallel()
        .as_completed();
    let (mut oks, mut bytes, mut failures) = (0u32, 0, Vec::new());
    while let Some(completed) = fetched.next().await {
        bar.inc(1);
        match completed.outcome {
            Outcome::Ok(body) => {
                oks += 1;
                bytes += body.len();
            }
            failure => failures.push(format!("/{}: {failure}", completed.index)),
        }
    }
    bar.finish_and_clear();
    let took = began.elapsed();
    let rate = f64::from(options.urls) / took.as_secs_f64();
    let first = failures.first().map_or("none", String::as_str);
    format!(
        "{oks} of {} fetched, {bytes} bytes, in {took:.2?}: {rate:.0} requests/s\n{} failed; the first: {first}",
        options.urls,
        failures.len()
    )
}

/// One attempt, with a limit of its own.
async fn fetch(client: &Client<HttpConnector, Empty<Bytes>>, url: &str) -> Result<Bytes, Failure> {
    let exchange = async {
        let response = client.get(url.parse()?).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body().collect().await?.to_bytes()),
            status => Err(Failure::from(format!("answered {status}"))),
        }
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await?
}

/// Answers every path with a few bytes of JSON, or 503.
async fn serve(listener: TcpListener, group: Group<Failure>, failing: u32) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service_fn(move |request| answer(request, failing));
        drop(group.named("connection").spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            // A client that hangs up is no failure of the server.
            drop(http.serve_connection(TokioIo::new(stream), service).await);
            Ok(())
        }));
    }
}

async fn answer(
    request: Request<Incoming>,
    failing: u32,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let number: u32 = request.uri().path()[1..].parse().unwrap_or(0);
    let mut response = Response::new(Full::from(format!("{{\"number\": {number}}}")));
    if number % 100 < failing {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}
