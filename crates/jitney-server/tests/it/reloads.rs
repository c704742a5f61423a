//! Models that take each other's places while requests keep coming.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use jitney_server::config::{
    Config, Control, Engine, ModelOptions, ModelSource, NetConfig, Settings,
};
use jitney_server::server::{Running, Server};

use crate::support::{Client, wait_until};

const CLIENTS: usize = 4;
const RELOADS: usize = 100;

fn digits(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/digits")
        .join(file)
}

fn serve(repository: &Path, control: Control) -> Running {
    let running = Server::start(Config {
        levels: None,
        net: NetConfig {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..NetConfig::default()
        },
        settings: Settings {
            given: ModelOptions {
                engine: Some(Engine::Onnx),
                threads: Some(1),
                instances: Some(1),
                ..ModelOptions::default()
            },
            control,
            measuring: Some(Duration::from_millis(1)),
            ..Settings::default()
        },
        models: vec![ModelSource::parse(&repository.display().to_string()).unwrap()],
    });
    running.unwrap()
}

/// Clients that ask until they are told to stop, and say how many answers they got.
struct Crowd {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
}

impl Crowd {
    fn gather(address: SocketAddr) -> Crowd {
        let item = fs::read_to_string(digits("samples/7.json")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|_| {
            let (item, stop) = (item.clone(), Arc::clone(&stop));
            let ask = move || {
                let mut client = Client::connect(address);
                let mut answers = 0;
                while !stop.load(Ordering::SeqCst) {
                    let answer = client.post("/predict/digits", &item);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answers += 1;
                }
                answers
            };
            Builder::new().spawn(ask).unwrap()
        });
        Crowd {
            clients: clients.collect(),
            stop,
        }
    }

    fn leave(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let answers = self
            .clients
            .into_iter()
            .map(|client| client.join().unwrap());
        answers.sum()
    }
}

/// A number of this process, in the unit of the system.
fn of_this_process(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let words = line.unwrap().trim_start_matches(':').split_whitespace();
    words.into_iter().next().unwrap().parse().unwrap()
}

/// Puts a version there as one does who is careful: it comes with all its files or not at all.
fn put_version(repository: &Path, version: usize) {
    let new = repository.join(".new");
    fs::create_dir(&new).unwrap();
    fs::copy(digits("model.onnx"), new.join("model.onnx")).unwrap();
    let place = repository.join("digits").join(version.to_string());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::rename(new, place).unwrap();
}

#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request_and_keep_no_memory() {
    let disk = tempfile::tempdir().unwrap();
    put_version(disk.path(), 1);
    let running = serve(disk.path(), Control::Explicit);
    running.wait_ready().await;
    let crowd = Crowd::gather(running.http_addr());
    let catalog = running.catalog();
    let mut early = (0, 0);
    for reload in 1..=RELOADS {
        // The same version anew, and every other time the next one.
        let version = 1 + reload / 2;
        if reload % 2 == 0 {
            put_version(disk.path(), version);
            let old = disk.path().join("digits").join((version - 1).to_string());
            fs::remove_dir_all(old).unwrap();
        }
        catalog.load("digits", None).await.unwrap();
        assert_eq!(catalog.versions("digits"), [version.to_string()]);
        if reload == RELOADS / 5 {
            early = (of_this_process("VmRSS"), of_this_process("Threads"));
        }
    }
    let answers = crowd.leave();
    assert!(answers > RELOADS, "{answers} answers");
    // The last one that was replaced may be on its way out.
    wait_until(
        || of_this_process("Threads") <= early.1,
        || format!("threads: {} {early:?}", of_this_process("Threads")),
    );
    let grown = of_this_process("VmRSS").saturating_sub(early.0);
    assert!(grown < 8 * 1024, "{grown} KiB more than {} KiB", early.0);
    let metrics = running.metrics().encode();
    assert!(
        !metrics.contains(r#"version="7""#),
        "old versions are still shown"
    );
    running.drain();
    assert!(running.wait().await.unwrap().is_clean());
}
