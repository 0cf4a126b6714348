//! How often a failed record is tried again, and after how long.

pub mod decide;
pub mod expression;
pub mod http;
pub mod rules;

use std::sync::Arc;
use std::time::Duration;

use self::expression::{Expression, Facts};
use super::record::Record;
use crate::domain::record::failure::{Failure, FailureKind};

/// How the delay grows from attempt to attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// No delay.
    Immediate,
    /// `initial_delay` each time.
    Fixed,
    /// `initial_delay × multiplier^(n−1)`, at most `max_delay`.
    Exponential,
    /// As exponential, then times a factor drawn evenly from `1 ± jitter_factor`, so that records which failed together
    /// do not come back together.
    ExponentialJitter,
}

/// The delay before the next attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    /// How the delay grows.
    pub strategy: Strategy,
    /// The delay after the first failure.
    pub initial_delay: Duration,
    /// What no delay exceeds, jitter aside.
    pub max_delay: Duration,
    /// The growth from one delay to the next, at least 1.
    pub multiplier: f64,
    /// The width of the jitter, between 0 and 1.
    pub jitter_factor: f64,
}

impl Backoff {
    /// The delay after the `failures`-th failure (the first one is 1). `sample` is drawn evenly from `[0, 1)`.
    pub fn delay(&self, failures: u32, sample: f64) -> Duration {
        let delay = match self.strategy {
            Strategy::Immediate => Duration::ZERO,
            Strategy::Fixed => self.initial_delay,
            Strategy::Exponential => seconds(self.exponential(failures)),
            Strategy::ExponentialJitter => {
                let factor = 1.0 + self.jitter_factor * (2.0 * sample - 1.0);
                seconds(self.exponential(failures) * factor)
            }
        };
        delay.min(self.ceiling())
    }

    /// What no delay of this backoff exceeds.
    pub fn ceiling(&self) -> Duration {
        match self.strategy {
            Strategy::ExponentialJitter => seconds(self.max_delay.as_secs_f64() * (1.0 + self.jitter_factor)),
            Strategy::Immediate | Strategy::Fixed | Strategy::Exponential => self.max_delay,
        }
    }

    fn exponential(&self, failures: u32) -> f64 {
        // A large power overflows to infinity, which `min` turns into the maximum: just what is wanted. A zero initial
        // delay times infinity would be NaN, and `min` ignores NaN: hence the check.
        if self.initial_delay.is_zero() {
            return 0.0;
        }
        let growth = self.multiplier.powf(f64::from(failures.saturating_sub(1)));
        (self.initial_delay.as_secs_f64() * growth).min(self.max_delay.as_secs_f64())
    }
}

/// Rounds to nanoseconds; what a `Duration` cannot hold becomes the longest one.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Quick attempts that are made before a record leaves its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InPlace {
    /// How many, none by default.
    pub attempts: u32,
    /// The pause before each.
    pub delay: Duration,
}

/// Where a record waits for its next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the retry topic: the records behind it go on.
    #[default]
    NonBlocking,
    /// In its lane, so that nothing overtakes it there.
    KeepOrder,
}

/// What a pipeline does with failures.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Where a record waits for its next attempt.
    pub mode: Mode,
    /// What holds unless a rule says otherwise.
    pub default: Ruling,
    /// Quick attempts before a record leaves its partition.
    pub in_place: InPlace,
    /// The age, counted from the first failure, after which the next failure dead-letters.
    pub timeout: Option<Duration>,
    /// Exceptions: the first rule that matches a failure rules it.
    pub rules: Vec<RetryRule>,
}

/// What holds for one failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// `Some` overrides what the failure says of itself.
    pub retryable: Option<bool>,
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// The delay before the next.
    pub backoff: Backoff,
    /// The topic for a record that is given up.
    pub dead_letter_topic: Arc<str>,
}

/// An exception from the default ruling.
#[derive(Clone, Debug)]
pub struct RetryRule {
    /// The failures that it is for.
    pub when: Expression,
    /// What then holds.
    pub ruling: Ruling,
}

impl RetryPolicy {
    /// What holds for this failure of this record.
    ///
    /// A rule that cannot be evaluated on a record (it names a field that the record lacks) does not match it.
    pub fn ruling(&self, record: &Record, failure: &Failure, attempts: u32) -> &Ruling {
        if self.rules.is_empty() {
            return &self.default;
        }
        let facts = Facts::of_failure(record, failure, attempts);
        let matching = self.rules.iter().find(|rule| rule.when.is_true(&facts).unwrap_or(false));
        matching.map_or(&self.default, |rule| &rule.ruling)
    }

    /// What no delay between two attempts exceeds, whatever rule applies.
    pub fn longest_delay(&self) -> Duration {
        let ceilings = self.rules.iter().map(|rule| rule.ruling.backoff.ceiling());
        ceilings.fold(self.default.backoff.ceiling(), Duration::max)
    }

