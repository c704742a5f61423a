use std::sync::atomic::{AtomicU32, Ordering};

use jitney_engine::{Dim, RunError};

use super::*;
use crate::models::probe::Probe;

const WIDTH: usize = 3;

type Rows = Vec<Vec<f32>>;
type Case = (&'static str, fn(Rows) -> Rows);

/// What is found of a model that answers the rows of a batch with what `answer` makes of them.
fn found(answer: impl Fn(Rows) -> Rows + Send + Sync + 'static) -> Comparison {
    let shape = [Dim::Any, Dim::Fixed(WIDTH)];
    let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Free, move |inputs| {
        let rows = inputs[0].rows();
        let values = inputs[0].to_vec::<f32>().unwrap();
        let answers = answer(values.chunks(WIDTH).map(<[f32]>::to_vec).collect());
        Ok(vec![
            Tensor::from_f32([rows, WIDTH], answers.concat()).unwrap(),
        ])
    });
    compare(&mut Stage::new(&probe).unwrap(), 1).unwrap()
}

fn mapped(rows: &[Vec<f32>], of: impl Fn(f32) -> f32) -> Rows {
    let row = |row: &Vec<f32>| row.iter().copied().map(&of).collect();
    rows.iter().map(row).collect()
}

/// One row more in a batch changes the order of additions, which some models magnify.
fn blocked(rows: &[Vec<f32>]) -> Rows {
    let noise = 1.0 + 1e-2 * rows.len() as f32;
    mapped(rows, |value| value * noise)
}

#[test]
fn rows_that_leave_each_other_alone_are_left_together() {
    let table: [Case; 5] = [
        ("identity", |rows| rows),
        ("a sum over the row", |rows| {
            let sum = |row: Vec<f32>| vec![row.iter().sum(); WIDTH];
            rows.into_iter().map(sum).collect()
        }),
        ("rounding that depends on the batch's size", |rows| {
            blocked(&rows)
        }),
        ("always the same", |rows| mapped(&rows, |_| 0.0)),
        ("no number", |rows| {
            mapped(&rows, |value| (value - 0.5).ln())
        }),
    ];
    for (name, answer) in table {
        let found = found(answer);
        assert_eq!(found.apart, None, "{name}");
        let rows: Vec<usize> = found.costs.iter().map(|(rows, _)| *rows).collect();
        assert_eq!(rows, [1, 2], "{name}");
    }
}

#[test]
fn rows_that_change_each_others_answers_are_found() {
    let table: [Case; 8] = [
        ("quantized by the range of the batch", |rows| {
            let step = rows.concat().into_iter().fold(0.0, f32::max) / 255.0;
            mapped(&rows, |value| (value / step).round() * step)
        }),
        ("less the mean of the batch", |rows| {
            let all = rows.concat();
            let mean = all.iter().sum::<f32>() / all.len() as f32;
            mapped(&rows, |value| value - mean)
        }),
        ("in reverse order", |rows| rows.into_iter().rev().collect()),
        ("one row further", |mut rows| {
            rows.rotate_right(1);
            rows
        }),
        ("the first row for all", |rows| {
            vec![rows[0].clone(); rows.len()]
        }),
        ("added up row after row", |rows| {
            let add = |sums: &mut Vec<f32>, row: Vec<f32>| {
                let pairs = sums.iter_mut().zip(row);
                pairs.for_each(|(sum, value)| *sum += value);
                Some(sums.clone())
            };
            rows.into_iter().scan(vec![0.0; WIDTH], add).collect()
        }),
        ("shared among the rows", |rows| {
            let share = 1.0 / rows.len() as f32;
            mapped(&rows, |value| value * share)
        }),
        ("no number beside another", |rows| match rows.len() {
            1 => rows,
            _ => mapped(&rows, |_| f32::NAN),
        }),
    ];
    for (name, answer) in table {
        let found = found(answer);
        let Some(Apart::Mixed(detail)) = found.apart else {
            panic!("{name}: {:?}", found.apart);
        };
        assert!(
            detail.starts_with("output \"out\" changed"),
            "{name}: {detail}"
        );
    }
}

#[test]
fn random_numbers_show_nothing() {
    let drawn = AtomicU32::new(0);
    let found = found(move |rows| {
        let draw = drawn.fetch_add(1, Ordering::Relaxed) as f32;
        mapped(&rows, |value| value + draw)
    });
    assert_eq!(found.apart, None);
}

#[test]
fn rows_that_fail_together_are_found() {
    let found = found(|rows| {
        assert_eq!(rows.len(), 1, "one row at a time");
        rows
    });
    assert_eq!(
        found.apart,
        Some(Apart::Fails("the engine panicked".to_owned()))
    );
}

/// Integers are tried as 0 and 1, and where not even those are taken as 0 alone; then there is nothing to be seen, and no failure.
#[test]
fn values_that_a_model_refuses_are_not_held_against_it() {
    let below = |limit: i64| {
        let shape = [Dim::Any, Dim::Fixed(4)];
        let probe = Probe::new(DataType::Int64, &shape, BatchAxis::Free, move |inputs| {
            let mut ids: Vec<i64> = inputs[0].to_vec().unwrap();
            ids.reverse();
            if ids.iter().any(|id| *id >= limit) {
                return Err(RunError::InvalidInput("out of the table".to_owned()));
            }
            Ok(vec![Tensor::from_vec([inputs[0].rows(), 4], ids).unwrap()])
        });
        compare(&mut Stage::new(&probe).unwrap(), 1).unwrap()
    };
    assert!(matches!(below(2).apart, Some(Apart::Mixed(_))));
    let zeros_only = below(1);
    assert_eq!((zeros_only.apart, zeros_only.costs.len()), (None, 2));
    let nothing = below(0);
    assert_eq!((nothing.apart, nothing.costs.len()), (None, 0));
}

#[test]
fn a_fixed_size_is_run_full() {
    let shape = [Dim::Any, Dim::Fixed(2)];
    let probe = Probe::new(DataType::Fp32, &shape, BatchAxis::Fixed(4), |inputs| {
        assert_eq!(inputs[0].rows(), 4);
        let values: Vec<f32> = inputs[0].to_vec().unwrap();
        let most = values.iter().copied().fold(0.0, f32::max);
        let shares = values.iter().map(|value| value / most).collect();
        Ok(vec![Tensor::from_f32([4, 2], shares).unwrap()])
    });
    let found = compare(&mut Stage::new(&probe).unwrap(), 1).unwrap();
    assert!(matches!(found.apart, Some(Apart::Mixed(_))));
    assert_eq!(found.costs.len(), 1);
    assert_eq!(found.costs[0].0, 4);
}
