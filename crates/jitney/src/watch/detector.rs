//! Which polls last too long: a decision without a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::usage::{Usage, Verdict};
use crate::tree::{Sight, ThreadInfo};

/// Looks at the threads again and again, and finds those that are still in the same poll.
pub(super) struct Detector {
    threshold: Duration,
    seen: Vec<Seen>,
    incidents: u64,
}

/// What is told of one incident.
pub(super) struct Finding {
    pub(super) number: u64,
    pub(super) fact: Fact,
    /// For how long the poll lasts at least; half the time between two looks is added at its end.
    pub(super) blocked: Duration,
}

pub(super) enum Fact {
    Blocked(Sight, Verdict),
    Ended,
}

/// A thread that was in a poll at the last look.
struct Seen {
    sight: Sight,
    since: Instant,
    last: Instant,
    /// What the thread had used at the second look. Most polls do not last for two.
    usage: Option<(Instant, Option<Usage>)>,
    incident: Option<u64>,
}

impl Detector {
    pub(super) fn new(threshold: Duration) -> Detector {
        Detector {
            threshold,
            seen: Vec::new(),
            incidents: 0,
        }
    }

    /// What has changed since the last look.
    pub(super) fn look(
        &mut self,
        now: Instant,
        sights: &[Sight],
        usage: impl Fn(&ThreadInfo) -> Option<Usage>,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.seen.retain(|seen| {
            let goes_on = sights.iter().any(|sight| seen.is(sight));
            if !goes_on {
                findings.extend(seen.ended(now));
            }
            goes_on
        });
        for sight in sights {
            match self.seen.iter_mut().find(|seen| seen.is(sight)) {
                None => self.seen.push(Seen::first(now, sight)),
                Some(seen) => {
                    let found = seen.again(now, sight, self.threshold, &usage);
                    findings.extend(found.map(|fact| {
                        self.incidents += 1;
                        seen.incident = Some(self.incidents);
                        Finding {
                            number: self.incidents,
                            fact,
                            blocked: now - seen.since,
                        }
                    }));
                }
            }
        }
        findings
    }
}

impl Seen {
    fn first(now: Instant, sight: &Sight) -> Seen {
        Seen {
            sight: sight.clone(),
            since: now,
            last: now,
            usage: None,
            incident: None,
        }
    }

    /// Whether it is the same poll of the same thread.
    fn is(&self, sight: &Sight) -> bool {
        self.sight.poll == sight.poll && Arc::ptr_eq(&self.sight.thread, &sight.thread)
    }

    /// It still lasts; says so if that is an incident from now on.
    fn again(
        &mut self,
        now: Instant,
        sight: &Sight,
        threshold: Duration,
        usage: impl Fn(&ThreadInfo) -> Option<Usage>,
    ) -> Option<Fact> {
        self.last = now;
        if self.incident.is_some() {
            return None;
        }
        let used = usage(&sight.thread);
        let (from, before) = *self.usage.get_or_insert((now, used));
        // A verdict needs some time between two readings.
        if now - self.since < threshold || from == now {
            return None;
        }
        let verdict = Verdict::of(before, used, now - from, &sight.thread);
        Some(Fact::Blocked(sight.clone(), verdict))
    }

    fn ended(&self, now: Instant) -> Option<Finding> {
        let between = now - self.last;
        Some(Finding {
            number: self.incident?,
            fact: Fact::Ended,
            blocked: self.last - self.since + between / 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLD: Duration = Duration::from_millis(100);

    /// Looks twice in each threshold at what was polled then, and gives what was told at which look.
    fn told(polls: &[&[(u64, u64)]]) -> Vec<(usize, u64, &'static str, u128)> {
        let thread = Arc::new(ThreadInfo {
            name: "worker".into(),
            id: None,
        });
        let mut detector = Detector::new(THRESHOLD);
        let start = Instant::now();
        let mut told = Vec::new();
        for (look, polls) in (0..).zip(polls) {
            let sight = |&(poll, node): &(u64, u64)| Sight {
                poll,
                node,
                thread: thread.clone(),
            };
            let sights: Vec<_> = polls.iter().map(sight).collect();
            let findings = detector.look(start + THRESHOLD / 2 * look, &sights, |_| None);
            told.extend(findings.into_iter().map(|finding| {
                let word = match finding.fact {
                    Fact::Blocked(..) => "blocked",
                    Fact::Ended => "ended",
                };
                (
                    look as usize,
                    finding.number,
                    word,
                    finding.blocked.as_millis(),
                )
            }));
        }
        told
    }

    #[test]
    fn a_poll_that_lasts_is_told_once_and_so_is_its_end() {
        let poll: &[_] = &[(1, 7)];
        assert_eq!(
            told(&[&[], poll, poll, poll, poll, poll, &[], &[]]),
            [(3, 1, "blocked", 100), (6, 1, "ended", 225)]
        );
    }

    #[test]
    fn many_short_polls_are_nothing_to_tell() {
        assert_eq!(
            told(&[&[(1, 7)], &[(3, 7)], &[(5, 7)], &[(5, 7)], &[(7, 7)], &[]]),
            []
        );
    }

    #[test]
    fn a_poll_within_which_others_are_polled_is_one() {
        assert_eq!(
            told(&[&[(1, 7)], &[(1, 8)], &[(1, 9)], &[(1, 7)], &[]]),
            [(2, 1, "blocked", 100), (4, 1, "ended", 175)]
        );
    }

    #[test]
    fn the_next_poll_that_lasts_is_another_incident() {
        let (one, two): (&[_], &[_]) = (&[(1, 7)], &[(3, 7)]);
        assert_eq!(
            told(&[one, one, one, two, two, two, &[]]),
            [
                (2, 1, "blocked", 100),
                (3, 1, "ended", 125),
                (5, 2, "blocked", 100),
                (6, 2, "ended", 125)
            ]
        );
    }
}
