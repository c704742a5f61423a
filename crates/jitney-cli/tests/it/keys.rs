//! Keys: made by one command, understood by the other.

use std::fs;

use crate::command::jitney;
use crate::server::Served;

/// The lines for the file, and the key.
fn new_key(args: &[&str]) -> (String, String) {
    let ended = jitney(&[&["key", "new"], args].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let key = ended.stderr.trim_end().rsplit(' ').next().unwrap();
    assert!(key.starts_with("jitney_"), "{ended:?}");
    assert!(!ended.stdout.contains(key), "{ended:?}");
    (ended.stdout.clone(), key.to_owned())
}

#[test]
fn what_key_new_prints_opens_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let (all, all_key) = new_key(&["--name", "all"]);
    let (one, one_key) = new_key(&["--name", "one", "--model", "a", "--model", "b"]);
    let (admin, admin_key) = new_key(&["--name", "operator", "--scope", "admin"]);
    fs::write(&file, [all, one, admin].concat()).unwrap();
    let file = file.to_str().unwrap();
    let served = Served::start(&["a=echo:FP32[1]", "c=echo:FP32[1]", "--keys-file", file]);
    let status = |key: &str, path: &str| {
        let field = format!("authorization: Bearer {key}\r\n");
        served.ask("GET", path, &field, "").status
    };
    let table = [
        (&all_key, [200, 200, 403]),
        (&one_key, [200, 404, 403]),
        (&admin_key, [200, 200, 200]),
        (&"jitney_other".to_owned(), [401, 401, 401]),
    ];
    for (key, expected) in table {
        let paths = ["/v2/models/a", "/v2/models/c", "/debug/tree"];
        assert_eq!(paths.map(|path| status(key, path)), expected);
    }
    let ended = served.stop();
    assert!(ended.stderr.contains("key=\"operator\""), "{ended:?}");
    for key in [all_key, one_key, admin_key] {
        assert!(!ended.stderr.contains(&key), "{ended:?}");
    }
}

#[test]
fn a_server_that_everybody_can_reach_says_so() {
    let warns = |flags: &[&str]| {
        let served = Served::start(&[&["echo:FP32[1]"], flags].concat());
        served.stop().stderr.contains("there are no keys")
    };
    assert!(warns(&["--insecure", "--grpc", "0.0.0.0:0"]));
    assert!(!warns(&["--insecure"]));
}

#[test]
fn a_server_that_strangers_can_reach_takes_keys_or_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("keys.toml");
    fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let table: &[(&[&str], &str)] = &[
        (&[], "hint: make a key with `jitney key new"),
        (
            &["--keys-file", "missing.toml"],
            "missing.toml could not be read",
        ),
        (&["--keys-file", empty], "there is no key in it"),
    ];
    for (args, expected) in table {
        let base = ["serve", "echo:FP32[1]", "--http", "0.0.0.0:0"];
        let ended = jitney(&[&base, *args].concat());
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}
