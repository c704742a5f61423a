use jitney_engine::{DataType, Dim, Items};

use super::*;
use crate::models::probe::Probe;
use crate::observe::metrics::Metrics;

const S: Duration = Duration::from_secs(1);

#[test]
fn who_shares_a_batch() {
    let spec = |batch, rows_independent| Spec {
        inputs: Vec::new(),
        outputs: Vec::new(),
        batch,
        rows_independent,
        items: Items::Tensors,
    };
    use BatchAxis::{Fixed, Free, None};
    use RowByRow::{Auto, No, Yes};
    // Batch axis, rows independent, row_by_row => the largest batch.
    let table = [
        (Free, true, Auto, 32),
        (Free, true, Yes, 1),
        (Free, true, No, 32),
        (Free, false, Auto, 1),
        (Free, false, No, 32),
        (Fixed(1), true, Auto, 1),
        (Fixed(1), true, No, 1),
        (Fixed(8), true, Auto, 8),
        (Fixed(64), true, Auto, 64),
        (Fixed(8), false, Auto, 1),
        (None, true, No, 1),
    ];
    for (batch, independent, row_by_row, expected) in table {
        let settings = ModelSettings {
            row_by_row,
            ..ModelSettings::default()
        };
        let sharing = Sharing::of(&spec(batch, independent), &settings);
        assert_eq!(
            sharing.max_batch(),
            expected,
            "{batch:?} {independent} {row_by_row:?}"
        );
    }
}

#[test]
fn what_batching_gains_is_said() {
    let together = Sharing::Together { max_batch: 32 };
    let alone = Sharing::Alone {
        because: "row_by_row is set",
    };
    // What a batch of one and a batch of so many cost.
    let stats = |aim, gain, costs: &[(usize, u32)]| Stats {
        aim,
        gain,
        costs: costs
            .iter()
            .map(|(rows, took)| (*rows, S * *took))
            .collect(),
        ..Stats::default()
    };
    let table = [
        (
            &together,
            stats(32, 19.84, &[(1, 31), (32, 50)]),
            "batches of 32 rows give 19.8 times the throughput of one row at a time",
        ),
        (
            &together,
            stats(8, 3.0, &[(1, 3), (8, 8), (32, 32)]),
            "batches of 8 rows give 3.0 times the throughput of one row at a time, and larger ones no more",
        ),
        (
            &together,
            stats(1, 1.0, &[(1, 10), (32, 320)]),
            "batching gains nothing: rows cost as much together as one by one",
        ),
        (
            &together,
            stats(1, 1.0, &[(1, 10), (2, 22), (16, 208)]),
            "batching gains nothing: 16 rows together take 1.3 times as long as one by one, so batches stay small",
        ),
        (
            &together,
            stats(32, 1.0, &[]),
            "what batching gains is not known before the model has run",
        ),
        (
            &alone,
            stats(1, 1.0, &[(1, 1)]),
            "rows are run one by one: row_by_row is set",
        ),
        (
            &alone,
            stats(1, 1.0, &[]),
            "rows are run one by one: row_by_row is set",
        ),
    ];
    for (sharing, stats, expected) in table {
        assert_eq!(gain_sentence(sharing, &stats), expected);
    }
}

#[tokio::test]
async fn rows_that_change_each_others_answers_are_kept_apart_unless_told_otherwise() {
    let reversing = || {
        let shape = [Dim::Any, Dim::Fixed(1)];
        let answer = |inputs: &[Tensor]| {
            let values: Vec<f32> = inputs[0].to_vec().unwrap();
            let reversed = values.into_iter().rev().collect();
            Ok(vec![Tensor::from_f32(inputs[0].shape(), reversed).unwrap()])
        };
        Probe::new(DataType::Fp32, &shape, BatchAxis::Free, answer)
    };
    for (row_by_row, expected) in [(RowByRow::Auto, 1), (RowByRow::No, 32)] {
        let settings = ModelSettings {
            row_by_row,
            ..ModelSettings::default()
        };
        let metrics = Metrics::new().model("m", "1");
        let lane = Lane::start(
            "m",
            "1",
            &settings,
            metrics,
            Surroundings::default(),
            || Ok(Box::new(reversing())),
        )
        .unwrap();
        assert_eq!(lane.max_batch(), expected, "{row_by_row:?}");
        let call = Call::new(
            vec![Tensor::from_f32([2, 1], vec![1.0, 2.0]).unwrap()],
            Instant::now() + S * 20,
        );
        let answer = lane.infer(call).await.unwrap().outputs[0].to_vec::<f32>();
        let expected = if expected == 1 {
            [1.0, 2.0]
        } else {
            [2.0, 1.0]
        };
        assert_eq!(answer.unwrap(), expected, "{row_by_row:?}");
    }
}
