use std::sync::{Arc, Mutex};

use jitney_engine::{DataType, RunError, Tensor};

use super::*;
use crate::models::probe::{Probe, refuse};

type Case = (fn(&[usize]) -> Result<(), RunError>, &'static str);

const QUICK: Effort = Effort {
    runs: 2,
    budget: Duration::from_secs(60),
    compare_rows: false,
    trusting: false,
};

#[test]
fn sizes_double_up_to_the_largest() {
    let probe = |batch| Probe::accepting(DataType::Fp32, &[Dim::Any], batch, |_| Ok(())).spec;
    let table: [(BatchAxis, usize, &[usize]); 6] = [
        (BatchAxis::Free, 1, &[1]),
        (BatchAxis::Free, 2, &[1, 2]),
        (BatchAxis::Free, 32, &[1, 2, 4, 8, 16, 32]),
        (BatchAxis::Free, 5, &[1, 2, 4, 5]),
        (BatchAxis::Fixed(8), 32, &[8]),
        (BatchAxis::None, 32, &[1]),
    ];
    for (batch, max_batch, expected) in table {
        assert_eq!(
            sizes(&probe(batch), max_batch),
            expected,
            "{batch:?} {max_batch}"
        );
    }
}

#[test]
fn every_size_is_run_and_measured() {
    let shape = [Dim::Any, Dim::Fixed(2)];
    let probe = Probe::accepting(DataType::Bytes, &shape, BatchAxis::Free, |_| Ok(()));
    let warmth = warm_up(&probe, &[1, 2, 3], QUICK).unwrap();
    let measured: Vec<usize> = warmth.costs.iter().map(|(rows, _)| *rows).collect();
    assert_eq!(measured, [1, 2, 3]);
    let rows: Vec<usize> = probe.seen().iter().map(|shape| shape[0]).collect();
    assert_eq!(rows, [1, 1, 2, 3, 1, 2, 3]);
    assert_eq!((warmth.apart, warmth.skipped), (None, None));
}

#[test]
fn free_dimensions_are_guessed() {
    let shape = [Dim::Any, Dim::Fixed(3), Dim::Any, Dim::Any];
    let roomy = |shape: &[usize]| match shape[2] {
        64.. => Ok(()),
        _ => refuse("too small for the kernel"),
    };
    let probe = Probe::accepting(DataType::Fp32, &shape, BatchAxis::Free, roomy);
    let warmth = warm_up(&probe, &[1], Effort { runs: 1, ..QUICK }).unwrap();
    assert_eq!(warmth.costs.len(), 1);
    let last = probe.seen().pop().unwrap();
    assert_eq!(last, [1, 3, 64, 64]);
}

#[test]
fn what_cannot_be_guessed_is_not_held_against_the_model() {
    let shape = [Dim::Any, Dim::Any];
    let never = |_: &[usize]| refuse("seventeen, please");
    let probe = Probe::accepting(DataType::Fp32, &shape, BatchAxis::Free, never);
    let warmth = warm_up(&probe, &[1, 2], QUICK).unwrap();
    assert_eq!(warmth.skipped.as_deref(), Some("seventeen, please"));
    assert!(warmth.costs.is_empty());
}

#[test]
fn a_model_that_cannot_run_at_all_is_refused() {
    let table: [Case; 2] = [
        (|_| refuse("no kernel for Foo"), "no kernel for Foo"),
        (|_| panic!("no kernel"), "the engine panicked"),
    ];
    for (never, expected) in table {
        let probe = Probe::accepting(DataType::Fp32, &[Dim::Fixed(4)], BatchAxis::None, never);
        let error = warm_up(&probe, &[1], QUICK).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn rows_that_cannot_be_joined_are_found() {
    let shape = [Dim::Any, Dim::Fixed(2)];
    let one = |shape: &[usize]| match shape[0] {
        1 => Ok(()),
        _ => refuse("cannot reshape [2,2] to [1,2]"),
    };
    let probe = Probe::accepting(DataType::Fp32, &shape, BatchAxis::Free, one);
    let warmth = warm_up(&probe, &[1, 2, 4], QUICK).unwrap();
    assert_eq!(
        warmth.apart,
        Some(Apart::Fails("cannot reshape [2,2] to [1,2]".to_owned()))
    );
    assert_eq!(warmth.costs.len(), 1);
}

#[test]
fn inputs_of_any_size_are_not_made_up() {
    let shape = [Dim::Any, Dim::Fixed(usize::MAX), Dim::Fixed(2)];
    let probe = Probe::accepting(DataType::Fp32, &shape, BatchAxis::Free, |_| Ok(()));
    let error = warm_up(&probe, &[1], Effort { runs: 1, ..QUICK })
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("too large"), "{error}");
    assert!(probe.seen().is_empty());
}

#[test]
fn batches_too_large_to_make_up_say_nothing_about_joining_rows() {
    let shape = [Dim::Any, Dim::Fixed(1 << 25)];
    let probe = Probe::accepting(DataType::Bool, &shape, BatchAxis::Free, |_| Ok(()));
    let warmth = warm_up(
        &probe,
        &[1, 2, 4],
        Effort {
            runs: 1,
            budget: Duration::MAX,
            ..QUICK
        },
    )
    .unwrap();
    let measured: Vec<usize> = warmth.costs.iter().map(|(rows, _)| *rows).collect();
    assert_eq!((measured, warmth.apart), (vec![1, 2], None));
}

#[test]
fn a_trusted_model_is_measured_and_never_judged() {
    let effort = Effort {
        trusting: true,
        ..QUICK
    };
    let shape = [Dim::Any, Dim::Fixed(2)];
    // What it accepts, and the batch sizes that were measured.
    let table: [Trusted; 3] = [
        (|_| Ok(()), &[1, 2]),
        (|_| refuse("zeros make no sense"), &[]),
        (
            |shape| if shape[0] > 1 { refuse("no") } else { Ok(()) },
            &[1],
        ),
    ];
    for (accepts, expected) in table {
        let probe = Probe::accepting(DataType::Fp32, &shape, BatchAxis::Free, accepts);
        let warmth = warm_up(&probe, &[1, 2], effort).unwrap();
        let measured: Vec<usize> = warmth.costs.iter().map(|(rows, _)| *rows).collect();
        assert_eq!(measured, expected);
        assert_eq!(
            (warmth.apart, warmth.skipped, warmth.guess),
            (None, None, None)
        );
    }
}

type Trusted = (fn(&[usize]) -> Result<(), RunError>, &'static [usize]);

#[test]
fn a_slow_model_is_not_measured_for_ever() {
    let shape = [Dim::Any, Dim::Fixed(2)];
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let slow = {
        let longest = Arc::clone(&longest);
        move |inputs: &[Tensor]| {
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(10));
            let mut longest = longest.lock().unwrap();
            *longest = began.elapsed().max(*longest);
            Ok(inputs.to_vec())
        }
    };
    let patient = Effort {
        runs: 10_000,
        budget: Duration::from_millis(30),
        ..QUICK
    };
    let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, slow);
    let warmth = warm_up(&probe, &[1, 2, 4, 8, 16, 32], patient).unwrap();
    assert!(!warmth.costs.is_empty());
    // Time for some runs of the smallest batch, and for the run that was begun last, on a machine that may be busy.
    let most = *longest.lock().unwrap() * (SLOW_RUNS + 1) + Duration::from_secs(2);
    assert!(warmth.measuring < most, "{:?}", warmth.measuring);
}
