//! The servers of Python models that are compared: jitney, mosec, and FastAPI with a hand-made batcher ("seed"). All serve the models of
//! `bench/peers/models.py`, take the same bodies, and batch up to 32 within 5 ms.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::process::{self, Process};
use crate::report::Report;
use crate::server::{Server, pinned, sibling};
use crate::{Outcome, payload};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum System {
    Jitney,
    Mosec,
    Seed,
}

impl System {
    /// All of them where none was chosen.
    pub(crate) fn chosen(wanted: &[System]) -> &[System] {
        const ALL: &[System] = &[System::Jitney, System::Mosec, System::Seed];
        if wanted.is_empty() { ALL } else { wanted }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Jitney => "jitney",
            System::Mosec => "mosec",
            System::Seed => "seed",
        }
    }

    /// The whole request for one item.
    pub(crate) fn request(self, features: &str) -> Vec<u8> {
        let path = match self {
            System::Jitney => "/predict/bench",
            System::Mosec | System::Seed => "/predict",
        };
        payload::post(path, &format!(r#"{{"features":[{features}]}}"#), "")
    }

    /// The processes that run the model.
    pub(crate) fn workers(self, server: &Server) -> Vec<Process> {
        let root = server.pid();
        let runs_model = |process: &Process| match self {
            System::Jitney => process.parent == root && process.has_variable("JITNEY_POOL"),
            System::Mosec => process.command_line().contains("spawn_main"),
            System::Seed => process.parent == root,
        };
        let tree = server.tree().into_iter();
        tree.filter(|process| !process.zombie && runs_model(process))
            .collect()
    }
}

/// A model as every system is asked to serve it.
pub(crate) struct Work {
    /// Its name in `models.py`.
    pub(crate) model: &'static str,
    /// Its class in `jitney_models.py`.
    pub(crate) class: &'static str,
    /// Numbers in an item.
    pub(crate) width: usize,
    /// Worker processes; `None` lets each system run the model where it does by itself.
    pub(crate) workers: Option<usize>,
    /// What jitney alone is told.
    pub(crate) flags: &'static [&'static str],
}

impl Work {
    pub(crate) const fn new(model: &'static str, class: &'static str, width: usize) -> Work {
        Work {
            model,
            class,
            width,
            workers: None,
            flags: &[],
        }
    }
}

/// A Python with what the servers need, the same for all of them.
pub(crate) struct Python {
    path: PathBuf,
}

const PEERS: &str = "bench/peers";

