//! The span of an attempt, and of whom it is a child. A build without the feature `otlp` has `untraced.rs` in its place.

mod export;
mod sampler;

use std::collections::HashMap;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span};

pub use export::Traces;

use super::{TRACEPARENT, TRACESTATE, trace_header};
use crate::domain::pipeline::Pipeline;
use crate::domain::policy::decide::Decision;
use crate::domain::record::Record;
use crate::domain::record::provenance::Stage;
use crate::worker::work::Work;

/// Begins the spans of a stage.
#[derive(Debug)]
pub struct Spans(Option<Traced>);

#[derive(Debug)]
struct Traced {
    tracer: SdkTracer,
    name: String,
    /// What is the same for all of them.
    attributes: Vec<KeyValue>,
}

impl Spans {
    /// Spans that `traces` sends; none without.
    pub fn new(traces: Option<&Traces>, pipeline: &Pipeline, stage: Stage) -> Self {
        let source = pipeline.source(stage);
        let traced = |traces: &Traces| Traced {
            tracer: traces.tracer(),
            name: format!("process {}", source.topic),
            attributes: vec![
                KeyValue::new("messaging.system", "kafka"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.operation.name", "process"),
                KeyValue::new("messaging.destination.name", source.topic.clone()),
                KeyValue::new("messaging.consumer.group.name", source.group_id.clone()),
                KeyValue::new("lazaret.pipeline", pipeline.name.clone()),
                KeyValue::new("lazaret.stage", stage.to_string()),
            ],
        };
        Self(traces.map(traced))
    }

    /// Begins the span of an attempt. The first one is noted in the record's past.
    pub fn begin(&self, work: &mut Work) -> AttemptSpan {
        let Some(Traced { tracer, name, attributes }) = &self.0 else { return AttemptSpan(None) };
        let (record, past) = (&work.record, &mut work.past);
        let of_this = [
            KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", record.offset),
            KeyValue::new("messaging.message.id", past.origin.to_string()),
            KeyValue::new("lazaret.attempt", i64::from(past.attempts) + 1),
        ];
        let builder = SpanBuilder::from_name(name.clone())
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes.iter().cloned().chain(of_this));
        let produced = named_by(&Headers(record));
        let first = past.first_span.as_deref().and_then(|span| named_by(&Named(span)));
        let is_first = first.is_none();
        // A circuit breaker's probe that failed was a first one, too, though it does not count.
        let span = if is_first && past.attempts == 0 {
            tracer.build_with_context(builder, &produced.map(within).unwrap_or_default())
        } else {
            let links = first.or(produced).map(Link::with_context).into_iter().collect();
            tracer.build_with_context(builder.with_links(links), &Context::new())
        };
        if is_first {
            past.first_span = headers_of(span.span_context()).remove(TRACEPARENT).map(Into::into);
        }
        AttemptSpan(Some(Box::new(span)))
    }
}

/// The span of one attempt, or nothing where attempts are not traced. When it is dropped the attempt was cut off.
#[derive(Debug)]
pub struct AttemptSpan(Option<Box<Span>>);

impl Drop for AttemptSpan {
    fn drop(&mut self) {
        self.end("CutOff", None);
    }
}

impl AttemptSpan {
    /// That of an attempt that is not traced.
    #[cfg(test)]
    pub fn none() -> Self {
        Self(None)
    }

    /// The headers with which a request goes on with it, each with its name; none without a span.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let Some(span) = &self.0 else { return vec![] };
        let mut headers = headers_of(span.span_context());
        [TRACEPARENT, TRACESTATE].into_iter().filter_map(|name| Some((name, headers.remove(name)?))).collect()
    }

    /// Ends it: the record is processed, or needs no processing.
    pub fn succeed(mut self) {
        self.end("Done", None);
    }

    /// Ends it: the attempt failed.
    pub fn fail(mut self, decision: &Decision, error_type: &str) {
        if let (Some(span), Decision::DeadLetter { reason }) = (&mut self.0, decision) {
            span.set_attribute(KeyValue::new("lazaret.reason", reason.to_string()));
        }
        let word = match decision {
            Decision::RetryInPlace { .. } => "RetryInPlace",
            Decision::Retry { .. } => "Retry",
            Decision::DeadLetter { .. } => "DeadLetter",
        };
        self.end(word, Some(error_type));
    }

    /// Ends it: the attempt was a circuit breaker's probe and failed, so it does not count.
    pub fn fail_probe(mut self, error_type: &str) {
        self.end("Probe", Some(error_type));
    }

    fn end(&mut self, decision: &'static str, error_type: Option<&str>) {
        let Some(mut span) = self.0.take() else { return };
        span.set_attribute(KeyValue::new("lazaret.decision", decision));
        span.set_attributes(error_type.map(|error_type| KeyValue::new("error.type", error_type.to_owned())));
        if decision != "Done" {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// The headers of a record, as far as they are text.
struct Headers<'a>(&'a Record);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        trace_header(self.0, name)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.headers.iter().map(|header| header.name.as_str()).collect()
    }
}

/// A `traceparent` on its own.
struct Named<'a>(&'a str);

impl Extractor for Named<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        (name == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// The span that headers name, `None` where they name none.
fn named_by(headers: &dyn Extractor) -> Option<SpanContext> {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), headers);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// What is begun in the course of a span of somebody else.
fn within(span: SpanContext) -> Context {
    Context::new().with_remote_span_context(span)
}

/// The headers that name a span.
fn headers_of(span: &SpanContext) -> HashMap<String, String> {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&within(span.clone()), &mut headers);
    // Without anything in it the header says nothing.
    headers.retain(|_, value| !value.is_empty());
    headers
}
