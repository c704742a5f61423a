//! What happens to everybody else when a model crashes, raises or hangs, or when somebody kills its workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::ask::{Answer, Client};
use crate::peers::{Python, System, Work};
use crate::report::{Report, median};
use crate::server::{Server, pin_to_load_core};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Parts of the plan: idle, kill, raise, hang, storm. All when none is named.
    parts: Vec<String>,
    /// Repetitions of all parts but the storm; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Seconds that the storm lasts.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// The systems to compare, such as `jitney,mosec`. All when none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// The Python whose environment the servers get.
    #[arg(long, default_value = "python3")]
    python: String,
}

/// What an item of the model `fault` asks for.
#[derive(Clone, Copy)]
enum Ask {
    Answer = 0,
    Kill = 1,
    Raise = 2,
    Hang = 3,
    BeSlow = 4,
}

const ONE_WORKER: Work = fault(1);
const TWO_WORKERS: Work = fault(2);
const PATIENCE: Duration = Duration::from_secs(10);
const TOGETHER: usize = 8;
const GUILTY: usize = 3;
const CLIENTS: usize = 8;
/// Beyond that an answer does not count as one of a steady server.
const STEADY: Duration = Duration::from_millis(500);

pub(crate) fn run(options: &Options) -> Outcome<()> {
    pin_to_load_core()?;
    let names = ["idle", "kill", "raise", "hang", "storm"];
    if let Some(unknown) = (options.parts.iter()).find(|wanted| !names.contains(&wanted.as_str())) {
        return Err(format!("there is no part {unknown:?}").into());
    }
    let mut plan = Plan {
        options,
        python: Python::prepare(&options.python)?,
        report: Report::default(),
    };
    plan.python.note(&mut plan.report)?;
    for name in names {
        if options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == name) {
            plan.part(name)?;
        }
    }
    plan.report.keep()
}

/// The run limit is the one of the targets; the others have none that ends a run.
const fn fault(workers: usize) -> Work {
    let mut work = Work::new("fault", "Fault", 2);
    work.workers = Some(workers);
    work.flags = &["--run-limit-ms", "2000", "--deadline-ms", "10000"];
    work
}

struct Plan<'a> {
    options: &'a Options,
    python: Python,
    report: Report,
}

