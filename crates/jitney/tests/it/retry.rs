use std::cell::RefCell;
use std::time::Duration;

use jitney::retry::{GaveUp, Reason};
use jitney::{Budget, Cause, Group, Retry, Scope};
use proptest::prelude::*;
use tokio::time::Instant;

type Text = &'static str;

const MS: Duration = Duration::from_millis(1);

/// Fails until it is told to stop, and returns the times between attempts.
async fn waits(retry: &Retry) -> (Vec<Duration>, GaveUp<Text>) {
    let at = RefCell::new(Vec::new());
    let gave_up = retry.run(|| {
        at.borrow_mut().push(Instant::now());
        async { Err::<(), _>("down") }
    });
    let gave_up = gave_up.await.unwrap_err();
    let waits = at
        .borrow()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    (waits, gave_up)
}

#[tokio::test(start_paused = true)]
async fn waits_double_to_a_limit_and_are_drawn_at_random() {
    let ceilings = [100, 200, 400, 800, 1000, 1000, 1000].map(|ms| MS * ms);
    let mut sums = [Duration::ZERO; 7];
    for seed in 0..200 {
        let retry = Retry::new(8).backoff(MS * 100, MS * 1000).seed(seed);
        let (waits, gave_up) = waits(&retry).await;
        assert_eq!((gave_up.attempts, gave_up.reason), (8, Reason::Attempts));
        for ((wait, ceiling), sum) in waits.iter().zip(ceilings).zip(&mut sums) {
            // The clock of the runtime is as coarse as a millisecond.
            assert!(*wait <= ceiling + MS, "{wait:?} of {ceiling:?}");
            *sum += *wait;
        }
    }
    for (sum, ceiling) in sums.iter().zip(ceilings) {
        let mean = sum.as_secs_f64() / 200.0 / ceiling.as_secs_f64();
        assert!((0.4..0.6).contains(&mean), "{mean} of {ceiling:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_makes_the_waits_the_same() {
    let seeded = |seed| Retry::new(6).seed(seed);
    let (one, same, other) = (seeded(1), seeded(1), seeded(2));
    let (one, same, other) = (
        waits(&one).await.0,
        waits(&same).await.0,
        waits(&other).await.0,
    );
    assert_eq!(one, same);
    assert_ne!(one, other);
    assert_ne!(waits(&Retry::new(6)).await.0, waits(&Retry::new(6)).await.0);
}

#[tokio::test(start_paused = true)]
async fn no_wait_ends_after_the_deadline() {
    for seed in 0..50 {
        let own = Retry::new(1000).deadline(MS * 900).seed(seed);
        let began = Instant::now();
        let (_, gave_up) = waits(&own).await;
        assert_eq!(gave_up.reason, Reason::Deadline);
        assert!(began.elapsed() <= MS * 901);

        let around = Retry::new(1000).seed(seed);
        let scope = Scope::named("scope").deadline(MS * 900).grace(MS * 900);
        let began = Instant::now();
        let gave_up = scope.run(async |_: Group<Text>| Ok(waits(&around).await.1));
        // A wait that ends together with the deadline may see that first.
        let expected = [Reason::Deadline, Reason::Cancelled(Cause::Deadline)];
        assert!(expected.contains(&gave_up.await.unwrap().reason));
        assert!(began.elapsed() <= MS * 901);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_group_ends_the_waiting() {
    let scope = Scope::named("scope").grace(Duration::from_secs(60));
    let gave_up = scope.run(async |group: Group<Text>| {
        let canceller = group.clone();
        drop(group.spawn(async move {
            tokio::time::sleep(MS * 100).await;
            canceller.cancel(Cause::ClientGone);
            Ok(())
        }));
        let hour = Duration::from_secs(3600);
        Ok(waits(&Retry::new(5).backoff(hour, hour).seed(3)).await.1)
    });
    assert_eq!(
        gave_up.await.unwrap().reason,
        Reason::Cancelled(Cause::ClientGone)
    );
}

#[tokio::test(start_paused = true)]
async fn zero_attempts_are_one_and_not_every_error_is_worth_another() {
    assert_eq!(waits(&Retry::new(0)).await.1.attempts, 1);
    let statuses = RefCell::new(vec![200, 404, 503, 503]);
    let ask = || {
        let status = statuses.borrow_mut().pop().unwrap();
        async move { if status == 200 { Ok(()) } else { Err(status) } }
    };
    let gave_up = Retry::new(9)
        .run_if(|status| *status >= 500, ask)
        .await
        .unwrap_err();
    let expected = GaveUp {
        error: 404,
        attempts: 3,
        reason: Reason::NotWorthIt,
    };
    assert_eq!(gave_up, expected);
    assert_eq!(
        gave_up.to_string(),
        "gave up after 3 attempts, because the error is not worth another attempt: 404"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn retries_stay_within_the_budget(
        percent in 0..100u32,
        reserve in 0..50u32,
        outcomes in proptest::collection::vec(any::<[bool; 4]>(), 1..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let budget = Budget::new(percent, reserve);
        let (one, two) = (Retry::new(4).budget(&budget), Retry::new(4).budget(&budget));
        let mut retries = 0;
        for (call, succeeds) in outcomes.iter().enumerate() {
            let mut attempts = succeeds.iter();
            let made = RefCell::new(0);
            let retry = if call % 2 == 0 { &one } else { &two };
            let ended = runtime.block_on(retry.run(|| {
                *made.borrow_mut() += 1;
                let ok = *attempts.next().unwrap();
                async move { if ok { Ok(()) } else { Err(()) } }
            }));
            retries += *made.borrow() - 1;
            let allowed = u64::from(reserve) * 100 + (call as u64 + 1) * u64::from(percent);
            prop_assert!(retries * 100 <= allowed, "{} retries in {} calls", retries, call + 1);
            if let Err(gave_up) = ended && gave_up.reason == Reason::Budget {
                prop_assert_eq!(budget.left(), 0);
            }
        }
    }
}