impl Python {
    /// Makes the environment, unless it is there.
    pub(crate) fn prepare(base: &str) -> Outcome<Python> {
        let requirements = fs::read_to_string(Path::new(PEERS).join("requirements.txt"))
            .map_err(|_| "run it from the root of the repository: bench/peers is not here")?;
        let venv = std::path::absolute("target/bench-venv")?;
        let python = Python {
            path: venv.join("bin/python"),
        };
        let stamp = venv.join("requirements.installed");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == requirements) {
            return Ok(python);
        }
        finish(Command::new(base).args(["-m", "venv"]).arg(&venv))?;
        let install = ["-m", "pip", "install", "--quiet", "--requirement"];
        finish(
            Command::new(&python.path)
                .args(install)
                .arg(format!("{PEERS}/requirements.txt")),
        )?;
        fs::write(stamp, requirements)?;
        Ok(python)
    }

    /// Where it is, as a flag says it.
    pub(crate) fn path(&self) -> Outcome<&str> {
        Ok(self.path.to_str().ok_or("the path is not text")?)
    }

    /// Says in the report what was compared.
    pub(crate) fn note(&self, report: &mut Report) -> Outcome<()> {
        let requirements = fs::read_to_string(Path::new(PEERS).join("requirements.txt"))?;
        let lines: Vec<&str> = requirements.lines().collect();
        let version = Command::new(&self.path).arg("-V").output()?;
        report.fact("requirements", json!(lines));
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        report.fact("python", Value::String(version));
        Ok(())
    }

    pub(crate) fn serve(&self, system: System, work: &Work) -> Outcome<Server> {
        if system == System::Jitney {
            return Server::announced(&mut self.jitney(work)?);
        }
        let address = free_address()?;
        let probe = system.request(&payload::numbers(work.width));
        let mut command = match system {
            System::Mosec => self.mosec(address),
            _ => self.seed(address),
        };
        command.env("BENCH_MODEL", work.model);
        if let Some(workers) = work.workers {
            command.env("BENCH_WORKERS", workers.to_string());
        }
        Server::silent(&mut command, address, &probe)
    }

    /// Runs a script on the server's core: the number that it prints.
    pub(crate) fn number(&self, arguments: &[&str]) -> Outcome<f64> {
        printed(self.pinned(&self.path).args(arguments))
    }

    /// The same on this process's core.
    pub(crate) fn number_here(&self, arguments: &[&str]) -> Outcome<f64> {
        printed(Command::new(&self.path).args(arguments))
    }

    /// Hands images to a model on the server's core: bytes per second.
    pub(crate) fn images(&self, seconds: &str) -> Outcome<f64> {
        let mut command = self.pinned(&std::env::current_exe()?);
        command.args(["images", "--seconds", seconds, "--python"]);
        printed(command.arg(&self.path))
    }

    /// Resident memory, in megabytes, of an interpreter that has run this and does nothing more.
    pub(crate) fn resident_after(&self, statement: &str) -> Outcome<f64> {
        let script = format!(
            "import sys; sys.path.insert(0, {PEERS:?}); {statement}; print(flush=True); input()"
        );
        let mut command = self.pinned(&self.path);
        command.args(["-c", &script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        BufReader::new(stdout).read_line(&mut String::new())?;
        let resident = process::resident(child.id());
        child.kill()?;
        child.wait()?;
        resident
    }

    fn jitney(&self, work: &Work) -> Outcome<Command> {
        let instances = work.workers.unwrap_or(1).to_string();
        let mut command = self.pinned(&sibling("jitney")?);
        command.arg("serve");
        command.arg(format!("bench={PEERS}/jitney_models.py:{}", work.class));
        command.args(["--http", "127.0.0.1:0", "--queue", "2048"]);
        command.args(["--max-batch", "32", "--max-wait-ms", "5"]);
        command.args(["--instances", &instances]);
        command.arg("--python").arg(&self.path).args(work.flags);
        Ok(command)
    }

    fn mosec(&self, address: SocketAddr) -> Command {
        let mut command = self.pinned(&self.path);
        command.arg(format!("{PEERS}/mosec_server.py"));
        command.args(["--address", "127.0.0.1", "--port"]);
        command.arg(address.port().to_string());
        command.args(["--timeout", "30000", "--log-level", "warning"]);
        command
    }

    fn seed(&self, address: SocketAddr) -> Command {
        let mut command = self.pinned(&self.path);
        command.args(["-m", "uvicorn", "seed_server:app", "--app-dir", PEERS]);
        command.args(["--host", "127.0.0.1", "--port"]);
        command.arg(address.port().to_string());
        command.args(["--workers", "1", "--loop", "uvloop", "--http", "httptools"]);
        command.args(["--no-access-log", "--log-level", "critical"]);
        command.args(["--backlog", "4096"]);
        command
    }

    /// With one thread for what libraries compute, since there is one core.
    fn pinned(&self, program: &Path) -> Command {
        let mut command = pinned(program);
        command.env("OMP_NUM_THREADS", "1");
        command.env("OPENBLAS_NUM_THREADS", "1");
        command.env_remove("PYTHONPATH");
        command
    }
}

/// The number that a command prints.
fn printed(command: &mut Command) -> Outcome<f64> {
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    let complaint = || String::from_utf8_lossy(&output.stderr).into_owned();
    text.trim().parse().map_err(|_| complaint().into())
}

pub(crate) fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn finish(command: &mut Command) -> Outcome<()> {
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}
