//! What is left of spans in a build without OpenTelemetry: nothing is begun, and nothing is sent.

use crate::domain::pipeline::{Pipeline, TracingPlan};
use crate::domain::policy::decide::Decision;
use crate::domain::record::provenance::Stage;
use crate::features::{Feature, NotBuilt};
use crate::worker::work::Work;

/// What would send the spans of a stage. There is none.
pub enum Traces {}

impl Traces {
    /// Nothing; where somebody wants spans, the log says why there are none.
    pub fn start(plan: Option<&TracingPlan>, service: &str, _instance: &str) -> Option<Self> {
        if plan.is_some() {
            tracing::warn!(service, error = %NotBuilt(Feature::Otlp), "attempts are not traced");
        }
        None
    }

    /// Never called: there is none.
    pub async fn stop(self) {
        match self {}
    }
}

/// Begins no spans.
#[derive(Debug)]
pub struct Spans;

impl Spans {
    /// None.
    pub fn new(_traces: Option<&Traces>, _pipeline: &Pipeline, _stage: Stage) -> Self {
        Self
    }

    /// Begins nothing.
    pub fn begin(&self, _work: &mut Work) -> AttemptSpan {
        AttemptSpan
    }
}

/// The span of no attempt.
#[derive(Debug)]
pub struct AttemptSpan;

impl AttemptSpan {
    /// That of an attempt that is not traced.
    #[cfg(test)]
    pub fn none() -> Self {
        Self
    }

    /// No headers: the endpoint goes on with the trace of the record.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        vec![]
    }

    /// Nothing ends.
    pub fn succeed(self) {}

    /// Nothing ends.
    pub fn fail(self, _decision: &Decision, _error_type: &str) {}

    /// Nothing ends.
    pub fn fail_probe(self, _error_type: &str) {}
}