    /// The topics that dead letters may go to, each once.
    pub fn dead_letter_topics(&self) -> Vec<Arc<str>> {
        let mut topics = vec![self.default.dead_letter_topic.clone()];
        for rule in &self.rules {
            if !topics.contains(&rule.ruling.dead_letter_topic) {
                topics.push(rule.ruling.dead_letter_topic.clone());
            }
        }
        topics
    }
}

impl Ruling {
    /// Whether another attempt may be made after a failure of this kind.
    ///
    /// What is unreadable stays so, and a processor that asked for the dead letter topic gets it: only the two kinds
    /// that are a guess can be overruled.
    pub fn is_retryable(&self, kind: FailureKind) -> bool {
        match kind {
            FailureKind::Retryable => self.retryable.unwrap_or(true),
            FailureKind::Permanent => self.retryable.unwrap_or(false),
            FailureKind::Unreadable | FailureKind::Rejected => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Strategy;
    use super::*;
    use proptest::prelude::{Strategy as _, *};

    fn backoff(strategy: Strategy) -> Backoff {
        Backoff {
            strategy,
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            multiplier: 2.0,
            jitter_factor: 0.2,
        }
    }

    #[test]
    fn each_strategy_grows_as_its_name_says() {
        let delays = |strategy| [1, 2, 3, 4, 20].map(|n| backoff(strategy).delay(n, 0.5).as_secs());
        assert_eq!(delays(Strategy::Immediate), [0, 0, 0, 0, 0]);
        assert_eq!(delays(Strategy::Fixed), [1, 1, 1, 1, 1]);
        assert_eq!(delays(Strategy::Exponential), [1, 2, 4, 8, 300]);
        assert_eq!(delays(Strategy::ExponentialJitter), [1, 2, 4, 8, 300]);
    }

    #[test]
    fn jitter_spreads_evenly_around_the_delay() {
        let jittered = backoff(Strategy::ExponentialJitter);
        assert_eq!(jittered.delay(2, 0.0), Duration::from_millis(1600));
        assert_eq!(jittered.delay(2, 0.5), Duration::from_millis(2000));
        assert!(jittered.delay(2, 0.999_999) < Duration::from_millis(2400));
    }

    #[test]
    fn a_zero_initial_delay_stays_zero_however_often_it_grows() {
        let zero = Backoff { initial_delay: Duration::ZERO, ..backoff(Strategy::Exponential) };
        assert_eq!(zero.delay(u32::MAX, 0.5), Duration::ZERO);
    }

    #[test]
    fn only_a_guess_can_be_overruled() {
        let ruling = |retryable| Ruling {
            retryable,
            max_attempts: 5,
            backoff: backoff(Strategy::Fixed),
            dead_letter_topic: "d".into(),
        };
        assert!(ruling(None).is_retryable(FailureKind::Retryable));
        assert!(!ruling(None).is_retryable(FailureKind::Permanent));
        assert!(!ruling(Some(false)).is_retryable(FailureKind::Retryable));
        assert!(ruling(Some(true)).is_retryable(FailureKind::Permanent));
        assert!(!ruling(Some(true)).is_retryable(FailureKind::Unreadable));
        assert!(!ruling(Some(true)).is_retryable(FailureKind::Rejected));
    }

    fn any_backoff() -> impl proptest::strategy::Strategy<Value = Backoff> {
        let strategies = [Strategy::Immediate, Strategy::Fixed, Strategy::Exponential, Strategy::ExponentialJitter];
        (proptest::sample::select(strategies.to_vec()), 0u64..1 << 40, 0u64..1 << 40, 1.0..100.0, 0.0..=1.0).prop_map(
            |(strategy, initial, more, multiplier, jitter_factor)| Backoff {
                strategy,
                initial_delay: Duration::from_millis(initial),
                max_delay: Duration::from_millis(initial + more),
                multiplier,
                jitter_factor,
            },
        )
    }

    proptest! {
        #[test]
        fn no_delay_exceeds_the_maximum_with_its_jitter(
            backoff in any_backoff(), failures in any::<u32>(), sample in 0.0..1.0,
        ) {
            prop_assert!(backoff.delay(failures, sample) <= backoff.ceiling());
        }

        #[test]
        fn without_jitter_no_delay_shrinks_or_exceeds_the_maximum(backoff in any_backoff(), failures in 1u32..100) {
            prop_assume!(backoff.strategy != Strategy::ExponentialJitter);
            let plain = backoff;
            prop_assert!(plain.delay(failures, 0.3) <= plain.max_delay);
            prop_assert!(plain.delay(failures, 0.3) <= plain.delay(failures + 1, 0.3));
        }
    }
}