impl Plan<'_> {
    fn part(&mut self, name: &str) -> Outcome<()> {
        for &system in System::chosen(&self.options.systems) {
            match name {
                "idle" => self.idle(system)?,
                "kill" => self.one_of_eight(system, "kills its worker", Ask::Kill, 500)?,
                "raise" => self.one_of_eight(system, "raises", Ask::Raise, 500)?,
                "hang" => self.one_of_eight(system, "hangs", Ask::Hang, 504)?,
                _ => self.storm(system)?,
            }
        }
        Ok(())
    }

    /// Kills an idle worker, and asks at once.
    fn idle(&mut self, system: System) -> Outcome<()> {
        let mut answers = Vec::new();
        for _ in 0..self.options.repeat {
            let server = self.python.serve(system, &ONE_WORKER)?;
            let mut client = Client::new(server.address, PATIENCE);
            client.ask(&request(system, Ask::Answer, 1));
            for worker in system.workers(&server) {
                worker.signal("KILL");
            }
            answers.push(client.ask(&request(system, Ask::Answer, 2)));
        }
        let statuses: Vec<f64> = answers.iter().map(|a| f64::from(a.status)).collect();
        let seconds: Vec<f64> = answers.iter().map(|a| a.took.as_secs_f64()).collect();
        let name = |what: &str| format!("idle worker killed: {}, {what}", system.name());
        self.exactly(system, &name("status of the next"), 200.0, &statuses);
        let took = median(seconds.clone());
        self.report.mark(&name("seconds"), took, json!(seconds));
        Ok(())
    }

    /// Eight requests in one batch, one of which is guilty.
    fn one_of_eight(
        &mut self,
        system: System,
        does: &str,
        guilt: Ask,
        expected: u16,
    ) -> Outcome<()> {
        let [mut good, mut guilty, mut slowest] = [const { Vec::new() }; 3];
        for _ in 0..self.options.repeat {
            let server = self.python.serve(system, &ONE_WORKER)?;
            let answers = eight_at_once(system, &server, guilt);
            let right = answers.iter().enumerate().filter(|(index, answer)| {
                *index != GUILTY
                    && answer.status == 200
                    && number(&answer.body) == Some(*index as f64)
            });
            good.push(right.count() as f64);
            guilty.push(f64::from(
                answers.get(GUILTY).map_or(0, |answer| answer.status),
            ));
            let took = answers.iter().map(|answer| answer.took).max();
            slowest.push(took.unwrap_or_default().as_secs_f64());
        }
        let name = |what: &str| format!("1 of 8 {does}: {}, {what}", system.name());
        self.exactly(
            system,
            &name("neighbours answered"),
            (TOGETHER - 1) as f64,
            &good,
        );
        self.exactly(
            system,
            &name("status of the guilty"),
            f64::from(expected),
            &guilty,
        );
        let name = name("slowest answer, s");
        let value = median(slowest.clone());
        match system {
            System::Jitney => self.report.at_most(&name, value, 5.0, json!(slowest)),
            _ => self.report.mark(&name, value, json!(slowest)),
        }
        Ok(())
    }

    /// Kills random workers while clients keep asking, and keeps a ledger of all that they got.
    fn storm(&mut self, system: System) -> Outcome<()> {
        let shared_before = shared_memory();
        let server = self.python.serve(system, &TWO_WORKERS)?;
        let over = AtomicBool::new(false);
        let (ledger, kills, last_kill) = scope(|threads| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    threads.spawn({
                        let (server, over) = (&server, &over);
                        move || keep_asking(system, server, client, over)
                    })
                })
                .collect();
            let (kills, last_kill) = kill_workers(system, &server, self.options.seconds);
            sleep(Duration::from_secs(3));
            over.store(true, Ordering::Relaxed);
            let ledger: Vec<Entry> = clients
                .into_iter()
                .flat_map(|client| client.join().unwrap_or_default())
                .collect();
            (ledger, kills, last_kill)
        });
        let zombies = server
            .tree()
            .iter()
            .filter(|process| process.zombie)
            .count();
        let left = server.stop();
        let shared = shared_memory().saturating_sub(shared_before);
        let left = json!({"zombies": zombies, "processes": left, "shared_files": shared});
        self.settle(system, &ledger, kills, last_kill, left);
        Ok(())
    }

    fn settle(
        &mut self,
        system: System,
        ledger: &[Entry],
        kills: usize,
        last_kill: Instant,
        left: Value,
    ) {
        let name = |what: &str| format!("kill storm: {}, {what}", system.name());
        let good = ledger.iter().filter(|entry| entry.status == 200).count();
        let share = good as f64 / ledger.len().max(1) as f64;
        let latest = ledger
            .iter()
            .map(|entry| entry.took)
            .max()
            .unwrap_or_default();
        let foreign = ledger.iter().filter(|entry| entry.foreign).count() as f64;
        let unsteady = ledger
            .iter()
            .filter(|entry| entry.status != 200 || entry.took > STEADY);
        let steady = unsteady
            .map(|entry| entry.answered.saturating_duration_since(last_kill))
            .max()
            .unwrap_or_default();
        let raw = json!({"kills": kills, "answers": ledger.len(), "by_status": by_status(ledger)});
        let count = left.as_object().map_or(0, |kinds| {
            kinds.values().filter_map(Value::as_u64).sum::<u64>()
        });
        let rows: [(&str, f64, f64, Value); 5] = [
            ("share of 200", share, 0.95, raw),
            ("latest answer, s", latest.as_secs_f64(), 5.0, Value::Null),
            ("answers of others", foreign, 0.0, Value::Null),
            ("steady after, s", steady.as_secs_f64(), 1.0, Value::Null),
            ("processes and shared files left", count as f64, 0.0, left),
        ];
        for (index, (what, value, target, raw)) in rows.into_iter().enumerate() {
            match (system, index) {
                (System::Jitney, 0) => self.report.at_least(&name(what), value, target, raw),
                (System::Jitney, _) => self.report.at_most(&name(what), value, target, raw),
                _ => self.report.mark(&name(what), value, raw),
            }
        }
    }

    /// A target that every repetition must meet; the others' result is only told.
    fn exactly(&mut self, system: System, name: &str, expected: f64, got: &[f64]) {
        let met = got.iter().all(|value| *value == expected);
        let value = median(got.to_vec());
        match system {
            System::Jitney => {
                let target = format!("{expected} every time");
                self.report.row(name, value, &target, met, json!(got));
            }
            _ => self.report.mark(name, value, json!(got)),
        }
    }
}

