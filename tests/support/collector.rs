//! A collector of spans, as OpenTelemetry's is one: OTLP over HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags};
use prost::Message;
use tokio::net::TcpListener;

use super::eventually;

/// A running collector.
pub struct Collector {
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Sent>>>,
}

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct Sent {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    /// The spans that it has links to, as trace and id.
    pub links: Vec<(String, String)>,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
}

impl Sent {
    pub fn attempt(&self) -> u32 {
        self.attributes["lazaret.attempt"].parse().unwrap()
    }

    /// As a `traceparent` names it.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }

    fn of(service: &str, span: Span) -> Self {
        let is_remote = |flags: u32| flags & SpanFlags::ContextIsRemoteMask as u32 != 0;
        assert!(span.parent_span_id.is_empty() || is_remote(span.flags), "a span of our own is no parent");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        Self {
            service: service.to_owned(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            attributes: texts(span.attributes),
            failed: span.status.is_some_and(|status| status.code == 2),
        }
    }
}

impl Collector {
    pub async fn start() -> Self {
        let spans = Arc::<Mutex<Vec<Sent>>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take)).with_state(spans.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, spans }
    }

    /// Everything that arrived, by attempt.
    pub fn spans(&self) -> Vec<Sent> {
        let mut spans = self.spans.lock().unwrap().clone();
        spans.sort_by_key(Sent::attempt);
        spans
    }

    /// Waits until so many have arrived.
    pub async fn has(&self, spans: usize) -> Vec<Sent> {
        let arrived = async || Some(self.spans()).filter(|arrived| arrived.len() >= spans);
        eventually(&format!("{spans} spans arrive"), arrived).await
    }
}

async fn take(State(spans): State<Arc<Mutex<Vec<Sent>>>>, body: Bytes) {
    for of_resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        let resource = texts(of_resource.resource.unwrap().attributes);
        let sent = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        spans.lock().unwrap().extend(sent.map(|span| Sent::of(&resource["service.name"], span)));
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value.unwrap().value.unwrap()))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
