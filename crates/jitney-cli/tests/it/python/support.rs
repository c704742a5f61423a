//! Models on the disk, and processes that come and go.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::server::Served;

/// Far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const UPPER: &str = "\
class Upper:
    def predict_batch(self, items):
        return [item.upper() if isinstance(item, str) else item for item in items]
";

/// A folder that is gone with the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn with(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a file as a good editor does: nobody ever sees half of it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join(name)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(name)).ok()
    }
}

impl Served {
    /// What `/status` says of a model.
    pub(crate) fn status_of(&self, model: &str) -> Value {
        let status = self.get("/status").json();
        let models = status["models"].as_array().unwrap().clone();
        let found = models.into_iter().find(|found| found["name"] == model);
        found.unwrap()
    }

    /// The process of a model's first worker.
    pub(crate) fn worker_of(&self, model: &str) -> u32 {
        let mut pid = None;
        wait_until("a worker", || {
            pid = self.status_of(model)["workers"][0]["pid"].as_u64();
            pid.is_some()
        });
        pid.unwrap().try_into().unwrap()
    }
}

/// Looks again and again until it is so: for what happens in other processes and has no event to wait for.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether there is such a process, not counting one that has ended and that nobody has asked about.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| {
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.starts_with('Z')
    })
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}
