//! What a model prints can neither stall nor corrupt anything.

use super::support::*;

#[test]
fn lines_are_tagged_and_control_characters_replaced() {
    let (pool, log) = start(child(&[]), workers(1, 1));
    call(&pool, "print one~two~\u{1b}[31m 1").unwrap();
    let pid = pid(&pool, 0);
    drop(pool);
    let lines = log.lines();
    for expected in ["stdout: one", "stdout: two", "stdout: \u{fffd}[31m"] {
        let line = format!("worker 0 ({pid}) {expected}");
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
}

#[test]
fn a_flood_without_a_newline_stalls_nothing() {
    let (pool, log) = start(child(&[]), workers(1, 1));
    let text = "x".repeat(1 << 16);
    call(&pool, &format!("print {text} 1600")).unwrap();
    echoes(&pool);
    drop(pool);
    let longest = log.lines().iter().map(String::len).max().unwrap();
    assert!(longest < 9000, "{longest}");
    assert_eq!(log.count("xxx"), 1);
}

#[test]
fn a_flood_of_lines_is_counted() {
    let (pool, log) = start(child(&[]), workers(1, 1));
    let text = "line~".repeat(5000);
    call(&pool, &format!("print {text} 40")).unwrap();
    drop(pool);
    let passed = log.count("stdout: line");
    let dropped: usize = log
        .lines()
        .iter()
        .filter_map(|line| {
            line.rsplit(": ")
                .next()?
                .strip_suffix(" lines dropped")?
                .parse::<usize>()
                .ok()
        })
        .sum();
    assert_eq!(passed + dropped, 200_000);
    assert!(passed >= 1000 && dropped >= 100_000, "{passed} {dropped}");
}

#[test]
fn a_logger_that_panics_takes_nothing_with_it() {
    let pool =
        jitney::process::Pool::start(child(&[]), workers(1, 1), |_| panic!("full disk")).unwrap();
    call(&pool, "print text~ 3").unwrap();
    echoes(&pool);
}
