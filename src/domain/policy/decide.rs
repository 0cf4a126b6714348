//! What happens to a record now that an attempt has failed. One that succeeded needs no decision: it is finished.

use std::time::Duration;

use super::{RetryPolicy, Ruling};
use crate::domain::record::dead_letter::Reason;
use crate::domain::record::failure::{Failure, FailureKind};
use crate::domain::time::Timestamp;

/// What happens to a record that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is tried again where it is, after a pause.
    RetryInPlace {
        /// The pause.
        delay: Duration,
    },
    /// It waits until it is due: in the retry topic or in its lane, as the policy's mode says.
    Retry {
        /// No attempt starts before this instant.
        due: Timestamp,
    },
    /// It goes to the dead letter topic that the ruling names.
    DeadLetter {
        /// Why it is given up.
        reason: Reason,
    },
}

/// What [`decide`] goes by, besides the failure.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Attempts made so far, the one that just ended included.
    pub attempts: u32,
    /// When the record failed first, `None` when it had not failed before.
    pub first_failure: Option<Timestamp>,
    /// The time of the decision.
    pub now: Timestamp,
    /// A number drawn evenly from `[0, 1)`, for jitter.
    pub sample: f64,
}

/// Decides by the policy's general part and the `ruling` that it found for this failure.
pub fn decide(failure: &Failure, policy: &RetryPolicy, ruling: &Ruling, situation: Situation) -> Decision {
    if let Some(reason) = reason_to_give_up(failure, policy, ruling, situation) {
        return Decision::DeadLetter { reason };
    }
    if situation.attempts <= policy.in_place.attempts && failure.retry_after.is_none() {
        return Decision::RetryInPlace { delay: policy.in_place.delay };
    }
    // Attempts in place are no reason for the first hop through the retry topic to wait longer.
    let hops = situation.attempts.saturating_sub(policy.in_place.attempts);
    let backoff = ruling.backoff.delay(hops.max(1), situation.sample);
    let asked_for = failure.retry_after.unwrap_or_default().min(ruling.backoff.max_delay);
    Decision::Retry { due: situation.now.after(backoff.max(asked_for)) }
}