fn request(system: System, ask: Ask, number: u64) -> Vec<u8> {
    system.request(&format!("{},{number}", ask as u8))
}

/// While the model is busy with a slow item, eight others queue up and then make one batch.
fn eight_at_once(system: System, server: &Server, guilt: Ask) -> Vec<Answer> {
    let ask =
        move |ask, number| Client::new(server.address, PATIENCE).ask(&request(system, ask, number));
    scope(|threads| {
        threads.spawn(move || ask(Ask::BeSlow, 0));
        sleep(Duration::from_millis(100));
        let asked: Vec<_> = (0..TOGETHER)
            .map(|index| {
                let what = if index == GUILTY { guilt } else { Ask::Answer };
                threads.spawn(move || ask(what, index as u64))
            })
            .collect();
        asked
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    })
}

/// One line of the ledger.
struct Entry {
    status: u16,
    took: Duration,
    answered: Instant,
    /// A 200 with another number than the request's.
    foreign: bool,
}

fn keep_asking(system: System, server: &Server, client: usize, over: &AtomicBool) -> Vec<Entry> {
    let mut connection = Client::new(server.address, PATIENCE);
    let mut ledger = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let own = (client * 1_000_000 + ledger.len()) as u64;
        let answer = connection.ask(&request(system, Ask::Answer, own));
        if answer.status == 0 {
            // A server that is gone refuses at once: nothing is learnt from asking it in a tight loop.
            sleep(Duration::from_millis(50));
        }
        ledger.push(Entry {
            status: answer.status,
            took: answer.took,
            answered: Instant::now(),
            foreign: answer.status == 200 && number(&answer.body) != Some(own as f64),
        });
    }
    ledger
}

/// Kills a random worker each 0.3 to 1 s: how many were killed, and when the last was.
fn kill_workers(system: System, server: &Server, seconds: f64) -> (usize, Instant) {
    let begun = Instant::now();
    let (mut kills, mut last, mut random) = (0, begun, 7u64);
    while begun.elapsed().as_secs_f64() < seconds {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        sleep(Duration::from_millis(300 + (random >> 33) % 700));
        let workers = system.workers(server);
        if let Some(worker) = workers.get((random >> 20) as usize % workers.len().max(1)) {
            worker.signal("KILL");
            (kills, last) = (kills + 1, Instant::now());
        }
    }
    (kills, last)
}

fn by_status(ledger: &[Entry]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in ledger {
        *counts.entry(entry.status.to_string()).or_default() += 1;
    }
    counts
}

/// The prediction of an answer of the model `fault`.
fn number(body: &str) -> Option<f64> {
    let answer: Value = serde_json::from_str(body).ok()?;
    answer.get("prediction")?.as_f64()
}

/// Entries in the file system of shared memory.
fn shared_memory() -> usize {
    std::fs::read_dir("/dev/shm").map_or(0, Iterator::count)
}
