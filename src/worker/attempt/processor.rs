//! Calls what processes records, and says what came of it.

mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

pub use http::ClientError;
use http::HttpProcessor;

use super::spans::AttemptSpan;
use crate::domain::pipeline::ProcessorPlan;
use crate::domain::policy::rules::RuleSet;
use crate::domain::record::Record;
use crate::domain::record::failure::{Failure, FailureKind, Outcome};
use crate::domain::record::provenance::Provenance;
use crate::domain::switch::Setting;
use crate::domain::time::Timestamp;

/// What processes the records of a stage.
#[derive(Debug)]
pub struct Processor {
    kind: Kind,
    fault: FaultSwitch,
}

#[derive(Debug)]
enum Kind {
    Http(HttpProcessor),
    Rules(RuleSet),
}

/// Makes every attempt fail while it is on, for whoever wants to see retries happen.
///
/// It holds the newest [`Setting`] as one number: every attempt looks at it, and none waits for a lock.
#[derive(Clone, Debug, Default)]
pub struct FaultSwitch(Arc<AtomicI64>);

impl FaultSwitch {
    /// Turns injected failures on or off, in all stages that share the switch, and says with which time.
    pub fn set(&self, enabled: bool, now: Timestamp) -> Setting {
        let next = |held| Some(packed(unpacked(held).followed_by(enabled, now)));
        // The closure never gives up, so both arms say what was held before.
        let (Ok(before) | Err(before)) = self.0.fetch_update(Relaxed, Relaxed, next);
        unpacked(before).followed_by(enabled, now)
    }

    /// Takes over a setting that was made elsewhere, if it is newer. Returns whether it was.
    pub fn take(&self, setting: Setting) -> bool {
        let setting = packed(setting);
        self.0.fetch_max(setting, Relaxed) < setting
    }

    /// What holds.
    pub fn setting(&self) -> Setting {
        unpacked(self.0.load(Relaxed))
    }

    /// Whether attempts are made to fail.
    pub fn is_on(&self) -> bool {
        self.setting().enabled
    }
}

/// A setting as twice its time, plus one if it is on: such numbers are in the same order as the settings.
fn packed(setting: Setting) -> i64 {
    setting.at.0.clamp(0, Timestamp::MAX.0) * 2 + i64::from(setting.enabled)
}

fn unpacked(number: i64) -> Setting {
    Setting { at: Timestamp(number / 2), enabled: number % 2 == 1 }
}

impl Processor {
    /// Prepares to call what `plan` names.
    pub fn new(plan: &ProcessorPlan, fault: FaultSwitch) -> Result<Self, ClientError> {
        let kind = match plan {
            ProcessorPlan::Http(plan) => Kind::Http(HttpProcessor::new(plan)?),
            ProcessorPlan::Rules(rules) => Kind::Rules(rules.clone()),
            ProcessorPlan::External => return Err(ClientError::External),
        };
        Ok(Self { kind, fault })
    }

    /// The outcome, where it is known without waiting for anybody.
    pub fn call_now(&self, record: &Record) -> Option<Outcome> {
        self.answer_now(record).ok()
    }

    /// The outcome of an attempt, which is the first where the record has no past. An endpoint goes on with its span.
    pub async fn call(&self, record: &Record, past: &Provenance, span: &AttemptSpan) -> Outcome {
        match self.answer_now(record) {
            Ok(outcome) => outcome,
            Err(endpoint) => endpoint.call(record, past, span).await,
        }
    }

    /// The outcome, or whom to ask for it.
    fn answer_now(&self, record: &Record) -> Result<Outcome, &HttpProcessor> {
        if self.fault.is_on() {
            let error = "TransientException: Simulated transient error";
            return Ok(Outcome::Failed(Failure::from_text(FailureKind::Retryable, error)));
        }
        match &self.kind {
            Kind::Rules(rules) => Ok(rules.apply(record)),
            Kind::Http(endpoint) => Err(endpoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at: i64, enabled: bool) -> Setting {
        Setting { at: Timestamp(at), enabled }
    }

    #[test]
    fn a_switch_takes_over_what_is_newer_and_nothing_else() {
        let fault = FaultSwitch::default();
        assert_eq!((fault.setting(), fault.is_on()), (Setting::UNSET, false));
        for (setting, newer) in [
            (at(-5, true), true), // a time before the epoch counts as the epoch, and on comes after off
            (at(5, false), true),
            (at(5, true), true),
            (at(5, true), false),
            (at(5, false), false),
            (at(4, false), false),
            (at(6, false), true),
            (Setting::UNSET, false),
        ] {
            assert_eq!(fault.take(setting), newer, "{setting:?}");
        }
        assert_eq!((fault.setting(), fault.is_on()), (at(6, false), false));
    }

    #[test]
    fn what_is_set_by_hand_is_newer_than_what_was_held() {
        let fault = FaultSwitch::default();
        assert_eq!(fault.set(true, Timestamp(7)), at(7, true));
        assert_eq!(fault.set(false, Timestamp(7)), at(8, false));
        assert_eq!(fault.set(true, Timestamp(3)), at(9, true));
        assert_eq!(fault.clone().setting(), at(9, true));
    }
}
