//! Where a setting comes from: flag, else environment, else the model's own file, else the file, else the default.

use std::fs;

use crate::server::Served;

/// The batch size that a server ends up with is the longest request it does not refuse.
#[test]
fn the_nearest_place_wins() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jitney.toml");
    fs::write(&config, "max_batch = 3\nmodels = [\"copy=echo:FP32[1]\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let table: &[(&[&str], Option<&str>, usize)] = &[
        (&["copy=echo:FP32[1]"], None, 32),
        (&["--config", config], None, 3),
        (&["--config", config], Some("4"), 4),
        (&["--config", config, "--max-batch", "5"], Some("4"), 5),
        (&["--config", config, "--max-batch", "5"], None, 5),
    ];
    for (args, variable, expected) in table {
        let served = Served::start_with(args, |command| {
            if let Some(value) = variable {
                command.env("JITNEY_MAX_BATCH", value);
            }
        });
        let fits = served.post("/v2/models/copy/infer", &rows(*expected));
        let over = served.post("/v2/models/copy/infer", &rows(expected + 1));
        assert_eq!(
            (fits.status, over.status),
            (200, 400),
            "{args:?} {variable:?}: {fits:?} {over:?}"
        );
    }
}

/// A server on a loopback address answers to other names only where they are said.
#[test]
fn names_of_the_server_add_up_in_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jitney.toml");
    fs::write(&config, "allowed_hosts = [\"c.org\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let table: [(&[&str], Option<&str>, &str); 4] = [
        (&[], None, ""),
        (
            &["--allowed-host", "a.org", "--allowed-host", "b.org"],
            None,
            "ab",
        ),
        (&["--config", config], None, "c"),
        (&["--config", config], Some("a.org,b.org"), "ab"),
    ];
    for (args, variable, expected) in table {
        let served = Served::start_with(&[&["echo:FP32[1]"], args].concat(), |command| {
            if let Some(value) = variable {
                command.env("JITNEY_ALLOWED_HOST", value);
            }
        });
        for name in ["a", "b", "c"] {
            let target = format!("http://{name}.org/v2/health/live");
            let status = served.ask("GET", &target, "", "").status;
            let allowed = if expected.contains(name) { 200 } else { 421 };
            assert_eq!(status, allowed, "{args:?} {variable:?} {name}");
        }
    }
}

#[test]
fn models_on_the_command_line_replace_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jitney.toml");
    fs::write(&config, "models = [\"filed=echo:FP32[1]\"]\n").unwrap();
    let served = Served::start(&["typed=echo:FP32[1]", "--config", config.to_str().unwrap()]);
    assert_eq!(served.get("/v2/models/typed/ready").status, 200);
    assert_eq!(served.get("/v2/models/filed/ready").status, 404);
}

#[test]
fn a_mistake_in_the_file_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jitney.toml");
    for (text, expected) in [
        ("max_bach = 3\n", "max_bach"),
        ("max_batch = 0\n", "from 1 to"),
        ("workers = 0\n", "from 1 to"),
        ("max_batch = \n", "line 1"),
    ] {
        fs::write(&config, text).unwrap();
        let ended = crate::command::jitney(&[
            "serve",
            "echo:FP32[1]",
            "--config",
            config.to_str().unwrap(),
        ]);
        assert_eq!(ended.code, Some(2), "{text:?}: {ended:?}");
        assert!(
            ended.stderr.contains("jitney.toml") && ended.stderr.contains(expected),
            "{text:?}: {ended:?}"
        );
    }
}

fn rows(count: usize) -> String {
    let data = vec!["0"; count].join(",");
    format!(
        r#"{{"inputs":[{{"name":"input","datatype":"FP32","shape":[{count},1],"data":[{data}]}}]}}"#
    )
}
