//! Models under a batcher: who waits, and who no longer does, reaches the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jitney::batch::{self, Batcher, Batching, Blame, Context};
use jitney_engine::{Instance, Model, Request, RunError, Spec, Tensor, stack};

use super::support::{items, load};

/// An instance as a batcher sees it.
struct Rows {
    instance: Box<dyn Instance>,
    spec: Spec,
}

impl batch::Model for Rows {
    type In = [Tensor; 1];
    type Out = Vec<Tensor>;
    type Error = stack::Error;

    fn run(
        &mut self,
        inputs: &[[Tensor; 1]],
        context: &Context<'_>,
    ) -> Result<Vec<Result<Vec<Tensor>, stack::Error>>, stack::Error> {
        let request = |inputs| Request {
            inputs,
            id: Some("r1"),
            parameters: Some(r#"{"k":[1]}"#),
        };
        let requests: Vec<_> = inputs.iter().map(|inputs| request(inputs)).collect();
        self.instance.run_requests(&self.spec, &requests, context)
    }

    fn blame(error: &stack::Error) -> Blame {
        match error {
            stack::Error::Run(RunError::Crashed(_)) => Blame::Crash,
            _ => Blame::OneItem,
        }
    }
}

fn batcher(model: Arc<dyn Model>) -> Batcher<Rows> {
    let batching = Batching {
        ahead: model.ahead(),
        keeps_limit: model.keeps_limit(),
        ..Batching::default()
    };
    Batcher::start("model", batching, move || {
        let spec = model.spec().clone();
        (model.instance()).map(|instance| Rows { instance, spec })
    })
    .unwrap()
}

fn text(outputs: &[Tensor]) -> String {
    let element = &outputs[0].byte_elements().unwrap()[0];
    String::from_utf8(element.to_vec()).unwrap()
}

#[tokio::test]
async fn a_run_ends_when_nobody_waits_for_it() {
    let batcher = batcher(load("untyped.py", "Context").into());
    let waiting = batcher.submit([items(&["\"wait\""])], None).unwrap();
    while batcher.stats().running == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(waiting);
    // The model is at this item only when it has noticed that nobody waits for the other.
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = batcher.submit([items(&["\"told\""])], Some(deadline));
    let answer = text(&told.unwrap().await.unwrap().value);
    let (rest, remaining) = answer.rsplit_once(',').unwrap();
    assert_eq!(rest, r#"[["r1"],[{"k":[1]}]"#);
    let remaining: f64 = remaining.trim_end_matches(']').parse().unwrap();
    assert!((0.0..20.0).contains(&remaining), "{remaining}");
}

#[tokio::test]
async fn one_that_kills_costs_one() {
    let batcher = batcher(load("untyped.py", "Mischief").into());
    let texts = ["1", "2", r#"{"do":"end"}"#, "4", "5", "6", "7", "8"];
    let tickets = texts.map(|text| batcher.submit([items(&[text])], None).unwrap());
    for (ticket, asked) in tickets.into_iter().zip(texts) {
        match ticket.await {
            Ok(answer) => assert_eq!(text(&answer.value), asked),
            Err(error) => assert!(asked.contains("end"), "{asked}: {error}"),
        }
    }
    assert_eq!(batcher.stats().failed, 1);
}