fn reason_to_give_up(failure: &Failure, policy: &RetryPolicy, ruling: &Ruling, situation: Situation) -> Option<Reason> {
    if !ruling.is_retryable(failure.kind) {
        return Some(match failure.kind {
            FailureKind::Unreadable => Reason::Unreadable,
            FailureKind::Rejected => Reason::Rejected,
            FailureKind::Permanent | FailureKind::Retryable => Reason::Permanent,
        });
    }
    if situation.attempts >= ruling.max_attempts {
        return Some(Reason::AttemptsExhausted);
    }
    let age = situation.first_failure.map_or(Duration::ZERO, |first| situation.now.since(first));
    policy.timeout.is_some_and(|timeout| age >= timeout).then_some(Reason::Expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{Backoff, InPlace, Mode, Strategy};
    use proptest::prelude::*;

    fn policy() -> RetryPolicy {
        let backoff = Backoff {
            strategy: Strategy::Exponential,
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            multiplier: 2.0,
            jitter_factor: 0.2,
        };
        let default = Ruling { retryable: None, max_attempts: 5, backoff, dead_letter_topic: "orders.dlt".into() };
        RetryPolicy { mode: Mode::default(), default, in_place: InPlace::default(), timeout: None, rules: vec![] }
    }

    fn failed(kind: FailureKind) -> Failure {
        Failure::new(kind, "SomeException", "it broke")
    }

    fn after(attempts: u32) -> Situation {
        Situation { attempts, first_failure: None, now: Timestamp(1_000_000), sample: 0.5 }
    }

    fn decided(failure: &Failure, policy: &RetryPolicy, situation: Situation) -> Decision {
        decide(failure, policy, &policy.default, situation)
    }

    fn given_up(reason: Reason) -> Decision {
        Decision::DeadLetter { reason }
    }

    #[test]
    fn a_retryable_failure_waits_longer_each_time_and_is_given_up_after_the_last_attempt() {
        let decisions = (1..=5).map(|n| decided(&failed(FailureKind::Retryable), &policy(), after(n)));
        let due = |seconds: i64| Decision::Retry { due: Timestamp(1_000_000 + 1000 * seconds) };
        let expected = [due(1), due(2), due(4), due(8), given_up(Reason::AttemptsExhausted)];
        assert!(decisions.eq(expected));
    }

    #[test]
    fn what_no_attempt_can_mend_is_given_up_at_once() {
        for (kind, reason) in [
            (FailureKind::Permanent, Reason::Permanent),
            (FailureKind::Unreadable, Reason::Unreadable),
            (FailureKind::Rejected, Reason::Rejected),
        ] {
            assert_eq!(decided(&failed(kind), &policy(), after(1)), given_up(reason));
        }
    }

    #[test]
    fn the_first_failure_after_the_timeout_gives_up() {
        let policy = RetryPolicy { timeout: Some(Duration::from_secs(60)), ..policy() };
        let aged = |millis: i64| Situation { first_failure: Some(Timestamp(1_000_000 - millis)), ..after(2) };
        assert!(matches!(decided(&failed(FailureKind::Retryable), &policy, aged(59_999)), Decision::Retry { .. }));
        assert_eq!(decided(&failed(FailureKind::Retryable), &policy, aged(60_000)), given_up(Reason::Expired));
    }

    #[test]
    fn attempts_in_place_come_first_and_count() {
        let in_place = InPlace { attempts: 2, delay: Duration::from_millis(50) };
        let policy = RetryPolicy { in_place, ..policy() };
        let decide = |n| decided(&failed(FailureKind::Retryable), &policy, after(n));
        assert_eq!(decide(1), Decision::RetryInPlace { delay: Duration::from_millis(50) });
        assert_eq!(decide(2), Decision::RetryInPlace { delay: Duration::from_millis(50) });
        assert_eq!(decide(3), Decision::Retry { due: Timestamp(1_001_000) });
        assert_eq!(decide(4), Decision::Retry { due: Timestamp(1_002_000) });
        assert_eq!(decide(5), given_up(Reason::AttemptsExhausted));
    }

    #[test]
    fn retry_after_is_a_lower_bound_up_to_the_longest_delay() {
        let asking = |seconds| {
            let mut failure = Failure::new(FailureKind::Retryable, "E", "busy");
            failure.retry_after = Some(Duration::from_secs(seconds));
            decided(&failure, &policy(), after(2))
        };
        assert_eq!(asking(1), Decision::Retry { due: Timestamp(1_002_000) });
        assert_eq!(asking(30), Decision::Retry { due: Timestamp(1_030_000) });
        assert_eq!(asking(86_400), Decision::Retry { due: Timestamp(1_300_000) });
    }

    proptest! {
        #[test]
        fn a_record_is_never_tried_more_often_than_the_policy_grants(
            max_attempts in 1u32..20, in_place in 0u32..20, sample in 0.0..1.0,
        ) {
            let mut policy = policy();
            policy.default.max_attempts = max_attempts;
            policy.in_place.attempts = in_place;
            let mut attempts = 1;
            while !matches!(
                decided(&failed(FailureKind::Retryable), &policy, Situation { sample, ..after(attempts) }),
                Decision::DeadLetter { .. }
            ) {
                attempts += 1;
            }
            prop_assert_eq!(attempts, max_attempts);
        }

        #[test]
        fn no_retry_is_due_before_its_delay(attempts in 1u32..5, now in 0i64..1 << 42, sample in 0.0..1.0) {
            let mut policy = policy();
            policy.default.backoff.strategy = Strategy::ExponentialJitter;
            let situation = Situation { now: Timestamp(now), sample, ..after(attempts) };
            if let Decision::Retry { due } = decided(&failed(FailureKind::Retryable), &policy, situation) {
                prop_assert!(due.since(Timestamp(now)) >= policy.default.backoff.delay(attempts, sample));
            }
        }
    }
}
