//! What comes with a request beside its body: where what the head says and what the body says become one call.

use std::time::{Duration, Instant};

use jitney_engine::Tensor;

use crate::call::{Call, Meta};
use crate::protocol::parameters;

/// What the head of a request says to the model. Of a connection with many requests behind one head, each has a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// The caller's name for the request.
    pub(crate) id: Option<String>,
    /// The fields that the server's settings let through.
    pub(crate) fields: Vec<(String, String)>,
    /// On whose behalf it is.
    pub(crate) key: Option<u64>,
    /// When the caller waits no longer.
    pub(crate) until: Option<Instant>,
}

impl Context {
    /// When the caller waits no longer, or what it waits for ends.
    pub(crate) fn deadline(&self, end: Instant) -> Instant {
        self.until.map_or(end, |until| until.min(end))
    }

    /// The call of a request that began at `started`, to a model that takes no longer than `limit`.
    ///
    /// What the body says of itself goes first. The earliest of the deadlines counts; one that the caller has set counts for all of a stream.
    pub(crate) fn call(
        self,
        inputs: Vec<Tensor>,
        meta: Meta,
        started: Instant,
        limit: Duration,
    ) -> Call {
        let of_body = meta
            .timeout
            .and_then(|timeout| started.checked_add(timeout));
        let asked = self.until.into_iter().chain(of_body).min();
        let limit = started + limit;
        Call {
            inputs,
            deadline: asked.map_or(limit, |asked| asked.min(limit)),
            whole: asked.is_some(),
            meta: Meta {
                id: meta.id.or(self.id),
                parameters: parameters::with_fields(meta.parameters, &self.fields),
                key: self.key,
                ..meta
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_counts_and_that_of_the_caller_for_all_of_a_stream() {
        let started = Instant::now();
        let seconds = Duration::from_secs;
        // Of the head, of the body, of the model; then what counts.
        let rows = [
            (None, None, 10, 10, false),
            (Some(5), None, 10, 5, true),
            (Some(15), None, 10, 10, true),
            (None, Some(5), 10, 5, true),
            (None, Some(15), 10, 10, true),
            (Some(4), Some(5), 10, 4, true),
            (Some(5), Some(4), 10, 4, true),
        ];
        for (head, body, model, expected, whole) in rows {
            let context = Context {
                until: head.map(|head| started + seconds(head)),
                ..Context::default()
            };
            let meta = Meta {
                timeout: body.map(seconds),
                ..Meta::default()
            };
            let row = format!("{head:?} {body:?} {model}");
            let without_body = context.deadline(started + seconds(model));
            let call = context.call(Vec::new(), meta, started, seconds(model));
            assert_eq!(call.deadline, started + seconds(expected), "{row}");
            assert_eq!(call.whole, whole, "{row}");
            let least = head.map_or(model, |head| head.min(model));
            assert_eq!(without_body, started + seconds(least), "{row}");
        }
    }

    #[test]
    fn what_the_body_says_goes_first() {
        let context = Context {
            id: Some("7".to_owned()),
            fields: vec![("x-tenant".to_owned(), "a".to_owned())],
            key: Some(3),
            until: None,
        };
        let told = |meta: Meta| {
            let call = context
                .clone()
                .call(Vec::new(), meta, Instant::now(), Duration::ZERO);
            call.meta
        };
        let of_head = Meta {
            id: Some("7".to_owned()),
            parameters: Some(r#"{"x-tenant":"a"}"#.to_owned()),
            key: Some(3),
            ..Meta::default()
        };
        assert_eq!(told(Meta::default()), of_head);
        let of_body = Meta {
            id: Some("8".to_owned()),
            priority: 2,
            parameters: Some(r#"{"x-tenant":1}"#.to_owned()),
            key: Some(3),
            ..Meta::default()
        };
        assert_eq!(told(of_body.clone()), of_body);
    }
}
