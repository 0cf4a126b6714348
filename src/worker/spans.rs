//! A span for each attempt, where attempts are traced.
//!
//! The first attempt at a record goes on with the trace of whoever produced it. A retry may come hours later, and begins a
//! trace of its own with a link to the first attempt: a trace that stays open for hours is one that no backend can show.
//! A processor that reads `traceparent` goes on with the attempt.
//!
//! Names are those of OpenTelemetry's [conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/kafka/).
//! Neither keys nor values nor messages of errors are in a span: whoever reads traces need not be allowed to read records.

mod export;
mod sampler;

use std::collections::HashMap;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

pub(super) use export::provider;

use super::work::Work;
use crate::domain::decide::Decision;
use crate::domain::pipeline::Pipeline;
use crate::domain::provenance::Stage;
use crate::domain::record::Record;

/// The header that names a span ([W3C Trace Context](https://www.w3.org/TR/trace-context/)).
pub(super) const TRACEPARENT: &str = "traceparent";

/// The header with what vendors add to it.
pub(super) const TRACESTATE: &str = "tracestate";

/// Begins the spans of a stage.
#[derive(Debug)]
pub(super) struct Spans(Option<Traced>);

#[derive(Debug)]
struct Traced {
    tracer: SdkTracer,
    name: String,
    /// What is the same for all of them.
    attributes: Vec<KeyValue>,
}

impl Spans {
    /// Spans that go where `provider` sends them; none without.
    pub fn new(provider: Option<&SdkTracerProvider>, pipeline: &Pipeline, stage: Stage) -> Self {
        let source = pipeline.source(stage);
        let traced = |provider: &SdkTracerProvider| Traced {
            tracer: provider.tracer("lazaret"),
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
        Self(provider.map(traced))
    }

    /// Begins the span of an attempt. That of the first one is noted in the record's past.
    pub fn begin(&self, work: &mut Work) -> AttemptSpan {
        let Some(Traced { tracer, name, attributes }) = &self.0 else { return AttemptSpan(None) };
        let (record, past) = (&work.record, &mut work.past);
        let of_this = [
            KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", record.offset),
            KeyValue::new("messaging.message.id", past.idempotency_key()),
            KeyValue::new("lazaret.attempt", i64::from(past.attempts) + 1),
        ];
        let builder = SpanBuilder::from_name(name.clone())
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes.iter().cloned().chain(of_this));
        let produced = named_by(&Headers(record));
        let span = if past.attempts == 0 {
            tracer.build_with_context(builder, &produced.map(within).unwrap_or_default())
        } else {
            let first = past.first_span.as_deref().and_then(|span| named_by(&Named(span)));
            let links = first.or(produced).map(Link::with_context).into_iter().collect();
            tracer.build_with_context(builder.with_links(links), &Context::new())
        };
        if past.first_span.is_none() {
            past.first_span = headers_of(span.span_context()).remove(TRACEPARENT).map(Into::into);
        }
        AttemptSpan(Some(Box::new(span)))
    }
}

/// The span of one attempt, or nothing where attempts are not traced. One that is dropped has ended without an outcome.
#[derive(Debug)]
pub(super) struct AttemptSpan(Option<Box<Span>>);

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
    pub fn succeed(self) {
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
    pub fn fail_probe(self, error_type: &str) {
        self.end("Probe", Some(error_type));
    }

    fn end(mut self, decision: &'static str, error_type: Option<&str>) {
        let Some(span) = &mut self.0 else { return };
        span.set_attribute(KeyValue::new("lazaret.decision", decision));
        if let Some(error_type) = error_type {
            span.set_attribute(KeyValue::new("error.type", error_type.to_owned()));
            span.set_status(Status::error(error_type.to_owned()));
        }
        span.end();
    }
}

/// The headers of a record, as far as they are text.
struct Headers<'a>(&'a Record);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.header_text(name)
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
