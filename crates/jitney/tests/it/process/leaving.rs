//! Nothing is left behind, however it ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use jitney::process::{CallError, Pool, Settings};

use super::support::*;

#[test]
fn closing_ends_everything_and_what_runs_may_finish() {
    let mark = unique("mark");
    let (pool, _) = start(guarded(&[("CHILD_MARK", &mark)]), workers(2, 2));
    all_ready(&pool);
    thread::scope(|scope| {
        let asleep = scope.spawn(|| call(&pool, "sleep 0.5"));
        busy(&pool, 1);
        pool.close();
        assert_eq!(call(&pool, "echo").unwrap_err(), CallError::Closed);
        asleep.join().unwrap().unwrap();
        pool.wait_closed();
    });
    assert_eq!(bearers(&mark), [0; 0]);
}

#[test]
fn those_who_do_not_leave_are_killed_at_the_limit() {
    let settings = Settings {
        close_limit: Duration::from_millis(300),
        ..workers(2, 1)
    };
    for stays in ["idle", "hangs"] {
        let mark = unique("mark");
        let (pool, _) = start(
            child(&[("CHILD_MARK", &mark), ("CHILD_STAYS", "1")]),
            settings.clone(),
        );
        all_ready(&pool);
        thread::scope(|scope| {
            let hung = (stays == "hangs").then(|| scope.spawn(|| call(&pool, "stop")));
            busy(&pool, usize::from(hung.is_some()));
            let begin = Instant::now();
            pool.close();
            pool.wait_closed();
            let took = begin.elapsed();
            assert!(
                took >= Duration::from_millis(300) && took < Duration::from_secs(5),
                "{took:?}"
            );
            if let Some(hung) = hung {
                assert_eq!(hung.join().unwrap().unwrap_err(), CallError::Closed);
            }
        });
        assert_eq!(bearers(&mark), [0; 0]);
    }
}

#[test]
fn descendants_die_with_their_worker() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    for command in ["fork", "fork leaves", "fork leaves holds"] {
        let grandchild = number(&pool, command);
        let bystander = is_alive(grandchild);
        kill(pid(&pool, 0));
        assert!(bystander && dies(grandchild), "{command}");
        echoes(&pool);
    }
    let grandchild = number(&pool, "fork leaves");
    drop(pool);
    assert!(dies(grandchild));
}

#[test]
fn a_pool_leaves_no_zombie_no_descriptor_and_no_memory() {
    Helper::run("leaks", |lines| {
        let lines: Vec<String> = lines.collect();
        assert!(lines.iter().any(|line| line == "clean"), "{lines:#?}");
    });
}

/// The server is killed with SIGKILL; the guard does the rest, also for descendants that left their group.
#[test]
fn nothing_outlives_a_server_that_was_killed() {
    Helper::run("server", |mut lines| {
        let mut said = |what: &str| {
            let line = lines.find(|line| line.starts_with(what)).unwrap();
            line[what.len()..].to_owned()
        };
        let mark = said("mark ");
        let server: i32 = said("pid ").parse().unwrap();
        // One that is in the middle of an exec bears no mark for a moment.
        assert!(
            eventually(|| bearers(&mark).len() >= 6),
            "{:?}",
            bearers(&mark)
        );
        kill(server);
        assert!(
            eventually(|| bearers(&mark).is_empty()),
            "{:?}",
            bearers(&mark)
        );
    });
    assert_eq!(shared_memory(), [""; 0]);
}

#[test]
fn a_guard_that_dies_is_replaced_and_told_again() {
    let mark = unique("mark");
    let (pool, log) = start(guarded(&[("CHILD_MARK", &mark)]), workers(1, 1));
    let worker = pid(&pool, 0);
    let find = || bearers(&mark).into_iter().find(|&pid| pid != worker);
    let guard = find().unwrap();
    kill(guard);
    log.wait_for("guard died");
    assert!(eventually(|| find().is_some_and(|other| other != guard)));
    drop(pool);
    assert_eq!(bearers(&mark), [0; 0]);
}

/// The lines that such a process prints.
type Said = Box<dyn Iterator<Item = String>>;

/// Tests that need a process of their own run this very program again.
struct Helper;

impl Helper {
    const VARIABLE: &str = "JITNEY_TEST_HELPER";

    fn run(what: &str, check: impl FnOnce(Said)) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "process::leaving::helper", "--nocapture"])
            .env(Self::VARIABLE, what);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // The harness writes the name of the test before its first line.
        let lines = lines
            .map_while(Result::ok)
            .map(|line| line.rsplit("... ").next().unwrap().to_owned());
        let checked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(Box::new(lines))));
        let _ = process.kill();
        process.wait().unwrap();
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// What the other process does. By itself it is no test.
#[test]
fn helper() {
    match std::env::var(Helper::VARIABLE).as_deref() {
        Ok("leaks") => leaks(),
        Ok("server") => server(),
        _ => {}
    }
}

fn server() {
    let mark = unique("mark");
    let (pool, _) = start(guarded(&[("CHILD_MARK", &mark)]), workers(2, 1));
    all_ready(&pool);
    number(&pool, "fork");
    number(&pool, "fork leaves");
    number(&pool, "fork leaves holds");
    say(&format!("mark {mark}\npid {}", std::process::id()));
    thread::sleep(PATIENCE);
}

/// To the test that started this process.
fn say(text: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}").unwrap();
    stdout.flush().unwrap();
}

fn leaks() {
    let round = || {
        let (pool, _): (Pool, _) = start(guarded(&[]), workers(2, 2));
        all_ready(&pool);
        for command in [
            "crash",
            "hostile descriptors",
            "fork leaves",
            "zeros 1000000",
        ] {
            let _ = call(&pool, command);
        }
        call_with(&pool, "echo", &vec![1; 1 << 20]).unwrap();
        kill(pid(&pool, 0));
        echoes(&pool);
    };
    round();
    let before = (descriptors(), threads());
    round();
    round();
    assert_eq!((descriptors(), threads()), before);
    assert_eq!(shared_memory(), [""; 0]);
    assert_eq!(children_of(std::process::id()), [0; 0]);
    say("\nclean");
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// What of ours has a name in shared memory. Others use it too.
fn shared_memory() -> Vec<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("jitney")).collect()
}
