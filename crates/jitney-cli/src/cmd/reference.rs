//! The generated parts of the documentation.

use std::fmt::Write as _;

use clap::Arg;
use jitney_server::failure::Code;
use jitney_server::observe::metrics::names;

use crate::args::reference::{ReferenceArgs, Topic};
use crate::args::{self};
use crate::cmd::print;
use crate::exit::Problem;

/// Prints one part, as Markdown.
pub(crate) fn run(args: &ReferenceArgs) -> Result<(), Problem> {
    let page = match args.topic {
        Topic::Commands => commands(),
        Topic::Settings => settings(),
        Topic::Errors => errors(),
        Topic::Metrics => metrics(),
    };
    print(&page)
}

const HELP_WIDTH: usize = 100;

fn commands() -> String {
    let mut page = String::new();
    let mut command = args::command().term_width(HELP_WIDTH);
    command.build();
    for subcommand in command
        .get_subcommands_mut()
        .filter(|subcommand| !subcommand.is_hide_set())
    {
        let help = subcommand.render_long_help();
        let _ = write!(
            page,
            "## jitney {}\n```text\n{help}```\n\n",
            subcommand.get_name()
        );
    }
    page
}

fn settings() -> String {
    let mut page = String::from(
        "| flag | variable | key in a file | default | what it sets |\n|---|---|---|---|---|\n",
    );
    let command = args::command();
    let serve = command.find_subcommand("serve");
    for arg in serve.into_iter().flat_map(clap::Command::get_arguments) {
        if let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) {
            let (about, default) = about_and_default(arg);
            let key = key_of(flag);
            let variable = variable.to_string_lossy();
            let _ = writeln!(
                page,
                "| `--{flag}` | `{variable}` | {key} | {default} | {about} |"
            );
        }
    }
    page
}

/// The help of a setting says its default in brackets at its end, since the default is applied after the files are read.
fn about_and_default(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    match help.split_once(" [default: ") {
        Some((about, default)) => (about.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    }
}

fn key_of(flag: &str) -> String {
    match flag {
        "config" => String::new(),
        // A file has the whole list.
        "allowed-host" | "allowed-origin" => format!("`{}s`", flag.replace('-', "_")),
        flag => format!("`{}`", flag.replace('-', "_")),
    }
}

fn errors() -> String {
    let mut page =
        String::from("| code | HTTP | gRPC | when | what to do |\n|---|---|---|---|---|\n");
    for code in Code::ALL {
        let (when, advice) = explain(code);
        let (word, status, grpc) = (code.word(), code.http_status().as_u16(), code.grpc_status());
        let _ = writeln!(page, "| `{word}` | {status} | {grpc} | {when} | {advice} |");
    }
    page
}

/// When a code is given, and what to do about it.
fn explain(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::InvalidInput => (
            "The body is not what the model takes: not JSON, a wrong name, shape, type or value.",
            "Change the request: the text names the field, what was expected and what came.",
        ),
        Code::Unauthenticated => (
            "No valid credentials.",
            "Send the credentials the operator gave you.",
        ),
        Code::Forbidden => ("The credentials do not allow this.", "Ask the operator."),
        Code::UnknownModel => (
            "No model of this name or version is served.",
            "`GET /v2/models` and the page at `/` list what is served.",
        ),
        Code::NotFound => ("No such path.", "Correct the path."),
        Code::MethodNotAllowed => (
            "The path exists, but not for this method.",
            "Use a method that the `Allow` header names.",
        ),
        Code::UnsupportedMediaType => (
            "The body's `Content-Type` or `Content-Encoding` is not one this path reads.",
            "Send JSON, as it is or as gzip or deflate.",
        ),
        Code::RequestTimeout => (
            "The request did not arrive completely in time.",
            "Send the body without long pauses.",
        ),
        Code::TooLarge => (
            "The body or the number of rows is over the limit.",
            "Send less at once, or raise the limit the text names.",
        ),
        Code::MisdirectedRequest => (
            "The request is meant for another host.",
            "Correct the `Host` header or the proxy.",
        ),
        Code::UpgradeRequired => (
            "The path speaks WebSocket, and the request does not ask for it.",
            "Connect with a WebSocket client, version 13.",
        ),
        Code::HeadersTooLarge => ("The headers are over the limit.", "Send smaller headers."),
        Code::Overloaded => (
            "The queue is full, or the request could not be answered before its deadline. It was refused at once and cost the model nothing.",
            "Try again after `Retry-After` seconds. When it is often: more instances or machines.",
        ),
        Code::Cancelled => (
            "The client left before its answer, or took its request back. Seen in logs and metrics, and as the last answer to a request that was taken back on a WebSocket.",
            "Nothing, unless clients leave because answers are late.",
        ),
        Code::ModelError => (
            "The model raised an error for this input.",
            "Read the text; `jitney predict` repeats it without a server.",
        ),
        Code::WorkerCrashed => (
            "The model crashed on this request.",
            "Look at the log. The instance was replaced, and other requests are not concerned.",
        ),
        Code::OutputMismatch => (
            "The model answered with another number of rows, or other types, than its signature says.",
            "Correct the model.",
        ),
        Code::Internal => (
            "A fault of the server.",
            "Report it with the request id and the log.",
        ),
        Code::NotReady => (
            "The model is still loading.",
            "Try again after `Retry-After` seconds.",
        ),
        Code::Draining => (
            "The server was told to stop and takes no new requests.",
            "Ask another server.",
        ),
        Code::Failed => (
            "The model could not be loaded, or none of its instances is alive.",
            "Look at the log, and run `jitney check SOURCE`.",
        ),
        Code::DeadlineExceeded => (
            "The request's deadline passed in the queue or while the model ran, or the model ran longer than its run limit.",
            "Allow more time, or find out in `/metrics` where the time goes.",
        ),
    }
}

fn metrics() -> String {
    let mut page = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for metric in names::ALL {
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let (name, kind, labels) = (metric.name, metric.kind.as_str(), labels.join(", "));
        let _ = writeln!(
            page,
            "| `{name}{}` | {kind} | {labels} | {}. |",
            suffix(kind),
            metric.help
        );
    }
    page
}

/// What the format adds to the name. A histogram has `_bucket`, `_sum` and `_count`.
fn suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}
