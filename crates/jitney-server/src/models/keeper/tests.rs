//! What becomes of the models when files change, one look at a time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use jitney::tree::Tree;

use super::super::lane::Lane;
use super::super::state::ModelState;
use super::*;
use crate::observe::metrics::Metrics;

const ECHO: &str = "[echo]\ninputs = [\"FP32[1]\"]";

/// A repository in the folder `models`, and the models that were made from it.
struct Bench {
    disk: tempfile::TempDir,
    stock: Stock,
    poll: Poll,
    door: Door,
    roster: Arc<ArcSwap<Roster>>,
    metrics: Metrics,
    _tree: Tree,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Bench {
        let disk = tempfile::tempdir().unwrap();
        fs::create_dir(disk.path().join("models")).unwrap();
        for (file, text) in files {
            write(disk.path(), file, text);
        }
        let source = ModelSource::parse("models").unwrap().beneath(disk.path());
        let ways = Arc::new(Ways {
            sources: vec![source],
            settings: Settings {
                control: Control::Poll,
                ..Settings::default()
            },
            courier: None,
        });
        let (tree, metrics, door) = (Tree::new("test"), Metrics::new(), Door::new());
        let surroundings = Surroundings {
            metrics: metrics.models(),
            node: tree.root(),
            pending: watch::channel(0).0,
            changes: watch::channel(()).0,
        };
        let roster = Arc::new(ArcSwap::from_pointee(Roster::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut stock = Stock::new(&ways, surroundings, &roster, door.bell(), &stop);
        let poll = Poll::new(&ways.sources);
        stock.fill(Some(poll.seen())).unwrap();
        let mut bench = Bench {
            disk,
            stock,
            poll,
            door,
            roster,
            metrics,
            _tree: tree,
        };
        bench.settle();
        bench
    }

    fn at(&self, path: &str) -> PathBuf {
        self.disk.path().join(path)
    }

    fn write(&self, file: &str, text: &str) {
        write(self.disk.path(), file, text);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.at(path)).unwrap();
    }

    /// One look at the disk, and all that follows from it.
    fn look(&mut self) {
        self.poll.look_now(&mut self.stock);
        self.settle();
    }

    fn settle(&mut self) {
        self.stock.step(Instant::now());
        while !self.stock.is_idle() || self.stock.is_held() || self.stock.is_closing() {
            self.door.wait(Some(SWEEP));
            self.stock.step(Instant::now());
        }
        self.stock.step(Instant::now());
    }

    /// Looks so often that whatever is done changing counts, and says what is served: `!` stands behind what could not be loaded, `~`
    /// behind what could not be loaded again.
    fn served(&mut self) -> String {
        for _ in 0..3 {
            self.look();
        }
        self.shown()
    }

    fn shown(&self) -> String {
        let roster = self.roster.load();
        assert!(roster.leaving.is_empty());
        let shown = roster.entries.iter().map(|entry| {
            let status = entry.status(false);
            let mark = match (&status.state, &status.reload_failure) {
                (ModelState::Ready, None) => "",
                (ModelState::Ready, Some(_)) => "~",
                (ModelState::Failed { .. }, _) => "!",
                _ => "?",
            };
            format!("{} {}{mark}", status.name, status.version)
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    fn lane(&self, name: &str) -> Arc<Lane> {
        self.roster.load().lane(name, None).unwrap()
    }
}

fn write(disk: &Path, file: &str, text: &str) {
    let file = disk.join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

#[test]
fn what_is_still_being_written_is_not_loaded() {
    let mut bench = Bench::new(&[("models/a/model.toml", ECHO)]);
    assert_eq!(bench.shown(), "a 1");
    bench.write("models/b/model.toml", "[ec");
    bench.look();
    assert_eq!(bench.shown(), "a 1");
    bench.write("models/b/model.toml", "[echo]\ninp");
    bench.look();
    assert_eq!(bench.shown(), "a 1");
    bench.write("models/b/model.toml", ECHO);
    bench.look();
    assert_eq!(bench.shown(), "a 1");
    bench.look();
    assert_eq!(bench.shown(), "a 1, b 1");

    // The same for a model that is served, and others do not wait for it.
    bench.write("models/a/weights.bin", "0");
    bench.look();
    let before = bench.lane("a");
    bench.write("models/a/weights.bin", "00");
    bench.write("models/c/model.toml", ECHO);
    bench.look();
    bench.write("models/a/weights.bin", "000");
    bench.look();
    assert_eq!(bench.shown(), "a 1, b 1, c 1");
    assert!(Arc::ptr_eq(&before, &bench.lane("a")));
    drop(before);
    bench.look();
    bench.look();
    let text = bench.metrics.encode();
    let once = r#"jitney_model_reloads_total{model="a",version="1",outcome="ok"} 1"#;
    assert!(text.contains(once), "{text}");
    let never = r#"jitney_model_reloads_total{model="b",version="1",outcome="ok"} 0"#;
    assert!(text.contains(never), "{text}");
}

#[test]
fn a_new_version_takes_over_when_it_is_ready() {
    let mut bench = Bench::new(&[("models/a/model.toml", ECHO), ("models/a/1/model.onnx", "")]);
    assert_eq!(bench.shown(), "a 1");
    bench.write("models/a/2/model.onnx", "");
    assert_eq!(bench.served(), "a 2");
    let text = bench.metrics.encode();
    assert!(!text.contains(r#"model="a",version="1""#), "{text}");

    // Version 10 is above 9, and going back is removing.
    bench.write("models/a/9/model.onnx", "");
    bench.write("models/a/10/model.onnx", "");
    assert_eq!(bench.served(), "a 10");
    bench.remove("models/a/10");
    assert_eq!(bench.served(), "a 9");
}

#[test]
fn a_version_that_cannot_be_loaded_takes_nothing_over() {
    let mut bench = Bench::new(&[("models/a/1/model.py", "")]);
    assert_eq!(bench.shown(), "a 1!", "an empty file has no class");
    bench.write("models/a/model.toml", ECHO);
    assert_eq!(bench.served(), "a 1");
    bench.rename("models/a/1", "models/a/2");
    assert_eq!(bench.served(), "a 2");

    bench.write("models/b/model.toml", "file = \"net.py\"");
    bench.write("models/b/1/net.py", "");
    assert_eq!(bench.served(), "a 2, b 1!");
    bench.write("models/a/3/model.onnx", "");
    bench.write("models/a/model.toml", "[echo]\nfail_load = true");
    // Version 2 cannot be loaded again by what its model.toml says, but goes on.
    assert_eq!(bench.served(), "a 2, a 3!, b 1!");
    assert_eq!(bench.lane("a").version(), "2");
    bench.write("models/a/model.toml", ECHO);
    assert_eq!(bench.served(), "a 3, b 1!");
}

#[test]
fn policies_follow_the_disk() {
    let all = format!("versions = \"all\"\nversion_labels = {{ stable = 1 }}\n{ECHO}");
    let mut bench = Bench::new(&[
        ("models/a/model.toml", &all),
        ("models/a/1/model.onnx", ""),
        ("models/a/2/model.onnx", ""),
        ("models/a/3/model.onnx", ""),
    ]);
    assert_eq!(bench.shown(), "a 1, a 2, a 3");
    let labelled = |bench: &Bench, label: &str| {
        let lane = bench.roster.load().lane("a", Some(label));
        lane.map(|lane| lane.version().to_owned())
            .map_err(|failure| failure.message)
    };
    assert_eq!(labelled(&bench, "stable").as_deref(), Ok("1"));
    let table = [
        ("versions = { latest = 2 }", "a 2, a 3"),
        ("versions = [1]", "a 1"),
        ("versions = [1, 3]", "a 1, a 3"),
        // The others stay for as long as one is missing.
        ("versions = [2, 9]", "a 1, a 2, a 3, a 9!"),
        ("version_labels = { stable = 2 }", "a 2, a 3"),
    ];
    for (policy, expected) in table {
        bench.write("models/a/model.toml", &format!("{policy}\n{ECHO}"));
        assert_eq!(bench.served(), expected, "{policy}");
    }
    assert_eq!(labelled(&bench, "stable").as_deref(), Ok("2"));
    let unknown = labelled(&bench, "canary").unwrap_err();
    assert_eq!(
        unknown,
        "model \"a\" has no version \"canary\"; it has 2, 3, stable"
    );
}

#[test]
fn models_come_and_go() {
    let mut bench = Bench::new(&[("models/a/model.toml", ECHO), ("models/b/model.toml", ECHO)]);
    bench.rename("models/a", "models/c");
    bench.look();
    // What is not there once may be on its way.
    assert_eq!(bench.shown(), "a 1, b 1");
    assert_eq!(bench.served(), "b 1, c 1");
    bench.rename("models/c", "models/.c");
    assert_eq!(bench.served(), "b 1");
    bench.remove("models/b");
    assert_eq!(bench.served(), "");
    assert!(!bench.metrics.encode().contains("model=\"b\""));
    bench.rename("models/.c", "models/a");
    assert_eq!(bench.served(), "a 1");
}

#[test]
fn a_folder_without_its_model_may_be_about_to_get_one() {
    let mut bench = Bench::new(&[("models/a/1/model.py", ""), ("models/a/model.toml", ECHO)]);
    let before = Arc::downgrade(&bench.lane("a"));
    bench.rename("models/a/model.toml", "models/.toml");
    bench.rename("models/a/1/model.py", "models/.py");
    assert_eq!(bench.served(), "a 1~");
    let why = bench.roster.load().entries[0].status(false).reload_failure;
    assert!(why.unwrap().starts_with("there is no model any more in"));
    bench.rename("models/.py", "models/a/1/model.py");
    bench.rename("models/.toml", "models/a/model.toml");
    assert_eq!(bench.served(), "a 1");
    assert_eq!(before.strong_count(), 0, "it was not loaded again");
}

#[test]
fn a_repository_out_of_reach_changes_nothing() {
    let mut bench = Bench::new(&[("models/a/model.toml", ECHO), ("models/b/model.toml", ECHO)]);
    let before = bench.lane("a");
    bench.rename("models", "elsewhere");
    assert_eq!(bench.served(), "a 1, b 1");
    bench.rename("elsewhere", "models");
    assert_eq!(bench.served(), "a 1, b 1");
    assert!(Arc::ptr_eq(&before, &bench.lane("a")));
    drop(before);
    fs::remove_dir_all(bench.at("models")).unwrap();
    fs::create_dir(bench.at("models")).unwrap();
    assert_eq!(bench.served(), "");
}

#[test]
fn links_that_are_changed_are_followed() {
    let mut bench = Bench::new(&[]);
    for release in ["1", "2"] {
        let text = format!("description = \"{release}\"\n{ECHO}");
        bench.write(&format!("models/.releases/{release}/model.toml"), &text);
    }
    let link = |bench: &Bench, release: &str| {
        let target = bench.at("models/.releases").join(release);
        symlink(target, bench.at("models/.new")).unwrap();
        bench.rename("models/.new", "models/a");
    };
    let description = |bench: &Bench| bench.roster.load().entries[0].status(false).description;
    link(&bench, "1");
    assert_eq!(bench.served(), "a 1");
    assert_eq!(description(&bench).as_deref(), Some("1"));
    link(&bench, "2");
    assert_eq!(bench.served(), "a 1");
    assert_eq!(description(&bench).as_deref(), Some("2"));
}

#[test]
fn what_cannot_be_meant_hides_nothing() {
    let mut bench = Bench::new(&[("models/a/model.toml", ECHO)]);
    bench.write("models/my model/model.toml", ECHO);
    bench.write("models/b/model.toml", &format!("name = \"a\"\n{ECHO}"));
    bench.write("models/c/model.toml", ECHO);
    assert_eq!(bench.served(), "a 1, c 1");
}

#[test]
fn nobody_is_let_go_while_a_request_holds_it() {
    let mut bench = Bench::new(&[("models/a/model.toml", ECHO), ("models/a/1/model.onnx", "")]);
    let held = bench.lane("a");
    bench.write("models/a/2/model.onnx", "");
    let stock = &mut bench.stock;
    bench.poll.look_now(stock);
    bench.poll.look_now(stock);
    while bench.roster.load().leaving.is_empty() {
        bench.stock.step(Instant::now());
    }
    bench.stock.step(Instant::now());
    assert_eq!(bench.lane("a").version(), "2");
    let leaving = bench.roster.load().leaving.clone();
    assert_eq!(leaving[0].row().state.word(), "UNLOADING");
    assert!(held.stats().dead.is_none() && bench.stock.is_held());
    drop(held);
    bench.settle();
    assert_eq!(bench.shown(), "a 2");
    assert_eq!(leaving[0].row().state.word(), "UNAVAILABLE");
}

#[test]
fn the_sources_are_looked_at_once_for_all_who_ask() {
    let bench = Bench::new(&[("models/a/model.toml", ECHO)]);
    let (asker, inquiries) = inquiries();
    let [mut first, left, mut second] = [(); 3].map(|()| asker.ask().unwrap());
    drop(left);
    // Whoever asks reads nothing: what is written later is in the answer.
    bench.write("models/b/model.toml", ECHO);
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    inquiries.answer(&bench.stock);
    let holdings = [first, second].map(|mut answer| answer.try_recv().unwrap());
    let names: Vec<_> = holdings[0].iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(Arc::ptr_eq(&holdings[0], &holdings[1]));

    while asker.ask().is_ok() {}
    let full = asker.ask().map_err(|error| refused(&error, "too many"));
    assert_eq!(full.unwrap_err().code, Code::Overloaded);
    inquiries.answer(&bench.stock);
    assert!(asker.ask().is_ok());
    drop(inquiries);
    let ended = asker.ask().map_err(|error| refused(&error, "too many"));
    assert_eq!(ended.unwrap_err().code, Code::Draining);
}
