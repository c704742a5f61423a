//! What the documentation shows is what happens.

use std::fs;

use jitney_server::config::{ConfigFile, Manifest};
use serde_json::Value;

use crate::command::root;
use crate::server::Served;

/// The `curl` commands of these pages, sent to the server that the pages start.
#[test]
fn the_answers_on_the_first_pages_are_the_answers_of_the_server() {
    let served = Served::start(&["examples/digits"]);
    for page in ["README.md", "examples/digits/README.md"] {
        let shown = exchanges(&read(page));
        assert!(!shown.is_empty(), "{page} shows no exchange");
        for exchange in shown {
            let body = read(&exchange.file);
            let answer = served.post(&exchange.path, &body);
            assert_eq!(answer.status, 200, "{page}: {answer:?}");
            let shown: Value = serde_json::from_str(&exchange.answer).unwrap();
            assert_alike(&shown, &answer.json(), page);
        }
    }
}

#[test]
fn the_files_in_the_configuration_page_are_understood() {
    let page = read("docs/configuration.md");
    let blocks = blocks(&page, "toml");
    let of = |title: &str| -> Vec<&String> {
        blocks
            .iter()
            .filter(|block| block.starts_with(title))
            .collect()
    };
    let (configs, manifests) = (of("# jitney.toml"), of("# model.toml"));
    assert_eq!((configs.len(), manifests.len(), blocks.len()), (1, 2, 3));
    for block in configs {
        ConfigFile::parse(block).unwrap();
    }
    for block in manifests {
        Manifest::parse(block).unwrap();
    }
}

#[test]
fn the_configuration_page_names_every_key() {
    let page = read("docs/configuration.md");
    let blocks = blocks(&page, "toml");
    let shown = |title: &str, key: &str| {
        let mut blocks = blocks.iter().filter(|block| block.starts_with(title));
        blocks.any(|block| {
            let mut lines = block.lines();
            lines.any(|line| {
                let table = format!("[{key}]");
                line.starts_with(&format!("{key} =")) || line.contains(&table)
            })
        })
    };
    // Whoever says an unknown key is told all known ones.
    let config = ConfigFile::parse("nothing = 1").unwrap_err().to_string();
    for key in known_keys(&config) {
        assert!(shown("# jitney.toml", key), "jitney.toml: {key}");
    }
    let manifest = Manifest::parse("nothing = 1").unwrap_err();
    for key in known_keys(&manifest) {
        let everywhere = shown("# jitney.toml", key);
        assert!(
            everywhere || shown("# model.toml", key),
            "model.toml: {key}"
        );
    }
}

fn known_keys(error: &str) -> Vec<&str> {
    let (_, keys) = error.split_once("expected one of ").unwrap();
    keys.split(", ").map(|key| key.trim_matches('`')).collect()
}

/// A command `curl --json @FILE http://127.0.0.1:8080PATH` and the line under it.
struct Exchange {
    path: String,
    file: String,
    answer: String,
}

/// Those whose answer is shown whole.
fn exchanges(page: &str) -> Vec<Exchange> {
    let blocks = blocks(page, "console");
    let shown = blocks.iter().filter_map(|block| {
        let (command, answer) = block.split_once('\n')?;
        let (file, path) = command
            .strip_prefix("$ curl --json @")?
            .split_once(" http://127.0.0.1:8080")?;
        Some(Exchange {
            path: path.to_owned(),
            file: file.to_owned(),
            answer: answer.to_owned(),
        })
    });
    shown
        .filter(|exchange| !exchange.answer.contains("..."))
        .collect()
}

fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let starts = page.split(&open).skip(1);
    starts
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect()
}

/// Equal, except that the last digits of numbers depend on the machine.
fn assert_alike(shown: &Value, got: &Value, page: &str) {
    match (shown, got) {
        (Value::Object(shown), Value::Object(got)) => {
            assert!(shown.keys().eq(got.keys()), "{page}: {shown:?} {got:?}");
            for (shown, got) in shown.values().zip(got.values()) {
                assert_alike(shown, got, page);
            }
        }
        (Value::Array(shown), Value::Array(got)) => {
            assert_eq!(shown.len(), got.len(), "{page}");
            for (shown, got) in shown.iter().zip(got) {
                assert_alike(shown, got, page);
            }
        }
        (Value::Number(shown), Value::Number(got)) => {
            let (shown, got) = (shown.as_f64().unwrap(), got.as_f64().unwrap());
            assert!(
                (shown - got).abs() < 1e-4,
                "{page}: shows {shown}, got {got}"
            );
        }
        _ => assert_eq!(shown, got, "{page}"),
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
