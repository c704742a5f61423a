//! Models that are loaded again while they serve.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::support::{Folder, is_alive, wait_until};
use crate::command::root;
use crate::server::Served;

fn says(word: &str) -> String {
    format!(
        "import words\n\n\nclass Sayer:\n    def predict_batch(self, items):\n        return [words.mark + {word:?} for _ in items]\n"
    )
}

#[test]
fn no_request_fails_while_a_model_is_loaded_again() {
    let folder = Folder::with(&[("sayer.py", &says("one")), ("words.py", "mark = ''\n")]);
    let served = Arc::new(Served::start(&[&folder.path("sayer.py"), "--reload"]));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (served, stop) = (Arc::clone(&served), Arc::clone(&stop));
            let ask = move || {
                let mut asked = 0;
                while !stop.load(Ordering::SeqCst) {
                    let answer = served.post("/predict/sayer", "0");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    asked += 1;
                }
                asked
            };
            Builder::new().spawn(ask).unwrap()
        })
        .collect();
    let said = || served.post("/predict/sayer", "0").json()["prediction"].clone();
    let first = served.worker_of("sayer");

    folder.write("sayer.py", &says("two"));
    wait_until("the new model", || said() == "two");
    wait_until("the old process to end", || !is_alive(first));

    folder.write(
        "sayer.py",
        "class Sayer:\n    def predict_batch(self items): ...\n",
    );
    wait_until("word of the mistake", || {
        let message = served.status_of("sayer")["reload_message"].clone();
        message
            .as_str()
            .is_some_and(|message| message.contains("sayer.py:2"))
    });
    assert_eq!(said(), "two");
    assert_eq!(served.status_of("sayer")["state"], "ready");

    // What it imports counts too, and a mended file makes good what the broken one said.
    folder.write("sayer.py", &says("three"));
    folder.write("words.py", "mark = 'new '\n");
    wait_until("the third model", || said() == "new three");
    assert_eq!(served.status_of("sayer").get("reload_message"), None);

    stop.store(true, Ordering::SeqCst);
    let asked: Vec<usize> = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .collect();
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
    served.wait_for_metric(
        "jitney_model_reloads_total{model=\"sayer\",version=\"1\",outcome=\"failed\"",
        1.0,
    );
    let served = Arc::into_inner(served).unwrap();
    let ended = served.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("the one before goes on serving"),
        "{}",
        ended.stderr
    );
}

#[test]
fn models_of_other_engines_are_loaded_again_too() {
    let model = fs::read(root().join("examples/digits/model.onnx")).unwrap();
    let folder = Folder::with(&[
        ("digits/model.toml", "description = \"old\""),
        ("late/model.toml", "description = \"nothing to serve yet\""),
    ]);
    fs::write(folder.path("digits/model.onnx"), &model).unwrap();
    let served = Served::start(&[&folder.path(""), "--reload"]);
    assert_eq!(served.status_of("digits")["description"], "old");
    assert_eq!(served.status_of("late")["state"], "failed");

    folder.write("digits/model.toml", "description = \"new\"\nmax_batch = 4");
    wait_until("the new description", || {
        served.status_of("digits")["description"] == "new"
    });
    // A broken file is no reason to stop, and a model that never was can still come.
    fs::write(folder.path("digits/model.onnx"), "nonsense").unwrap();
    fs::write(folder.path("late/model.onnx"), &model).unwrap();
    wait_until("the late one", || {
        served.status_of("late")["state"] == "ready"
    });
    wait_until("word of the mistake", || {
        served.status_of("digits").get("reload_message").is_some()
    });
    let item = fs::read_to_string(root().join("examples/digits/samples/7.json")).unwrap();
    assert_eq!(served.post("/predict/digits", &item).status, 200);
    assert_eq!(served.post("/predict/late", &item).status, 200);
}

#[test]
fn models_are_closed_all_at_once() {
    let slow = "import time\n\n\nclass Slow:\n    def predict(self, item):\n        return item\n\n    def close(self):\n        time.sleep(1.5)\n";
    let folder = Folder::with(&[
        ("a/model.py", slow),
        ("b/model.py", slow),
        ("c/model.py", slow),
        ("d/model.py", slow),
    ]);
    let served = Served::start(&[&folder.path("")]);
    let workers = ["a", "b", "c", "d"].map(|model| served.worker_of(model));
    let start = Instant::now();
    let ended = served.stop();
    let took = start.elapsed();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // One after the other they would take six.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(
        took > Duration::from_millis(1500),
        "{took:?}: nobody waited"
    );
    assert_eq!(workers.map(is_alive), [false; 4]);
}
