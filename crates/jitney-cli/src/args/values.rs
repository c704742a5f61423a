//! Numbers with their limits, and messages that name them.

use std::num::NonZeroUsize;

/// A whole number from 1 to `MAX`.
pub(super) fn count<const MAX: usize>(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .ok()
        .filter(|count: &NonZeroUsize| count.get() <= MAX)
        .ok_or_else(|| format!("expected a whole number from 1 to {MAX}"))
}

/// The longest time that can be set: a day.
const MAX_MS: f64 = 86_400_000.0;

/// A time in milliseconds, with fractions.
pub(super) fn milliseconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value| (0.0..=MAX_MS).contains(value))
        .ok_or_else(|| format!("expected milliseconds from 0 to {MAX_MS}, such as 5 or 0.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_limits_are_refused() {
        let counts = [
            ("1", Some(1)),
            ("32", Some(32)),
            ("33", None),
            ("0", None),
            ("-1", None),
            ("", None),
            ("1.5", None),
        ];
        for (text, expected) in counts {
            assert_eq!(
                count::<32>(text).ok().map(NonZeroUsize::get),
                expected,
                "{text}"
            );
        }
        let times = [
            ("0", Some(0.0)),
            ("0.5", Some(0.5)),
            ("86400000", Some(MAX_MS)),
            ("86400001", None),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
        ];
        for (text, expected) in times {
            assert_eq!(milliseconds(text).ok(), expected, "{text}");
        }
    }
}
