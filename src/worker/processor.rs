//! Calls what processes records, and says what came of it.

mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub use http::ClientError;
use http::HttpProcessor;

use crate::domain::failure::{Failure, FailureKind, Outcome};
use crate::domain::pipeline::ProcessorPlan;
use crate::domain::provenance::Provenance;
use crate::domain::record::Record;
use crate::domain::rules::RuleSet;

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
#[derive(Clone, Debug, Default)]
pub struct FaultSwitch(Arc<AtomicBool>);

impl FaultSwitch {
    /// Turns injected failures on or off, in all stages that share the switch.
    pub fn set(&self, on: bool) {
        self.0.store(on, Relaxed);
    }

    /// Whether attempts are made to fail.
    pub fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl Processor {
    /// Prepares to call what `plan` names.
    pub fn new(plan: &ProcessorPlan, fault: FaultSwitch) -> Result<Self, ClientError> {
        let kind = match plan {
            ProcessorPlan::Http(plan) => Kind::Http(HttpProcessor::new(plan)?),
            ProcessorPlan::Rules(rules) => Kind::Rules(rules.clone()),
        };
        Ok(Self { kind, fault })
    }

    /// The outcome, where it is known without waiting for anybody.
    pub fn call_now(&self, record: &Record) -> Option<Outcome> {
        self.answer_now(record).ok()
    }

    /// The outcome of an attempt, which is the first where the record has no past.
    pub async fn call(&self, record: &Record, past: &Provenance) -> Outcome {
        match self.answer_now(record) {
            Ok(outcome) => outcome,
            Err(endpoint) => endpoint.call(record, past).await,
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
